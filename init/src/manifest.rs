//! Service manifests, `init/services/NAME.toml`: everything that a service may have and do.
//!
//! They are compiled into the binary, so that supervisor and launcher can never disagree about
//! them, and checked by a test, so that a wrong one does not get into an image.

use std::{collections::BTreeSet, net::SocketAddr, path::PathBuf, time::Duration};

use rustix::thread::CapabilitySet;
use serde::Deserialize;

use crate::sandbox::SystemCallSet;

/// Names of the peers in `calls` that are no service with a manifest: PID 1.
pub const INIT: &str = "init";

/// Name of the configuration service.
const CONFIG: &str = "config";

/// What a service is, needs and may do.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Name of the file without `.toml`.
    #[serde(skip)]
    pub name: String,
    /// One line for people.
    pub description: String,
    /// User id and group id, 100 to 999, its own for each service.
    pub user: u32,
    /// Whether the box is unhealthy without it.
    #[serde(default)]
    pub essential: bool,
    /// Services that must be ready before this one is first started.
    #[serde(default)]
    pub after: BTreeSet<String>,
    /// Services (or `init`) whose bus socket it may open.
    #[serde(default)]
    pub calls: BTreeSet<String>,
    /// Whether it may restart services, reboot and shut down through [`INIT`].
    #[serde(default)]
    pub control: bool,
    /// Whether it gets the console (the terminals of /dev/console's kind) as standard input and
    /// output.
    #[serde(default)]
    pub console: bool,
    /// Capabilities that it keeps, without `CAP_`.
    #[serde(default = "CapabilitySet::empty", deserialize_with = "capabilities")]
    pub capabilities: CapabilitySet,
    /// Kernel modules (names or aliases) that it needs beyond those of the hardware; loaded by init
    /// before it starts, since nothing else can load any.
    #[serde(default)]
    pub modules: Vec<String>,
    /// Kernel modules that not every configuration needs; loaded when the service asks [`INIT`]
    /// for them.
    #[serde(default)]
    pub modules_on_request: Vec<String>,
    /// Whether it has a folder `/data/NAME` of its own.
    #[serde(default)]
    pub state: bool,
    /// Paths that it may read, besides those that every service may.
    #[serde(default)]
    pub read: Vec<PathBuf>,
    /// Paths that it may read and write; those that do not exist yet below /run are made for it.
    #[serde(default)]
    pub write: Vec<PathBuf>,
    /// System calls that it may make.
    #[serde(default = "base_calls")]
    pub system_calls: BTreeSet<SystemCallSet>,
    /// Memory limit (cgroup memory.max), 4 to 4096 MiB.
    pub memory_mib: u64,
    /// Most threads and processes (cgroup pids.max), 1 to 1024.
    #[serde(default = "tasks")]
    pub tasks: u32,
    /// Longest time between two signs of life, 1 to 3600 s.
    #[serde(default = "watchdog_s")]
    pub watchdog_s: u32,
    /// Longest time from start to ready, 1 to 600 s.
    #[serde(default = "start_timeout_s")]
    pub start_timeout_s: u32,
    /// Longest time from SIGTERM to the end, 1 to 60 s.
    #[serde(default = "stop_timeout_s")]
    pub stop_timeout_s: u32,
    /// Sockets made by init and handed over; they stay open over restarts.
    #[serde(default)]
    pub listen: Vec<Listen>,
}

/// A socket made by init.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Listen {
    /// Name by which the service takes it: lower-case letters, digits and `-`; not `bus`.
    pub name: String,
    /// Protocol.
    pub kind: SocketKind,
    /// Address and port to bind: `0.0.0.0:67`, `[::]:53`.
    pub address: SocketAddr,
    /// Socket options.
    #[serde(default)]
    pub options: BTreeSet<SocketOption>,
}

/// Protocol of a [`Listen`].
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub enum SocketKind {
    /// Datagrams.
    Udp,
    /// Stream, listening.
    Tcp,
}

/// Socket option of a [`Listen`].
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd)]
#[serde(rename_all = "kebab-case")]
pub enum SocketOption {
    /// SO_BROADCAST: may send to broadcast addresses.
    Broadcast,
    /// IP_PKTINFO or IPV6_RECVPKTINFO: each datagram tells its interface and local address.
    PacketInfo,
    /// IP_FREEBIND: may bind an address that the box does not have yet.
    FreeBind,
    /// SO_REUSEADDR.
    ReuseAddress,
    /// IPV6_V6ONLY: an IPv6 socket that leaves IPv4 to another one.
    Ipv6Only,
}

/// What is wrong with a manifest.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ManifestError {
    /// Not TOML, or a field is missing, unknown or of the wrong type.
    #[error("init/services/{name}.toml: {message}")]
    Format {
        /// Service.
        name: String,
        /// With line, field and what is allowed.
        message: String,
    },
    /// A value is out of range or refers to nothing.
    #[error("init/services/{name}.toml: {path}: {message}")]
    Value {
        /// Service.
        name: String,
        /// Field.
        path: String,
        /// What was wrong and what is allowed.
        message: String,
    },
}

fn base_calls() -> BTreeSet<SystemCallSet> {
    BTreeSet::from([SystemCallSet::Base])
}

fn tasks() -> u32 {
    8
}

fn watchdog_s() -> u32 {
    30
}

fn start_timeout_s() -> u32 {
    20
}

fn stop_timeout_s() -> u32 {
    5
}

fn capabilities<'de, D: serde::Deserializer<'de>>(from: D) -> Result<CapabilitySet, D::Error> {
    let names = Vec::<String>::deserialize(from)?;
    names.iter().try_fold(CapabilitySet::empty(), |set, name| {
        let one = CapabilitySet::from_name(name).ok_or_else(|| {
            serde::de::Error::custom(format!(
                "`{name}` is no capability; expected a name as in capabilities(7) without CAP_, \
                 for example NET_RAW"
            ))
        })?;
        Ok(set | one)
    })
}

impl Manifest {
    /// Reads one manifest. What refers to other services is checked by [`check_together`].
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn parse(name: &str, text: &str) -> Result<Self, Vec<ManifestError>> {
        let mut manifest: Self = toml::from_str(text).map_err(|error| {
            vec![ManifestError::Format { name: name.to_owned(), message: error.to_string() }]
        })?;
        manifest.name = name.to_owned();
        let mut problems = Problems { name, found: Vec::new() };
        manifest.check(&mut problems);
        if problems.found.is_empty() { Ok(manifest) } else { Err(problems.found) }
    }

    /// Whether it may do `watchdog_s` without a sign of life.
    pub fn watchdog(&self) -> Duration {
        Duration::from_secs(self.watchdog_s.into())
    }

    fn check(&self, problems: &mut Problems) {
        if !is_label(&self.name) {
            problems.add("name", "the file's name must be lower-case letters, digits and `-`");
        }
        problems.range("user", self.user, 100, 999);
        problems.range("memory_mib", self.memory_mib, 4, 4096);
        problems.range("tasks", self.tasks, 1, 1024);
        problems.range("watchdog_s", self.watchdog_s, 1, 3600);
        problems.range("start_timeout_s", self.start_timeout_s, 1, 600);
        problems.range("stop_timeout_s", self.stop_timeout_s, 1, 60);
        if self.description.trim().is_empty() || self.description.contains('\n') {
            problems.add("description", "must be one line that is not empty");
        }
        if self.after.contains(&self.name) {
            problems.add("after", "a service cannot wait for itself");
        }
        if self.control && !self.calls.contains(INIT) {
            problems.add("control", "needs `init` in `calls`");
        }
        for (field, paths) in [("read", &self.read), ("write", &self.write)] {
            for (index, path) in paths.iter().enumerate() {
                if !path.is_absolute() {
                    problems.add(
                        &format!("{field}[{index}]"),
                        &format!("`{}` must be an absolute path", path.display()),
                    );
                }
            }
        }
        self.check_listen(problems);
    }

    fn check_listen(&self, problems: &mut Problems) {
        let mut names = BTreeSet::new();
        for (index, listen) in self.listen.iter().enumerate() {
            let path = format!("listen[{index}]");
            if !is_label(&listen.name) || listen.name == "bus" {
                problems.add(
                    &format!("{path}.name"),
                    &format!(
                        "`{}` must be lower-case letters, digits and `-`, and not `bus`",
                        listen.name
                    ),
                );
            }
            if !names.insert(&listen.name) {
                problems.add(&format!("{path}.name"), &format!("`{}` is taken", listen.name));
            }
            if listen.address.port() == 0 {
                problems.add(&format!("{path}.address"), "the port must be 1 to 65535");
            }
            for option in &listen.options {
                let fits = match option {
                    SocketOption::Broadcast => {
                        listen.kind == SocketKind::Udp && listen.address.is_ipv4()
                    }
                    SocketOption::PacketInfo => listen.kind == SocketKind::Udp,
                    SocketOption::Ipv6Only => listen.address.is_ipv6(),
                    SocketOption::FreeBind | SocketOption::ReuseAddress => true,
                };
                if !fits {
                    problems.add(
                        &format!("{path}.options"),
                        &format!(
                            "{option:?} does not go with {:?} {}",
                            listen.kind, listen.address
                        ),
                    );
                }
            }
        }
    }
}

struct Problems<'a> {
    name: &'a str,
    found: Vec<ManifestError>,
}

impl Problems<'_> {
    fn add(&mut self, path: &str, message: &str) {
        self.found.push(ManifestError::Value {
            name: self.name.to_owned(),
            path: path.to_owned(),
            message: message.to_owned(),
        });
    }

    fn range<T: PartialOrd + std::fmt::Display>(&mut self, path: &str, value: T, min: T, max: T) {
        if value < min || value > max {
            self.add(path, &format!("{value} is out of range; allowed: {min} to {max}"));
        }
    }
}

fn is_label(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 32
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

/// Checks what one manifest cannot say alone: names that refer to others, cycles of `after`, user
/// ids and listening addresses that are taken twice.
///
/// # Errors
/// All problems found.
pub fn check_together(manifests: &[Manifest]) -> Result<(), Vec<ManifestError>> {
    let names: BTreeSet<&str> = manifests.iter().map(|m| m.name.as_str()).collect();
    let mut found = Vec::new();
    for (index, manifest) in manifests.iter().enumerate() {
        let mut problems = Problems { name: &manifest.name, found: Vec::new() };
        let known = names.iter().copied().collect::<Vec<_>>().join(", ");
        for other in &manifest.after {
            if !names.contains(other.as_str()) {
                problems.add("after", &format!("`{other}` is no service; there are: {known}"));
            }
        }
        for other in &manifest.calls {
            if !names.contains(other.as_str()) && other != INIT {
                problems
                    .add("calls", &format!("`{other}` is no service; there are: {known}, init"));
            }
        }
        for earlier in manifests.iter().take(index) {
            if earlier.user == manifest.user {
                problems.add("user", &format!("{} belongs to `{}`", manifest.user, earlier.name));
            }
            for listen in &manifest.listen {
                let taken = |l: &&Listen| l.kind == listen.kind && l.address == listen.address;
                if earlier.listen.iter().any(|l| taken(&l)) {
                    problems.add(
                        "listen",
                        &format!("{} belongs to `{}`", listen.address, earlier.name),
                    );
                }
            }
        }
        if waits_for(manifests, &manifest.name, &manifest.name) {
            problems.add("after", "waits for itself through the services that it waits for");
        }
        found.append(&mut problems.found);
    }
    if found.is_empty() { Ok(()) } else { Err(found) }
}

/// Whether `from` waits, through any number of services, for `target`.
fn waits_for(manifests: &[Manifest], from: &str, target: &str) -> bool {
    let mut seen = BTreeSet::new();
    let mut open = vec![from];
    while let Some(name) = open.pop() {
        let after = manifests.iter().find(|m| m.name == name).map(|m| &m.after);
        for next in after.into_iter().flatten() {
            if next == target {
                return true;
            }
            if seen.insert(next.as_str()) {
                open.push(next);
            }
        }
    }
    false
}

/// The manifests of the image, as compiled in.
const BUILT_IN: [(&str, &str); 7] = [
    ("config", include_str!("../services/config.toml")),
    ("console", include_str!("../services/console.toml")),
    ("dhcp", include_str!("../services/dhcp.toml")),
    ("dns", include_str!("../services/dns.toml")),
    ("firewall", include_str!("../services/firewall.toml")),
    ("network", include_str!("../services/network.toml")),
    ("web", include_str!("../services/web.toml")),
];

/// The services of this image, in order of their names.
///
/// # Errors
/// All that is wrong with the manifests; a test keeps such out of an image.
pub fn built_in() -> Result<Vec<Manifest>, Vec<ManifestError>> {
    let mut manifests = Vec::new();
    let mut problems = Vec::new();
    for (name, text) in BUILT_IN {
        match Manifest::parse(name, text) {
            Ok(manifest) => manifests.push(manifest),
            Err(mut errors) => problems.append(&mut errors),
        }
    }
    if problems.is_empty() {
        check_together(&manifests)?;
        Ok(manifests)
    } else {
        Err(problems)
    }
}

/// User ids that may open the bus socket of `service`, by the `calls` of all others.
pub fn callers(manifests: &[Manifest], service: &str) -> BTreeSet<u32> {
    manifests.iter().filter(|m| m.calls.contains(service)).map(|m| m.user).collect()
}

/// User ids that may give orders to services, not only ask: those with `control`, and the
/// configuration service, which hands out the parts.
pub fn controllers(manifests: &[Manifest]) -> BTreeSet<u32> {
    manifests.iter().filter(|m| m.control || m.name == CONFIG).map(|m| m.user).collect()
}

/// Group that owns the bus socket of `service`: the service's own; root's for [`INIT`], whose
/// callers are let in by a group of its own.
pub fn bus_group(manifests: &[Manifest], service: &str) -> Option<u32> {
    if service == INIT {
        return Some(INIT_BUS_GROUP);
    }
    manifests.iter().find(|m| m.name == service).map(|m| m.user)
}

/// Group of those who may open PID 1's bus socket.
pub const INIT_BUS_GROUP: u32 = 100;

#[cfg(test)]
mod tests {
    use super::*;

    const MINIMAL: &str = "description = \"x\"\nuser = 200\nmemory_mib = 16\n";

    fn messages(errors: Vec<ManifestError>) -> String {
        errors.iter().map(|e| format!("{e}\n")).collect()
    }

    #[test]
    fn the_manifests_of_the_image_are_valid() {
        let manifests = built_in().map_err(messages).unwrap();
        assert_eq!(manifests.len(), BUILT_IN.len());
    }

    /// Above all not the services that strangers can talk to.
    #[test]
    fn only_the_console_and_the_configuration_give_orders() {
        let manifests = built_in().map_err(messages).unwrap();
        let users = controllers(&manifests);
        let names = manifests.iter().filter(|m| users.contains(&m.user)).map(|m| m.name.as_str());
        assert_eq!(names.collect::<Vec<_>>(), ["config", "console"]);
    }

    /// A service that was taken over, above all the page, is no way into the networks behind it.
    #[test]
    fn only_who_calls_out_makes_internet_sockets() {
        let manifests = built_in().map_err(messages).unwrap();
        let calls_out = |m: &&Manifest| m.system_calls.contains(&SystemCallSet::Network);
        let names = manifests.iter().filter(calls_out).map(|m| m.name.as_str());
        assert_eq!(names.collect::<Vec<_>>(), ["dns", "firewall", "network"]);
    }

    #[test]
    fn every_file_is_compiled_in() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/services");
        let mut files: Vec<_> = std::fs::read_dir(folder)
            .unwrap()
            .map(|e| e.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
            .collect();
        files.sort();
        assert_eq!(files, BUILT_IN.map(|(name, _)| name));
    }

    #[test]
    fn minimal_manifest_gets_the_documented_defaults() {
        let manifest = Manifest::parse("x", MINIMAL).unwrap();
        assert_eq!(
            (
                manifest.tasks,
                manifest.watchdog_s,
                manifest.start_timeout_s,
                manifest.stop_timeout_s
            ),
            (8, 30, 20, 5)
        );
        assert_eq!(manifest.system_calls, BTreeSet::from([SystemCallSet::Base]));
        assert!(manifest.capabilities.is_empty());
    }

    #[test]
    fn unknown_and_wrong_fields_are_named_with_what_is_allowed() {
        let wrong =
            |line: &str| messages(Manifest::parse("x", &format!("{MINIMAL}{line}\n")).unwrap_err());
        assert!(wrong("color = 1").contains("unknown field `color`"));
        assert!(wrong("tasks = 0").contains("tasks: 0 is out of range; allowed: 1 to 1024"));
        let text = wrong("capabilities = [\"NET_FLY\"]");
        assert!(text.contains("NET_FLY") && text.contains("NET_RAW"), "{text}");
        let text = wrong("system_calls = [\"everything\"]");
        assert!(text.contains("everything") && text.contains("netlink"), "{text}");
        assert!(wrong("read = [\"etc\"]").contains("read[0]: `etc` must be an absolute path"));
        assert!(wrong("control = true").contains("needs `init`"));
        let text = wrong(
            "[[listen]]\nname = \"bus\"\nkind = \"tcp\"\naddress = \"[::]:0\"\noptions = [\"broadcast\"]",
        );
        for part in ["not `bus`", "1 to 65535", "Broadcast does not go with Tcp"] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn references_between_manifests_are_checked() {
        let parse = |name: &str, user: u32, line: &str| {
            let text = MINIMAL.replace("200", &user.to_string());
            Manifest::parse(name, &format!("{text}{line}\n")).unwrap()
        };
        let text = messages(
            check_together(&[
                parse("a", 200, "after = [\"b\"]\ncalls = [\"ghost\"]"),
                parse("b", 200, "after = [\"c\"]"),
                parse("c", 202, "after = [\"a\", \"phantom\"]"),
            ])
            .unwrap_err(),
        );
        assert_eq!(text.matches("waits for itself through").count(), 3, "{text}");
        assert!(text.contains("`ghost` is no service; there are: a, b, c, init"), "{text}");
        assert!(text.contains("`phantom` is no service"), "{text}");
        assert!(text.contains("user: 200 belongs to `a`"), "{text}");
    }
}

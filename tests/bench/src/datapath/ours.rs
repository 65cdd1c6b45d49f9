//! Our firewall in the router's namespace: the whole of the service but its bus, with the default
//! configuration.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use portcullis_bus::network::InterfaceStatus;
use portcullis_firewall::service::Firewall;
use portcullis_model::{Document, part::FirewallPart};
use portcullis_netns::{Namespace, execute};

use super::bpf::{self, XdpProgram};

/// What differs from the default configuration.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// XDP on both interfaces; else tcx.
    pub xdp: bool,
    /// Flows that the table holds.
    pub capacity: u32,
    /// Rules.
    pub rules: u32,
}

/// The firewall, attached.
pub struct Ours {
    firewall: Firewall,
    settings: Settings,
    // After the firewall, which stands in it.
    pins: Pins,
}

/// A folder in the BPF file system that goes away with this value.
struct Pins(PathBuf);

impl Drop for Pins {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Ours {
    /// Starts it on these interfaces.
    pub fn attach(
        namespace: &Namespace,
        interfaces: &[InterfaceStatus],
        settings: Settings,
    ) -> Result<Self> {
        mount_bpf()?;
        let pins = Pins(PathBuf::from(format!("/sys/fs/bpf/{}", namespace.name())));
        let part = part(settings, 0)?;
        let firewall = namespace.enter(|| {
            let mut firewall = Firewall::open(pins.0.clone(), part)?;
            firewall.set_interfaces(interfaces.to_vec())?;
            Ok(firewall)
        })?;
        ensure!(!firewall.is_incomplete(), "not all devices were attached");
        let this = Self { firewall, settings, pins };
        this.attached("lan", if settings.xdp { "xdp" } else { "tcx-ingress" })?;
        Ok(this)
    }

    /// Id of the program that is attached to a device.
    fn attached(&self, device: &str, hook: &str) -> Result<u32> {
        let attachments = self.firewall.attachments();
        let found = attachments.iter().find(|it| it.device == device && it.hook == hook);
        found.map(|it| it.program_id).with_context(|| {
            let reasons: Vec<_> = attachments.iter().map(|it| &it.reason).collect();
            format!("nothing is attached to {hook} of {device}: {reasons:?}")
        })
    }

    /// The program on XDP of the LAN.
    pub fn xdp(&self) -> Result<XdpProgram> {
        XdpProgram::by_id(self.attached("lan", "xdp")?)
    }

    /// Installs a policy of as many rules as before, others than in the last edition. The caller is
    /// in the router's namespace.
    pub fn replace_rules(&mut self, edition: u32) -> Result<()> {
        self.firewall.apply(part(self.settings, edition)?)?;
        Ok(())
    }

    /// Installs a policy of another size. The caller is in the router's namespace.
    pub fn set_rules(&mut self, rules: u32) -> Result<()> {
        self.settings.rules = rules;
        self.replace_rules(0)
    }

    /// Ends all flows, and waits until their records can be used again.
    pub fn forget(&mut self) -> Result<()> {
        self.firewall.purge("0.0.0.0/0").map_err(anyhow::Error::msg)?;
        // One pass clears away, the next one hands numbers back.
        let mut passes = 0;
        while passes < 3 {
            passes += u32::from(self.firewall.sweep()?.is_some());
        }
        ensure!(self.firewall.status()?.flows == 0, "flows are left");
        Ok(())
    }

    /// Memory of all maps in bytes, as the kernel accounts it.
    pub fn memory(&self) -> Result<u64> {
        let mut folders = vec![self.pins.0.clone()];
        let mut sum = 0;
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder)? {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    folders.push(entry.path());
                } else {
                    sum += map_memory(&entry.path())?;
                }
            }
        }
        Ok(sum)
    }

    /// Packets that it has dropped, by reason.
    ///
    /// # Errors
    /// If the counters cannot be read.
    pub fn dropped(&mut self) -> Result<BTreeMap<String, u64>> {
        let counters = self.firewall.counters()?.into_iter();
        let drops = counters.filter(|counter| counter.name.starts_with("drop."));
        Ok(drops.map(|counter| (counter.name, counter.packets)).collect())
    }

    /// What became of packets.
    pub fn explain(&mut self) -> String {
        let counters = self.firewall.counters().unwrap_or_default();
        let seen = counters.iter().filter(|counter| counter.packets > 0);
        let texts: Vec<_> =
            seen.map(|counter| format!("{} {}", counter.name, counter.packets)).collect();
        texts.join(", ")
    }
}

/// Memory of a pinned map; none for a pinned link or program.
fn map_memory(pin: &Path) -> Result<u64> {
    let object = bpf::pinned(pin)?;
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", object.as_raw_fd()))?;
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
    match (field("map_type:"), field("memlock:")) {
        (Some(_), Some(bytes)) => Ok(bytes.trim().parse()?),
        (Some(_), None) => bail!("the kernel does not say the memory of {}", pin.display()),
        (None, _) => Ok(0),
    }
}

/// The configuration. No rule but the last is about the benchmark's traffic, and that one allows it;
/// the others are near misses in one field each. Editions differ in their addresses.
fn part(settings: Settings, edition: u32) -> Result<FirewallPart> {
    let hook = if settings.xdp { "xdp" } else { "tcx" };
    let mut text = format!(
        "[firewall]\nmax_flows = {}\nhooks = {{ lan = \"{hook}\", wan = \"{hook}\" }}\n",
        settings.capacity
    );
    for number in 1..=settings.rules {
        let (source, destination, port) = if number == settings.rules {
            ("192.168.0.0/16".to_owned(), "203.0.112.0/20".to_owned(), 9)
        } else {
            let [_, high, middle, low] = (number + edition * 17).to_be_bytes();
            let source = match number % 4 {
                0 => "192.168.77.0/24".to_owned(),
                1 => format!("192.168.{}.0/24", 100 + low % 100),
                _ => format!("10.{high}.{middle}.0/24"),
            };
            let destination = match number % 3 {
                0 => format!("203.0.113.{}", 128 + low % 128),
                1 => format!("100.{}.{middle}.{low}", 64 + high % 64),
                _ => format!("198.18.{middle}.0/24"),
            };
            (source, destination, 10 + number % 5000)
        };
        let action = if number == settings.rules { "allow" } else { "deny" };
        write!(
            text,
            "[[firewall.rules]]\nname = \"rule-{number}\"\nfrom = \"lan\"\nto = \"wan\"\n\
             sources = [\"{source}\"]\ndestinations = [\"{destination}\"]\nprotocols = [\"udp\"]\n\
             destination_ports = [\"{port}\"]\naction = \"{action}\"\n"
        )?;
    }
    Ok(FirewallPart::of(&Document::parse(&text)?))
}

fn mount_bpf() -> Result<()> {
    let mounts = std::fs::read_to_string("/proc/mounts")?;
    if !mounts.lines().any(|line| line.split(' ').nth(1) == Some("/sys/fs/bpf")) {
        execute(
            Command::new("mount").args(["-t", "bpf", "bpf", "/sys/fs/bpf"]).stdin(Stdio::null()),
        )?;
    }
    Ok(())
}

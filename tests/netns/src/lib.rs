//! Hosts for tests: network namespaces made and removed by the test itself, joined by veth pairs
//! or connected to a virtual machine by tap descriptors. Needs root, iproute2 and /dev/net/tun.
//!
//! Nothing here touches the namespace of the caller: every device is made inside a namespace of
//! ours, so that no address or route of the machine can be disturbed.

mod leftovers;
mod process;
mod tap;

use std::{
    fs::File,
    path::Path,
    process::{Command, Output, Stdio},
    sync::{
        Once,
        atomic::{AtomicU32, Ordering},
    },
};

use anyhow::{Context, Result, bail, ensure};

pub use leftovers::{is_gone, remove_leftovers, remove_own};
pub use process::{Running, dies_with_us};

/// A network namespace that lives as long as this value; its processes must end before.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

static COUNT: AtomicU32 = AtomicU32::new(0);

impl Namespace {
    /// Makes a namespace with loopback up. `tag` (a few letters) is part of its name, with the
    /// process id and a number, so that parallel tests do not meet.
    ///
    /// # Errors
    /// Not root, or no iproute2.
    pub fn new(tag: &str) -> Result<Self> {
        ensure!(
            rustix::process::geteuid().is_root(),
            "network namespaces need root: run the tests as root"
        );
        static SWEEP: Once = Once::new();
        SWEEP.call_once(remove_leftovers);
        let name = leftovers::name(tag, COUNT.fetch_add(1, Ordering::Relaxed));
        execute(Command::new("ip").args(["netns", "add", &name]))?;
        let namespace = Self { name };
        namespace.run("ip link set lo up")?;
        // Duplicate address detection would delay every IPv6 address by a second or two.
        namespace.run("sysctl -qw net.ipv6.conf.default.accept_dad=0")?;
        Ok(namespace)
    }

    /// Its name under `/run/netns`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Gives the programs inside this text as `/etc/resolv.conf`.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn resolver(&self, text: &str) -> Result<()> {
        let folder = Path::new(leftovers::FILES).join(&self.name);
        let path = folder.join("resolv.conf");
        std::fs::create_dir_all(&folder)
            .and_then(|()| std::fs::write(&path, text))
            .with_context(|| path.display().to_string())
    }

    /// `program`, to be run inside; the caller adds arguments.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    /// Runs a command line (split at spaces, no shell) inside, and returns its standard output.
    ///
    /// # Errors
    /// If it cannot be started or ends with a failure; with what it wrote to standard error.
    pub fn run(&self, line: &str) -> Result<String> {
        let mut words = line.split_whitespace();
        let program = words.next().context("empty command line")?;
        let output = execute(self.command(program).args(words))?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// What a command line (split at spaces, no shell) writes inside, first to standard output, then to
    /// standard error; however it ends.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn told(&self, line: &str) -> Result<String> {
        let mut words = line.split_whitespace();
        let program = words.next().context("empty command line")?;
        let output = self.command(program).args(words).stdin(Stdio::null()).output()?;
        Ok([output.stdout, output.stderr]
            .map(|text| String::from_utf8_lossy(&text).into_owned())
            .concat())
    }

    /// Starts a command line (split at spaces) inside; it is killed when the handle is dropped.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(&self, line: &str) -> Result<Running> {
        let mut words = line.split_whitespace();
        let program = words.next().context("empty command line")?;
        let mut command = self.command(program);
        command.args(words);
        Running::start(command)
    }

    /// Runs `body` on a thread of its own inside this namespace, for sockets and netlink.
    ///
    /// # Errors
    /// If the namespace cannot be entered; the error of `body`.
    pub fn enter<T: Send>(&self, body: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    let path = format!("{}/{}", leftovers::NAMESPACES, self.name);
                    let file = File::open(&path).with_context(|| path.clone())?;
                    nix::sched::setns(&file, nix::sched::CloneFlags::CLONE_NEWNET).context(path)?;
                    body()
                })
                .join()
                .unwrap_or_else(|_| bail!("the thread inside {} panicked", self.name))
        })
    }

    /// A veth pair: `device` here, `peer_device` in `peer`, both up.
    ///
    /// # Errors
    /// If a name is taken.
    pub fn join(&self, device: &str, peer: &Self, peer_device: &str) -> Result<()> {
        self.run(&format!(
            "ip link add {device} type veth peer name {peer_device} netns {}",
            peer.name
        ))?;
        self.run(&format!("ip link set {device} up"))?;
        peer.run(&format!("ip link set {peer_device} up"))?;
        Ok(())
    }

    /// Adds `address` (with prefix length) to `device`.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn address(&self, device: &str, address: &str) -> Result<()> {
        self.run(&format!("ip address add {address} dev {device}")).map(drop)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        leftovers::delete(&self.name);
    }
}

/// Runs a command to its end and fails with its standard error if it fails.
///
/// # Errors
/// If it cannot be started or its status is not success.
pub fn execute(command: &mut Command) -> Result<Output> {
    let shown = format!("{command:?}").replace('"', "");
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {shown}"))?;
    if !output.status.success() {
        bail!(
            "{shown}: {}: {}{}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim(),
            String::from_utf8_lossy(&output.stdout).trim()
        );
    }
    Ok(output)
}

//! What changes in the router's namespace.

use std::{fs, process::Command, time::Duration};

use anyhow::Result;
use portcullis_netns::Running;

use super::{Lab, SOON};

/// `ip monitor` of the router's devices, addresses and routes of a family, into a file.
pub fn monitor(lab: &Lab, family: &str, file: &str) -> Result<Running> {
    let mut command = Command::new("sh");
    let path = lab.path(file);
    let line = format!(
        "exec ip netns exec {} stdbuf -oL ip {family} monitor link address route > {}",
        lab.router.name(),
        path.display()
    );
    command.args(["-c", &line]);
    let monitor = Running::start(command)?;
    // It listens when it is among those who want messages of the kernel.
    let id = monitor.id().to_string();
    lab.until("ip monitor", SOON, || {
        let sockets = lab.router.run("cat /proc/net/netlink")?;
        Ok(sockets.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).any(|fields| {
            matches!(fields[..], [_, _, owner, groups, ..] if owner == id && groups != "00000000")
        }))
    })?;
    Ok(monitor)
}

/// Waits until the router's lease is in force and nothing changes any more.
pub fn settled(lab: &Lab, family: &str) -> Result<()> {
    lab.until_state("bound", SOON)?;
    lab.until("the lease in force", SOON, || {
        let wan = lab.interface("wan")?;
        Ok(!wan.addresses.is_empty() && wan.gateway.is_some())
    })?;
    lab.until("rest", SOON, || {
        let monitor = monitor(lab, family, "rest")?;
        std::thread::sleep(Duration::from_millis(500));
        drop(monitor);
        Ok(monitored(lab, "rest")?.is_empty())
    })
}

pub fn monitored(lab: &Lab, file: &str) -> Result<String> {
    Ok(fs::read_to_string(lab.path(file))?)
}

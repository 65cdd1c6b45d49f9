//! A host on the appliance's LAN.

use std::{
    fs::File,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use portcullis_netns::{Namespace, execute};
use serde_json::Value;

/// What a DHCP client program calls to set the address: it must not touch the machine's own
/// resolver, which Debian's scripts would.
const UDHCPC_SCRIPT: &str = r#"#!/bin/sh
case "$1" in
deconfig)
    ip address flush dev "$interface"
    ip link set "$interface" up ;;
bound|renew)
    ip address replace "$ip/$mask" dev "$interface" valid_lft "$lease" preferred_lft "$lease"
    for hop in $router; do ip route replace default via "$hop" dev "$interface"; done
    env > "$PORTCULLIS_LEASE_FILE" ;;
esac
"#;

/// A computer with one network card, `eth0`, plugged into the appliance.
#[derive(Debug)]
pub struct Host {
    namespace: Namespace,
    cable: File,
    folder: PathBuf,
}

impl Host {
    /// A host without address; its files go to `folder`.
    ///
    /// # Errors
    /// Not root.
    pub fn new(tag: &str, folder: &Path) -> Result<Self> {
        let namespace = Namespace::new(tag)?;
        let cable = namespace.tap("eth0", true)?;
        let folder = folder.join(tag);
        std::fs::create_dir_all(&folder)?;
        namespace.resolver("nameserver 192.168.77.1\nsearch lan\n")?;
        Ok(Self { namespace, cable, folder })
    }

    /// The namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Folder for its files.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The appliance's end of the cable.
    ///
    /// # Errors
    /// If no descriptor is left.
    pub fn cable(&self) -> Result<File> {
        self.cable.try_clone().context("tap eth0")
    }

    /// Runs a command line (no shell) on the host and returns its output.
    ///
    /// # Errors
    /// If it fails; with what it said.
    pub fn run(&self, line: &str) -> Result<String> {
        self.namespace.run(line)
    }

    /// Forgets address and routes.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn forget(&self) -> Result<()> {
        self.run("ip address flush dev eth0")?;
        self.run("ip route flush dev eth0")?;
        self.run("ip neighbour flush dev eth0")?;
        Ok(())
    }

    /// Asks for a lease by udhcpc (BusyBox) under the name `hostname` until there is one, and
    /// returns the address.
    ///
    /// # Errors
    /// If there is none within `limit`.
    pub fn lease_by_udhcpc(&self, hostname: &str, limit: Duration) -> Result<String> {
        let script = self.script("udhcpc-script", UDHCPC_SCRIPT)?;
        let lease = self.folder.join("udhcpc.lease");
        let end = Instant::now() + limit;
        loop {
            let mut command = self.namespace.command("udhcpc");
            command
                .args(["-i", "eth0", "-q", "-n", "-f", "-t", "4", "-T", "1"])
                .args(["-x", &format!("hostname:{hostname}"), "-s"])
                .arg(&script)
                .env("PORTCULLIS_LEASE_FILE", &lease);
            match execute(&mut command) {
                Ok(_) => return self.address(),
                Err(error) if Instant::now() > end => {
                    return Err(error.context(format!("no lease within {limit:?}")));
                }
                Err(_) => {}
            }
        }
    }

    /// Writes an executable file for a client program.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn script(&self, name: &str, text: &str) -> Result<PathBuf> {
        use std::os::unix::fs::PermissionsExt;
        let path = self.folder.join(name);
        std::fs::write(&path, text)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
        Ok(path)
    }

    /// Its IPv4 address.
    ///
    /// # Errors
    /// If it has none.
    pub fn address(&self) -> Result<String> {
        let text = self.run("ip -4 -j address show dev eth0")?;
        let shown: Value = serde_json::from_str(&text)?;
        shown
            .pointer("/0/addr_info/0/local")
            .and_then(Value::as_str)
            .map(str::to_owned)
            .with_context(|| format!("{} has no address", self.namespace.name()))
    }

    /// Fetches a URL with curl and returns its body.
    ///
    /// # Errors
    /// If it cannot be had within 10 s.
    pub fn get(&self, url: &str) -> Result<String> {
        let mut command = self.namespace.command("curl");
        command.args(["-ksSf", "--max-time", "10", url]);
        let output = execute(&mut command)?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The appliance's `/api/v1/status`.
    ///
    /// # Errors
    /// If the page does not answer with JSON.
    pub fn status(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.get("https://192.168.77.1/api/v1/status")?)?)
    }

    /// Asks for the status until `condition` holds, and returns it.
    ///
    /// # Errors
    /// If it does not hold within `limit`; with the last status or error.
    pub fn wait_for_status(
        &self,
        what: &str,
        limit: Duration,
        condition: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let end = Instant::now() + limit;
        loop {
            let status = self.status();
            match status {
                Ok(status) if condition(&status) => return Ok(status),
                _ if Instant::now() < end => std::thread::sleep(Duration::from_millis(200)),
                Ok(status) => bail!("status: {what} does not hold after {limit:?}: {status:#}"),
                Err(error) => return Err(error.context(format!("status: {what}, {limit:?}"))),
            }
        }
    }
}

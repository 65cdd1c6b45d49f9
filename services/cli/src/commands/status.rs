//! `status`: one page about everything.

use std::{collections::BTreeMap, io::Write};

use portcullis_bus::{
    config::{ConfigBusProxy, ConfigStatus},
    init::SystemStatus,
    network::{InterfaceStatus, NetworkBusProxy, WanLease},
    peer::{PeerError, call},
};
use serde::Serialize;

use super::{Failure, READ_TIMEOUT, init, print_json};
use crate::text::{Table, bytes, clean, duration, or_dash, yes};

/// What could be learned; a part is missing if its service does not answer.
#[derive(Debug, Default, Serialize)]
struct Status {
    system: Option<SystemStatus>,
    interfaces: Option<Vec<InterfaceStatus>>,
    wan: Option<Vec<WanLease>>,
    config: Option<ConfigStatus>,
    /// Part to error.
    errors: BTreeMap<&'static str, String>,
}

pub(super) async fn run(json: bool, out: &mut dyn Write) -> Result<(), Failure> {
    let (status, errors) = gather().await;
    if json {
        print_json(out, &status)?;
    } else {
        write!(out, "{}", render(&status))?;
    }
    if errors.is_empty() { Ok(()) } else { Err(Failure::Incomplete(errors)) }
}

async fn gather() -> (Status, Vec<PeerError>) {
    let (system, network, config) = tokio::join!(
        init(|init| async move { init.system().await }),
        call("network", READ_TIMEOUT, async |connection| {
            let network = NetworkBusProxy::new(&connection).await?;
            Ok((network.interfaces().await?, network.wan_leases().await?))
        }),
        call("config", READ_TIMEOUT, async |connection| {
            ConfigBusProxy::new(&connection).await?.status().await
        }),
    );
    let mut status = Status::default();
    let mut errors = Vec::new();
    let mut missing = |parts: &[&'static str], error: PeerError| {
        status.errors.extend(parts.iter().map(|part| (*part, error.to_string())));
        errors.push(error);
    };
    match system {
        Ok(system) => status.system = Some(system),
        Err(error) => missing(&["system"], error),
    }
    match network {
        Ok((interfaces, wan)) => {
            status.interfaces = Some(interfaces);
            status.wan = Some(wan);
        }
        Err(error) => missing(&["interfaces", "wan"], error),
    }
    match config {
        Ok(config) => status.config = Some(config),
        Err(error) => missing(&["config"], error),
    }
    (status, errors)
}

fn render(status: &Status) -> String {
    let mut text = String::new();
    let mut line = |label: &str, value: &str| {
        text.push_str(format!("{label:<14}{}", clean(value)).trim_end());
        text.push('\n');
    };
    match &status.system {
        Some(system) => system_lines(system, &mut line),
        None => line("System", "unknown"),
    }
    match &status.config {
        Some(config) => {
            line("Configuration", &format!("generation {}, {}", config.generation, config.source));
            if !config.problem.is_empty() {
                line("", &config.problem);
            }
        }
        None => line("Configuration", "unknown"),
    }
    match &status.wan {
        Some(leases) => leases.iter().for_each(|lease| wan_line(lease, &mut line)),
        None => line("Internet", "unknown"),
    }
    if let Some(system) = &status.system {
        text.push('\n');
        text.push_str(&slots(system));
    }
    if let Some(interfaces) = &status.interfaces {
        text.push('\n');
        text.push_str(&interface_table(interfaces));
    }
    text
}

fn system_lines(system: &SystemStatus, line: &mut impl FnMut(&str, &str)) {
    line("Version", &format!("{}, kernel {}", system.version, system.kernel));
    line("Up", &duration(system.uptime_s));
    line("Health", if system.healthy { "ok" } else { "NOT HEALTHY" });
    for problem in &system.problems {
        line("", problem);
    }
    let used = system.memory_total_bytes.saturating_sub(system.memory_available_bytes);
    line("Memory", &format!("{} of {} in use", bytes(used), bytes(system.memory_total_bytes)));
    line(
        "Data",
        &format!("{} of {} free", bytes(system.data_free_bytes), bytes(system.data_total_bytes)),
    );
    if !system.boot.is_empty() {
        let phases: Vec<_> =
            system.boot.iter().map(|p| format!("{} {:.1} s", p.name, p.seconds)).collect();
        line("Boot", &phases.join(", "));
    }
}

fn wan_line(lease: &WanLease, line: &mut impl FnMut(&str, &str)) {
    let value = match &lease.address {
        Some(address) => format!(
            "{address} by {}, gateway {}, DNS {} ({})",
            lease.interface,
            or_dash(lease.gateway.as_deref()),
            or_dash(Some(&lease.dns.join(" "))),
            lease.state
        ),
        None => format!("no address by {} ({})", lease.interface, lease.state),
    };
    line("Internet", &value);
}

fn slots(system: &SystemStatus) -> String {
    let mut table = Table::new(&["SLOT", "VERSION", "RUNNING", "CONFIRMED", ">PRIORITY", ">TRIES"]);
    for slot in &system.slots {
        table.row([
            slot.name.as_str(),
            slot.version.as_deref().unwrap_or("empty"),
            yes(slot.running),
            yes(slot.confirmed),
            &slot.priority.to_string(),
            &slot.tries_left.to_string(),
        ]);
    }
    table.render()
}

fn interface_table(interfaces: &[InterfaceStatus]) -> String {
    let mut table = Table::new(&[
        "INTERFACE",
        "DEVICE",
        "ZONE",
        "LINK",
        "ADDRESSES",
        ">RECEIVED",
        ">SENT",
        "PORTS",
    ]);
    for interface in interfaces {
        let ports: Vec<_> = interface
            .ports
            .iter()
            .map(|p| format!("{}{}", p.device, if p.carrier { "" } else { " (no link)" }))
            .collect();
        table.row([
            interface.name.as_str(),
            or_dash(Some(&interface.device)),
            interface.zone.as_str(),
            if interface.carrier { "up" } else { "DOWN" },
            or_dash(Some(&interface.addresses.join(" "))),
            &bytes(interface.rx_bytes),
            &bytes(interface.tx_bytes),
            or_dash(Some(&ports.join(" "))),
        ]);
    }
    table.render()
}

//! Commands that print one table.

use std::io::Write;

use portcullis_bus::{dhcp::DhcpBusProxy, firewall::FlowQuery, peer::call};

use super::{Failure, READ_TIMEOUT, firewall, init, print_json};
use crate::{
    args::Matching,
    text::{Table, bytes, duration, or_dash, time, yes},
};

pub(super) async fn services(json: bool, out: &mut dyn Write) -> Result<(), Failure> {
    let services = init(|init| async move { init.services().await }).await?;
    if json {
        return print_json(out, &services);
    }
    let mut table = Table::new(&[
        "SERVICE",
        "STATE",
        "SINCE (UTC)",
        ">RESTARTS",
        ">MEMORY",
        ">CPU S",
        "ESSENTIAL",
        "STATUS",
    ]);
    for s in &services {
        let remark = if s.state == "ready" || s.last_exit.is_empty() {
            s.status_text.clone()
        } else {
            s.last_exit.clone()
        };
        table.row([
            s.name.clone(),
            s.state.clone(),
            time(s.since_unix_s),
            s.restarts.to_string(),
            bytes(s.memory_bytes),
            format!("{}.{:01}", s.cpu_ms / 1000, s.cpu_ms % 1000 / 100),
            yes(s.essential).to_owned(),
            remark,
        ]);
    }
    Ok(write!(out, "{}", table.render())?)
}

pub(super) async fn leases(json: bool, out: &mut dyn Write) -> Result<(), Failure> {
    let leases = call("dhcp", READ_TIMEOUT, async |connection| {
        DhcpBusProxy::new(&connection).await?.leases().await
    })
    .await?;
    if json {
        return print_json(out, &leases);
    }
    let mut table =
        Table::new(&["ADDRESS", "MAC", "NAME", "INTERFACE", "STATE", "EXPIRES (UTC)", "RESERVED"]);
    for lease in &leases {
        table.row([
            lease.address.as_str(),
            lease.mac.as_str(),
            or_dash(lease.hostname.as_deref()),
            lease.interface.as_str(),
            lease.state.as_str(),
            &time(lease.expires_unix_s),
            yes(lease.reserved),
        ]);
    }
    Ok(write!(out, "{}", table.render())?)
}

pub(super) async fn flows(
    limit: u32,
    matching: &Matching,
    json: bool,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let query = FlowQuery {
        limit,
        host: matching.host.clone().unwrap_or_default(),
        port: matching.port.unwrap_or_default(),
        zone: matching.zone.clone().unwrap_or_default(),
        protocol: matching.protocol.clone().unwrap_or_default(),
    };
    let page = firewall(READ_TIMEOUT, async |firewall| firewall.find_flows(query).await).await?;
    if json {
        return print_json(out, &page);
    }
    let mut table = Table::new(&[
        "PROTOCOL",
        "SOURCE",
        "DESTINATION",
        "SEEN AS",
        "ZONES",
        "STATE",
        ">OUT",
        ">IN",
        "IDLE",
    ]);
    for flow in &page.flows {
        table.row([
            flow.protocol.clone(),
            flow.source.clone(),
            flow.destination.clone(),
            if flow.translated_source == flow.source {
                "-".to_owned()
            } else {
                flow.translated_source.clone()
            },
            format!("{} > {}", flow.from_zone, flow.to_zone),
            flow.state.clone(),
            bytes(flow.bytes_out),
            bytes(flow.bytes_in),
            format!("{} of {}", duration(flow.idle_s.into()), duration(flow.timeout_s.into())),
        ]);
    }
    write!(out, "{}", table.render())?;
    Ok(writeln!(out, "{} of {} flows, room for {}", page.flows.len(), page.total, page.capacity)?)
}

pub(super) async fn counters(json: bool, out: &mut dyn Write) -> Result<(), Failure> {
    let counters = firewall(READ_TIMEOUT, async |firewall| firewall.counters().await).await?;
    if json {
        return print_json(out, &counters);
    }
    let mut table = Table::new(&["COUNTER", ">PACKETS", ">BYTES", "WHAT IT COUNTS"]);
    for counter in &counters {
        table.row([
            counter.name.clone(),
            counter.packets.to_string(),
            bytes(counter.bytes),
            counter.description.clone(),
        ]);
    }
    Ok(write!(out, "{}", table.render())?)
}

//! What the datapath tells: drops by zone pair, log records of rules and flows, flow records for
//! collectors, copies of packets.
//!
//! ```text
//! DROPS ----------------> drops ----------------------> bus
//! EVENTS (ring) --------> events ---------------------> journal
//! sweep: flow ended ----> events, ipfix --> collectors -> journal, UDP
//! CAPTURE, PACKETS -----> capture --> pcapng ---------> socket of who asked
//! ```
//!
//! `drops`, `filter`, `pcapng` and `ipfix` are pure.

pub mod capture;
pub mod collectors;
pub mod drops;
pub mod events;
pub mod filter;
pub mod ipfix;
pub mod pcapng;

use std::{
    net::SocketAddr,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use portcullis_datapath_abi::event::Event;
use portcullis_model::Firewall;

use crate::{
    datapath::FlowTable,
    sweep::{self, Ended, now_ticks},
};
use collectors::Collectors;
use events::{EventLog, LogNames};
use ipfix::{Clock, EndReason, Exporter, Settings};

/// Records looked at in one slice of a survey.
const SLICE: u32 = 1 << 16;

/// What is told to whom.
#[derive(Debug)]
pub struct Telemetry {
    log: EventLog,
    export: Option<(Exporter, Collectors)>,
    /// Where the survey of living flows stands.
    next: u32,
}

impl Telemetry {
    /// As configured; call it inside a runtime.
    pub fn new(firewall: &Firewall, names: LogNames) -> Self {
        let mut this =
            Self { log: EventLog::new(&firewall.log, names.clone()), export: None, next: 0 };
        this.configure(firewall, names);
        this
    }

    /// Takes new settings. What is exported goes on as it was where nothing changes.
    pub fn configure(&mut self, firewall: &Firewall, names: LogNames) {
        self.log = EventLog::new(&firewall.log, names);
        let wanted = &firewall.flow_export;
        let settings = Settings {
            active_timeout_s: wanted.active_timeout_s,
            template_refresh_s: wanted.template_refresh_s,
            domain: wanted.domain,
        };
        let addresses: Vec<SocketAddr> = wanted.collectors.iter().map(|c| c.0).collect();
        let same = self.export.as_ref().is_some_and(|(exporter, collectors)| {
            exporter.settings() == settings && collectors.addresses() == addresses
        });
        if same {
            return;
        }
        self.export = (!addresses.is_empty())
            .then(|| (Exporter::new(settings), Collectors::start(addresses)));
    }

    /// An event of the packet path.
    pub fn event(&mut self, event: &Event) {
        if let Some(record) = self.log.event(event, Instant::now()) {
            record.write();
        }
    }

    /// A flow has ended.
    pub fn flow_ended(&mut self, ended: &Ended<'_>) {
        if let Some(record) = self.log.ended(ended.record, ended.reason, Instant::now()) {
            record.write();
        }
        if let Some((exporter, _)) = &mut self.export {
            let reason = match ended.reason {
                sweep::EndReason::Idle => EndReason::Idle,
                sweep::EndReason::Closed => EndReason::EndOfFlow,
                sweep::EndReason::Forced => EndReason::Forced,
                sweep::EndReason::Resources => EndReason::LackOfResources,
            };
            exporter.ended(ended.number, ended.record, reason, &clock());
        }
    }

    /// Looks at the next flows that live on, and sends what there is to be sent. To be called in
    /// every slice of a pass over the table.
    pub fn survey(&mut self, table: &FlowTable) {
        let Some((exporter, collectors)) = &mut self.export else {
            return;
        };
        let clock = clock();
        let used = table.flows_used();
        let end = self.next.saturating_add(SLICE).min(used);
        for number in self.next..end {
            if let Some(record) = table.flow(number) {
                exporter.lives(number, &record, &clock);
            }
        }
        self.next = if end >= used { 0 } else { end };
        collectors.send(exporter.messages(&clock));
    }
}

fn clock() -> Clock {
    let unix_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    Clock { unix_ms: u64::try_from(unix_ms).unwrap_or_default(), ticks: now_ticks() }
}

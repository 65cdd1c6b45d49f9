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
/// Reports that are put into messages at once.
const BATCH: usize = 1 << 10;

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
        self.log.configure(&firewall.log, names);
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
        if let Some((exporter, collectors)) = &mut self.export {
            let reason = match ended.reason {
                sweep::EndReason::Idle => EndReason::Idle,
                sweep::EndReason::Closed => EndReason::EndOfFlow,
                sweep::EndReason::Forced => EndReason::Forced,
                sweep::EndReason::Resources => EndReason::LackOfResources,
            };
            let clock = clock();
            exporter.ended(ended.number, ended.record, reason, &clock);
            // A change of addresses may end all flows at once.
            if exporter.waiting() >= BATCH {
                collectors.send(exporter.messages(&clock));
            }
        }
    }

    /// Flows were moved from one table into another, where they have other numbers. Those that found no
    /// room there have ended.
    pub fn moved(&mut self, from: &FlowTable, to: &FlowTable) {
        for (number, record) in from.flows() {
            if to.number_of(&record).is_none() {
                let reason = sweep::EndReason::Resources;
                self.flow_ended(&Ended { number, record: &record, reason });
            }
        }
        self.next = 0;
        if let Some((exporter, _)) = &mut self.export {
            exporter.renumber(|number| to.number_of(&from.flow(number)?));
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
                if exporter.waiting() >= BATCH {
                    collectors.send(exporter.messages(&clock));
                }
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

#[cfg(test)]
mod tests {
    use portcullis_datapath_abi::FlowRecord;
    use portcullis_model::Document;

    use super::*;
    use crate::datapath::scratch::{Scratch, tcp};

    fn telemetry() -> Telemetry {
        let document = "[firewall.flow_export]\ncollectors = [\"127.0.0.1:4739\"]\n";
        let document = Document::parse(document).unwrap_or_else(|error| panic!("{error}"));
        Telemetry::new(&document.firewall, LogNames::default())
    }

    fn exporter(telemetry: &mut Telemetry) -> &mut Exporter {
        let Some((exporter, _)) = &mut telemetry.export else { panic!("there is a collector") };
        exporter
    }

    #[tokio::test]
    async fn the_end_of_all_flows_at_once_does_not_wait_in_memory() {
        let mut telemetry = telemetry();
        for number in 0..10 * BATCH as u32 {
            let record = tcp(number);
            telemetry.flow_ended(&Ended {
                number,
                record: &record,
                reason: sweep::EndReason::Forced,
            });
            assert!(exporter(&mut telemetry).waiting() < BATCH);
        }
    }

    #[tokio::test]
    async fn what_was_told_of_a_flow_moves_with_it_into_another_table() {
        let mut telemetry = telemetry();
        let timeout = exporter(&mut telemetry).settings().active_timeout_s;
        let now = clock();
        let created = now.ticks.wrapping_sub(crate::ageing::ticks(timeout) + 1);
        let flow = |number| FlowRecord { created, last_seen: now.ticks, ..tcp(number) };
        let mut small = Scratch::new(16);
        for number in [1, 2] {
            assert!(small.table.adopt(&flow(number), None));
        }
        for (number, record) in small.table.flows() {
            exporter(&mut telemetry).lives(number, &record, &now);
        }
        assert_eq!(exporter(&mut telemetry).waiting(), 2, "each is told once");

        // The first does not fit, and the second has its number now.
        let mut large = Scratch::new(32);
        assert!(large.table.adopt(&flow(2), None));
        telemetry.moved(&small.table, &large.table);
        assert_eq!(exporter(&mut telemetry).waiting(), 3, "the end of the first");
        let later = Clock { ticks: now.ticks + crate::ageing::ticks(timeout) + 1, ..now };
        for (number, record) in large.table.flows() {
            exporter(&mut telemetry).lives(number, &record, &later);
        }
        assert_eq!(exporter(&mut telemetry).waiting(), 3, "nothing has passed since");
    }
}

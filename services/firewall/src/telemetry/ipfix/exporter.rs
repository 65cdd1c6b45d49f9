//! Which flows are reported when.

use std::collections::HashMap;

use portcullis_datapath_abi::FlowRecord;

use super::{
    encoder::Encoder,
    report::{Clock, EndReason, FlowReport},
};
use crate::ageing::seconds_since;

/// How flows are reported.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Settings {
    /// Seconds after which a flow that lives on is reported.
    pub active_timeout_s: u32,
    /// Seconds between two sendings of the templates.
    pub template_refresh_s: u32,
    /// Observation domain.
    pub domain: u32,
}

/// What was last told of a flow that lives on.
#[derive(Clone, Copy, Debug)]
struct Told {
    /// When the flow began: its record's number may be another flow's by now.
    created: u32,
    /// Tick.
    at: u32,
    packets: [u64; 2],
    bytes: [u64; 2],
}

/// Follows flows through their lives. Memory grows with the flows that are older than the active
/// timeout only.
#[derive(Debug)]
pub struct Exporter {
    settings: Settings,
    encoder: Encoder,
    told: HashMap<u32, Told>,
    waiting: Vec<FlowReport>,
    /// When the templates were last sent, in milliseconds since the epoch.
    templates_ms: Option<u64>,
}

impl Exporter {
    /// Nothing reported so far.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            encoder: Encoder::new(settings.domain),
            told: HashMap::new(),
            waiting: Vec::new(),
            templates_ms: None,
        }
    }

    /// How flows are reported.
    pub fn settings(&self) -> Settings {
        self.settings
    }

    /// The flow of record `number` lives on.
    pub fn lives(&mut self, number: u32, record: &FlowRecord, clock: &Clock) {
        let due = |since| seconds_since(since, clock.ticks) >= self.settings.active_timeout_s;
        // The usual flow is young, and not asked for further.
        if !due(record.created) {
            return;
        }
        let told = self.told(number, record);
        if !due(told.at) {
            return;
        }
        // A flow that is silent is reported when it ends.
        if record.packets != told.packets {
            let before = (told.packets, told.bytes);
            self.waiting.push(FlowReport::of(record, before, EndReason::Active, clock));
        }
        let now = Told {
            created: record.created,
            at: clock.ticks,
            packets: record.packets,
            bytes: record.bytes,
        };
        self.told.insert(number, now);
    }

    /// The flow of record `number` has ended.
    pub fn ended(&mut self, number: u32, record: &FlowRecord, reason: EndReason, clock: &Clock) {
        let told = self.told(number, record);
        self.told.remove(&number);
        self.waiting.push(FlowReport::of(record, (told.packets, told.bytes), reason, clock));
    }

    /// Flows have other numbers now: `number_of` says which, or that a flow is no more.
    pub fn renumber(&mut self, number_of: impl Fn(u32) -> Option<u32>) {
        let told = std::mem::take(&mut self.told).into_iter();
        self.told = told.filter_map(|(before, told)| Some((number_of(before)?, told))).collect();
    }

    /// Reports that wait for [`Self::messages`].
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    fn told(&self, number: u32, record: &FlowRecord) -> Told {
        self.told.get(&number).copied().filter(|told| told.created == record.created).unwrap_or(
            Told { created: record.created, at: record.created, packets: [0; 2], bytes: [0; 2] },
        )
    }

    /// The messages with all that waits, and with the templates when they are due. None if there is
    /// nothing to say.
    pub fn messages(&mut self, clock: &Clock) -> Vec<Vec<u8>> {
        let refresh_ms = u64::from(self.settings.template_refresh_s) * 1000;
        // Also after the clock was set back.
        let templates = self.templates_ms.is_none_or(|sent| {
            clock.unix_ms.checked_sub(sent).is_none_or(|passed| passed >= refresh_ms)
        });
        if templates {
            self.templates_ms = Some(clock.unix_ms);
        }
        let flows = std::mem::take(&mut self.waiting);
        // Modulo 2^32, as the header says.
        self.encoder.encode(templates, &flows, (clock.unix_ms / 1000) as u32)
    }
}

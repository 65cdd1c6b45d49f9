//! Messages (RFC 7011 section 3).

use super::{
    report::{Ends, FlowReport},
    template::{IPV4, IPV6, REVERSE, TEMPLATES, Template},
};

/// Bytes of the longest message: what every path carries without fragments, also over IPv6
/// (RFC 7011 section 10.3.3).
pub const MAX_MESSAGE: usize = 1_232;

const VERSION: u16 = 10;
const HEADER: usize = 16;
const SET_HEADER: usize = 4;
const TEMPLATE_SET: u16 = 2;
const ENTERPRISE: u16 = 0x8000;

/// Writes messages of one observation domain, and counts the records in them.
#[derive(Clone, Debug)]
pub struct Encoder {
    domain: u32,
    /// Data records sent so far, modulo 2^32.
    sequence: u32,
}

impl Encoder {
    /// For an observation domain.
    pub const fn new(domain: u32) -> Self {
        Self { domain, sequence: 0 }
    }

    /// Messages with these flows, after the templates if they are wanted. `unix_s`: seconds since
    /// the epoch, modulo 2^32.
    pub fn encode(&mut self, templates: bool, flows: &[FlowReport], unix_s: u32) -> Vec<Vec<u8>> {
        let mut messages = Vec::new();
        let mut message = Message::new();
        if templates {
            message.templates();
        }
        for template in &TEMPLATES {
            for flow in flows.iter().filter(|flow| template_of(flow).id == template.id) {
                if !message.has_room(template) {
                    messages
                        .push(self.finish(std::mem::replace(&mut message, Message::new()), unix_s));
                }
                message.record(template, flow);
            }
        }
        if !message.is_empty() {
            messages.push(self.finish(message, unix_s));
        }
        messages
    }

    fn finish(&mut self, message: Message, unix_s: u32) -> Vec<u8> {
        let records = message.records;
        let bytes = message.finish(unix_s, self.sequence, self.domain);
        self.sequence = self.sequence.wrapping_add(records);
        bytes
    }
}

fn template_of(flow: &FlowReport) -> &'static Template {
    match flow.ends {
        Ends::V4 { .. } => &IPV4,
        Ends::V6 { .. } => &IPV6,
    }
}

/// A message that grows.
struct Message {
    bytes: Vec<u8>,
    /// Where the last set begins, and its id.
    set: Option<(usize, u16)>,
    records: u32,
}

impl Message {
    fn new() -> Self {
        let mut bytes = Vec::with_capacity(MAX_MESSAGE);
        bytes.resize(HEADER, 0);
        Self { bytes, set: None, records: 0 }
    }

    fn is_empty(&self) -> bool {
        self.bytes.len() == HEADER
    }

    fn has_room(&self, template: &Template) -> bool {
        let set = if self.set.is_some_and(|(_, id)| id == template.id) { 0 } else { SET_HEADER };
        self.bytes.len() + set + template.record_length() <= MAX_MESSAGE
    }

    fn templates(&mut self) {
        self.enter_set(TEMPLATE_SET);
        for template in &TEMPLATES {
            self.u16(template.id);
            self.u16(u16::try_from(template.fields.len()).unwrap_or(u16::MAX));
            for field in template.fields {
                if field.reverse {
                    self.u16(field.element | ENTERPRISE);
                    self.u16(field.length);
                    self.u32(REVERSE);
                } else {
                    self.u16(field.element);
                    self.u16(field.length);
                }
            }
        }
    }

    fn record(&mut self, template: &Template, flow: &FlowReport) {
        self.enter_set(template.id);
        self.records = self.records.wrapping_add(1);
        self.u64(flow.start_ms);
        self.u64(flow.end_ms);
        match &flow.ends {
            Ends::V4 { source, destination, translated_source, translated_destination } => {
                let ends = [source, destination, translated_source, translated_destination];
                for (address, _) in ends {
                    self.bytes.extend(address.octets());
                }
                for (_, port) in ends {
                    self.u16(*port);
                }
            }
            Ends::V6 { source, destination } => {
                for (address, _) in [source, destination] {
                    self.bytes.extend(address.octets());
                }
                for (_, port) in [source, destination] {
                    self.u16(*port);
                }
            }
        }
        const SOURCE_IS_INITIATOR: u8 = 1;
        self.bytes.extend([flow.protocol, flow.reason as u8, SOURCE_IS_INITIATOR]);
        let [egress, ingress] = flow.egress;
        self.u32(ingress);
        self.u32(egress);
        for (packets, bytes) in flow.packets.into_iter().zip(flow.bytes) {
            self.u64(packets);
            self.u64(bytes);
        }
        for flags in flow.tcp_flags.into_iter().rev() {
            self.u16(flags);
        }
    }

    /// Opens a set of this id, unless the last one is of it.
    fn enter_set(&mut self, id: u16) {
        if self.set.is_some_and(|(_, open)| open == id) {
            return;
        }
        self.close_set();
        self.set = Some((self.bytes.len(), id));
        self.u16(id);
        self.u16(0);
    }

    /// Writes the length of the last set.
    fn close_set(&mut self) {
        if let Some((start, _)) = self.set.take() {
            self.length_at(start + 2, self.bytes.len() - start);
        }
    }

    fn finish(mut self, unix_s: u32, sequence: u32, domain: u32) -> Vec<u8> {
        self.close_set();
        let length = self.bytes.len();
        let mut header = Vec::with_capacity(HEADER);
        header.extend(VERSION.to_be_bytes());
        header.extend([0; 2]);
        header.extend(unix_s.to_be_bytes());
        header.extend(sequence.to_be_bytes());
        header.extend(domain.to_be_bytes());
        for (to, from) in self.bytes.iter_mut().zip(header) {
            *to = from;
        }
        self.length_at(2, length);
        self.bytes
    }

    fn length_at(&mut self, at: usize, length: usize) {
        // At most MAX_MESSAGE.
        let length = u16::try_from(length).unwrap_or(u16::MAX);
        if let Some(place) = self.bytes.get_mut(at..at + 2) {
            place.copy_from_slice(&length.to_be_bytes());
        }
    }

    fn u16(&mut self, value: u16) {
        self.bytes.extend(value.to_be_bytes());
    }

    fn u32(&mut self, value: u32) {
        self.bytes.extend(value.to_be_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.bytes.extend(value.to_be_bytes());
    }
}

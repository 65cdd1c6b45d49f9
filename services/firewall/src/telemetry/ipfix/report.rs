//! A flow as it is reported.

use std::net::{Ipv4Addr, Ipv6Addr};

use portcullis_datapath_abi::{
    FlowRecord, TICK_SHIFT, address,
    flow::{ACK, FIN, IPV6, RST, SYN, Side},
    port,
};

/// Why a record is sent: flowEndReason (RFC 5102 section 5.11.3).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum EndReason {
    /// Nothing came for as long as its timeout.
    Idle = 1,
    /// It lives on and has lived for the active timeout since it was last reported.
    Active = 2,
    /// TCP closed it.
    EndOfFlow = 3,
    /// Its address, zone or permission went away.
    Forced = 4,
    /// It made room in a full table.
    LackOfResources = 5,
}

/// Addresses and ports of the initiator's direction.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ends {
    /// IPv4, before and after translation.
    V4 {
        /// As the initiator sent it.
        source: (Ipv4Addr, u16),
        /// As the initiator addressed it.
        destination: (Ipv4Addr, u16),
        /// The source as the destination sees it.
        translated_source: (Ipv4Addr, u16),
        /// The destination that it came to.
        translated_destination: (Ipv4Addr, u16),
    },
    /// IPv6.
    V6 {
        /// Initiator.
        source: (Ipv6Addr, u16),
        /// Responder.
        destination: (Ipv6Addr, u16),
    },
}

/// One record to be sent. Counts are of what was not reported before; index 0 is the initiator's
/// direction.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FlowReport {
    /// Addresses and ports.
    pub ends: Ends,
    /// IP protocol.
    pub protocol: u8,
    /// First packet, in milliseconds since the epoch.
    pub start_ms: u64,
    /// Last packet, in milliseconds since the epoch.
    pub end_ms: u64,
    /// Why it is sent.
    pub reason: EndReason,
    /// Devices that the packets of the initiator and of the responder leave by; 0 for the router.
    pub egress: [u32; 2],
    /// Packets of each direction.
    pub packets: [u64; 2],
    /// Bytes of each direction, from the IP header on.
    pub bytes: [u64; 2],
    /// TCP flags of each direction, as in the header (RFC 7125).
    pub tcp_flags: [u16; 2],
}

/// One instant on two clocks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Clock {
    /// Milliseconds since the epoch.
    pub unix_ms: u64,
    /// Ticks of the datapath.
    pub ticks: u32,
}

impl Clock {
    /// When a tick was, in milliseconds since the epoch. The datapath's clock may be ahead by one.
    pub fn unix_ms(&self, tick: u32) -> u64 {
        let ago = self.ticks.wrapping_sub(tick);
        if ago > u32::MAX / 2 {
            return self.unix_ms;
        }
        self.unix_ms.saturating_sub((u64::from(ago) << TICK_SHIFT) / 1_000_000)
    }
}

impl FlowReport {
    /// Of a record, less the packets and bytes that were reported before.
    pub fn of(
        record: &FlowRecord,
        before: ([u64; 2], [u64; 2]),
        reason: EndReason,
        clock: &Clock,
    ) -> Self {
        let less = |[a, b]: [u64; 2], [c, d]: [u64; 2]| [a.wrapping_sub(c), b.wrapping_sub(d)];
        let (ends, protocol) = ends(record);
        let start_ms = clock.unix_ms(record.created);
        let [forward, backward] = &record.sides;
        Self {
            ends,
            protocol,
            start_ms,
            end_ms: clock.unix_ms(record.last_seen).max(start_ms),
            reason,
            egress: [forward.egress, backward.egress],
            packets: less(record.packets, before.0),
            bytes: less(record.bytes, before.1),
            tcp_flags: [tcp_flags(forward), tcp_flags(backward)],
        }
    }
}

fn ends(record: &FlowRecord) -> (Ends, u8) {
    if record.flags & IPV6 != 0 {
        let key = record.ends6();
        let v6 = |words: [u32; 4]| {
            let mut octets = [0; 16];
            for (to, from) in octets.chunks_exact_mut(4).zip(words) {
                to.copy_from_slice(&from.to_ne_bytes());
            }
            Ipv6Addr::from(octets)
        };
        let ends = Ends::V6 {
            source: (v6(key.source), port(key.source_port)),
            destination: (v6(key.destination), port(key.destination_port)),
        };
        return (ends, key.protocol);
    }
    let [there, back] = record.ends4().keys;
    let ends = Ends::V4 {
        source: (address(there.source), port(there.source_port)),
        destination: (address(there.destination), port(there.destination_port)),
        translated_source: (address(back.destination), port(back.destination_port)),
        translated_destination: (address(back.source), port(back.source_port)),
    };
    (ends, there.protocol)
}

/// The flags that a side has sent, as bits of the TCP header.
fn tcp_flags(side: &Side) -> u16 {
    [(FIN, 0x01), (SYN, 0x02), (RST, 0x04), (ACK, 0x10)]
        .into_iter()
        .filter(|(seen, _)| side.seen & seen != 0)
        .fold(0, |flags, (_, bit)| flags | bit)
}

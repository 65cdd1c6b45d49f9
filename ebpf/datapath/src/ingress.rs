//! Where arriving frames enter: packets of known flows that need nothing but forwarding have their
//! answer here, everything else is another stage's.
//!
//! This is the way of nearly all packets. One reading of the settings, one interface, one
//! bucket, one record; no calls, no clock.

use portcullis_datapath_abi::{
    Config, Counter,
    flow::{PASSED, TCP, UDP},
    policy::XDP_TRANSMIT,
};

use crate::{
    FlowRef, Hop, Kind, Stage, Tables, Verdict,
    flow::{find4_words, find6_words},
    fragments::Ends,
    frame::{Frame, Head, IPV4, IPV6, L3, L4, L4_V6},
    packet::tcp,
    tcp::{Segment, track_established},
    verdict::Edit,
};

/// To whom the link layer says that a frame is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Cast {
    /// This host.
    Host,
    /// A broadcast or multicast address.
    Group,
}

/// Where a frame was taken from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Hook {
    /// The driver.
    Xdp,
    /// The kernel's stack.
    Tcx,
}

/// What surrounds an arriving packet.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// Interface that it came in by.
    pub interface: u32,
    /// Link-layer destination.
    pub cast: Cast,
    /// Who asks.
    pub hook: Hook,
    /// Bytes behind the Ethernet header.
    pub length: u32,
    /// Segments that were aggregated into it (GRO); 1 for a plain packet.
    pub segments: u32,
    /// Payload of one of these segments in bytes; 0 for a plain packet.
    pub segment_size: u32,
    /// Ports and protocol of a fragment, once its stage has found them.
    pub ends: Option<Ends>,
}

/// Bytes up to and with the ports and lengths of UDP over IPv4.
const UDP4: usize = L4 + 8;
/// Bytes up to the options of TCP over IPv4.
const TCP4: usize = L4 + 20;
/// The same for IPv6 without extension headers.
const UDP6: usize = L4_V6 + 8;
const TCP6: usize = L4_V6 + 20;

/// One of these bits is set in a UDP length of eight, which is the header's, or more.
const BEYOND_UDP: u16 = (!7_u16).to_be();
/// More fragments, offset and the reserved bit.
const FRAGMENTED: u16 = (!0x4000_u16).to_be();

/// [`FlowRef::link`] of nearly all flows that XDP carries.
const READY: u8 = XDP_TRANSMIT | PASSED;

/// Decides about an arriving frame.
///
/// What is dropped is so by a later stage: one that can count and show what it drops is a long program,
/// and this one is to be short.
#[inline(always)]
pub fn ingress<'a, T: Tables, F: Frame>(
    tables: &'a T,
    frame: &F,
    arrival: &Arrival,
) -> Verdict<'a> {
    let Some(head) = frame.head::<UDP4>() else {
        return short(tables, frame, arrival);
    };
    let ethertype = head.u16::<{ L3 - 2 }>();
    let Some(interface) = tables.interface(arrival.interface) else {
        return aside(ethertype);
    };
    // The driver has not compared the destination with the device's address yet.
    if arrival.hook == Hook::Xdp && !interface.is_addressed(head.u64::<0>()) {
        return Verdict::Defer;
    }
    let Some(config) = tables.config() else {
        return aside(ethertype);
    };
    match ethertype {
        IPV4 => entry4(tables, config, frame, head, arrival, interface.zone),
        IPV6 => entry6(tables, config, frame, arrival, interface.zone),
        _ => Verdict::Kernel(Counter::LinkLayer),
    }
}

/// A frame that ends before ports could.
#[inline(always)]
fn short<'a, T: Tables, F: Frame>(tables: &'a T, frame: &F, arrival: &Arrival) -> Verdict<'a> {
    let Some(head) = frame.head::<L3>() else {
        return exit(Stage::Flow4);
    };
    if let Some(interface) = tables.interface(arrival.interface)
        && arrival.hook == Hook::Xdp
        && !interface.is_addressed(head.u64::<0>())
    {
        return Verdict::Defer;
    }
    aside(head.u16::<{ L3 - 2 }>())
}

/// A frame that is not for the entry.
#[inline(always)]
fn aside<'a>(ethertype: u16) -> Verdict<'a> {
    match ethertype {
        IPV4 => exit(Stage::Flow4),
        IPV6 => exit(Stage::Flow6),
        _ => Verdict::Kernel(Counter::LinkLayer),
    }
}

/// On with another stage. What the compiler does not know the value of, it does not put by on the way
/// of the packets that stay here.
#[inline(always)]
fn exit<'a>(stage: Stage) -> Verdict<'a> {
    Verdict::Next(if cfg!(target_arch = "bpf") { core::hint::black_box(stage) } else { stage })
}

#[inline(always)]
fn entry4<'a, T: Tables, F: Frame>(
    tables: &'a T,
    config: &Config,
    frame: &F,
    head: Head<'_, UDP4>,
    arrival: &Arrival,
    zone: u8,
) -> Verdict<'a> {
    // Whatever is not as expected is looked at again in the next stage, which knows the reasons.
    if head.u8::<L3>() != 0x45 {
        return exit(Stage::Flow4);
    }
    if head.u16::<{ L3 + 6 }>() & FRAGMENTED != 0 {
        return exit(Stage::Fragment4);
    }
    let protocol = head.u8::<{ L3 + 9 }>();
    let ttl = head.u8::<{ L3 + 8 }>();
    let length = u32::from(u16::from_be(head.u16::<{ L3 + 2 }>()));
    if length > arrival.length || ttl <= 1 {
        return exit(Stage::Flow4);
    }
    let tail = u64::from(head.u32::<L4>()) | u64::from(protocol) << 32 | u64::from(zone) << 40;
    let words = [head.u64::<{ L3 + 12 }>(), tail];
    let known = Known { arrival, config, length, ttl, ipv6: false };
    match protocol {
        UDP => {
            if length < 28 || head.u16::<{ L4 + 4 }>() & BEYOND_UDP == 0 {
                return exit(Stage::Flow4);
            }
            if arrival.cast != Cast::Host {
                return exit(Stage::Open4);
            }
            let Some(flow) = find4_words(tables, config, words) else {
                return exit(Stage::Open4);
            };
            if let Some(verdict) = known.stays(flow, 28, Stage::Flow4) {
                return verdict;
            }
            known.forward(flow, Kind::Udp, L4)
        }
        TCP => {
            let Some(head) = frame.head::<TCP4>() else {
                return exit(Stage::Flow4);
            };
            let head = Plain::<_, L4>(head);
            let Some(payload) = head.payload(length.wrapping_sub(20)) else {
                return exit(Stage::Flow4);
            };
            if arrival.cast != Cast::Host {
                return exit(Stage::Open4);
            }
            let Some(flow) = find4_words(tables, config, words) else {
                return exit(Stage::Open4);
            };
            if let Some(verdict) = known.stays(flow, length - payload, Stage::Flow4) {
                return verdict;
            }
            if !track_established(&head.segment(payload), flow.tracked()) {
                return exit(Stage::Flow4);
            }
            known.forward(flow, Kind::Tcp, L4)
        }
        _ => exit(Stage::Flow4),
    }
}

#[inline(always)]
fn entry6<'a, T: Tables, F: Frame>(
    tables: &'a T,
    config: &Config,
    frame: &F,
    arrival: &Arrival,
    zone: u8,
) -> Verdict<'a> {
    let Some(head) = frame.head::<UDP6>() else {
        return exit(Stage::Flow6);
    };
    if head.u8::<L3>() >> 4 != 6 {
        return exit(Stage::Flow6);
    }
    let protocol = head.u8::<{ L3 + 6 }>();
    let ttl = head.u8::<{ L3 + 7 }>();
    let length = u32::from(u16::from_be(head.u16::<{ L3 + 4 }>())) + 40;
    if length > arrival.length || ttl <= 1 {
        return exit(Stage::Flow6);
    }
    let tail = u64::from(head.u32::<L4_V6>()) | u64::from(protocol) << 32 | u64::from(zone) << 40;
    let words = [
        head.u64::<{ L3 + 8 }>(),
        head.u64::<{ L3 + 16 }>(),
        head.u64::<{ L3 + 24 }>(),
        head.u64::<{ L3 + 32 }>(),
        tail,
    ];
    let known = Known { arrival, config, length, ttl, ipv6: true };
    match protocol {
        UDP => {
            if length < 48 || head.u16::<{ L4_V6 + 4 }>() & BEYOND_UDP == 0 {
                return exit(Stage::Flow6);
            }
            if arrival.cast != Cast::Host {
                return exit(Stage::Open6);
            }
            let Some(flow) = find6_words(tables, config, words) else {
                return exit(Stage::Open6);
            };
            if let Some(verdict) = known.stays(flow, 48, Stage::Flow6) {
                return verdict;
            }
            known.forward(flow, Kind::Udp, L4_V6)
        }
        TCP => {
            let Some(head) = frame.head::<TCP6>() else {
                return exit(Stage::Flow6);
            };
            let head = Plain::<_, L4_V6>(head);
            let Some(payload) = head.payload(length - 40) else {
                return exit(Stage::Flow6);
            };
            if arrival.cast != Cast::Host {
                return exit(Stage::Open6);
            }
            let Some(flow) = find6_words(tables, config, words) else {
                return exit(Stage::Open6);
            };
            if let Some(verdict) = known.stays(flow, length - payload, Stage::Flow6) {
                return verdict;
            }
            if !track_established(&head.segment(payload), flow.tracked()) {
                return exit(Stage::Flow6);
            }
            known.forward(flow, Kind::Tcp, L4_V6)
        }
        _ => exit(Stage::Flow6),
    }
}

/// A TCP header at `AT`.
struct Plain<'a, const N: usize, const AT: usize>(Head<'a, N>);

macro_rules! plain {
    ($N:expr, $AT:expr) => {
        impl Plain<'_, { $N }, { $AT }> {
            /// Bytes of payload, unless the segment begins or ends something or is malformed.
            /// `length`: bytes of header and payload.
            #[inline(always)]
            fn payload(&self, length: u32) -> Option<u32> {
                const FLAGS: u16 =
                    u16::from_be_bytes([0, tcp::FIN | tcp::SYN | tcp::RST | tcp::ACK]).to_be();
                const ONLY_ACK: u16 = u16::from_be_bytes([0, tcp::ACK]).to_be();
                // Length of the header and flags.
                let word = self.0.u16::<{ $AT + 12 }>();
                if word & FLAGS != ONLY_ACK {
                    return None;
                }
                let header = u32::from(word.to_le() & 0xf0) >> 2;
                // Negative if the header is longer than both together.
                let payload = length.wrapping_sub(header);
                if header < 20 || (payload as i32) < 0 { None } else { Some(payload) }
            }

            /// The segment.
            #[inline(always)]
            fn segment(&self, payload: u32) -> Segment {
                Segment {
                    sequence: u32::from_be(self.0.u32::<{ $AT + 4 }>()),
                    acknowledgment: u32::from_be(self.0.u32::<{ $AT + 8 }>()),
                    length: payload,
                    window: u16::from_be(self.0.u16::<{ $AT + 14 }>()),
                    flags: tcp::ACK,
                }
            }
        }
    };
}
plain!(TCP4, L4);
plain!(TCP6, L4_V6);

/// A well-formed packet of a known flow.
struct Known<'p> {
    arrival: &'p Arrival,
    config: &'p Config,
    /// Of the datagram, in bytes.
    length: u32,
    ttl: u8,
    ipv6: bool,
}

impl Known<'_> {
    /// `None` if the flow leaves by another interface, by a next hop that is current, and the packet
    /// fits there; else who decides. `headers`: bytes before the payload of each segment.
    #[inline(always)]
    fn stays<'a>(&self, flow: FlowRef<'_>, headers: u32, rest: Stage) -> Option<Verdict<'a>> {
        // Of a flow of the router itself nothing is ever cached.
        if flow.generation() != self.config.generation {
            return Some(exit(rest));
        }
        if self.arrival.hook == Hook::Xdp {
            let link = flow.link();
            if link != READY && link & XDP_TRANSMIT == 0 {
                return Some(Verdict::Defer);
            }
        }
        let largest = match self.arrival.segment_size {
            0 => self.length,
            payload => headers + payload,
        };
        if largest > u32::from(flow.mtu()) { Some(exit(rest)) } else { None }
    }

    #[inline(always)]
    fn forward<'a>(&self, flow: FlowRef<'a>, kind: Kind, transport: usize) -> Verdict<'a> {
        flow.add(self.arrival.segments, self.length);
        if self.arrival.hook != Hook::Xdp || flow.link() != READY {
            flow.mark();
        }
        let edit = Edit {
            flow,
            kind,
            ttl: self.ttl,
            plain: true,
            protocol: 0,
            ipv6: self.ipv6,
            length: 0,
            transport: transport as u16,
            mss: 0,
        };
        let hop = Hop { egress: flow.egress(), link: flow.link(), cached: true, next_hop: [0; 4] };
        Verdict::Forward(Counter::Forwarded, edit, hop)
    }
}

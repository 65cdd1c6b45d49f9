//! ICMP errors that the router originates.

use portcullis_datapath_abi::flow::{ICMP, ICMPV6};

use super::draft::{Draft, Header4, Header6, L2, QUOTED4, QUOTED6};
use crate::checksum::add;

/// The bits of the type of service that name a class (RFC 2474); the other two are for congestion.
const CLASS: u8 = 0xfc;

/// What an error says.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Message {
    /// Type.
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// MTU of the next link (fragmentation needed: RFC 1191, packet too big: RFC 4443); else 0.
    pub mtu: u16,
}

/// What of the packet is quoted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Quote {
    /// Bytes from its IP header on.
    pub length: usize,
    /// Where its transport header begins.
    pub transport: usize,
    /// If the device will complete the checksum of the packet, as its sender expects it to: the offset
    /// in the transport header; else 0.
    pub checksum: usize,
}

/// Writes an ICMP error over IPv4 from `source` to the sender of the quoted packet. Returns the
/// length of the frame in bytes.
#[inline(always)]
pub(super) fn icmp4(draft: &mut Draft, message: Message, source: u32, quote: Quote) -> usize {
    let end = QUOTED4 + quote.length;
    draft.turn_ethernet();
    let destination = draft.u32(QUOTED4 + 12);
    // A translator's errors are of the class of what they are about (RFC 5508 section 7.7).
    let [_, tos] = draft.u16(QUOTED4).to_ne_bytes();
    draft.ipv4(&Header4 {
        source,
        destination,
        length: (end - L2) as u16,
        protocol: ICMP,
        tos: tos & CLASS,
    });
    let at = QUOTED4 - 8;
    header(draft, at, message);
    let sum = sum(draft, at, QUOTED4, quote);
    draft.set_u16(at + 2, !sum);
    end
}

/// Writes an ICMP error over IPv6, as [`icmp4`].
#[inline(always)]
pub(super) fn icmp6(draft: &mut Draft, message: Message, source: [u32; 4], quote: Quote) -> usize {
    let end = QUOTED6 + quote.length;
    draft.turn_ethernet();
    let destination = draft.address(QUOTED6 + 8);
    let at = QUOTED6 - 8;
    let length = (end - at) as u16;
    draft.ipv6(&Header6 { source, destination, length, protocol: ICMPV6 });
    header(draft, at, message);
    let sum = add(draft.pseudo6(ICMPV6, length), sum(draft, at, QUOTED6, quote));
    draft.set_u16(at + 2, !sum);
    end
}

#[inline(always)]
fn header(draft: &mut Draft, at: usize, message: Message) {
    draft.set_bytes(at, message.kind, message.code);
    draft.set_u16(at + 2, 0);
    draft.set_u16(at + 4, 0);
    draft.set_u16(at + 6, message.mtu.to_be());
}

/// Sum from `at` to the end of the frame, as it will be on the wire.
#[inline(always)]
fn sum(draft: &Draft, at: usize, quoted: usize, quote: Quote) -> u16 {
    if quote.checksum == 0 {
        return draft.sum(at, quoted + quote.length);
    }
    // The device sums from the transport header to the end and puts the complement into the checksum
    // field. What stood there (the sum of the pseudo-header) was part of that sum, so the completed
    // part adds up to the complement of it.
    let start = quoted + quote.transport;
    add(draft.sum(at, start), !draft.u16(start + quote.checksum))
}

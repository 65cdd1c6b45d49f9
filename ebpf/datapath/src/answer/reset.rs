//! TCP resets in the name of the host that a segment was sent to.

use portcullis_datapath_abi::flow::TCP;

use super::draft::{Draft, Header4, Header6, L2, QUOTED4, QUOTED6};
use crate::{checksum::add, packet::tcp};

/// The segment that is reset.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Reset {
    /// Flags.
    pub flags: u8,
    /// Sequence number, host byte order.
    pub sequence: u32,
    /// Acknowledgement number, host byte order.
    pub acknowledged: u32,
    /// Length of its data in bytes.
    pub length: u32,
    /// Source port as in the header.
    pub source_port: u16,
    /// Destination port as in the header.
    pub destination_port: u16,
}

impl Reset {
    /// Sequence and acknowledgement number and flags of the reset (RFC 9293 section 3.10.7.1, of a
    /// closed connection). `None`: resets are not reset.
    #[inline(always)]
    fn numbers(&self) -> Option<(u32, u32, u8)> {
        if self.flags & tcp::RST != 0 {
            return None;
        }
        if self.flags & tcp::ACK != 0 {
            return Some((self.acknowledged, 0, tcp::RST));
        }
        let controls =
            u32::from(self.flags & tcp::SYN != 0) + u32::from(self.flags & tcp::FIN != 0);
        let next = self.sequence.wrapping_add(self.length).wrapping_add(controls);
        Some((0, next, tcp::RST | tcp::ACK))
    }
}

/// Writes a reset over IPv4. `partial`: the device will complete its checksum. Returns the length of
/// the frame in bytes; `None` if there is none to send.
#[inline(always)]
pub(super) fn reset4(draft: &mut Draft, segment: &Reset, partial: bool) -> Option<usize> {
    let numbers = segment.numbers()?;
    draft.turn_ethernet();
    let (source, destination) = (draft.u32(QUOTED4 + 16), draft.u32(QUOTED4 + 12));
    draft.ipv4(&Header4 { source, destination, length: 40, protocol: TCP, tos: 0 });
    let pseudo = draft.pseudo4(TCP, 20);
    Some(header(draft, L2 + 20, segment, numbers, pseudo, partial))
}

/// Writes a reset over IPv6, as [`reset4`].
#[inline(always)]
pub(super) fn reset6(draft: &mut Draft, segment: &Reset, partial: bool) -> Option<usize> {
    let numbers = segment.numbers()?;
    draft.turn_ethernet();
    let (source, destination) = (draft.address(QUOTED6 + 24), draft.address(QUOTED6 + 8));
    draft.ipv6(&Header6 { source, destination, length: 20, protocol: TCP });
    let pseudo = draft.pseudo6(TCP, 20);
    Some(header(draft, L2 + 40, segment, numbers, pseudo, partial))
}

#[inline(always)]
fn header(
    draft: &mut Draft,
    at: usize,
    segment: &Reset,
    (sequence, acknowledged, flags): (u32, u32, u8),
    pseudo: u16,
    partial: bool,
) -> usize {
    draft.set_u16(at, segment.destination_port);
    draft.set_u16(at + 2, segment.source_port);
    draft.set_u32(at + 4, sequence.to_be());
    draft.set_u32(at + 8, acknowledged.to_be());
    // Five words, no window.
    draft.set_bytes(at + 12, 5 << 4, flags);
    draft.set_u16(at + 14, 0);
    draft.set_u16(at + 16, 0);
    draft.set_u16(at + 18, 0);
    let end = at + 20;
    let checksum = if partial { pseudo } else { !add(pseudo, draft.sum(at, end)) };
    draft.set_u16(at + 16, checksum);
    end
}

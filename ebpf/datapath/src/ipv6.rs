//! IPv6 until it is routed: what a link needs to the router and from it, nothing through it.

use portcullis_datapath_abi::{Counter, Zone};

use crate::{Frame, L3, Verdict};

const ICMPV6: u8 = 58;

/// Decides about an IPv6 packet that arrived from `zone`: ICMPv6 to a link-local or link-scoped
/// multicast address, from a zone that may reach anything of the router at all.
#[inline(always)]
pub fn decide<'a, F: Frame>(frame: &F, zone: &Zone) -> Verdict<'a> {
    // One question after the other: joined conditions become code that the verifier refuses.
    let Some(destination) = frame.u16(L3 + 24) else {
        return Verdict::Drop(Counter::DropMalformed);
    };
    if frame.u8(L3 + 6) != Some(ICMPV6) || zone.services == 0 {
        return Verdict::Drop(Counter::DropIpv6);
    }
    let destination = u16::from_be(destination);
    if destination & 0xffc0 == 0xfe80 || destination == 0xff02 {
        Verdict::Kernel(Counter::LinkLayer)
    } else {
        Verdict::Drop(Counter::DropIpv6)
    }
}

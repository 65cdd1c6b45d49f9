//! Cutting IPv4 datagrams that are larger than the next link (RFC 791 section 3.2, RFC 1812 section
//! 5.2.6), where their sender allows it.
//!
//! The parts are queued at the ingress of the device that the datagram came in by: they come in again
//! as fragments, and each finds its way as any fragment does. Nothing has been changed at the datagram
//! before.

use crate::{
    checksum::add,
    frame::{Frame, IPV4, L3, L4},
};

/// Longest payload of a datagram that is cut, in bytes. A power of two, for which the kernel's verifier
/// believes a mask.
pub const MAX_PAYLOAD: usize = 16_384;

/// Longest payload of a part in bytes: a power of two for the same reason.
pub const MAX_PART: usize = 2048;

/// Most parts of a datagram.
pub const MAX_PARTS: u16 = 32;

/// Bytes of the headers before the payload.
pub const HEADERS: usize = L4;

/// A datagram that is to be cut.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Cut {
    /// Length of its payload in bytes.
    pub payload: u16,
    /// Payload of each part but the last, in bytes.
    pub step: u16,
    /// The header's word of flags and offset, host byte order: it may be a fragment itself.
    word: u16,
}

/// A part of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Part {
    /// Where it begins in the payload, in bytes.
    pub offset: u16,
    /// Its length in bytes.
    pub length: u16,
    /// Its word of flags and offset, host byte order.
    word: u16,
}

const DONT_FRAGMENT: u16 = 0x4000;
const MORE: u16 = 0x2000;
const OFFSET: u16 = 0x1fff;

/// Plans how to cut the datagram in a frame for a link of `mtu`. False if that is not possible.
#[inline(always)]
pub fn plan<F: Frame>(frame: &F, available: u32, mtu: u16, cut: &mut Cut) -> bool {
    if frame.u16(L3 - 2) != Some(IPV4) || frame.u8(L3) != Some(0x45) {
        return false;
    }
    let Some(length) = frame.u16(L3 + 2) else {
        return false;
    };
    let Some(word) = frame.u16(L3 + 6) else {
        return false;
    };
    let length = u16::from_be(length);
    cut.word = u16::from_be(word);
    if cut.word & DONT_FRAGMENT != 0 || u32::from(length) > available {
        return false;
    }
    cut.payload = length.saturating_sub((L4 - L3) as u16);
    if cut.payload as usize > MAX_PAYLOAD {
        return false;
    }
    let step = mtu.saturating_sub((L4 - L3) as u16) & !7;
    cut.step = if step as usize > MAX_PART { MAX_PART as u16 } else { step };
    cut.step != 0 && cut.payload > cut.step && cut.payload <= cut.step.saturating_mul(MAX_PARTS)
}

impl Cut {
    /// The part at `offset`; `None` behind the end.
    #[inline(always)]
    pub fn part(&self, offset: u16) -> Option<Part> {
        if offset >= self.payload {
            return None;
        }
        let rest = self.payload - offset;
        let place = (self.word & OFFSET).wrapping_add(offset >> 3) & OFFSET;
        if rest > self.step {
            return Some(Part { offset, length: self.step, word: MORE | place });
        }
        Some(Part { offset, length: rest, word: self.word & MORE | place })
    }
}

impl Part {
    /// Changes the headers of the datagram, as 16-bit words from the Ethernet header on, to those of the
    /// part.
    #[inline(always)]
    pub fn write(&self, headers: &mut [u16; HEADERS / 2]) {
        const IP: usize = L3 / 2;
        if let Some(length) = headers.get_mut(IP + 1) {
            *length = (self.length.wrapping_add((L4 - L3) as u16)).to_be();
        }
        if let Some(word) = headers.get_mut(IP + 3) {
            *word = self.word.to_be();
        }
        if let Some(checksum) = headers.get_mut(IP + 5) {
            *checksum = 0;
        }
        let mut sum = 0;
        for word in headers.iter().skip(IP) {
            sum = add(sum, *word);
        }
        if let Some(checksum) = headers.get_mut(IP + 5) {
            *checksum = !sum;
        }
    }
}

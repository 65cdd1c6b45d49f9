//! The frame of an answer while it is written.

use crate::checksum::add;

/// Length of the Ethernet header in bytes.
pub(super) const L2: usize = 14;
/// Where the quoted packet begins behind the headers of an ICMP error over IPv4.
pub const QUOTED4: usize = L2 + 20 + 8;
/// Where it begins over IPv6.
pub const QUOTED6: usize = L2 + 40 + 8;
/// Most that an ICMP error over IPv4 quotes: it is not to be longer than 576 bytes (RFC 1812 section
/// 4.3.2.3).
pub const MAX_QUOTED4: usize = 576 - 28;
/// Most that one over IPv6 quotes: it is not to be longer than the least MTU (RFC 4443 section 2.4).
pub const MAX_QUOTED6: usize = 1280 - 48;
/// Length of a frame that a draft has room for in any case; longer than any answer, and a power of two,
/// for which the kernel's verifier believes a mask.
pub const CAPACITY: usize = 2048;

const HALVES: usize = (QUOTED6 + CAPACITY) / 2;

/// A frame. At first it holds the Ethernet header of the packet that it answers, and that packet from
/// its IP header on at [`QUOTED4`] or [`QUOTED6`], as much of it as is quoted.
///
/// All fields of the headers are at even offsets, so it is an array of 16-bit words as they stand in
/// the frame; offsets are in bytes.
#[repr(C, align(8))]
#[derive(Clone, Debug)]
pub struct Draft(pub [u16; HALVES]);

impl Default for Draft {
    fn default() -> Self {
        Self([0; HALVES])
    }
}

impl Draft {
    /// Copies bytes to an even offset, as the hook's helper does.
    #[cfg(feature = "simulation")]
    pub(crate) fn copy(&mut self, offset: usize, bytes: &[u8]) {
        for (index, pair) in bytes.chunks(2).enumerate() {
            let second = pair.get(1).copied().unwrap_or(0);
            if let [first, ..] = pair {
                self.set_bytes(offset + index * 2, *first, second);
            }
        }
    }

    #[inline(always)]
    pub(super) fn u16(&self, offset: usize) -> u16 {
        self.0.get(offset / 2).copied().unwrap_or(0)
    }

    #[inline(always)]
    pub(super) fn set_u16(&mut self, offset: usize, value: u16) {
        if let Some(half) = self.0.get_mut(offset / 2) {
            *half = value;
        }
    }

    #[inline(always)]
    pub(super) fn u32(&self, offset: usize) -> u32 {
        let ([a, b], [c, d]) = (self.u16(offset).to_ne_bytes(), self.u16(offset + 2).to_ne_bytes());
        u32::from_ne_bytes([a, b, c, d])
    }

    #[inline(always)]
    pub(super) fn set_u32(&mut self, offset: usize, value: u32) {
        let [a, b, c, d] = value.to_ne_bytes();
        self.set_u16(offset, u16::from_ne_bytes([a, b]));
        self.set_u16(offset + 2, u16::from_ne_bytes([c, d]));
    }

    /// Two bytes, the first one first.
    #[inline(always)]
    pub(super) fn set_bytes(&mut self, offset: usize, first: u8, second: u8) {
        self.set_u16(offset, u16::from_ne_bytes([first, second]));
    }

    #[inline(always)]
    pub(super) fn address(&self, offset: usize) -> [u32; 4] {
        [self.u32(offset), self.u32(offset + 4), self.u32(offset + 8), self.u32(offset + 12)]
    }

    #[inline(always)]
    pub(super) fn set_address(&mut self, offset: usize, address: [u32; 4]) {
        let [a, b, c, d] = address;
        self.set_u32(offset, a);
        self.set_u32(offset + 4, b);
        self.set_u32(offset + 8, c);
        self.set_u32(offset + 12, d);
    }

    /// Sum of the words of `start..end`; an odd byte at the end counts with a zero behind it.
    #[inline(always)]
    pub(super) fn sum(&self, start: usize, end: usize) -> u16 {
        let mut sum = 0_u32;
        let mut half = start / 2;
        let last = end / 2;
        // A thousand words of 16 bits cannot overflow 32.
        while half < last {
            let Some(word) = self.0.get(half) else {
                break;
            };
            sum += u32::from(*word);
            half += 1;
        }
        if end & 1 != 0 {
            let [byte, _] = self.u16(end - 1).to_ne_bytes();
            sum += u32::from(u16::from_ne_bytes([byte, 0]));
        }
        fold(sum)
    }

    /// Back to where the packet came from.
    #[inline(always)]
    pub(super) fn turn_ethernet(&mut self) {
        for offset in [0, 2, 4] {
            let destination = self.u16(offset);
            let source = self.u16(offset + 6);
            self.set_u16(offset, source);
            self.set_u16(offset + 6, destination);
        }
    }

    /// An IPv4 header without options, with its checksum; `length` is that of the packet.
    #[inline(always)]
    pub(super) fn ipv4(&mut self, header: &Header4) {
        self.set_bytes(L2, 0x45, header.tos);
        self.set_u16(L2 + 2, header.length.to_be());
        // An atomic datagram needs no identification (RFC 6864 section 4.1).
        self.set_u16(L2 + 4, 0);
        self.set_u16(L2 + 6, DONT_FRAGMENT);
        self.set_bytes(L2 + 8, HOPS, header.protocol);
        self.set_u16(L2 + 10, 0);
        self.set_u32(L2 + 12, header.source);
        self.set_u32(L2 + 16, header.destination);
        let sum = self.sum(L2, L2 + 20);
        self.set_u16(L2 + 10, !sum);
    }

    /// An IPv6 header; `length` is that of what follows it.
    #[inline(always)]
    pub(super) fn ipv6(&mut self, header: &Header6) {
        self.set_bytes(L2, 0x60, 0);
        self.set_u16(L2 + 2, 0);
        self.set_u16(L2 + 4, header.length.to_be());
        self.set_bytes(L2 + 6, header.protocol, HOPS);
        self.set_address(L2 + 8, header.source);
        self.set_address(L2 + 24, header.destination);
    }

    /// Sum of the pseudo-header of the IPv4 packet that is written (RFC 9293 section 3.1).
    #[inline(always)]
    pub(super) fn pseudo4(&self, protocol: u8, length: u16) -> u16 {
        add(self.sum(L2 + 12, L2 + 20), add(u16::from(protocol).to_be(), length.to_be()))
    }

    /// The same for IPv6 (RFC 8200 section 8.1).
    #[inline(always)]
    pub(super) fn pseudo6(&self, protocol: u8, length: u16) -> u16 {
        add(self.sum(L2 + 8, L2 + 40), add(u16::from(protocol).to_be(), length.to_be()))
    }
}

/// What varies in an IPv4 header.
pub(super) struct Header4 {
    pub source: u32,
    pub destination: u32,
    pub length: u16,
    pub protocol: u8,
    pub tos: u8,
}

/// What varies in an IPv6 header.
pub(super) struct Header6 {
    pub source: [u32; 4],
    pub destination: [u32; 4],
    pub length: u16,
    pub protocol: u8,
}

const DONT_FRAGMENT: u16 = 0x4000_u16.to_be();
const HOPS: u8 = 64;

#[inline(always)]
const fn fold(sum: u32) -> u16 {
    add(sum as u16, (sum >> 16) as u16)
}

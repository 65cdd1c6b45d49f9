//! Copies of packets for people: which ones, and what stands before each in the ring.

/// Which packets are copied. One entry; read only while a capture runs.
///
/// A packet must fit all that is set. Addresses and ports fit in either direction.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct CaptureFilter {
    /// Address, IPv4 as ::ffff:a.b.c.d; compared under `mask`.
    pub host: [u32; 4],
    /// Mask of `host`; all zeros for any address.
    pub mask: [u32; 4],
    /// A packet that fits is copied if a random number is not above this: `u32::MAX` for all.
    pub sample: u32,
    /// Most bytes of a packet to copy, up to [`MAX_SNAP`].
    pub snap: u32,
    /// Port as in the packet, 0 for any.
    pub port: u16,
    /// Number of the [`crate::Counter`] that a dropped packet must have, [`ANY_REASON`] for any.
    pub reason: u16,
    /// IP protocol number, [`ANY_PROTOCOL`] for any.
    pub protocol: u8,
    /// Zone of the interface (of dropped packets: either zone), [`ANY_ZONE`] for any.
    pub zone: u8,
    /// [`DROPPED_ONLY`].
    pub flags: u8,
    /// Zero.
    pub reserved: u8,
    /// Another number for each capture.
    pub session: u32,
    /// Zero.
    pub reserved2: u32,
}

/// Only packets that the datapath drops.
pub const DROPPED_ONLY: u8 = 1;

/// Any reason.
pub const ANY_REASON: u16 = u16::MAX;
/// Any protocol (the number that RFC 3692 and IANA keep reserved).
pub const ANY_PROTOCOL: u8 = 0xff;
/// Any zone.
pub const ANY_ZONE: u8 = 0xff;

/// Bytes of a packet that can be copied: a jumbo frame. Longer aggregates of segments (GSO) are cut.
pub const MAX_SNAP: u32 = 9216;

impl CaptureFilter {
    /// Every packet, whole.
    pub const ALL: Self = Self {
        host: [0; 4],
        mask: [0; 4],
        sample: u32::MAX,
        snap: MAX_SNAP,
        port: 0,
        reason: ANY_REASON,
        protocol: ANY_PROTOCOL,
        zone: ANY_ZONE,
        flags: 0,
        reserved: 0,
        session: 0,
        reserved2: 0,
    };
}

impl Default for CaptureFilter {
    fn default() -> Self {
        Self::ALL
    }
}

/// What stands before the bytes of a packet in the ring.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct CaptureHeader {
    /// `CLOCK_MONOTONIC` in nanoseconds.
    pub time_ns: u64,
    /// Index of the interface.
    pub interface: u32,
    /// Bytes of the frame from the Ethernet header on.
    pub length: u32,
    /// How many of them follow.
    pub captured: u32,
    /// Why it was dropped: number of a [`crate::Counter`]; [`ANY_REASON`] if it was not (here).
    pub reason: u16,
    /// Zone that it came from, [`ANY_ZONE`] if that is not known.
    pub from: u8,
    /// Zone that it would have gone to, the same.
    pub to: u8,
    /// [`INBOUND`], [`OUTBOUND`].
    pub direction: u8,
    /// Zero.
    pub reserved: u8,
    /// Zero.
    pub reserved2: u16,
    /// Packets that found no room in the ring since the last one of this CPU.
    pub lost: u32,
}

/// The frame arrived.
pub const INBOUND: u8 = 1;
/// The frame leaves.
pub const OUTBOUND: u8 = 2;

/// A packet in the ring, at its longest.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug)]
pub struct Captured {
    /// What is known about it.
    pub header: CaptureHeader,
    /// Its beginning.
    pub bytes: [u8; ROOM],
    /// [`CaptureFilter::session`] that `lost` is of.
    pub session: u32,
    /// Zero.
    pub reserved: u32,
}

/// Room for [`MAX_SNAP`] bytes, rounded up to a power of two: lengths are masked with it less one,
/// so that the kernel's verifier sees that they fit.
pub const ROOM: usize = 16_384;

/// Size of the ring of packets in bytes: a power of two, at least a page.
pub const PACKET_RING_BYTES: u32 = 1024 * 1024;

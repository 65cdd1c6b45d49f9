//! Datagrams in fragments: what is known of each, and frames that wait for their first fragment.

/// Datagrams in fragments that are followed at the same time; the least recently used one makes room.
pub const MAX_DATAGRAMS: u32 = 2048;

/// Stretches of a datagram that may have passed without touching each other. Full-sized fragments of
/// the largest datagram (54 of them on an IPv6 link of the least MTU) need 27 in the worst order.
pub const RANGES: usize = 32;

/// Rows of held frames. All frames of one source are held in one row, so that no source takes more.
pub const HELD_ROWS: u32 = 8;

/// Frames of a row: enough for all but the first fragment of the largest datagram.
pub const HELD_COLUMNS: u32 = 64;

/// Longest frame that is held, in bytes from the Ethernet header on: full ones of the usual MTU of
/// 1500 and somewhat larger ones. A power of two, for which the kernel's verifier believes a mask.
pub const HELD_BYTES: usize = 2048;

/// Datagram whose fragments belong together (RFC 791 section 3.2, RFC 8200 section 4.5).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct FragmentKey {
    /// Source address, IPv4 as ::ffff:a.b.c.d.
    pub source: [u32; 4],
    /// Destination address.
    pub destination: [u32; 4],
    /// Identification field.
    pub id: u32,
    /// IPv4: the protocol. IPv6: 0, for the identification stands without it.
    pub protocol: u8,
    /// Zone that it comes from.
    pub zone: u8,
    /// Zero.
    pub reserved: u16,
}

/// Bytes `start..end` of a datagram's payload; empty if both are equal.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Range {
    /// First byte.
    pub start: u16,
    /// Byte behind the last.
    pub end: u16,
}

/// What is known of a datagram. It is forgotten when all of it has passed.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Datagram {
    /// Held frames: a bit for each column of its source's row.
    pub held: u64,
    /// Taken while the rest is read or changed.
    pub lock: u32,
    /// When it was first seen, in ticks.
    pub since: u32,
    /// Source port, as in [`crate::FlowKey`].
    pub source_port: u16,
    /// Destination port, as in [`crate::FlowKey`].
    pub destination_port: u16,
    /// Protocol of the upper layer.
    pub protocol: u8,
    /// [`FIRST_PASSED`], [`REFUSED`].
    pub flags: u8,
    /// Length of its payload in bytes; 0 until the last fragment has passed.
    pub total: u16,
    /// What has passed. No two of them touch.
    pub passed: [Range; RANGES],
    /// Working memory while `passed` is searched. The kernel's verifier follows what is in registers
    /// through every turn of a loop, but not what is in memory.
    pub search: [u32; 4],
}

/// In [`Datagram::flags`]: the first fragment was seen, ports and protocol are known.
pub const FIRST_PASSED: u8 = 1;
/// In [`Datagram::flags`]: fragments overlapped; no more of them pass (RFC 5722).
pub const REFUSED: u8 = 2;

/// A frame that came before the first fragment of its datagram.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct HeldFrame {
    /// Hash of the datagram's key; 0 for an empty place.
    pub tag: u64,
    /// When it came, in ticks.
    pub since: u32,
    /// Length of the frame in bytes.
    pub length: u32,
    /// The frame, from the Ethernet header on.
    pub bytes: [u8; HELD_BYTES],
}

/// Number of a held frame.
pub const fn held_index(row: u32, column: u32) -> u32 {
    (row % HELD_ROWS) * HELD_COLUMNS + column % HELD_COLUMNS
}

//! The record of one connection, and real headers for the segments that pass it.

use std::{cell::UnsafeCell, ptr::NonNull};

use portcullis_datapath::{
    simulation::Bytes,
    tcp::{Judgement, Segment, SideRef, track, track_established},
};
use portcullis_datapath_abi::flow::{NO_SCALE, Side};

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const ACK: u8 = 16;

/// Offset of the TCP header in the frames made here.
pub const AT: u32 = 34;

/// A segment as its sender sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    pub flags: u8,
    pub sequence: u32,
    pub acknowledgment: u32,
    pub window: u16,
    pub length: u32,
    /// Window scale option.
    pub scale: Option<u8>,
}

impl Sent {
    pub fn end(&self) -> u32 {
        let extra = u32::from(self.flags & SYN != 0) + u32::from(self.flags & FIN != 0);
        self.sequence.wrapping_add(self.length).wrapping_add(extra)
    }
}

/// Headers of a frame with a TCP segment: zeros but for TCP.
pub fn frame(sent: &Sent, options: &[u8]) -> Bytes {
    assert!(options.len().is_multiple_of(4) && options.len() <= 40);
    let mut bytes = vec![0; AT as usize];
    bytes.extend(1000_u16.to_be_bytes());
    bytes.extend(2000_u16.to_be_bytes());
    bytes.extend(sent.sequence.to_be_bytes());
    bytes.extend(sent.acknowledgment.to_be_bytes());
    bytes.push((((20 + options.len()) / 4) << 4) as u8);
    bytes.push(sent.flags);
    bytes.extend(sent.window.to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend(options);
    Bytes(bytes)
}

/// What is read of a segment without options.
pub fn plain(sent: &Sent) -> Segment {
    Segment::read(&frame(sent, &[]), AT as usize, sent.length).expect("whole header")
}

/// A connection's record.
pub struct Gate(Box<[UnsafeCell<Side>; 2]>);

// SAFETY: as in the table, whose records all CPUs read and write at any time.
unsafe impl Sync for Gate {}

impl Gate {
    /// As the datapath makes it for a first packet.
    pub fn new() -> Self {
        let side = || UnsafeCell::new(Side { scale: NO_SCALE, ..Side::default() });
        Self(Box::new([side(), side()]))
    }

    /// Somewhere in the life of a connection.
    pub fn at([one, other]: [Side; 2]) -> Self {
        Self(Box::new([UnsafeCell::new(one), UnsafeCell::new(other)]))
    }

    pub fn sides(&self) -> [Side; 2] {
        // SAFETY: no reference into the cells exists.
        unsafe { [*self.0[0].get(), *self.0[1].get()] }
    }

    pub fn judge_frame(&self, direction: usize, frame: &Bytes, length: u32) -> Judgement {
        let segment = Segment::read(frame, AT as usize, length).expect("whole header");
        track(frame, AT, &segment, self.tracked(direction), direction == 0)
    }

    /// What the entry says of a plain segment.
    pub fn passes_entry(&self, direction: usize, sent: &Sent) -> bool {
        self.enters(direction, &plain(sent))
    }

    /// The same of one that was read before.
    pub fn enters(&self, direction: usize, segment: &Segment) -> bool {
        track_established(segment, self.tracked(direction))
    }

    fn tracked(&self, direction: usize) -> (SideRef<'_>, SideRef<'_>) {
        let side = |index: usize| NonNull::new(self.0[index].get()).expect("not null");
        // SAFETY: both live in the box, and are only touched through such pointers.
        unsafe { (SideRef::new(side(direction)), SideRef::new(side(1 - direction))) }
    }

    pub fn judge(&self, direction: usize, sent: &Sent) -> Judgement {
        let mut options = vec![2, 4, 5, 180];
        match sent.scale {
            Some(scale) if sent.flags & SYN != 0 => options.extend([1, 3, 3, scale]),
            _ => {}
        }
        let options = if sent.flags & SYN != 0 { &options[..] } else { &[] };
        let before = self.sides();
        let judgement = self.judge_frame(direction, &frame(sent, options), sent.length);
        if judgement != Judgement::InWindow {
            // The scale may have been agreed on; nothing else may change.
            let mut after = self.sides();
            for (after, before) in after.iter_mut().zip(before) {
                after.scale = before.scale;
                after.window = before.window;
            }
            assert_eq!(after, before, "noted although {judgement:?}: {sent:?}");
        }
        judgement
    }
}

/// A connection after its handshake: both start at these numbers, windows of 65,535 bytes without
/// scale.
pub fn established(client: u32, server: u32) -> Gate {
    let gate = Gate::new();
    let syn = Sent { flags: SYN, sequence: client, window: 65_535, ..Sent::default() };
    let answer = Sent {
        flags: SYN | ACK,
        sequence: server,
        acknowledgment: client.wrapping_add(1),
        window: 65_535,
        ..Sent::default()
    };
    let last = Sent {
        flags: ACK,
        sequence: client.wrapping_add(1),
        acknowledgment: server.wrapping_add(1),
        window: 65_535,
        ..Sent::default()
    };
    let first = Sent {
        flags: ACK,
        sequence: server.wrapping_add(1),
        acknowledgment: client.wrapping_add(1),
        window: 65_535,
        ..Sent::default()
    };
    for (direction, sent) in [(0, syn), (1, answer), (0, last), (1, first)] {
        assert_eq!(gate.judge(direction, &sent), Judgement::InWindow, "{sent:?}");
    }
    gate
}

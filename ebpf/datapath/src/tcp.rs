//! TCP: which segments belong to a connection (Guido van Rooij, "Real Stateful TCP Packet Filtering
//! in IP Filter", 2001), and the MSS that its ends may use.
//!
//! Both sides of a connection stand in its record, so one lookup tells what the other end has
//! announced. A segment is in the window if its data is neither beyond what its receiver allowed nor
//! older than a window, and if it acknowledges nothing that was not sent and nothing older than a
//! window. SYN, FIN and RST count only then (RFC 5961 section 3: a blind RST does nothing).
//!
//! [`track`] is a few compares for an established connection; all else is in `control`, a function
//! of its own. Each field of a [`Side`] is written by packets of one direction only (`max_end` by the
//! other side's), so that two CPUs do not undo each other's notes; only a connection that begins
//! anew writes both sides. Two CPUs may carry packets of the same direction, too (a sender that moves,
//! receive packet steering): `end` and `max_end` are raised atomically. Had a number fallen back,
//! the last acknowledgment of a flight would be of what was never sent, however often it came.

mod options;

use core::{marker::PhantomData, ptr::NonNull, sync::atomic::Ordering};

use portcullis_datapath_abi::flow::{ACK, FIN, NO_SCALE, RST, SYN, Side};
use portcullis_flow_table::AtomicU32;

pub use options::{Options, clamp_mss, mss_limit, options};

use crate::{Frame, packet::tcp};

/// In [`Side::seen`]: this side has acknowledged the other's SYN with a SYN of its own.
const SYN_ANSWERED: u8 = 16;
/// In [`Side::seen`]: this side, which sent no SYN, sent an acknowledgment: it knows an older
/// connection (RFC 9293 section 3.5.1). Its number stands in `max_end`.
const OLDER_CONNECTION: u8 = 32;
/// In [`Side::seen`]: the initiator sent a SYN on an established connection. Sixteen bits of its
/// sequence number are in both sides' `again`.
const SYN_AGAIN: u8 = 64;

/// Acknowledgments may be this old even if the window is smaller, as in van Rooij's paper.
const OLDEST_ACK: u32 = 66_000;

/// A copy of a SYN may be overtaken by this many bytes of the connection that it began.
const LATE_COPY: u32 = 1 << 24;

/// Largest shift of a window (RFC 7323 section 2.3).
const MAX_SCALE: u8 = 14;

/// How often a number is tried to be raised: each failure is another CPU's success in between.
const RAISES: usize = 4;

/// What tracking needs of a segment, in host byte order.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Segment {
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgment number.
    pub acknowledgment: u32,
    /// Bytes of payload, of all segments of an aggregated frame.
    pub length: u32,
    /// Window as in the header.
    pub window: u16,
    /// Flags byte.
    pub flags: u8,
}

impl Segment {
    /// Reads the segment whose header is at `at` and which has `length` bytes of payload.
    #[inline(always)]
    pub fn read<F: Frame>(frame: &F, at: usize, length: u32) -> Option<Self> {
        Some(Self {
            sequence: u32::from_be(frame.u32(at + 4)?),
            acknowledgment: u32::from_be(frame.u32(at + 8)?),
            length,
            window: u16::from_be(frame.u16(at + 14)?),
            flags: frame.u8(at + 13)?,
        })
    }

    /// Sequence number behind the segment; SYN and FIN take one each (RFC 9293 section 3.4).
    #[inline(always)]
    const fn end(&self) -> u32 {
        let fin = (self.flags & tcp::FIN != 0) as u32;
        let syn = (self.flags & tcp::SYN != 0) as u32;
        self.sequence.wrapping_add(self.length).wrapping_add(fin + syn)
    }
}

/// What a segment is to its connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u32)]
pub enum Judgement {
    /// Part of it.
    InWindow = 0,
    /// Not part of it: to be dropped, nothing was noted.
    OutOfWindow = 1,
    /// The initiator's SYN on a connection that is closed: a new connection, which the policy is to
    /// be asked about again. Nothing was noted.
    Anew = 2,
}

/// The tracking fields of a side in the table, shared with other CPUs and with user space.
#[derive(Clone, Copy, Debug)]
pub struct SideRef<'a> {
    side: NonNull<Side>,
    table: PhantomData<&'a Side>,
}

macro_rules! fields {
    ($($get:ident, $set:ident: $Type:ty;)*) => { $(
        #[inline(always)]
        fn $get(self) -> $Type {
            // SAFETY: `new` promises a live, aligned side for the lifetime of the table.
            unsafe { (&raw const (*self.side.as_ptr()).$get).read_volatile() }
        }

        #[inline(always)]
        fn $set(self, value: $Type) {
            // SAFETY: as above.
            unsafe { (&raw mut (*self.side.as_ptr()).$get).write_volatile(value) }
        }
    )* };
}

impl SideRef<'_> {
    /// Wraps a side of a record.
    ///
    /// # Safety
    /// `side` points to a valid side that may be read and written for `'a`.
    #[inline(always)]
    pub const unsafe fn new(side: NonNull<Side>) -> Self {
        Self { side, table: PhantomData }
    }

    fields! {
        end, set_end: u32;
        max_end, set_max_end: u32;
        window, set_window: u16;
        again, set_again: u8;
        scale, set_scale: u8;
        seen, set_seen: u8;
    }

    /// Raises `end`, which was `before` just now.
    #[inline(always)]
    fn raise_end(self, before: u32, to: u32) {
        // SAFETY: as above; aligned. All that is read or written beside it are whole words.
        raise(unsafe { AtomicU32::from_ptr(&raw mut (*self.side.as_ptr()).end) }, before, to);
    }

    /// Raises `max_end`, which was `before` just now.
    #[inline(always)]
    fn raise_max_end(self, before: u32, to: u32) {
        // SAFETY: as for `end`.
        raise(unsafe { AtomicU32::from_ptr(&raw mut (*self.side.as_ptr()).max_end) }, before, to);
    }

    /// Whether it has sent a SYN.
    #[inline(always)]
    fn begun(self) -> bool {
        self.seen() & SYN != 0
    }

    /// Whether it has acknowledged the other side's SYN. As long as it has not, the other side's
    /// `max_end` is the first number behind that SYN.
    #[inline(always)]
    fn answered(self) -> bool {
        self.seen() & (ACK | SYN_ANSWERED) != 0
    }

    /// Largest window announced, in bytes. Valid once the handshake is done.
    #[inline(always)]
    fn reach(self) -> u32 {
        u32::from(self.window()) << (self.scale() & 15)
    }

    /// Notes a SYN.
    fn begin(self, segment: &Segment, scale: u8) {
        let shift = if scale == NO_SCALE { 0 } else { scale };
        // A SYN's own window is not scaled; rounded up to the unit that all others come in.
        let window = (u32::from(segment.window) + (1 << shift) - 1) >> shift;
        self.set_window(window.max(1) as u16);
        self.set_scale(scale);
        self.set_end(segment.end());
        self.set_max_end(segment.sequence.wrapping_add(1));
        self.set_seen(SYN);
    }
}

/// Whether `a` is `b` or comes after it, in sequence space.
#[inline(always)]
const fn reaches(a: u32, b: u32) -> bool {
    a.wrapping_sub(b) as i32 >= 0
}

/// Sets `number` to `to`, unless another CPU has set it to that or more since it was `before`.
#[inline(always)]
fn raise(number: &AtomicU32, mut before: u32, to: u32) {
    for _ in 0..RAISES {
        match number.compare_exchange(before, to, Ordering::Relaxed, Ordering::Relaxed) {
            Err(now) if !reaches(now, to) => before = now,
            _ => return,
        }
    }
}

/// Whether `number` is between both, in sequence space.
#[inline(always)]
const fn between(number: u32, first: u32, last: u32) -> bool {
    number.wrapping_sub(first) <= last.wrapping_sub(first)
}

/// Whether a plain segment (ACK, neither SYN, FIN nor RST) is part of a connection whose handshake is
/// done; then it is noted. Else [`track`] is to judge, and nothing was noted.
///
/// The conditions of `in_window`, in few steps: most segments bring what comes next, or acknowledge
/// what was sent just now, and then the largest windows need not be known.
#[inline(always)]
pub fn track_established(segment: &Segment, sides: (SideRef<'_>, SideRef<'_>)) -> bool {
    let (sender, receiver) = sides;
    // The receiver may have said nothing but its SYN: it need not acknowledge each segment.
    if sender.seen() & ACK == 0 || !receiver.answered() {
        return false;
    }
    // I.
    let end = segment.sequence.wrapping_add(segment.length);
    if !reaches(sender.max_end().wrapping_add(1), segment.sequence) {
        return false;
    }
    // II.
    let sent = sender.end();
    let more = end.wrapping_sub(sent) as i32;
    if more < 0 && !reaches(end.wrapping_add(receiver.reach()), sent) {
        return false;
    }
    // III and IV: as a number without sign, what is beyond is larger than any window.
    let outstanding = receiver.end().wrapping_sub(segment.acknowledgment);
    if outstanding > OLDEST_ACK && outstanding > sender.reach() {
        return false;
    }
    if more > 0 {
        sender.raise_end(sent, end);
    }
    note_window(segment, sender, receiver);
    true
}

/// Judges a segment that `sender` sends to `receiver`, and notes it if it is part of the connection.
/// `at` is the offset of the TCP header, `initiator` whether the sender is the flow's.
#[inline(always)]
pub fn track<F: Frame>(
    frame: &F,
    at: u32,
    segment: &Segment,
    sides: (SideRef<'_>, SideRef<'_>),
    initiator: bool,
) -> Judgement {
    let (sender, receiver) = sides;
    let flags = segment.flags & (tcp::FIN | tcp::SYN | tcp::RST | tcp::ACK);
    if flags == tcp::ACK && sender.seen() & receiver.seen() & ACK != 0 {
        if !in_window(segment, sender, receiver) {
            return Judgement::OutOfWindow;
        }
        note(segment, sender, receiver);
        return Judgement::InWindow;
    }
    let scale = if flags & tcp::SYN != 0 { options(frame, at).scale } else { NO_SCALE };
    control(segment, sender, receiver, u32::from(scale) | u32::from(initiator) << 8)
}

/// The four conditions, once both sides have answered the other's SYN.
#[inline(always)]
fn in_window(segment: &Segment, sender: SideRef<'_>, receiver: SideRef<'_>) -> bool {
    sequence_in_window(segment, sender, receiver.reach())
        && acknowledgment_in_window(segment, receiver, sender.reach())
}

/// I: not beyond what the receiver allowed. II: not older than its largest window.
///
/// One number more than allowed: after a probe of a closed window with one byte, or a FIN behind a
/// full one, BSD stacks number their acknowledgments behind it.
#[inline(always)]
fn sequence_in_window(segment: &Segment, sender: SideRef<'_>, reach: u32) -> bool {
    reaches(sender.max_end().wrapping_add(1), segment.sequence)
        && reaches(segment.end().wrapping_add(reach), sender.end())
}

/// III: nothing that was not sent. IV: nothing older than a window.
#[inline(always)]
fn acknowledgment_in_window(segment: &Segment, receiver: SideRef<'_>, reach: u32) -> bool {
    let oldest = if reach < OLDEST_ACK { OLDEST_ACK } else { reach };
    let end = receiver.end();
    reaches(end, segment.acknowledgment)
        && reaches(segment.acknowledgment.wrapping_add(oldest), end)
}

/// Notes what a segment in the window says. Only what changes is written.
#[inline(always)]
fn note(segment: &Segment, sender: SideRef<'_>, receiver: SideRef<'_>) {
    let (end, sent) = (segment.end(), sender.end());
    if !reaches(sent, end) {
        sender.raise_end(sent, end);
    }
    note_window(segment, sender, receiver);
}

/// The same of its window.
#[inline(always)]
fn note_window(segment: &Segment, sender: SideRef<'_>, receiver: SideRef<'_>) {
    if segment.window > sender.window() {
        sender.set_window(segment.window);
    }
    let window = u32::from(segment.window) << (sender.scale() & 15);
    let (max_end, allowed) = (segment.acknowledgment.wrapping_add(window), receiver.max_end());
    if !reaches(allowed, max_end) {
        receiver.raise_max_end(allowed, max_end);
    }
}

/// Everything but plain segments of an established connection. `extra`: window scale of a SYN, and
/// in bit 8 whether the sender is the initiator. Not inlined: it is rare, and a frame of its own
/// keeps the entry program's short.
#[inline(never)]
fn control(segment: &Segment, sender: SideRef<'_>, receiver: SideRef<'_>, extra: u32) -> Judgement {
    let (scale, initiator) = (extra as u8, extra & 0x100 != 0);
    let flags = segment.flags & (tcp::FIN | tcp::SYN | tcp::RST | tcp::ACK);
    if flags == tcp::SYN {
        return open(segment, sender, receiver, scale, initiator);
    }
    if flags == tcp::SYN | tcp::ACK {
        return answer(segment, sender, receiver, scale);
    }
    if flags & tcp::SYN != 0 {
        return Judgement::OutOfWindow;
    }
    if flags & tcp::RST != 0 {
        return reset(segment, sender, receiver, initiator);
    }
    if flags & tcp::ACK == 0 {
        return Judgement::OutOfWindow;
    }
    acknowledge(segment, sender, receiver, initiator)
}

/// A SYN.
#[inline(always)]
fn open(
    segment: &Segment,
    sender: SideRef<'_>,
    receiver: SideRef<'_>,
    scale: u8,
    initiator: bool,
) -> Judgement {
    if !sender.begun() {
        // Of the other side it is a simultaneous open (RFC 9293 section 3.5, RFC 5382 REQ-2).
        if !initiator && (!receiver.begun() || receiver.seen() & RST != 0) {
            return Judgement::OutOfWindow;
        }
        sender.begin(segment, scale);
        return Judgement::InWindow;
    }
    let closed =
        (sender.seen() | receiver.seen()) & RST != 0 || sender.seen() & receiver.seen() & FIN != 0;
    if closed {
        // Of the other side it would be a new flow from there.
        return if initiator { Judgement::Anew } else { Judgement::OutOfWindow };
    }
    if receiver.answered() {
        if segment.end() == sender.end() {
            // Once more: it has not seen the answer yet.
            return Judgement::InWindow;
        }
        // A host that lost its state tries again with the same port. Its peer answers with a
        // challenge (RFC 5961 section 4), which leads to a RST that ends the old connection, or, if
        // it lost its state too, with a SYN: that one needs this one's number.
        if !initiator || segment.length != 0 {
            return Judgement::OutOfWindow;
        }
        sender.set_again((segment.sequence >> 8) as u8);
        receiver.set_again(segment.sequence as u8);
        sender.set_seen(sender.seen() | SYN_AGAIN);
        return Judgement::InWindow;
    }
    if segment.sequence.wrapping_add(1) != sender.max_end() {
        sender.begin(segment, scale);
    } else if !reaches(sender.end(), segment.end()) {
        sender.set_end(segment.end());
    }
    Judgement::InWindow
}

/// A SYN with ACK.
#[inline(always)]
fn answer(segment: &Segment, sender: SideRef<'_>, receiver: SideRef<'_>, scale: u8) -> Judgement {
    if !receiver.begun() {
        return Judgement::OutOfWindow;
    }
    let again = segment.acknowledgment.wrapping_sub(1);
    if receiver.seen() & SYN_AGAIN != 0
        && again as u16 == u16::from(receiver.again()) << 8 | u16::from(sender.again())
        && sender.end().wrapping_sub(segment.end()) >= LATE_COPY
    {
        // Both sides lost the old connection; these are not late copies of the SYNs that it began with.
        // What the new SYN's scale was is not known any more: the largest, if this side accepts one.
        let syn =
            Segment { sequence: again, window: u16::MAX, flags: tcp::SYN, ..Segment::default() };
        receiver.begin(&syn, if scale == NO_SCALE { NO_SCALE } else { MAX_SCALE });
        sender.set_seen(0);
    }
    let acknowledges = if sender.answered() {
        acknowledgment_in_window(segment, receiver, 0)
    } else {
        between(segment.acknowledgment, receiver.max_end(), receiver.end())
    };
    if !acknowledges {
        return Judgement::OutOfWindow;
    }
    if sender.begun() && receiver.answered() {
        // Seen before.
        if !sequence_in_window(segment, sender, receiver.reach()) {
            return Judgement::OutOfWindow;
        }
    } else if !sender.begun() || segment.sequence.wrapping_add(1) != sender.max_end() {
        // A server without state for half-open connections may answer each SYN with another number.
        let seen = sender.seen() & SYN_ANSWERED;
        sender.begin(segment, scale);
        sender.set_seen(SYN | seen);
    }
    let max_end = segment.acknowledgment.wrapping_add(u32::from(segment.window));
    if !sender.answered() || !reaches(receiver.max_end(), max_end) {
        receiver.set_max_end(max_end);
    }
    sender.set_seen(sender.seen() | SYN_ANSWERED);
    Judgement::InWindow
}

/// A RST.
#[inline(always)]
fn reset(
    segment: &Segment,
    sender: SideRef<'_>,
    receiver: SideRef<'_>,
    initiator: bool,
) -> Judgement {
    let valid = if !sender.begun() {
        // A SYN refused: the RST acknowledges it (RFC 9293 section 3.10.7.3).
        receiver.begun()
            && segment.flags & tcp::ACK != 0
            && between(segment.acknowledgment, receiver.max_end(), receiver.end())
            && sender.seen() & OLDER_CONNECTION == 0
    } else if receiver.answered() {
        sequence_in_window(segment, sender, receiver.reach())
    } else {
        if initiator
            && receiver.seen() & OLDER_CONNECTION != 0
            && segment.sequence == receiver.max_end()
        {
            // It ends the older connection that the other side knows, not this one.
            return Judgement::InWindow;
        }
        between(segment.sequence, sender.max_end().wrapping_sub(1), sender.end())
    };
    if !valid {
        return Judgement::OutOfWindow;
    }
    sender.set_seen(sender.seen() | RST);
    Judgement::InWindow
}

/// A segment with ACK while the handshake is not done yet, or with FIN.
#[inline(always)]
fn acknowledge(
    segment: &Segment,
    sender: SideRef<'_>,
    receiver: SideRef<'_>,
    initiator: bool,
) -> Judgement {
    if !receiver.begun() {
        return Judgement::OutOfWindow;
    }
    let fin = segment.flags & tcp::FIN != 0;
    if !sender.begun() {
        // The answer of a side that knows an older connection; it makes the initiator reset that.
        if initiator || fin || segment.length != 0 {
            return Judgement::OutOfWindow;
        }
        sender.set_max_end(segment.acknowledgment);
        sender.set_seen(sender.seen() | OLDER_CONNECTION);
        return Judgement::InWindow;
    }
    agree_on_scale(sender, receiver);
    let acknowledges = if sender.answered() {
        acknowledgment_in_window(segment, receiver, sender.reach())
    } else {
        between(segment.acknowledgment, receiver.max_end(), receiver.end())
    };
    let in_sequence = if receiver.answered() {
        sequence_in_window(segment, sender, receiver.reach())
    } else {
        between(segment.sequence, sender.max_end(), sender.end())
    };
    if !acknowledges || !in_sequence {
        return Judgement::OutOfWindow;
    }
    if !sender.answered() {
        receiver.set_max_end(segment.acknowledgment);
    }
    note(segment, sender, receiver);
    sender.set_seen(sender.seen() | ACK | if fin { FIN } else { 0 });
    Judgement::InWindow
}

/// Windows are scaled only if both sides offered it (RFC 7323 section 2.2).
#[inline(always)]
fn agree_on_scale(sender: SideRef<'_>, receiver: SideRef<'_>) {
    let (mine, theirs) = (sender.scale(), receiver.scale());
    if mine != NO_SCALE && theirs != NO_SCALE {
        return;
    }
    for side in [sender, receiver] {
        let scale = side.scale();
        if scale != NO_SCALE {
            let window = u32::from(side.window()) << (scale & 15);
            side.set_window(if window > 0xffff { 0xffff } else { window as u16 });
        }
        side.set_scale(0);
    }
}

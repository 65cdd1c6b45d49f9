//! Fragments of datagrams (RFC 791, RFC 8200 section 4.5), in any order (RFC 4787 REQ-14).
//!
//! Only the first fragment has the ports. What it says is kept with its datagram, and the later ones
//! find it there; each then passes, or not, as any packet of these addresses and ports does. A later
//! fragment that comes before its first one is held ([`crate::hold`]) until that one comes.
//!
//! Fragments of a datagram that overlap do not pass (RFC 1858, RFC 3128, RFC 5722): whatever a
//! receiver makes of overlaps, it sees none. When all of a datagram has passed it is forgotten, so
//! that its identification is free for the next one.

mod track;

use core::{
    ops::{Deref, DerefMut},
    ptr::NonNull,
    sync::atomic::Ordering,
};

use portcullis_datapath_abi::{
    Counter, Datagram, FragmentKey, HeldFrame,
    fragment::{FIRST_PASSED, REFUSED, Range},
    policy::fragment_ticks,
};
use portcullis_flow_table::AtomicU32;

use self::track::Fit;
use crate::{
    Tables,
    hold::{self, Held, Slot},
};

/// How often the lock of a datagram is tried. It is held for some hundred instructions, and fragments
/// of one datagram rarely come to two processors.
const PATIENCE: u32 = 256;

/// A fragment.
#[derive(Clone, Copy, Debug)]
pub struct Piece {
    /// Its datagram.
    pub key: FragmentKey,
    /// Ports and protocol, in the first one.
    pub ends: Ends,
    /// Where its payload begins in the datagram's, in bytes.
    pub offset: u16,
    /// Length of its payload in bytes.
    pub payload: u16,
    /// Whether it is not the last one.
    pub more: bool,
    /// IPv6: identifications are not used again soon, so overlaps condemn the whole datagram.
    pub ipv6: bool,
}

/// What only the first fragment says.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Ends {
    /// Source port, see [`crate::Kind`].
    pub source_port: u16,
    /// Destination port, see [`crate::Kind`].
    pub destination_port: u16,
    /// Protocol of the upper layer.
    pub protocol: u8,
}

/// What to do with a fragment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Place {
    /// It is of these ports: go on as with a whole packet.
    Of(Ends),
    /// It came before the first one: to be kept here.
    Early(Slot),
    /// It does not pass.
    Refused(Counter),
}

/// Maps of fragments.
pub trait FragmentTables {
    /// What is known of a datagram.
    fn datagram(&self, key: &FragmentKey) -> Option<NonNull<Datagram>>;
    /// Makes a place for a datagram that nothing is known of; the one that was not asked for longest
    /// makes room.
    fn add_datagram(&self, key: &FragmentKey) -> Option<NonNull<Datagram>>;
    /// Forgets a datagram.
    fn forget_datagram(&self, key: &FragmentKey);
    /// A place for a held frame, by [`portcullis_datapath_abi::fragment::held_index`].
    fn held(&self, index: u32) -> Option<NonNull<HeldFrame>>;
    /// Frames ever held in a row.
    fn held_count(&self, row: u32) -> Option<&AtomicU32>;
}

impl Piece {
    /// Whether it can be a part of a datagram at all.
    #[inline(always)]
    fn is_sound(&self) -> bool {
        let longest = if self.ipv6 { 65_535 } else { 65_535 - 20 };
        if self.payload == 0 || u32::from(self.offset) + u32::from(self.payload) > longest {
            return false;
        }
        !self.more || self.payload & 7 == 0
    }

    #[inline(always)]
    const fn range(&self) -> Range {
        // `is_sound` comes first, so this does not wrap.
        Range { start: self.offset, end: self.offset.wrapping_add(self.payload) }
    }
}

/// Finds out to what a fragment belongs, and notes that it passes. `frame_length` is the length of its
/// frame in bytes from the Ethernet header on; 0 for one that must not be held. If it is the first one
/// and others were held until it came, they are in `held`: they are to come in again behind it.
#[inline(always)]
pub fn place<T: Tables>(tables: &T, piece: &Piece, frame_length: u32, held: &mut Held) -> Place {
    if !piece.is_sound() {
        return Place::Refused(Counter::DropMalformed);
    }
    let word = look_up(tables, piece, frame_length, held);
    let value = (word >> 8) as u32;
    let ends = Ends {
        source_port: value as u16,
        destination_port: (value >> 16) as u16,
        protocol: (word >> 40) as u8,
    };
    match word as u8 {
        Word::OF => Place::Of(ends),
        Word::EARLY => Place::Early(Slot(value)),
        Word::OVERLAP => Place::Refused(Counter::DropFragmentOverlap),
        _ => Place::Refused(Counter::DropFragment),
    }
}

/// Ports and protocol of a fragment, if they are known; nothing is noted.
#[inline(always)]
pub fn known<T: Tables>(tables: &T, piece: &Piece) -> Option<Ends> {
    if piece.offset == 0 {
        return Some(piece.ends);
    }
    let datagram = tables.datagram(&piece.key)?.as_ptr();
    // SAFETY: the table's elements stay valid while the program runs. Volatile: another processor may
    // change them meanwhile. What is read is not more than a hint.
    unsafe {
        if (&raw const (*datagram).flags).read_volatile() & FIRST_PASSED == 0 {
            return None;
        }
        Some(Ends {
            source_port: (&raw const (*datagram).source_port).read_volatile(),
            destination_port: (&raw const (*datagram).destination_port).read_volatile(),
            protocol: (&raw const (*datagram).protocol).read_volatile(),
        })
    }
}

/// A place in one word: what it is, and behind that 32 and 8 bits more. Other than an enumeration it
/// has no bytes that are sometimes not set, which the kernel's verifier would find.
#[derive(Clone, Copy)]
struct Word(u64);

impl Word {
    const OF: u8 = 1;
    const EARLY: u8 = 2;
    const OVERLAP: u8 = 3;

    const REFUSED: Self = Self::new(0, 0, 0);
    const OVERLAPS: Self = Self::new(Self::OVERLAP, 0, 0);

    #[inline(always)]
    const fn new(kind: u8, value: u32, more: u8) -> Self {
        Self(kind as u64 | (value as u64) << 8 | (more as u64) << 40)
    }

    #[inline(always)]
    const fn of(source_port: u16, destination_port: u16, protocol: u8) -> Self {
        Self::new(Self::OF, source_port as u32 | (destination_port as u32) << 16, protocol)
    }
}

/// How long the fragments of a datagram may take, in ticks: `firewall.timeouts.fragment_s`.
#[inline(always)]
pub(crate) fn lifetime<T: Tables>(tables: &T) -> u32 {
    tables.config().map_or(0, |config| fragment_ticks(config.flags))
}

/// A function of its own in the kernel too, for its stack; there it can return one word only.
#[inline(never)]
fn look_up<T: Tables>(tables: &T, piece: &Piece, frame_length: u32, held: &mut Held) -> u64 {
    let first = piece.offset == 0;
    let found = match tables.datagram(&piece.key) {
        Some(datagram) => Some(datagram),
        None if first || frame_length != 0 => tables.add_datagram(&piece.key),
        None => None,
    };
    let Some(found) = found else {
        return Word::REFUSED.0;
    };
    // SAFETY: the table's elements stay valid while the program runs, and all that touch this one hold
    // its lock. Should it be given to another datagram meanwhile, this fragment is placed by what is
    // written there, and its packet still meets the policy.
    let Some(mut datagram) = (unsafe { Locked::new(found) }) else {
        return Word::REFUSED.0;
    };
    let now = tables.now();
    track::expire(&mut datagram, now, lifetime(tables));
    let place = if first {
        place_first(tables, &mut datagram, piece, now, held)
    } else {
        place_later(tables, &mut datagram, piece, now, frame_length)
    };
    let complete = track::is_complete(&datagram);
    drop(datagram);
    if complete {
        tables.forget_datagram(&piece.key);
    }
    place.0
}

#[inline(always)]
fn place_first<T: Tables>(
    tables: &T,
    datagram: &mut Datagram,
    piece: &Piece,
    now: u32,
    held: &mut Held,
) -> Word {
    if datagram.held != 0 {
        *held = hold::collect(tables, &piece.key, datagram, now);
    }
    if piece.ipv6 {
        if datagram.flags & REFUSED != 0 {
            return Word::OVERLAPS;
        }
        // The same one again is harmless while no other has passed: a packet that opens a flow comes
        // here twice.
        if datagram.flags & FIRST_PASSED != 0 && track::is_more_than(datagram, piece.range()) {
            datagram.flags |= REFUSED;
            return Word::OVERLAPS;
        }
    }
    // The 16 bits of IPv4 come round in seconds on a fast link (RFC 4963): a first fragment is the
    // beginning of a new datagram.
    track::begin(datagram, piece, now);
    let Ends { source_port, destination_port, protocol } = piece.ends;
    Word::of(source_port, destination_port, protocol)
}

#[inline(always)]
fn place_later<T: Tables>(
    tables: &T,
    datagram: &mut Datagram,
    piece: &Piece,
    now: u32,
    frame_length: u32,
) -> Word {
    if datagram.flags & REFUSED != 0 {
        return Word::OVERLAPS;
    }
    if datagram.flags & FIRST_PASSED == 0 {
        return match hold::slot(tables, &piece.key, frame_length, now) {
            Some(slot) => {
                datagram.held |= 1 << slot.column();
                Word::new(Word::EARLY, slot.0, 0)
            }
            None => Word::REFUSED,
        };
    }
    match track::add(datagram, piece.range(), piece.more) {
        Fit::New => Word::of(datagram.source_port, datagram.destination_port, datagram.protocol),
        Fit::Contained => Word::OVERLAPS,
        Fit::Overlaps => {
            if piece.ipv6 {
                datagram.flags |= REFUSED;
            }
            Word::OVERLAPS
        }
        Fit::Scattered => Word::REFUSED,
    }
}

/// A datagram whose lock this processor holds.
struct Locked(NonNull<Datagram>);

impl Locked {
    /// `None` if another processor does not let go of it.
    ///
    /// # Safety
    /// The datagram may be read and written for the lifetime of the value, and is touched under its
    /// lock only.
    #[inline(always)]
    unsafe fn new(datagram: NonNull<Datagram>) -> Option<Self> {
        // SAFETY: aligned as the structure is; by the caller's promise.
        let lock = unsafe { AtomicU32::from_ptr(&raw mut (*datagram.as_ptr()).lock) };
        for _ in 0..PATIENCE {
            if lock.compare_exchange(0, 1, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
                return Some(Self(datagram));
            }
        }
        None
    }
}

impl Deref for Locked {
    type Target = Datagram;

    #[inline(always)]
    fn deref(&self) -> &Datagram {
        // SAFETY: under the lock nobody else changes it.
        unsafe { self.0.as_ref() }
    }
}

impl DerefMut for Locked {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut Datagram {
        // SAFETY: under the lock nobody else has a reference.
        unsafe { self.0.as_mut() }
    }
}

impl Drop for Locked {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: as in `new`.
        let lock = unsafe { AtomicU32::from_ptr(&raw mut (*self.0.as_ptr()).lock) };
        lock.swap(0, Ordering::SeqCst);
    }
}

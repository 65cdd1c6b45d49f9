//! Frames that wait for the first fragment of their datagram.
//!
//! They lie in rows. All frames from one source are in one row, chosen by a hash with a secret, and
//! the oldest of a row makes room for the next: whoever sends later fragments only can fill his own
//! row, and memory is bounded. When the first fragment comes, the hook queues what was held at the
//! ingress of the same device: it comes in again when the first one has passed, finds its ports, and is
//! decided about as if it came only now. What is released once is not held again.

use core::sync::atomic::Ordering;

use portcullis_datapath_abi::{
    Datagram, FragmentKey,
    fragment::{HELD_BYTES, HELD_COLUMNS, HELD_ROWS, held_index},
};
use portcullis_flow_table::hash40;

use crate::{Tables, fragments::lifetime};

/// Place of a held frame, see [`portcullis_datapath_abi::fragment::held_index`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Slot(pub u32);

impl Slot {
    /// Its place in the row.
    #[inline(always)]
    pub const fn column(self) -> u32 {
        self.0 % HELD_COLUMNS
    }
}

/// Frames of one datagram that were held; by default none.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Held {
    /// The row.
    pub row: u32,
    /// A bit for each column.
    pub columns: u64,
}

/// Takes the next place of the source's row for a frame of `length` bytes. The caller then copies the
/// bytes, or clears the tag if it cannot. `None` if the frame is too long to be held.
#[inline(always)]
pub(crate) fn slot<T: Tables>(
    tables: &T,
    key: &FragmentKey,
    length: u32,
    now: u32,
) -> Option<Slot> {
    if length == 0 || length > HELD_BYTES as u32 {
        return None;
    }
    let row = row(tables, key);
    let column = tables.held_count(row)?.fetch_add(1, Ordering::SeqCst);
    let index = held_index(row, column);
    let frame = tables.held(index)?.as_ptr();
    // SAFETY: the table's elements stay valid while the program runs. Two processors that write to the
    // same place at once are a whole row apart; what comes of it is a packet that is read and decided
    // about as any other when it comes in again.
    unsafe {
        (&raw mut (*frame).since).write_volatile(now);
        (&raw mut (*frame).length).write_volatile(length);
        (&raw mut (*frame).tag).write_volatile(tag(tables, key));
    }
    Some(Slot(index))
}

/// Which frames of the datagram are still held; its own list of them is empty afterwards. The caller
/// has its lock.
#[inline(always)]
pub(crate) fn collect<T: Tables>(
    tables: &T,
    key: &FragmentKey,
    datagram: &mut Datagram,
    now: u32,
) -> Held {
    let row = row(tables, key);
    let tag = tag(tables, key);
    let lifetime = lifetime(tables);
    // In memory, not in a register, for the reason that `Datagram::search` gives.
    let columns = &raw mut datagram.held;
    for column in 0..HELD_COLUMNS {
        let bit = 1_u64 << column;
        let Some(frame) = tables.held(held_index(row, column)) else {
            continue;
        };
        let frame = frame.as_ptr();
        // SAFETY: as above; the datagram is valid.
        unsafe {
            if (&raw const (*frame).tag).read_volatile() != tag
                || now.wrapping_sub((&raw const (*frame).since).read_volatile()) >= lifetime
            {
                columns.write_volatile(columns.read_volatile() & !bit);
            }
        }
    }
    // SAFETY: the datagram is valid.
    let columns = unsafe { columns.read_volatile() };
    datagram.held = 0;
    Held { row, columns }
}

/// Never 0.
#[inline(always)]
fn tag<T: Tables>(tables: &T, key: &FragmentKey) -> u64 {
    let ([a, b, c, d], [e, f, g, h]) = (key.source, key.destination);
    let rest = u64::from(key.id) << 32 | u64::from(key.protocol) << 8 | u64::from(key.zone);
    hash40(seed(tables), [pair(a, b), pair(c, d), pair(e, f), pair(g, h), rest]).0 | 1
}

#[inline(always)]
fn row<T: Tables>(tables: &T, key: &FragmentKey) -> u32 {
    let [a, b, c, d] = key.source;
    let hash = hash40(seed(tables), [pair(a, b), pair(c, d), u64::from(key.zone), 0, 0]);
    (hash.0 >> 32) as u32 % HELD_ROWS
}

#[inline(always)]
const fn pair(a: u32, b: u32) -> u64 {
    (a as u64) << 32 | b as u64
}

#[inline(always)]
fn seed<T: Tables>(tables: &T) -> [u64; 2] {
    tables.config().map_or([0; 2], |config| config.seed)
}

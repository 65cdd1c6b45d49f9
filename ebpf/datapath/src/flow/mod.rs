//! Flows in memory that the datapath shares with other CPUs and with the service.

mod create;
mod lookup;

use core::{marker::PhantomData, mem::offset_of, ptr::NonNull, sync::atomic::Ordering};

use portcullis_datapath_abi::{
    FlowKey, FlowKey6, FlowRecord,
    flow::{Ends4, GONE, PASSED, Side},
};
use portcullis_flow_table::{AtomicU32, Bucket};

use crate::tcp::SideRef;

pub(crate) use create::{New4, New6, Terms, create4, create6, end};
pub(crate) use lookup::Index;
pub use lookup::{find4, find6};
pub(crate) use lookup::{find4_words, find6_words};

/// Maps of the flow table.
pub trait FlowTables {
    /// A bucket of the index; `None` beyond its size.
    fn bucket(&self, index: u32) -> Option<&Bucket>;
    /// A lock of the index; `None` if `index` is not below [`portcullis_flow_table::LOCKS`].
    fn lock(&self, index: u32) -> Option<&AtomicU32>;
    /// A record by its number; `None` beyond the size of the table.
    fn record(&self, number: u32) -> Option<NonNull<FlowRecord>>;
    /// A free number below `limit`, which is the caller's; `None` if the table is full.
    fn take_record(&self, limit: u32) -> Option<u32>;
    /// Gives back a number whose record was never in the index.
    fn return_record(&self, number: u32);
}

/// A flow, in the direction that a packet travels in. Fields are read and written one by one, and
/// counts may miss a packet when two CPUs carry packets of the same direction at the same instant.
#[derive(Clone, Copy, Debug)]
pub struct FlowRef<'a> {
    record: NonNull<FlowRecord>,
    number: u32,
    // 0 or 1.
    direction: u32,
    table: PhantomData<&'a FlowRecord>,
}

macro_rules! fields {
    ($($(#[$doc:meta])* $field:ident: $Type:ty;)*) => { $(
        $(#[$doc])*
        #[inline(always)]
        pub fn $field(self) -> $Type {
            // SAFETY: `new` promises a live, aligned record for the lifetime of the table.
            unsafe { (*self.record.as_ptr()).$field }
        }
    )* };
}

macro_rules! side_fields {
    ($($(#[$doc:meta])* $field:ident: $Type:ty;)*) => { $(
        $(#[$doc])*
        #[inline(always)]
        pub fn $field(self) -> $Type {
            // SAFETY: `new` promises a live, aligned record for the lifetime of the table.
            unsafe { (*self.side()).$field }
        }
    )* };
}

#[allow(
    clippy::misnamed_getters,
    reason = "a packet leaves from where packets of the other direction go to"
)]
impl<'a> FlowRef<'a> {
    /// Wraps record `number` of a table, for packets of `direction` (0 is the initiator's).
    ///
    /// # Safety
    /// `record` points to a valid record that may be read and written for `'a`.
    #[inline(always)]
    pub unsafe fn new(record: NonNull<FlowRecord>, number: u32, direction: u32) -> Self {
        Self { record, number, direction: direction & 1, table: PhantomData }
    }

    fields! {
        /// See [`FlowRecord::flags`].
        flags: u8;
        /// See [`FlowRecord::state`].
        state: u8;
        /// See [`FlowRecord::rule`].
        rule: u16;
        /// See [`FlowRecord::mapping`].
        mapping: u32;
    }

    side_fields! {
        /// Generation of the cached next hop.
        generation: u32;
        /// Cached egress device.
        egress: u32;
        /// Cached MTU.
        mtu: u16;
        /// Cached MAC addresses.
        macs: [u32; 3];
        /// See [`Side::link`].
        link: u8;
    }

    /// The record.
    #[inline(always)]
    pub fn record(self) -> *mut FlowRecord {
        self.record.as_ptr()
    }

    /// Number of the record.
    #[inline(always)]
    pub fn number(self) -> u32 {
        self.number
    }

    /// Direction of the packet: 0 is the initiator's.
    #[inline(always)]
    pub fn direction(self) -> u32 {
        self.direction
    }

    /// The same flow in the other direction.
    #[inline(always)]
    pub fn reverse(self) -> Self {
        Self { direction: self.direction ^ 1, ..self }
    }

    /// What belongs to the packet's direction.
    #[inline(always)]
    pub fn side(self) -> *mut Side {
        // SAFETY: both sides are in the record.
        unsafe {
            (&raw mut (*self.record.as_ptr()).sides).cast::<Side>().add(self.direction as usize)
        }
    }

    /// Both sides, for the tracking of TCP: the sender's, the receiver's.
    #[inline(always)]
    pub fn tracked(self) -> (SideRef<'a>, SideRef<'a>) {
        // SAFETY: both are in the record, which lives for `'a`.
        unsafe {
            let side = |flow: Self| SideRef::new(NonNull::new_unchecked(flow.side()));
            (side(self), side(self.reverse()))
        }
    }

    #[inline(always)]
    fn ends4(self) -> *mut Ends4 {
        // SAFETY: `ends` is an `Ends4` in IPv4 records; any bits are one.
        unsafe { (&raw mut (*self.record.as_ptr()).ends).cast() }
    }

    /// The key of packets of this direction. Of IPv4 flows only.
    #[inline(always)]
    pub fn key(self) -> FlowKey {
        // SAFETY: as above, and both keys are in it.
        unsafe { *(&raw const (*self.ends4()).keys).cast::<FlowKey>().add(self.direction as usize) }
    }

    /// The same as the words of [`FlowKey::words`].
    #[inline(always)]
    pub fn key_words(self) -> [u64; 2] {
        // SAFETY: keys are two words each.
        unsafe {
            let key = (&raw const (*self.ends4()).keys).cast::<[u64; 2]>();
            *key.add(self.direction as usize)
        }
    }

    /// Source address after translation. This and the three that follow: of IPv4 flows only.
    #[inline(always)]
    pub fn source(self) -> u32 {
        self.reverse().key().destination
    }

    /// Destination address after translation.
    #[inline(always)]
    pub fn destination(self) -> u32 {
        self.reverse().key().source
    }

    /// Source port after translation.
    #[inline(always)]
    pub fn source_port(self) -> u16 {
        self.reverse().key().destination_port
    }

    /// Destination port after translation.
    #[inline(always)]
    pub fn destination_port(self) -> u16 {
        self.reverse().key().source_port
    }

    /// See [`Ends4::address_delta`].
    #[inline(always)]
    pub fn address_delta(self) -> u16 {
        // SAFETY: as above.
        unsafe {
            *(&raw const (*self.ends4()).address_delta).cast::<u16>().add(self.direction as usize)
        }
    }

    /// See [`Ends4::transport_delta`].
    #[inline(always)]
    pub fn transport_delta(self) -> u16 {
        // SAFETY: as above.
        unsafe {
            *(&raw const (*self.ends4()).transport_delta).cast::<u16>().add(self.direction as usize)
        }
    }

    /// The key of the original direction of an IPv6 flow.
    #[inline(always)]
    pub fn key6(self) -> FlowKey6 {
        // SAFETY: `ends` is a `FlowKey6` in IPv6 records; any bits are one.
        unsafe { *(&raw const (*self.record.as_ptr()).ends).cast::<FlowKey6>() }
    }

    /// Zone that packets of this direction come from.
    #[inline(always)]
    pub fn zone(self, ipv6: bool) -> u8 {
        match (ipv6, self.direction) {
            (false, _) => self.key().zone,
            (true, 0) => self.key6().zone,
            (true, _) => self.key6().peer_zone,
        }
    }

    /// Counts packets and notes the time.
    #[inline(always)]
    pub fn count(self, packets: u32, bytes: u32, now: u32) {
        self.add(packets, bytes);
        // SAFETY: as in the getters.
        unsafe {
            let record = self.record.as_ptr();
            // Only when it changes: the line stays clean for the other CPUs otherwise.
            if (*record).last_seen != now {
                (*record).last_seen = now;
            }
        }
    }

    /// Leaves the time to the service, see [`PASSED`].
    #[inline(always)]
    pub(crate) fn mark(self) {
        if self.link() & PASSED == 0 {
            // Other CPUs may be writing the bytes beside it. The smallest atomic access has four bytes.
            const MARK: u32 = u32::from_ne_bytes([0, 0, PASSED, 0]);
            const { assert!(offset_of!(Side, link) == offset_of!(Side, scale) + 2) };
            // SAFETY: as in the getters; four bytes of the side, aligned, as asserted.
            let word = unsafe { AtomicU32::from_ptr((&raw mut (*self.side()).scale).cast()) };
            word.fetch_or(MARK, Ordering::Relaxed);
        }
    }

    /// Counts packets.
    #[inline(always)]
    pub(crate) fn add(self, packets: u32, bytes: u32) {
        // SAFETY: as in the getters; both directions' counts are in the record.
        unsafe {
            let record = self.record.as_ptr();
            let counted = (&raw mut (*record).packets).cast::<u64>().add(self.direction as usize);
            *counted = (*counted).wrapping_add(u64::from(packets));
            let counted = (&raw mut (*record).bytes).cast::<u64>().add(self.direction as usize);
            *counted = (*counted).wrapping_add(u64::from(bytes));
        }
    }

    /// Caches a next hop. Another CPU may read meanwhile: the cache is invalid while it changes.
    #[inline(always)]
    pub fn cache(self, hop: &NextHop, generation: u32) {
        let side = self.side();
        // SAFETY: as in the getters. Volatile, so that the writes keep their order.
        unsafe {
            (&raw mut (*side).generation).write_volatile(0);
            (&raw mut (*side).egress).write_volatile(hop.egress);
            (&raw mut (*side).mtu).write_volatile(hop.mtu);
            (&raw mut (*side).macs).write_volatile(hop.macs);
            (&raw mut (*side).link).write_volatile(hop.link);
            (&raw mut (*side).generation).write_volatile(generation);
        }
    }

    /// Marks the flow as ended.
    #[inline(always)]
    fn set_gone(self) {
        // SAFETY: as in the getters.
        unsafe { (&raw mut (*self.record.as_ptr()).state).write_volatile(GONE) }
    }
}

/// What a flow keeps of its next hop.
#[derive(Clone, Copy, Debug, Default)]
pub struct NextHop {
    /// Device to leave by.
    pub egress: u32,
    /// Its MTU in bytes.
    pub mtu: u16,
    /// Ethernet destination and source.
    pub macs: [u32; 3],
    /// Its flags, [`portcullis_datapath_abi::policy::XDP_TRANSMIT`].
    pub link: u8,
}

//! What the core needs of its surroundings: the maps, the routing table, time and chance.

use core::{marker::PhantomData, ptr::NonNull};

use portcullis_datapath_abi::{FlowEntry, FlowKey, FragmentKey, FragmentPorts, Interface, Zone};

/// Why a flow was not inserted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum InsertError {
    /// The key is taken.
    Exists,
    /// The table is full.
    Full,
}

/// What to look a route up for; the packet as it arrived, with the destination after translation.
#[derive(Clone, Copy, Debug)]
pub struct RouteQuery {
    /// Interface that the packet came in by.
    pub interface: u32,
    /// Source address.
    pub source: u32,
    /// Destination address.
    pub destination: u32,
    /// IP protocol.
    pub protocol: u8,
    /// Type of service.
    pub tos: u8,
}

/// A way out.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// Device to leave by.
    pub egress: u32,
    /// MTU of that device in bytes.
    pub mtu: u16,
    /// Next hop: a gateway or the destination itself.
    pub next_hop: u32,
    /// Whether the neighbour is known.
    pub resolved: bool,
    /// If so, Ethernet destination and source.
    pub macs: [u32; 3],
}

/// The maps and helpers.
pub trait Tables {
    /// Current generation of routes and neighbours; 0 while there is no configuration.
    fn generation(&self) -> u32;
    /// An interface by its kernel index.
    fn interface(&self, index: u32) -> Option<&Interface>;
    /// A zone by its id.
    fn zone(&self, id: u8) -> Option<&Zone>;
    /// Whether new flows may pass from one zone to another.
    fn allowed(&self, from: u8, to: u8) -> bool;
    /// Whether an address is the router's own.
    fn is_local(&self, address: u32) -> bool;
    /// A flow entry.
    fn flow(&self, key: &FlowKey) -> Option<FlowRef<'_>>;
    /// Adds a flow entry; an existing one is not changed.
    ///
    /// # Errors
    /// If the key is taken or there is no room.
    fn insert(&self, key: &FlowKey, entry: &FlowEntry) -> Result<(), InsertError>;
    /// Removes a flow entry, if it is there.
    fn remove(&self, key: &FlowKey);
    /// Ports of a fragmented datagram.
    fn fragment(&self, key: &FragmentKey) -> Option<FragmentPorts>;
    /// Remembers the ports of a fragmented datagram.
    fn remember_fragment(&self, key: &FragmentKey, ports: &FragmentPorts);
    /// Looks a route up. `None`: there is none, or the destination is not to be forwarded to.
    fn route(&self, query: &RouteQuery) -> Option<Route>;
    /// Coarse time in ticks.
    fn now(&self) -> u32;
    /// A random number.
    fn random(&self) -> u32;
}

/// A flow entry in the table. The table is shared with other CPUs and with user space: fields are
/// read and written one by one, and counts may miss a packet when two CPUs carry packets of the
/// same direction at the same instant.
#[derive(Clone, Copy, Debug)]
pub struct FlowRef<'a> {
    entry: NonNull<FlowEntry>,
    table: PhantomData<&'a FlowEntry>,
}

macro_rules! getters {
    ($($(#[$doc:meta])* $field:ident: $Type:ty,)*) => { $(
        $(#[$doc])*
        #[inline(always)]
        pub fn $field(self) -> $Type {
            // SAFETY: `new` promises a live, aligned entry for the lifetime of the table.
            unsafe { (*self.entry.as_ptr()).$field }
        }
    )* };
}

impl<'a> FlowRef<'a> {
    /// Wraps an entry of a table.
    ///
    /// # Safety
    /// `entry` points to a valid entry that may be read and written for `'a`.
    #[inline(always)]
    pub unsafe fn new(entry: NonNull<FlowEntry>) -> Self {
        Self { entry, table: PhantomData }
    }

    getters! {
        /// Source address after translation.
        source: u32,
        /// Destination address after translation.
        destination: u32,
        /// Source port after translation.
        source_port: u16,
        /// Destination port after translation.
        destination_port: u16,
        /// See [`FlowEntry::address_delta`].
        address_delta: u16,
        /// See [`FlowEntry::port_delta`].
        port_delta: u16,
        /// Cached egress device.
        egress: u32,
        /// Generation of the cache.
        generation: u32,
        /// Cached MTU.
        mtu: u16,
        /// Cached MAC addresses.
        macs: [u32; 3],
        /// See [`FlowEntry::flags`].
        flags: u8,
        /// TCP flags seen.
        seen: u8,
        /// Zone of the other direction.
        peer_zone: u8,
    }

    /// Whether anything is translated in this direction.
    #[inline(always)]
    pub fn translates(self, key: &FlowKey) -> bool {
        self.source() != key.source
            || self.destination() != key.destination
            || self.source_port() != key.source_port
            || self.destination_port() != key.destination_port
    }

    /// The key of the other direction.
    #[inline(always)]
    pub fn peer_key(self, key: &FlowKey) -> FlowKey {
        FlowKey {
            source: self.destination(),
            destination: self.source(),
            source_port: self.destination_port(),
            destination_port: self.source_port(),
            protocol: key.protocol,
            zone: self.peer_zone(),
            reserved: 0,
        }
    }

    /// Counts packets and notes the time.
    #[inline(always)]
    pub fn count(self, packets: u32, bytes: u32, now: u32) {
        // SAFETY: as in the getters.
        unsafe {
            let entry = self.entry.as_ptr();
            (*entry).packets = (*entry).packets.wrapping_add(u64::from(packets));
            (*entry).bytes = (*entry).bytes.wrapping_add(u64::from(bytes));
            // Only when it changes: the line stays clean for the other CPUs otherwise.
            if (*entry).last_seen != now {
                (*entry).last_seen = now;
            }
        }
    }

    /// Replaces the TCP flags seen.
    #[inline(always)]
    pub fn set_seen(self, seen: u8) {
        // SAFETY: as in the getters.
        unsafe { (*self.entry.as_ptr()).seen = seen }
    }

    /// Caches a next hop. Another CPU may read meanwhile: the cache is invalid while it changes.
    #[inline(always)]
    pub fn cache(self, egress: u32, mtu: u16, macs: [u32; 3], generation: u32) {
        let entry = self.entry.as_ptr();
        // SAFETY: as in the getters. Volatile, so that the writes keep their order.
        unsafe {
            (&raw mut (*entry).generation).write_volatile(0);
            (&raw mut (*entry).egress).write_volatile(egress);
            (&raw mut (*entry).mtu).write_volatile(mtu);
            (&raw mut (*entry).macs).write_volatile(macs);
            (&raw mut (*entry).generation).write_volatile(generation);
        }
    }
}

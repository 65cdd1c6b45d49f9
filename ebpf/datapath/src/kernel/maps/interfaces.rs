//! Interfaces, zones and the router's addresses.

use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap},
};
use portcullis_datapath_abi::{
    Interface, Zone,
    policy::{BROADCAST, INTERFACE_SLOTS, MAX_ADDRESSES, MAX_ZONES},
};

#[map]
static INTERFACES: Array<Interface> = Array::pinned(INTERFACE_SLOTS, 0);
#[map]
static ZONES: Array<Zone> = Array::pinned(MAX_ZONES, 0);
#[map]
static ADDRESSES: HashMap<u32, u32> = HashMap::pinned(MAX_ADDRESSES, 0);
#[map]
static ADDRESSES6: HashMap<[u32; 4], u32> = HashMap::pinned(MAX_ADDRESSES, 0);

/// An interface by its kernel index.
#[inline(always)]
pub fn interface<'a>(index: u32) -> Option<&'a Interface> {
    INTERFACES.get(index % INTERFACE_SLOTS).filter(|interface| interface.index == index)
}

/// Zone of an interface; 0xff if it is not known.
#[inline(always)]
pub fn zone_of(index: u32) -> u8 {
    interface(index).map_or(0xff, |interface| interface.zone)
}

/// A zone by its id.
#[inline(always)]
pub fn zone<'a>(id: u8) -> Option<&'a Zone> {
    ZONES.get(u32::from(id))
}

/// Whether an IPv4 address is the router's own.
#[inline(always)]
pub fn is_local(address: u32) -> bool {
    ADDRESSES.get_ptr(address).is_some()
}

/// Whether an IPv4 address is the broadcast address of a subnet.
#[inline(always)]
pub fn is_broadcast(address: u32) -> bool {
    // SAFETY: a word, which the service replaces whole.
    unsafe { ADDRESSES.get(address) }.is_some_and(|interface| interface & BROADCAST != 0)
}

/// Whether an IPv6 address is the router's own.
#[inline(always)]
pub fn is_local6(address: &[u32; 4]) -> bool {
    ADDRESSES6.get_ptr(address).is_some()
}

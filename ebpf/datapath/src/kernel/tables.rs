//! The maps, as the core sees them.

use core::ptr::NonNull;

use aya_ebpf::{
    bindings::{BPF_NOEXIST, bpf_fib_lookup},
    helpers,
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray},
};
use portcullis_datapath::{FlowRef, InsertError, Route, RouteQuery, Tables};
use portcullis_datapath_abi::{
    Config, Counter, FlowEntry, FlowKey, FragmentKey, FragmentPorts, Interface, TICK_SHIFT, Zone,
    counter::{self, Count},
    policy::{ALLOW, INTERFACE_SLOTS, MAX_ADDRESSES, MAX_FRAGMENTED, MAX_ZONES, pair_index},
};

/// User space sets the size when it loads the programs.
#[map]
static FLOWS: HashMap<FlowKey, FlowEntry> = HashMap::pinned(2, 0);
#[map]
static FRAGMENTS: LruHashMap<FragmentKey, FragmentPorts> = LruHashMap::pinned(MAX_FRAGMENTED, 0);
#[map]
static CONFIG: Array<Config> = Array::pinned(1, 0);
#[map]
static INTERFACES: Array<Interface> = Array::pinned(INTERFACE_SLOTS, 0);
#[map]
static ZONES: Array<Zone> = Array::pinned(MAX_ZONES, 0);
#[map]
static PAIRS: Array<u32> = Array::pinned(MAX_ZONES * MAX_ZONES, 0);
#[map]
static ADDRESSES: HashMap<u32, u32> = HashMap::pinned(MAX_ADDRESSES, 0);
#[map]
static COUNTERS: PerCpuArray<Count> = PerCpuArray::pinned(counter::COUNT as u32, 0);

const EEXIST: i32 = -17;
const AF_INET: u8 = 2;
const FIB_SUCCESS: i64 = 0;
const FIB_NO_NEIGHBOUR: i64 = 7;

/// Counts a packet.
#[inline(always)]
pub fn count(counter: Counter, packets: u32, bytes: u32) {
    if let Some(cell) = COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: a per-CPU cell, and programs of this hook do not interrupt each other on a CPU.
        unsafe {
            (*cell).packets = (*cell).packets.wrapping_add(u64::from(packets));
            (*cell).bytes = (*cell).bytes.wrapping_add(u64::from(bytes));
        }
    }
}

/// The maps and the packet's context, which some helpers want.
pub struct Maps {
    context: *mut core::ffi::c_void,
}

impl Maps {
    /// For a packet's context.
    #[inline(always)]
    pub fn new(context: *mut core::ffi::c_void) -> Self {
        Self { context }
    }
}

impl Tables for Maps {
    #[inline(always)]
    fn generation(&self) -> u32 {
        CONFIG.get(0).map_or(0, |config| config.generation)
    }

    #[inline(always)]
    fn interface(&self, index: u32) -> Option<&Interface> {
        INTERFACES.get(index % INTERFACE_SLOTS).filter(|interface| interface.index == index)
    }

    #[inline(always)]
    fn zone(&self, id: u8) -> Option<&Zone> {
        ZONES.get(u32::from(id))
    }

    #[inline(always)]
    fn allowed(&self, from: u8, to: u8) -> bool {
        PAIRS.get(pair_index(from, to)).is_some_and(|verdict| *verdict == ALLOW)
    }

    #[inline(always)]
    fn is_local(&self, address: u32) -> bool {
        ADDRESSES.get_ptr(address).is_some()
    }

    #[inline(always)]
    fn flow(&self, key: &FlowKey) -> Option<FlowRef<'_>> {
        let entry = NonNull::new(FLOWS.get_ptr_mut(key)?)?;
        // SAFETY: map memory stays valid while the program runs (RCU); a concurrent removal can
        // hand the element to another flow, whose counts may then be off by this packet.
        Some(unsafe { FlowRef::new(entry) })
    }

    #[inline(always)]
    fn insert(&self, key: &FlowKey, entry: &FlowEntry) -> Result<(), InsertError> {
        match FLOWS.insert(key, entry, u64::from(BPF_NOEXIST)) {
            Ok(()) => Ok(()),
            Err(EEXIST) => Err(InsertError::Exists),
            Err(_) => Err(InsertError::Full),
        }
    }

    #[inline(always)]
    fn remove(&self, key: &FlowKey) {
        let _ = FLOWS.remove(key);
    }

    #[inline(always)]
    fn fragment(&self, key: &FragmentKey) -> Option<FragmentPorts> {
        // SAFETY: the value is copied at once; an element reused meanwhile gives the ports of
        // another datagram, whose fragments this one's would then follow to a flow of its own zone.
        unsafe { FRAGMENTS.get(key).copied() }
    }

    #[inline(always)]
    fn remember_fragment(&self, key: &FragmentKey, ports: &FragmentPorts) {
        let _ = FRAGMENTS.insert(key, ports, 0);
    }

    #[inline(always)]
    fn route(&self, query: &RouteQuery) -> Option<Route> {
        let mut route = Route { egress: 0, mtu: 0, next_hop: 0, resolved: false, macs: [0; 3] };
        if fib_lookup(self.context, query, &mut route) { Some(route) } else { None }
    }

    #[inline(always)]
    fn now(&self) -> u32 {
        // SAFETY: takes nothing, returns a number.
        (unsafe { helpers::bpf_ktime_get_coarse_ns() } >> TICK_SHIFT) as u32
    }

    #[inline(always)]
    fn random(&self) -> u32 {
        // SAFETY: takes nothing, returns a number.
        unsafe { helpers::bpf_get_prandom_u32() }
    }
}

/// Asks the kernel's routing and neighbour tables. Not inlined: its parameters would stand on the
/// stack once for each caller.
#[inline(never)]
fn fib_lookup(context: *mut core::ffi::c_void, query: &RouteQuery, route: &mut Route) -> bool {
    // SAFETY: plain data for which all zeros is valid.
    let mut fib: bpf_fib_lookup = unsafe { core::mem::zeroed() };
    fib.family = AF_INET;
    fib.l4_protocol = query.protocol;
    // Ports stay zero: they matter to port-based rules only, and later fragments have none.
    // The length stays zero too: the kernel would compare aggregated frames with the MTU.
    fib.__bindgen_anon_2.tos = query.tos;
    fib.__bindgen_anon_3.ipv4_src = query.source;
    fib.__bindgen_anon_4.ipv4_dst = query.destination;
    fib.ifindex = query.interface;
    let size = size_of::<bpf_fib_lookup>() as i32;
    // SAFETY: the context is the packet's, the parameters live on this stack.
    let result = unsafe { helpers::bpf_fib_lookup(context, &raw mut fib, size, 0) };
    if result != FIB_SUCCESS && result != FIB_NO_NEIGHBOUR {
        return false;
    }
    route.egress = fib.ifindex;
    // SAFETY: the helper filled in the IPv4 side of the unions.
    (route.next_hop, route.mtu) =
        unsafe { (fib.__bindgen_anon_4.ipv4_dst, fib.__bindgen_anon_1.mtu_result) };
    if result == FIB_SUCCESS {
        let [a, b, c, d, e, f] = fib.dmac;
        let [g, h, i, j, k, l] = fib.smac;
        route.resolved = true;
        route.macs = [
            u32::from_ne_bytes([a, b, c, d]),
            u32::from_ne_bytes([e, f, g, h]),
            u32::from_ne_bytes([i, j, k, l]),
        ];
    } else {
        // Without a neighbour the lookup does not get as far as the MTU.
        let mut mtu = 0_u32;
        // SAFETY: as above. Whether this packet fits is decided later; the answer is in `mtu`.
        unsafe { helpers::bpf_check_mtu(context, fib.ifindex, &raw mut mtu, 0, 0) };
        route.mtu = mtu as u16;
    }
    true
}

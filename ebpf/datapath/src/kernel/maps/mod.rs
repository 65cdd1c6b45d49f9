//! The maps, as the core sees them. One file for each concern.

pub mod answer;
mod flows;
pub mod fragments;
mod guard;
pub mod interfaces;
mod nat;
mod policy;
mod routes;
pub mod stages;
pub mod telemetry;

use core::mem::MaybeUninit;

use aya_ebpf::{
    helpers,
    macros::map,
    maps::{Array, PerCpuArray},
};
use portcullis_datapath::{Candidate, CandidateTables, PATHS, Path, Route, RouteQuery, Tables};
use portcullis_datapath_abi::{
    Config, Counter, Interface, TICK_SHIFT, Zone,
    counter::{self, Count},
};

#[map]
pub static CONFIG: Array<Config> = Array::pinned(1, 0);
#[map]
static COUNTERS: PerCpuArray<Count> = PerCpuArray::pinned(counter::COUNT as u32, 0);

/// Handed on between the stages of a first packet.
#[map]
static CANDIDATE: PerCpuArray<OneCpus<Candidate>> = PerCpuArray::with_max_entries(1, 0);

/// Ways that this CPU has found before.
#[map]
static PATH: PerCpuArray<OneCpus<Path>> = PerCpuArray::with_max_entries(PATHS, 0);

/// Where [`Tables::settled`] puts a packet.
#[map]
static SETTLED: PerCpuArray<[u64; SETTLED_WORDS]> = PerCpuArray::with_max_entries(1, 0);
const SETTLED_WORDS: usize = 16;

/// A value that only programs on its CPU see.
#[repr(transparent)]
struct OneCpus<T>(T);

// SAFETY: each CPU has its own, and programs of a hook do not interrupt each other.
unsafe impl<T> Sync for OneCpus<T> {}

/// Counts packets.
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

impl CandidateTables for Maps {
    #[inline(always)]
    fn candidate(&self) -> Option<&Candidate> {
        CANDIDATE.get(0).map(|candidate| &candidate.0)
    }

    #[inline(always)]
    fn path(&self, slot: u32) -> Option<&Path> {
        PATH.get(slot).map(|path| &path.0)
    }
}

impl Tables for Maps {
    #[inline(always)]
    fn settled<'p, P: Copy>(&'p self, packet: &'p P) -> &'p P {
        const { assert!(size_of::<P>() <= SETTLED_WORDS * 8 && align_of::<P>() <= 8) };
        let Some(words) = SETTLED.get_ptr_mut(0) else {
            return packet;
        };
        let place = words.cast::<P>();
        // SAFETY: room and alignment are there, and what is read is what was written: nobody else
        // uses this CPU's value meanwhile. The compiler must not know that, or it would leave the way
        // through memory out.
        unsafe {
            place.write_volatile(*packet);
            &*core::hint::black_box(place)
        }
    }

    #[inline(always)]
    fn config(&self) -> Option<&Config> {
        CONFIG.get(0)
    }

    #[inline(always)]
    fn interface(&self, index: u32) -> Option<&Interface> {
        interfaces::interface(index)
    }

    #[inline(always)]
    fn zone(&self, id: u8) -> Option<&Zone> {
        interfaces::zone(id)
    }

    #[inline(always)]
    fn is_local(&self, address: u32) -> bool {
        interfaces::is_local(address)
    }

    #[inline(always)]
    fn is_broadcast(&self, address: u32) -> bool {
        interfaces::is_broadcast(address)
    }

    #[inline(always)]
    fn is_local6(&self, address: &[u32; 4]) -> bool {
        interfaces::is_local6(address)
    }

    #[inline(always)]
    fn route(&self, query: &RouteQuery) -> Option<Route> {
        let mut route = MaybeUninit::uninit();
        if routes::lookup(self.context, query, &mut route) {
            // SAFETY: filled in, as it says.
            Some(unsafe { route.assume_init() })
        } else {
            None
        }
    }

    #[inline(always)]
    fn device_mtu(&self, interface: u32) -> u16 {
        routes::device_mtu(self.context, interface)
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

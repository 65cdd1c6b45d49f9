//! Maps of what is told.

use core::{cell::Cell, mem::MaybeUninit};

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    helpers,
    macros::map,
    maps::{Array, PerCpuArray, PerCpuHashMap, RingBuf},
};
use portcullis_datapath::telemetry::TelemetryTables;
use portcullis_datapath_abi::{
    capture::{CaptureFilter, Captured, PACKET_RING_BYTES},
    counter::Count,
    event::{DropKey, EVENT_RING_BYTES, Event, HitBudget, MAX_DROP_CELLS},
};

use super::Maps;

#[map]
static DROPS: PerCpuHashMap<DropKey, Count> = PerCpuHashMap::pinned(MAX_DROP_CELLS, 0);
#[map]
static EVENTS: RingBuf = RingBuf::pinned(EVENT_RING_BYTES, 0);
#[map]
static HIT_BUDGET: PerCpuArray<HitBudget> = PerCpuArray::pinned(1, 0);
#[map]
pub static CAPTURE: Array<CaptureFilter> = Array::pinned(1, 0);
#[map]
pub static PACKETS: RingBuf = RingBuf::pinned(PACKET_RING_BYTES, 0);
#[map]
pub static CAPTURED: PerCpuArray<Captured> = PerCpuArray::pinned(1, 0);

/// In memory of its own: the stack is short.
static NOTHING: Count = Count { packets: 0, bytes: 0 };

impl TelemetryTables for Maps {
    #[inline(always)]
    fn count_drop(&self, key: &DropKey, packets: u32, bytes: u32) {
        if DROPS.get_ptr_mut(key).is_none() {
            // Full: the counter of the reason has it.
            let _ = DROPS.insert(key, &NOTHING, u64::from(BPF_NOEXIST));
        }
        if let Some(cell) = DROPS.get_ptr_mut(key) {
            // SAFETY: a per-CPU cell, and programs of this hook do not interrupt each other on a CPU.
            unsafe {
                (*cell).packets = (*cell).packets.wrapping_add(u64::from(packets));
                (*cell).bytes = (*cell).bytes.wrapping_add(u64::from(bytes));
            }
        }
    }

    #[inline(always)]
    fn hit_budget(&self) -> Option<&Cell<HitBudget>> {
        let cell = HIT_BUDGET.get_ptr_mut(0)?;
        // SAFETY: as above; a cell has the layout of what is in it.
        Some(unsafe { &*cell.cast::<Cell<HitBudget>>() })
    }

    #[inline(always)]
    fn tell(&self, fill: impl FnOnce(&mut MaybeUninit<Event>)) -> bool {
        let Some(mut event) = EVENTS.reserve::<Event>(0) else {
            return false;
        };
        fill(&mut event);
        // SAFETY: filled in above.
        unsafe { event.assume_init_mut().time_ns = helpers::bpf_ktime_get_ns() };
        event.submit(0);
        true
    }
}

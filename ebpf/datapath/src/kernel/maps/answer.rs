//! Maps of the router's answers.

use aya_ebpf::{
    bindings::{
        BPF_FIB_LOOKUP_OUTPUT, BPF_FIB_LOOKUP_SKIP_NEIGH, BPF_FIB_LOOKUP_SRC, bpf_fib_lookup,
    },
    helpers,
    macros::map,
    maps::{Array, PerCpuArray},
};
use portcullis_datapath::answer::{AnswerTables, Draft, RATES};
use portcullis_flow_table::AtomicU64;

use super::Maps;

#[map]
static ANSWER_RATES: Array<u64> = Array::pinned(RATES, 0);
/// Where answers are written: a frame is larger than the stack. Nobody else needs it.
#[map]
pub static DRAFT: PerCpuArray<Draft> = PerCpuArray::with_max_entries(1, 0);

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const MAPPED: u32 = 0xffff_u32.to_be();

impl AnswerTables for Maps {
    #[inline(always)]
    fn answer_rate(&self, index: u32) -> Option<&AtomicU64> {
        // SAFETY: map memory stays valid while the program runs, and is aligned; the words are changed
        // by atomic operations only.
        Some(unsafe { AtomicU64::from_ptr(ANSWER_RATES.get_ptr_mut(index)?) })
    }

    #[inline(always)]
    fn own_address(&self, interface: u32, ipv6: bool, address: &mut [u32; 4]) -> bool {
        select_source(self.context, interface, ipv6, address)
    }
}

/// Replaces a destination by the source address that the kernel's own packets to it would have
/// (kernel 6.7).
#[inline(never)]
fn select_source(
    context: *mut core::ffi::c_void,
    interface: u32,
    ipv6: bool,
    address: &mut [u32; 4],
) -> bool {
    // SAFETY: plain data for which all zeros is valid.
    let mut fib: bpf_fib_lookup = unsafe { core::mem::zeroed() };
    fib.family = if ipv6 { AF_INET6 } else { AF_INET };
    fib.ifindex = interface;
    if ipv6 {
        fib.__bindgen_anon_4.ipv6_dst = *address;
    } else {
        let [.., last] = *address;
        fib.__bindgen_anon_4.ipv4_dst = last;
    }
    let flags = BPF_FIB_LOOKUP_OUTPUT | BPF_FIB_LOOKUP_SKIP_NEIGH | BPF_FIB_LOOKUP_SRC;
    let size = size_of::<bpf_fib_lookup>() as i32;
    // SAFETY: the context is the packet's, the parameters live on this stack.
    if unsafe { helpers::bpf_fib_lookup(context, &raw mut fib, size, flags) } != 0 {
        return false;
    }
    // SAFETY: the helper filled in the side of the union that belongs to the family; any bits are one.
    *address = unsafe {
        if ipv6 {
            fib.__bindgen_anon_3.ipv6_src
        } else {
            [0, 0, MAPPED, fib.__bindgen_anon_3.ipv4_src]
        }
    };
    true
}

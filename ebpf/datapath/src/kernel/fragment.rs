//! Frames that are held until the first fragment of their datagram comes (tcx only).

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_INGRESS, BPF_F_RECOMPUTE_CSUM},
    helpers::{bpf_clone_redirect, bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_store_bytes},
    macros::map,
    maps::PerCpuArray,
};
use portcullis_datapath::hold::{Held, Slot};
use portcullis_datapath_abi::fragment::{HELD_BYTES, HELD_COLUMNS, held_index};

use super::maps::fragments::HELD;

/// The kernel keeps a checksum over the packet up to date that a device may have computed.
const RECOMPUTE: u64 = BPF_F_RECOMPUTE_CSUM as u64;

/// Copies a frame to its place. The frame itself is then dropped.
#[inline(always)]
pub fn hold(skb: *mut __sk_buff, slot: Slot) {
    let Some(frame) = HELD.get_ptr_mut(slot.0) else {
        return;
    };
    // SAFETY: the context is valid; the bounds are those of the array that is written to.
    let copied = unsafe {
        let bytes = (&raw mut (*frame).bytes).cast();
        bpf_skb_load_bytes(skb.cast(), 0, bytes, bounded(&raw const (*skb).len)) == 0
    };
    if !copied {
        // SAFETY: as above.
        unsafe { (&raw mut (*frame).tag).write_volatile(0) };
    }
}

/// Where a first fragment lies while its buffer carries others.
#[map]
static FIRST: PerCpuArray<[u8; FIRST_BYTES]> = PerCpuArray::with_max_entries(1, 0);

/// Longest first fragment that others can be held for, in bytes from the Ethernet header on. A power of
/// two, for which the verifier believes a mask.
const FIRST_BYTES: usize = 16_384;

/// Queues the frames that were held at the ingress of the device that they came in by: they pass the
/// hook again, when this frame, the first fragment, has passed. The only way to send a frame is to write
/// it over this one and clone that, so afterwards this one's own bytes are written back. False if that
/// failed: the frame must be dropped.
#[inline(always)]
pub fn release(skb: *mut __sk_buff, held: Held) -> bool {
    let Some(first) = FIRST.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: the context is valid; the value is this CPU's, and programs of this hook do not interrupt
    // each other on a CPU. The bounds are those of the array.
    unsafe {
        let length = (&raw const (*skb).len).read_volatile();
        if length > FIRST_BYTES as u32 {
            return false;
        }
        let length = (length.wrapping_sub(1) & (FIRST_BYTES as u32 - 1)) + 1;
        if bpf_skb_load_bytes(skb.cast(), 0, first.cast(), length) != 0 {
            return false;
        }
        let interface = (*skb).ifindex;
        for column in 0..HELD_COLUMNS {
            if held.columns >> column & 1 != 0 {
                emit(skb, interface, held_index(held.row, column));
            }
        }
        bpf_skb_change_tail(skb, length, 0) == 0
            && bpf_skb_store_bytes(skb.cast(), 0, first.cast(), length, RECOMPUTE) == 0
    }
}

#[inline(never)]
fn emit(skb: *mut __sk_buff, interface: u32, index: u32) {
    let Some(frame) = HELD.get_ptr_mut(index) else {
        return;
    };
    // SAFETY: the context is valid; the bounds are those of the array that is read.
    unsafe {
        let length = bounded(&raw const (*frame).length);
        (&raw mut (*frame).tag).write_volatile(0);
        let bytes = (&raw const (*frame).bytes).cast();
        if bpf_skb_change_tail(skb, length, 0) == 0
            && bpf_skb_store_bytes(skb.cast(), 0, bytes, length, u64::from(BPF_F_RECOMPUTE_CSUM))
                == 0
        {
            bpf_clone_redirect(skb, interface, u64::from(BPF_F_INGRESS));
        }
    }
}

/// A length from 1 to [`HELD_BYTES`], as the verifier can see; the frames that are held are of such.
///
/// # Safety
/// `length` can be read.
#[inline(always)]
unsafe fn bounded(length: *const u32) -> u32 {
    // SAFETY: by the caller's promise.
    (unsafe { length.read_volatile() }.wrapping_sub(1) & (HELD_BYTES as u32 - 1)) + 1
}

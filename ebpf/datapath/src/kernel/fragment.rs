//! Frames that are held until the first fragment of their datagram comes (tcx only).

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_INGRESS, BPF_F_RECOMPUTE_CSUM},
    helpers::{bpf_clone_redirect, bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_store_bytes},
};
use portcullis_datapath::hold::{Held, Slot};
use portcullis_datapath_abi::fragment::{HELD_BYTES, HELD_COLUMNS, held_index};

use super::maps::fragments::HELD;

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

/// Queues this frame, the first fragment, and after it those that were held, at the ingress of the
/// device that it came in by: they pass the hook again, one after the other. Afterwards the frame holds
/// the bytes of the last one and must be dropped.
#[inline(always)]
pub fn release(skb: *mut __sk_buff, held: Held) {
    // SAFETY: the context is valid. Copies share the data until one is changed, which the helpers see
    // to.
    let interface = unsafe { (*skb).ifindex };
    // SAFETY: as above.
    if unsafe { bpf_clone_redirect(skb, interface, u64::from(BPF_F_INGRESS)) } != 0 {
        return;
    }
    for column in 0..HELD_COLUMNS {
        if held.columns >> column & 1 != 0 {
            emit(skb, interface, held_index(held.row, column));
        }
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

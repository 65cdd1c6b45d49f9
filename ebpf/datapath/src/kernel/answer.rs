//! Sending the router's answers (tcx only).

use aya_ebpf::{
    bindings::{__sk_buff, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC},
    helpers::{
        bpf_redirect, bpf_skb_adjust_room, bpf_skb_change_tail, bpf_skb_load_bytes,
        bpf_skb_store_bytes,
    },
};
use portcullis_datapath::{
    L3,
    answer::{CAPACITY, Draft, Order, QUOTED4, QUOTED6},
};
use portcullis_datapath_abi::FORWARD_MARK;

use super::maps::answer::DRAFT;

/// Makes the answer of the packet and sends it where that came from. `None` if that is not possible:
/// the packet, which may be mutilated then, must be dropped.
#[inline(always)]
pub fn answer(skb: *mut __sk_buff, order: &Order) -> Option<i32> {
    let draft = DRAFT.get_ptr_mut(0)?;
    // SAFETY: a per-CPU value, and programs of this hook do not interrupt each other on a CPU.
    let draft = unsafe { &mut *draft };
    load(skb, order, draft)?;
    let partial = is_partial(skb, order);
    let length = order.write(draft, partial)?;
    resize(skb, order, length)?;
    store(skb, draft, length)?;
    // SAFETY: the context is valid; the helper takes numbers only.
    unsafe {
        (*skb).mark = FORWARD_MARK;
        Some(bpf_redirect((*skb).ifindex, 0) as i32)
    }
}

#[inline(always)]
fn load(skb: *mut __sk_buff, order: &Order, draft: &mut Draft) -> Option<()> {
    let bytes: *mut u8 = draft.0.as_mut_ptr().cast();
    let at = if order.ipv6 { QUOTED6 } else { QUOTED4 };
    let quoted = bounded(u32::from(order.quoted));
    // SAFETY: the draft has room for `CAPACITY` bytes behind the headers.
    unsafe {
        if bpf_skb_load_bytes(skb.cast(), 0, bytes.cast(), L3 as u32) != 0 {
            return None;
        }
        let loaded = bpf_skb_load_bytes(skb.cast(), L3 as u32, bytes.add(at).cast(), quoted);
        (loaded == 0).then_some(())
    }
}

/// Whether the packet's checksum is left to the device. The kernel does not tell, but it does not let
/// the field be cut off such a packet. The packet is then cut short either way: its head is in the
/// draft.
#[inline(always)]
fn is_partial(skb: *mut __sk_buff, order: &Order) -> bool {
    let Some(end) = order.checksum_end() else {
        return false;
    };
    // SAFETY: a helper for this context.
    unsafe { bpf_skb_change_tail(skb, end - 1, 0) != 0 }
}

#[inline(always)]
fn resize(skb: *mut __sk_buff, order: &Order, length: usize) -> Option<()> {
    let length = length as u32;
    let room = order.prepended();
    // SAFETY: helpers for this context.
    let result = unsafe {
        match bpf_skb_change_tail(skb, length - room, 0) {
            0 if room != 0 => bpf_skb_adjust_room(skb, room as i32, BPF_ADJ_ROOM_MAC, 0),
            result => result,
        }
    };
    (result == 0).then_some(())
}

#[inline(always)]
fn store(skb: *mut __sk_buff, draft: &Draft, length: usize) -> Option<()> {
    let length = bounded(length as u32);
    // SAFETY: inside the draft.
    let stored = unsafe { bpf_skb_store_bytes(skb.cast(), 0, draft.0.as_ptr().cast(), length, 0) };
    (stored == 0).then_some(())
}

/// A length from 1 to [`CAPACITY`], as the verifier can see.
#[inline(always)]
fn bounded(length: u32) -> u32 {
    // SAFETY: a reference is valid. Volatile, or the compiler would leave out a mask that it knows to
    // change nothing.
    let length = unsafe { (&raw const length).read_volatile() };
    (length.wrapping_sub(1) & (CAPACITY as u32 - 1)) + 1
}

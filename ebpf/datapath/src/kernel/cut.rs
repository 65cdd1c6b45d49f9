//! Sending datagrams on in parts (tcx only).

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_INGRESS, BPF_F_RECOMPUTE_CSUM},
    helpers::{bpf_clone_redirect, bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_store_bytes},
    macros::map,
    maps::PerCpuArray,
};
use portcullis_datapath::cut::{Cut, HEADERS, MAX_PART, MAX_PARTS, MAX_PAYLOAD};

/// A datagram while it is cut.
#[repr(C, align(8))]
pub struct Whole {
    headers: [u16; HEADERS / 2],
    payload: [u8; MAX_PAYLOAD + MAX_PART],
}

#[map]
static WHOLE: PerCpuArray<Whole> = PerCpuArray::with_max_entries(1, 0);

/// Where the first checksum ends that a sender can have left to its device: of UDP. Such a packet
/// cannot be cut, since the device would write into each part; the kernel does not let the field be cut
/// off.
const CHECKSUM_END: u32 = HEADERS as u32 + 8;

/// Queues the parts at the ingress of the device that the datagram came in by; they pass the hook each.
/// Afterwards the frame holds the last one and must be dropped. False if there are none.
#[inline(always)]
pub fn cut(skb: *mut __sk_buff, cut: &Cut) -> bool {
    let Some(whole) = WHOLE.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: a per-CPU value, and programs of this hook do not interrupt each other on a CPU.
    let whole = unsafe { &mut *whole };
    let length = bounded(u32::from(cut.payload), MAX_PAYLOAD);
    // SAFETY: the context is valid; lengths are those of what is written to.
    unsafe {
        let headers = whole.headers.as_mut_ptr().cast();
        if bpf_skb_load_bytes(skb.cast(), 0, headers, HEADERS as u32) != 0 {
            return false;
        }
        let payload = whole.payload.as_mut_ptr().cast();
        if bpf_skb_load_bytes(skb.cast(), HEADERS as u32, payload, length) != 0 {
            return false;
        }
        if bpf_skb_change_tail(skb, CHECKSUM_END - 1, 0) != 0 {
            return false;
        }
    }
    let mut offset = 0;
    for _ in 0..MAX_PARTS {
        if !emit(skb, whole, cut, offset) {
            break;
        }
        offset += cut.step;
    }
    true
}

#[inline(always)]
fn emit(skb: *mut __sk_buff, whole: &mut Whole, cut: &Cut, offset: u16) -> bool {
    let Some(part) = cut.part(offset) else {
        return false;
    };
    part.write(&mut whole.headers);
    let length = bounded(u32::from(part.length), MAX_PART);
    // SAFETY: a reference is valid; volatile, or the compiler would leave out the mask.
    let offset = unsafe { (&raw const offset).read_volatile() } as usize & (MAX_PAYLOAD - 1);
    let recompute = u64::from(BPF_F_RECOMPUTE_CSUM);
    // SAFETY: the context is valid; offset and length stay inside the payload's array.
    unsafe {
        let headers = whole.headers.as_ptr().cast();
        let payload = whole.payload.as_ptr().add(offset).cast();
        if bpf_skb_change_tail(skb, HEADERS as u32 + length, 0) != 0
            || bpf_skb_store_bytes(skb.cast(), 0, headers, HEADERS as u32, recompute) != 0
            || bpf_skb_store_bytes(skb.cast(), HEADERS as u32, payload, length, recompute) != 0
        {
            return false;
        }
        bpf_clone_redirect(skb, (*skb).ifindex, u64::from(BPF_F_INGRESS));
    }
    true
}

/// A length from 1 to `most`, a power of two, as the verifier can see.
#[inline(always)]
fn bounded(length: u32, most: usize) -> u32 {
    // SAFETY: a reference is valid; volatile, or the compiler would leave out the mask.
    let length = unsafe { (&raw const length).read_volatile() };
    (length.wrapping_sub(1) & (most as u32 - 1)) + 1
}

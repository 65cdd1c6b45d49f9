//! Sums over the bytes of a packet (tcx only).

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::{bpf_csum_diff, bpf_skb_load_bytes},
};
use portcullis_datapath::{LONGEST, NO_SUM, Summed};

use super::{maps::answer::DRAFT, skb::Buffer};

impl Summed for Buffer<'_> {
    #[inline(always)]
    fn sum(&self, at: u32, length: u32) -> u32 {
        sum(self.skb(), at, length)
    }
}

/// Bytes that the kernel sums up at once.
const STRIDE: u32 = 512;

/// By way of the room for answers, of which there is none yet: the helper wants words of four bytes,
/// which a packet need not have.
#[inline(never)]
fn sum(skb: *mut __sk_buff, at: u32, length: u32) -> u32 {
    let Some(draft) = DRAFT.get_ptr_mut(0) else {
        return NO_SUM;
    };
    if length == 0 || length > LONGEST {
        return NO_SUM;
    }
    let bytes: *mut u8 = draft.cast();
    // SAFETY: a per-CPU value with room for `LONGEST` bytes and more, and programs of this hook do not
    // interrupt each other on a CPU. The masks are what the verifier believes.
    unsafe {
        let last = length.wrapping_sub(1) & (LONGEST - 1) & !3;
        bytes.add(last as usize).cast::<u32>().write_volatile(0);
        if bpf_skb_load_bytes(skb.cast(), at, bytes.cast(), up_to::<LONGEST>(length)) != 0 {
            return NO_SUM;
        }
        let mut sum = 0_u32;
        for start in (0..LONGEST).step_by(STRIDE as usize) {
            if start >= length {
                break;
            }
            let rest = (length - start + 3) & !3;
            let size = up_to::<STRIDE>(if rest < STRIDE { rest } else { STRIDE });
            let from = bytes.add(start as usize).cast();
            let added = bpf_csum_diff(core::ptr::null_mut(), 0, from, size, sum);
            if added < 0 {
                return NO_SUM;
            }
            sum = added as u32;
        }
        let folded = (sum & 0xffff) + (sum >> 16);
        (folded & 0xffff) + (folded >> 16)
    }
}

/// A length from 1 to `MOST`, a power of two, as the verifier can see.
#[inline(always)]
fn up_to<const MOST: u32>(length: u32) -> u32 {
    // SAFETY: a reference is valid. Volatile, or the compiler would leave out a mask that it knows to
    // change nothing.
    let length = unsafe { (&raw const length).read_volatile() };
    (length.wrapping_sub(1) & (MOST - 1)) + 1
}

//! Copies of packets, for as long as somebody captures: programs of their own, so that nothing of
//! this stands in the way of a packet otherwise.
//!
//! `tcx_capture_*` are attached before the programs that decide. XDP holds one program only:
//! `xdp_capture` takes its place and goes on to it. Dropped packets come here from the program that
//! drops them ([`note`], then a tail call to `tcx_dropped`, `egress_dropped` or `xdp_dropped`).

use core::ptr::NonNull;

use aya_ebpf::{
    EbpfContext,
    bindings::{
        TC_ACT_SHOT,
        tcx_action_base::TCX_NEXT,
        xdp_action::{XDP_DROP, XDP_PASS},
    },
    helpers,
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use portcullis_datapath::telemetry::{Circumstances, Snapshot, wants};
use portcullis_datapath_abi::{
    Counter,
    capture::{ANY_REASON, ANY_ZONE, CaptureHeader, INBOUND, MAX_SNAP, OUTBOUND, ROOM},
    stage,
};

use super::maps::{
    interfaces::zone_of,
    stages,
    telemetry::{CAPTURE, CAPTURED, PACKETS},
};
use super::tcx::ANSWER_WORD;

/// Bytes that the filter may look at, whatever the snap length is.
const HEADERS: u32 = 128;

/// Notes why a packet is about to be dropped, for the capture that follows by tail call.
#[inline(always)]
pub fn note(reason: Counter, from: u8, to: u8) {
    if let Some(captured) = CAPTURED.get_ptr_mut(0) {
        // SAFETY: a per-CPU cell, and programs of this hook do not interrupt each other on a CPU.
        unsafe {
            (*captured).header.reason = reason as u16;
            (*captured).header.from = from;
            (*captured).header.to = to;
        }
    }
}

/// The copied beginning of a packet.
struct Copied {
    bytes: NonNull<u8>,
    length: u32,
}

macro_rules! reads {
    ($($get:ident: $Type:ty;)*) => {
        impl Snapshot for Copied { $(
            #[inline(always)]
            fn $get(&self, offset: usize) -> Option<$Type> {
                let size = size_of::<$Type>();
                if offset > ROOM - size || offset + size > self.length as usize {
                    return None;
                }
                // SAFETY: within the map's value, which is ROOM bytes long.
                Some(unsafe { self.bytes.as_ptr().add(offset).cast::<$Type>().read_volatile() })
            }
        )* }
    };
}
reads! {
    u8: u8;
    u16: u16;
    u32: u32;
}

/// How the hook's context lends its bytes.
trait Source {
    /// Index of the interface.
    fn interface(&self) -> u32;
    /// Bytes of the frame.
    fn length(&self) -> u32;
    /// Copies the first `length` bytes to `to`.
    ///
    /// # Safety
    /// There is room for them.
    unsafe fn copy(&self, to: *mut u8, length: u32) -> bool;
}

impl Source for TcContext {
    #[inline(always)]
    fn interface(&self) -> u32 {
        // SAFETY: the kernel passes a valid context.
        unsafe { (*self.skb.skb).ifindex }
    }

    #[inline(always)]
    fn length(&self) -> u32 {
        self.len()
    }

    #[inline(always)]
    unsafe fn copy(&self, to: *mut u8, length: u32) -> bool {
        // SAFETY: the caller's promise.
        unsafe { helpers::bpf_skb_load_bytes(self.as_ptr().cast(), 0, to.cast(), length) == 0 }
    }
}

impl Source for XdpContext {
    #[inline(always)]
    fn interface(&self) -> u32 {
        // SAFETY: the kernel passes a valid context.
        unsafe { (*self.ctx).ingress_ifindex }
    }

    #[inline(always)]
    fn length(&self) -> u32 {
        // SAFETY: a helper for this context.
        unsafe { helpers::bpf_xdp_get_buff_len(self.ctx) as u32 }
    }

    #[inline(always)]
    unsafe fn copy(&self, to: *mut u8, length: u32) -> bool {
        // SAFETY: the caller's promise.
        unsafe { helpers::bpf_xdp_load_bytes(self.ctx, 0, to.cast(), length) == 0 }
    }
}

/// The same number where it is below [`ROOM`]. The compiler must not know that it is, or it would
/// leave the mask out, which is what the verifier understands.
#[inline(always)]
fn bounded(length: u32) -> u32 {
    core::hint::black_box(length) & (ROOM as u32 - 1)
}

/// Copies a packet into the ring if the filter wants it. `noted`: the header says why it is dropped.
#[inline(always)]
fn capture<S: Source>(source: &S, direction: u8, noted: bool) {
    let Some(filter) = CAPTURE.get(0) else {
        return;
    };
    let Some(captured) = CAPTURED.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: a per-CPU cell, and programs of this hook do not interrupt each other on a CPU.
    let header = unsafe { &mut (*captured).header };
    if !noted {
        header.reason = ANY_REASON;
        header.from = zone_of(source.interface());
        header.to = ANY_ZONE;
    }
    let circumstances = Circumstances { reason: header.reason, from: header.from, to: header.to };
    let length = source.length();
    let snap = filter.snap.clamp(HEADERS, MAX_SNAP);
    let wanted = bounded(length.min(snap));
    if wanted == 0 {
        return;
    }
    // SAFETY: the field is inside the cell.
    let bytes = unsafe { (&raw mut (*captured).bytes).cast::<u8>() };
    // SAFETY: `wanted` is at most the length of the field.
    if !unsafe { source.copy(bytes, wanted) } {
        return;
    }
    let Some(start) = NonNull::new(bytes) else {
        return;
    };
    let copied = Copied { bytes: start, length: wanted };
    // SAFETY: takes nothing, returns a number.
    let random = unsafe { helpers::bpf_get_prandom_u32() };
    if !wants(filter, &copied, &circumstances, random) {
        return;
    }
    let kept = wanted.min(filter.snap);
    // SAFETY: takes nothing, returns a number.
    header.time_ns = unsafe { helpers::bpf_ktime_get_ns() };
    header.interface = source.interface();
    header.length = length;
    header.captured = kept;
    header.direction = direction;
    header.reserved = 0;
    header.reserved2 = 0;
    // SAFETY: as for the header.
    let session = unsafe { &mut (*captured).session };
    if *session != filter.session {
        *session = filter.session;
        header.lost = 0;
    }
    let total = bounded(size_of::<CaptureHeader>() as u32 + kept);
    // SAFETY: header and bytes lie behind each other in the cell.
    let told = unsafe {
        helpers::bpf_ringbuf_output(
            (&raw const PACKETS).cast_mut().cast(),
            captured.cast(),
            u64::from(total),
            0,
        )
    };
    header.lost = if told == 0 { 0 } else { header.lost.saturating_add(1) };
}

/// Frames that arrive, before `tcx_ingress`.
#[classifier]
pub fn tcx_capture_ingress(context: TcContext) -> i32 {
    capture(&context, INBOUND, false);
    TCX_NEXT
}

/// Frames that leave, before `tcx_egress`.
#[classifier]
pub fn tcx_capture_egress(context: TcContext) -> i32 {
    capture(&context, OUTBOUND, false);
    TCX_NEXT
}

/// Frames that arrive, before `xdp_ingress`.
#[xdp]
pub fn xdp_capture(context: XdpContext) -> u32 {
    capture(&context, INBOUND, false);
    stages::xdp(&context, stage::ENTRY);
    // The program is not there: tcx decides.
    XDP_PASS
}

/// Frames that tcx drops as they arrive. Some of them are answered then.
#[classifier]
pub fn tcx_dropped(context: TcContext) -> i32 {
    capture(&context, INBOUND, true);
    // SAFETY: the kernel passes a valid context.
    if unsafe { (*context.skb.skb).cb[ANSWER_WORD] } != 0 {
        stages::tcx(&context, stage::ANSWER);
    }
    TC_ACT_SHOT
}

/// Frames that are dropped as they leave.
#[classifier]
pub fn egress_dropped(context: TcContext) -> i32 {
    capture(&context, OUTBOUND, true);
    TC_ACT_SHOT
}

/// Frames that are dropped in XDP.
#[xdp]
pub fn xdp_dropped(context: XdpContext) -> u32 {
    capture(&context, INBOUND, true);
    XDP_DROP
}

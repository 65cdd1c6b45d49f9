//! tcx egress: what the router itself sends, and what the kernel must not forward.

use aya_ebpf::{
    EbpfContext,
    bindings::{TC_ACT_SHOT, tcx_action_base::TCX_NEXT},
    macros::classifier,
    programs::TcContext,
};
use portcullis_datapath::{
    Departure, Drop, Hook, L3, L4_V6, Tables, Verdict, create4, create6, depart, egress, rewrite,
    telemetry,
};
use portcullis_datapath_abi::{
    Counter, FORWARD_MARK,
    policy::{CAPTURE, ROUTER},
    stage,
};

use super::{
    capture::note,
    maps::{Maps, count, interfaces::zone_of, stages},
    skb::Buffer,
};

/// Bytes of a frame that are looked at.
const HEADERS: u32 = (L4_V6 + 20) as u32;

#[inline(always)]
fn departure(context: &TcContext) -> Departure {
    // SAFETY: the kernel passes a valid context.
    let skb = unsafe { &*context.skb.skb };
    Departure {
        interface: skb.ifindex,
        forwarded: skb.ingress_ifindex != 0,
        length: skb.len - L3 as u32,
        segments: if skb.gso_segs > 1 { skb.gso_segs } else { 1 },
    }
}

/// Frames that leave.
#[classifier]
pub fn tcx_egress(context: TcContext) -> i32 {
    // SAFETY: the kernel passes a valid context.
    let skb = unsafe { &*context.skb.skb };
    if skb.ingress_ifindex != 0 && skb.mark == FORWARD_MARK {
        return TCX_NEXT;
    }
    let departure = departure(&context);
    let maps = Maps::new(context.as_ptr());
    let mut frame = Buffer::new(&context, HEADERS);
    let verdict = egress(&maps, &frame, &departure);
    carry_out(&context, &maps, &mut frame, &departure, verdict)
}

/// First packets of the router.
#[classifier]
pub fn tcx_depart(context: TcContext) -> i32 {
    let departure = departure(&context);
    let maps = Maps::new(context.as_ptr());
    let mut frame = Buffer::new(&context, HEADERS);
    let verdict = depart(&maps, &frame, &departure);
    carry_out(&context, &maps, &mut frame, &departure, verdict)
}

macro_rules! continued {
    ($($(#[$doc:meta])* $program:ident: $decide:expr;)*) => { $(
        $(#[$doc])*
        #[classifier]
        pub fn $program(context: TcContext) -> i32 {
            let departure = departure(&context);
            let maps = Maps::new(context.as_ptr());
            match ($decide)(&maps) {
                Verdict::Next(stage) => {
                    stages::egress(&context, stage as u32);
                    missing(&context, &maps, &departure);
                }
                Verdict::Drop(drop) => dropped(&context, &maps, &departure, drop),
                _ => {}
            }
            TC_ACT_SHOT
        }
    )* };
}
continued! {
    /// Making an IPv4 flow of the router.
    egress_create4: |maps| create4(maps, Hook::Tcx);
    /// Making an IPv6 flow of the router.
    egress_create6: create6;
}

#[inline(always)]
fn carry_out(
    context: &TcContext,
    maps: &Maps,
    frame: &mut Buffer<'_>,
    departure: &Departure,
    verdict: Verdict<'_>,
) -> i32 {
    let (counter, action) = match verdict {
        Verdict::Kernel(counter) => (counter, TCX_NEXT),
        Verdict::Translate(counter, edit) => match rewrite::rewrite(frame, &edit, false) {
            Some(()) => (counter, TCX_NEXT),
            None => return TC_ACT_SHOT,
        },
        Verdict::Next(stage) => {
            stages::egress(context, stage as u32);
            missing(context, maps, departure);
            return TC_ACT_SHOT;
        }
        Verdict::Drop(drop) => {
            dropped(context, maps, departure, drop);
            return TC_ACT_SHOT;
        }
        _ => (Counter::DropStage, TC_ACT_SHOT),
    };
    count(counter, departure.segments, departure.length);
    action
}

/// Drops a packet that went on to a stage which is not there: only until all are loaded.
#[inline(always)]
fn missing(context: &TcContext, maps: &Maps, departure: &Departure) {
    let drop = Drop::between(Counter::DropStage, ROUTER, zone_of(departure.interface));
    dropped(context, maps, departure, drop);
}

#[inline(always)]
fn dropped(context: &TcContext, maps: &Maps, departure: &Departure, drop: Drop) {
    count(drop.counter, departure.segments, departure.length);
    let zones = (drop.from, drop.to);
    telemetry::dropped(maps, drop.counter, zones, departure.segments, departure.length);
    if maps.config().is_some_and(|config| config.flags & CAPTURE != 0) {
        note(drop.counter, drop.from, drop.to);
        stages::egress(context, stage::DROPPED);
    }
}

//! Asking sources under attack to prove that they exist, at either hook.

use aya_ebpf::{
    EbpfContext,
    bindings::{TC_ACT_SHOT, xdp_action},
    helpers::bpf_redirect,
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use portcullis_datapath::{
    Arrival, Drop, L4_V6,
    guard::{challenge, write_challenge},
    telemetry,
};
use portcullis_datapath_abi::{Counter, FORWARD_MARK};

use super::{
    maps::{Maps, count, interfaces::zone_of},
    skb, tcx, xdp as device,
};

/// Bytes that are looked at and changed directly: up to the first option of TCP over IPv6.
const HEADERS: u32 = (L4_V6 + 22) as u32;

/// A source that must prove that it exists, or a proof.
#[classifier]
pub fn tcx_challenge(context: TcContext) -> i32 {
    let arrival = tcx::arrival(&context);
    let maps = Maps::new(context.as_ptr());
    let mut frame = skb::Buffer::new(&context, HEADERS);
    match challenge(&maps, &frame, &arrival) {
        Ok(question) => {
            if write_challenge(&mut frame, &question).is_none() {
                return TC_ACT_SHOT;
            }
            unproven(&maps, &arrival);
            context.set_mark(FORWARD_MARK);
            // SAFETY: takes numbers only.
            unsafe { bpf_redirect(arrival.interface, 0) as i32 }
        }
        Err(drop) => {
            tcx::dropped(&context, &maps, &arrival, drop);
            TC_ACT_SHOT
        }
    }
}

#[inline(always)]
fn unproven(maps: &Maps, arrival: &Arrival) {
    count(Counter::DropUnproven, 1, arrival.length);
    let zones = (zone_of(arrival.interface), Drop::UNKNOWN);
    telemetry::dropped(maps, Counter::DropUnproven, zones, 1, arrival.length);
}

/// The same.
#[xdp]
pub fn xdp_challenge(context: XdpContext) -> u32 {
    let mut frame = device::Buffer::new(&context);
    let arrival = device::arrival(&context, device::length(&context));
    let maps = Maps::new(context.as_ptr());
    match challenge(&maps, &frame, &arrival) {
        Ok(question) => {
            if write_challenge(&mut frame, &question).is_none() {
                return xdp_action::XDP_DROP;
            }
            unproven(&maps, &arrival);
            xdp_action::XDP_TX
        }
        Err(drop) => {
            device::dropped(&context, &maps, arrival.length, drop);
            xdp_action::XDP_DROP
        }
    }
}

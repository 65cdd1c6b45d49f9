//! XDP: devices that can both receive and send in it. It carries what it can decide alone; what
//! needs the kernel (its stack, a neighbour to resolve) passes unmodified to the tcx hook of the
//! same device, which decides again.

use aya_ebpf::{
    EbpfContext,
    bindings::xdp_action,
    helpers::{bpf_redirect, bpf_xdp_get_buff_len, bpf_xdp_load_bytes, bpf_xdp_store_bytes},
    macros::xdp,
    programs::XdpContext,
};
use portcullis_datapath::{
    Arrival, Cast, Drop, Edit, Frame, FrameMut, Hook, L3, Tables, Verdict, apply, apply_udp,
    create4, create6, flow4, flow6, ingress, open4, open6, rewrite, rule, telemetry,
};
use portcullis_datapath_abi::{policy::CAPTURE, stage};

use super::{
    capture::note,
    direct_access,
    maps::{Maps, count, stages},
};

/// A frame as the driver received it.
pub(super) struct Buffer<'a> {
    context: &'a XdpContext,
    data: usize,
    end: usize,
}

impl<'a> Buffer<'a> {
    #[inline(always)]
    pub(super) fn new(context: &'a XdpContext) -> Self {
        Self { context, data: context.data(), end: context.data_end() }
    }

    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        // SAFETY: a helper for this context; the bytes are on this stack.
        let result = unsafe {
            bpf_xdp_load_bytes(self.context.ctx, offset, bytes.as_mut_ptr().cast(), N as u32)
        };
        (result == 0).then_some(bytes)
    }

    #[inline(always)]
    fn store<const N: usize>(&mut self, offset: u32, bytes: &[u8; N]) -> Option<()> {
        // SAFETY: as above; the bytes are only read.
        let result = unsafe {
            bpf_xdp_store_bytes(
                self.context.ctx,
                offset,
                bytes.as_ptr().cast_mut().cast(),
                N as u32,
            )
        };
        self.data = self.context.data();
        self.end = self.context.data_end();
        (result == 0).then_some(())
    }

    #[inline(always)]
    fn update_checksum(
        &mut self,
        offset: usize,
        _address_delta: u16,
        transport_delta: u16,
        udp: bool,
    ) -> Option<()> {
        let old = self.u16(offset)?;
        if udp && old == 0 {
            return Some(());
        }
        let new = if udp { apply_udp(old, transport_delta) } else { apply(old, transport_delta) };
        self.set_u16(offset, new)
    }
}

direct_access! {
    Buffer<'_>,
    u8, set_u8: u8;
    u16, set_u16: u16;
    u32, set_u32: u32;
}

/// Bytes behind the Ethernet header. The difference of the packet's ends would do, but not if the
/// compiler puts it by in the meantime.
#[inline(always)]
pub(super) fn length(context: &XdpContext) -> u32 {
    // SAFETY: a helper for this context.
    unsafe { bpf_xdp_get_buff_len(context.ctx) as u32 - L3 as u32 }
}

/// The same without a call.
#[inline(always)]
fn difference(context: &XdpContext) -> u32 {
    (context.data_end() - context.data()) as u32 - L3 as u32
}

#[inline(always)]
pub(super) fn arrival(context: &XdpContext, length: u32) -> Arrival {
    Arrival {
        // SAFETY: the kernel passes a valid context.
        interface: unsafe { (*context.ctx).ingress_ifindex },
        cast: Cast::Host,
        hook: Hook::Xdp,
        length,
        segments: 1,
        segment_size: 0,
        ends: None,
    }
}

macro_rules! programs {
    ($($(#[$doc:meta])* $program:ident: $decide:expr, $length:expr;)*) => { $(
        $(#[$doc])*
        #[xdp]
        pub fn $program(context: XdpContext) -> u32 {
            let mut frame = Buffer::new(&context);
            let arrival = arrival(&context, $length(&context));
            let maps = Maps::new(context.as_ptr());
            let verdict = $decide(&maps, &frame, &arrival);
            carry_out(&context, &maps, &mut frame, &arrival, verdict)
        }
    )* };
}
programs! {
    /// Frames that arrive.
    xdp_ingress: ingress, difference;
    /// More about IPv4 packets of known flows.
    xdp_flow4: flow4, length;
    /// More about IPv6 packets of known flows.
    xdp_flow6: flow6, length;
    /// IPv4 packets of no known flow.
    xdp_open4: open4, length;
    /// IPv6 packets of no known flow.
    xdp_open6: open6, length;
}

macro_rules! continued {
    ($($(#[$doc:meta])* $program:ident: $decide:expr;)*) => { $(
        $(#[$doc])*
        #[xdp]
        pub fn $program(context: XdpContext) -> u32 {
            let maps = Maps::new(context.as_ptr());
            let verdict = ($decide)(&maps);
            conclude(&context, &maps, verdict)
        }
    )* };
}
continued! {
    /// The policy.
    xdp_rule: |maps| rule(maps, Hook::Xdp);
    /// Making an IPv6 flow.
    xdp_create6: create6;
}

/// Making an IPv4 flow; a UDP datagram leaves at once.
#[xdp]
pub fn xdp_create4(context: XdpContext) -> u32 {
    let maps = Maps::new(context.as_ptr());
    match create4(&maps, Hook::Xdp) {
        Verdict::Forward(counter, edit, hop) => {
            let mut frame = Buffer::new(&context);
            if rewrite::plain(&mut frame, &edit).is_none() {
                return xdp_action::XDP_DROP;
            }
            count(counter, 1, length(&context));
            // SAFETY: takes numbers only.
            unsafe { bpf_redirect(hop.egress, 0) as u32 }
        }
        other => conclude(&context, &maps, other),
    }
}

/// Carries out what does not touch the packet. What is left is for tcx.
#[inline(always)]
fn conclude(context: &XdpContext, maps: &Maps, verdict: Verdict<'_>) -> u32 {
    match verdict {
        Verdict::Next(stage) => {
            stages::xdp(context, stage as u32);
            xdp_action::XDP_PASS
        }
        Verdict::Drop(drop) => {
            dropped(context, maps, length(context), drop);
            xdp_action::XDP_DROP
        }
        _ => xdp_action::XDP_PASS,
    }
}

#[inline(always)]
fn carry_out(
    context: &XdpContext,
    maps: &Maps,
    frame: &mut Buffer<'_>,
    arrival: &Arrival,
    verdict: Verdict<'_>,
) -> u32 {
    match verdict {
        Verdict::Forward(counter, edit, hop) => {
            let done =
                if edit.plain { rewrite::plain(frame, &edit) } else { forward(frame, &edit) };
            if done.is_none() {
                return xdp_action::XDP_DROP;
            }
            count(counter, 1, arrival.length);
            // SAFETY: takes numbers only.
            unsafe { bpf_redirect(hop.egress, 0) as u32 }
        }
        Verdict::Next(stage) | Verdict::Located(stage, _) => {
            stages::xdp(context, stage as u32);
            xdp_action::XDP_PASS
        }
        Verdict::Drop(drop) => {
            dropped(context, maps, arrival.length, drop);
            xdp_action::XDP_DROP
        }
        Verdict::Kernel(_)
        | Verdict::Translate(..)
        | Verdict::Answer(_)
        | Verdict::Hold(_)
        | Verdict::Cut(_)
        | Verdict::Defer => xdp_action::XDP_PASS,
    }
}

#[inline(always)]
pub(super) fn dropped(context: &XdpContext, maps: &Maps, length: u32, drop: Drop) {
    count(drop.counter, 1, length);
    telemetry::dropped(maps, drop.counter, (drop.from, drop.to), 1, length);
    if maps.config().is_some_and(|config| config.flags & CAPTURE != 0) {
        note(drop.counter, drop.from, drop.to);
        stages::xdp(context, stage::DROPPED);
    }
}

#[inline(always)]
fn forward(frame: &mut Buffer<'_>, edit: &Edit<'_>) -> Option<()> {
    rewrite::ethernet(frame, edit.flow.macs())?;
    rewrite::rewrite(frame, edit, true)
}

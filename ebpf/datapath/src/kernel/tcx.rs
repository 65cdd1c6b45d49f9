//! tcx ingress: any device that the kernel has.

use aya_ebpf::{
    EbpfContext,
    bindings::{TC_ACT_SHOT, bpf_redir_neigh, tcx_action_base::TCX_NEXT},
    helpers::{bpf_redirect, bpf_redirect_neigh, bpf_skb_vlan_pop},
    macros::classifier,
    programs::TcContext,
};
use portcullis_datapath::{
    Arrival, Cast, Drop, Edit, Hook, Hop, L3, L4_V6, Stage, Tables, Verdict,
    answer::{Order, prepare},
    create4, create6,
    cut::{self, Cut},
    flow4, flow6, fragment4, fragment6,
    fragments::Ends,
    hold::Held,
    icmp_error, ingress, open4, open6, refresh4, refresh6, rewrite, rule, telemetry,
};
use portcullis_datapath_abi::{Counter, FORWARD_MARK, policy::CAPTURE, stage};

use super::{
    answer,
    capture::note,
    cut as parts, fragment as held,
    maps::{Maps, count, interfaces::zone_of, stages},
    skb::Buffer,
};

/// Bytes of a frame that the entry looks at: up to the options of TCP over IPv6.
const ENTRY: u32 = (L4_V6 + 20) as u32;
/// Bytes that stages look at and change directly: up to the checksum of a TCP header quoted in an
/// ICMP error, over IPv4.
const STAGE: u32 = (L3 + 20 + 8 + 20 + 18) as u32;

/// `skb->pkt_type`
const PACKET_HOST: u32 = 0;
const PACKET_OTHERHOST: u32 = 3;

const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;

const ETH_P_8021Q: u32 = 0x8100_u16.to_be() as u32;
const ETH_P_8021AD: u32 = 0x88a8_u16.to_be() as u32;

/// Where the word of an answer stands between stages, in `skb->cb`; 0 if there is to be none.
pub(super) const ANSWER_WORD: usize = 0;
/// Where the ports of a fragment stand.
const PORTS: usize = 1;
/// Where its protocol stands, with [`LOCATED`] if they are known.
const PROTOCOL: usize = 2;
const LOCATED: u32 = 1 << 8;

#[inline(always)]
pub(super) fn arrival(context: &TcContext) -> Arrival {
    // SAFETY: the kernel passes a valid context.
    let skb = unsafe { &*context.skb.skb };
    Arrival {
        interface: skb.ifindex,
        cast: if skb.pkt_type == PACKET_HOST { Cast::Host } else { Cast::Group },
        hook: Hook::Tcx,
        length: skb.len - L3 as u32,
        segments: if skb.gso_segs > 1 { skb.gso_segs } else { 1 },
        segment_size: skb.gso_size,
        ends: None,
    }
}

/// What the stage of fragments has found.
#[inline(always)]
fn ends(context: &TcContext) -> Option<Ends> {
    // SAFETY: the kernel passes a valid context. Volatile, so that both are read in any case: the
    // verifier finds what is set on one branch only.
    let (ports, protocol) = unsafe {
        let skb = context.skb.skb;
        (
            (&raw const (*skb).cb[PORTS]).read_volatile(),
            (&raw const (*skb).cb[PROTOCOL]).read_volatile(),
        )
    };
    let ends = Ends {
        source_port: ports as u16,
        destination_port: (ports >> 16) as u16,
        protocol: protocol as u8,
    };
    (protocol & LOCATED != 0).then_some(ends)
}

/// Goes on with another stage.
#[inline(always)]
fn next(context: &TcContext, stage: Stage, ends: Option<Ends>) -> i32 {
    let (ports, protocol) = match ends {
        Some(ends) => (
            u32::from(ends.source_port) | u32::from(ends.destination_port) << 16,
            u32::from(ends.protocol) | LOCATED,
        ),
        None => (0, 0),
    };
    // SAFETY: the kernel passes a valid context, whose control block is ours here.
    unsafe {
        (*context.skb.skb).cb[PORTS] = ports;
        (*context.skb.skb).cb[PROTOCOL] = protocol;
    }
    stages::tcx(context, stage as u32);
    // Only if the programs are being exchanged, or call each other without end.
    lost(context, Counter::DropStage)
}

/// Drops a packet of which nothing is known but where it came in.
#[inline(always)]
fn lost(context: &TcContext, reason: Counter) -> i32 {
    let arrival = arrival(context);
    let drop = Drop::from(reason, zone_of(arrival.interface));
    dropped(context, &Maps::new(context.as_ptr()), &arrival, drop);
    TC_ACT_SHOT
}

/// Frames that arrive.
#[classifier]
pub fn tcx_ingress(context: TcContext) -> i32 {
    // SAFETY: the kernel passes a valid context.
    let skb = unsafe { &*context.skb.skb };
    // Somebody else's frame, seen because the device is promiscuous: the kernel ignores it too.
    if skb.pkt_type == PACKET_OTHERHOST {
        return TCX_NEXT;
    }
    if skb.vlan_present != 0 {
        // A tag names another device, which has a hook of its own. A priority tag names none: the
        // kernel strips it, and a second one behind it, and would so pass the packet by this hook.
        if skb.vlan_tci & 0x0fff != 0 {
            return TCX_NEXT;
        }
        if skb.protocol == ETH_P_8021Q || skb.protocol == ETH_P_8021AD {
            return lost(&context, Counter::DropVlan);
        }
        // SAFETY: a helper for this context.
        if unsafe { bpf_skb_vlan_pop(context.skb.skb) } != 0 {
            return lost(&context, Counter::DropVlan);
        }
    }
    let arrival = arrival(&context);
    let maps = Maps::new(context.as_ptr());
    let mut frame = Buffer::new(&context, ENTRY);
    let verdict = ingress(&maps, &frame, &arrival);
    carry_out(&context, &maps, &mut frame, &arrival, verdict)
}

macro_rules! stages {
    ($($(#[$doc:meta])* $program:ident: $decide:expr;)*) => { $(
        $(#[$doc])*
        #[classifier]
        pub fn $program(context: TcContext) -> i32 {
            let arrival = Arrival { ends: ends(&context), ..arrival(&context) };
            let maps = Maps::new(context.as_ptr());
            let mut frame = Buffer::new(&context, STAGE);
            let verdict = $decide(&maps, &frame, &arrival);
            carry_out(&context, &maps, &mut frame, &arrival, verdict)
        }
    )* };
}
stages! {
    /// More about IPv4 packets of known flows.
    tcx_flow4: flow4;
    /// More about IPv6 packets of known flows.
    tcx_flow6: flow6;
    /// IPv4 packets of known flows whose next hop must be looked up.
    tcx_refresh4: refresh4;
    /// IPv6 packets of known flows whose next hop must be looked up.
    tcx_refresh6: refresh6;
    /// IPv4 packets of no known flow.
    tcx_open4: open4;
    /// IPv6 packets of no known flow.
    tcx_open6: open6;
    /// ICMP errors.
    tcx_icmp_error: icmp_error;
}

macro_rules! fragments {
    ($($(#[$doc:meta])* $program:ident: $decide:expr;)*) => { $(
        $(#[$doc])*
        #[classifier]
        pub fn $program(context: TcContext) -> i32 {
            let arrival = arrival(&context);
            let maps = Maps::new(context.as_ptr());
            let frame = Buffer::new(&context, STAGE);
            let mut frames = Held::default();
            match $decide(&maps, &frame, &arrival, &mut frames) {
                Verdict::Located(stage, ends) => {
                    if frames.columns != 0 {
                        if !held::release(context.skb.skb, frames) {
                            return lost(&context, Counter::DropFragment);
                        }
                        count(Counter::FragmentReleased, 1, arrival.length);
                    }
                    next(&context, stage, Some(ends))
                }
                Verdict::Hold(slot) => {
                    held::hold(context.skb.skb, slot);
                    count(Counter::FragmentHeld, 1, arrival.length);
                    TC_ACT_SHOT
                }
                other => conclude(&context, &maps, &arrival, other),
            }
        }
    )* };
}
fragments! {
    /// IPv4 fragments.
    tcx_fragment4: fragment4;
    /// IPv6 fragments.
    tcx_fragment6: fragment6;
}

macro_rules! continued {
    ($($(#[$doc:meta])* $program:ident: $decide:expr;)*) => { $(
        $(#[$doc])*
        #[classifier]
        pub fn $program(context: TcContext) -> i32 {
            let arrival = arrival(&context);
            let maps = Maps::new(context.as_ptr());
            let verdict = ($decide)(&maps);
            conclude(&context, &maps, &arrival, verdict)
        }
    )* };
}
continued! {
    /// The policy.
    tcx_rule: |maps| rule(maps, Hook::Tcx);
    /// Making an IPv6 flow.
    tcx_create6: create6;
}

/// Making an IPv4 flow; a UDP datagram leaves at once.
#[classifier]
pub fn tcx_create4(context: TcContext) -> i32 {
    let arrival = arrival(&context);
    let maps = Maps::new(context.as_ptr());
    match create4(&maps, Hook::Tcx) {
        Verdict::Forward(counter, edit, hop) => {
            let mut frame = Buffer::new(&context, ENTRY);
            if rewrite::plain(&mut frame, &edit).is_none() {
                return TC_ACT_SHOT;
            }
            context.set_mark(FORWARD_MARK);
            count(counter, arrival.segments, arrival.length);
            // SAFETY: takes numbers only.
            unsafe { bpf_redirect(hop.egress, 0) as i32 }
        }
        other => conclude(&context, &maps, &arrival, other),
    }
}

/// Answers of the router.
#[classifier]
pub fn tcx_answer(context: TcContext) -> i32 {
    let arrival = arrival(&context);
    let maps = Maps::new(context.as_ptr());
    let frame = Buffer::new(&context, STAGE);
    // SAFETY: the kernel passes a valid context.
    let word = unsafe { (*context.skb.skb).cb[ANSWER_WORD] };
    let mut order = Order::default();
    if !prepare(&maps, &frame, &arrival, word, &mut order) {
        return TC_ACT_SHOT;
    }
    match answer::answer(context.skb.skb, &order) {
        Some(action) => {
            count(Counter::RouterAnswers, 1, 0);
            action
        }
        None => TC_ACT_SHOT,
    }
}

/// Datagrams that are larger than the next link.
#[classifier]
pub fn tcx_cut(context: TcContext) -> i32 {
    let arrival = arrival(&context);
    let frame = Buffer::new(&context, STAGE);
    // SAFETY: the kernel passes a valid context.
    let mtu = unsafe { (*context.skb.skb).cb[ANSWER_WORD] } as u16;
    let mut plan = Cut::default();
    if cut::plan(&frame, arrival.length, mtu, &mut plan) && parts::cut(context.skb.skb, &plan) {
        count(Counter::FragmentCut, 1, arrival.length);
        return TC_ACT_SHOT;
    }
    lost(&context, Counter::DropTooBig)
}

#[inline(always)]
fn carry_out(
    context: &TcContext,
    maps: &Maps,
    frame: &mut Buffer<'_>,
    arrival: &Arrival,
    verdict: Verdict<'_>,
) -> i32 {
    let (counter, action) = match verdict {
        Verdict::Forward(counter, edit, hop) => {
            let done = if edit.plain {
                rewrite::plain(frame, &edit)
            } else {
                forward(frame, &edit, hop.cached)
            };
            if done.is_none() {
                return TC_ACT_SHOT;
            }
            context.set_mark(FORWARD_MARK);
            (counter, send(&hop, edit.ipv6))
        }
        Verdict::Next(stage) => return next(context, stage, None),
        Verdict::Located(stage, ends) => return next(context, stage, Some(ends)),
        Verdict::Translate(counter, edit) => match rewrite::rewrite(frame, &edit, false) {
            Some(()) => (counter, TCX_NEXT),
            None => return TC_ACT_SHOT,
        },
        other => return conclude(context, maps, arrival, other),
    };
    count(counter, arrival.segments, arrival.length);
    action
}

/// Carries out what does not touch the packet.
#[inline(always)]
fn conclude(context: &TcContext, maps: &Maps, arrival: &Arrival, verdict: Verdict<'_>) -> i32 {
    match verdict {
        Verdict::Next(stage) => {
            stages::tcx(context, stage as u32);
            // Only if the programs are being exchanged, or call each other without end.
            lost(context, Counter::DropStage)
        }
        Verdict::Kernel(counter) => {
            count(counter, arrival.segments, arrival.length);
            TCX_NEXT
        }
        Verdict::Drop(drop) => {
            dropped(context, maps, arrival, drop);
            TC_ACT_SHOT
        }
        Verdict::Cut(mtu) => {
            // SAFETY: the kernel passes a valid context, whose control block is ours here.
            unsafe { (*context.skb.skb).cb[ANSWER_WORD] = u32::from(mtu) };
            stages::tcx(context, stage::CUT);
            // Only if it is not loaded yet.
            lost(context, Counter::DropStage)
        }
        Verdict::Answer(answer) => {
            count_drop(maps, arrival, answer.drop);
            if is_captured(maps) {
                // Goes on to the answer.
                show(context, answer.drop, answer.word());
            }
            // SAFETY: the kernel passes a valid context, whose control block is ours here.
            unsafe { (*context.skb.skb).cb[ANSWER_WORD] = answer.word() };
            stages::tcx(context, stage::ANSWER);
            TC_ACT_SHOT
        }
        _ => TC_ACT_SHOT,
    }
}

#[inline(always)]
fn forward(frame: &mut Buffer<'_>, edit: &Edit<'_>, cached: bool) -> Option<()> {
    if cached {
        rewrite::ethernet(frame, edit.flow.macs())?;
    }
    rewrite::rewrite(frame, edit, true)
}

#[inline(always)]
fn count_drop(maps: &Maps, arrival: &Arrival, drop: Drop) {
    count(drop.counter, arrival.segments, arrival.length);
    let zones = (drop.from, drop.to);
    telemetry::dropped(maps, drop.counter, zones, arrival.segments, arrival.length);
}

#[inline(always)]
pub(super) fn dropped(context: &TcContext, maps: &Maps, arrival: &Arrival, drop: Drop) {
    count_drop(maps, arrival, drop);
    if is_captured(maps) {
        show(context, drop, 0);
    }
}

#[inline(always)]
fn is_captured(maps: &Maps) -> bool {
    maps.config().is_some_and(|config| config.flags & CAPTURE != 0)
}

/// Shows a dropped packet to the capture, which answers it if there is an answer's word.
#[inline(always)]
fn show(context: &TcContext, drop: Drop, answer: u32) {
    note(drop.counter, drop.from, drop.to);
    // SAFETY: the kernel passes a valid context, whose control block is ours here.
    unsafe { (*context.skb.skb).cb[ANSWER_WORD] = answer };
    stages::tcx(context, stage::DROPPED);
}

#[inline(always)]
fn send(hop: &Hop, ipv6: bool) -> i32 {
    if hop.cached {
        // SAFETY: takes numbers only.
        return unsafe { bpf_redirect(hop.egress, 0) } as i32;
    }
    // SAFETY: plain data for which all zeros is valid.
    let mut neighbour: bpf_redir_neigh = unsafe { core::mem::zeroed() };
    if ipv6 {
        neighbour.nh_family = AF_INET6;
        neighbour.__bindgen_anon_1.ipv6_nh = hop.next_hop;
    } else {
        let [.., next_hop] = hop.next_hop;
        neighbour.nh_family = AF_INET;
        neighbour.__bindgen_anon_1.ipv4_nh = next_hop;
    }
    let size = size_of::<bpf_redir_neigh>() as i32;
    // SAFETY: the parameters live on this stack through the call.
    unsafe { bpf_redirect_neigh(hop.egress, &raw mut neighbour, size, 0) as i32 }
}

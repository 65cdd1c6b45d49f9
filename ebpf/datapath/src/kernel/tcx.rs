//! tcx: any device that the kernel has.

use aya_ebpf::{
    EbpfContext,
    bindings::{
        BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, TC_ACT_SHOT, bpf_redir_neigh,
        tcx_action_base::TCX_NEXT,
    },
    helpers::{bpf_redirect, bpf_redirect_neigh, bpf_skb_vlan_pop},
    macros::classifier,
    programs::TcContext,
};
use portcullis_datapath::{
    Arrival, Cast, Departure, Frame, FrameMut, Hop, L3, Verdict, egress, ingress, rewrite,
};
use portcullis_datapath_abi::{Counter, FORWARD_MARK};

use super::tables::{Maps, count};

/// Bytes of a frame that decisions may look at: up to the checksum of a TCP header quoted in an
/// ICMP error.
const HEADERS: u32 = (L3 + 20 + 8 + 20 + 18) as u32;

/// `skb->pkt_type`
const PACKET_HOST: u32 = 0;
const PACKET_OTHERHOST: u32 = 3;

const AF_INET: u32 = 2;

const ETH_P_8021Q: u32 = 0x8100_u16.to_be() as u32;
const ETH_P_8021AD: u32 = 0x88a8_u16.to_be() as u32;

/// A socket buffer's linear part.
struct Buffer<'a> {
    context: &'a TcContext,
    data: usize,
    end: usize,
}

impl<'a> Buffer<'a> {
    #[inline(always)]
    fn new(context: &'a TcContext) -> Self {
        let wanted = if context.len() < HEADERS { context.len() } else { HEADERS };
        if context.data() + wanted as usize > context.data_end() {
            // On failure the core finds the frame short.
            let _ = context.pull_data(wanted);
        }
        Self { context, data: context.data(), end: context.data_end() }
    }
}

/// Reads and writes with bounds checks that the verifier understands.
macro_rules! direct_access {
    ($($(#[$meta:meta])* $get:ident, $set:ident: $Type:ty;)*) => {
        impl Frame for Buffer<'_> { $(
            #[inline(always)]
            fn $get(&self, offset: usize) -> Option<$Type> {
                if self.data + offset + size_of::<$Type>() > self.end {
                    return None;
                }
                // SAFETY: inside the packet, by the check that the verifier repeats. Alignment is no
                // concern of this machine's packet memory, while `read_unaligned` would become
                // loads of single bytes; the volatile access keeps the compiler from drawing
                // conclusions from the address.
                Some(unsafe { ((self.data + offset) as *const $Type).read_volatile() })
            }
        )* }
        impl FrameMut for Buffer<'_> {
            $(
                #[inline(always)]
                fn $set(&mut self, offset: usize, value: $Type) -> Option<()> {
                    if self.data + offset + size_of::<$Type>() > self.end {
                        return None;
                    }
                    // SAFETY: as above.
                    unsafe { ((self.data + offset) as *mut $Type).write_volatile(value) };
                    Some(())
                }
            )*

            /// By the kernel's helper, which knows whether the field holds a whole checksum or
            /// only that of the pseudo-header. It moves the packet: nothing may be read after it.
            #[inline(always)]
            fn update_transport_checksum(
                &mut self,
                offset: usize,
                address_delta: u16,
                port_delta: u16,
                udp: bool,
            ) -> Option<()> {
                let zero = if udp { u64::from(BPF_F_MARK_MANGLED_0) } else { 0 };
                if port_delta != 0 && port_delta != 0xffff {
                    self.context.l4_csum_replace(offset, 0, u64::from(port_delta), zero).ok()?;
                }
                let pseudo = zero | u64::from(BPF_F_PSEUDO_HDR);
                self.context.l4_csum_replace(offset, 0, u64::from(address_delta), pseudo).ok()
            }
        }
    };
}
direct_access! {
    u8, set_u8: u8;
    u16, set_u16: u16;
    u32, set_u32: u32;
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
            count(Counter::DropVlan, 1, 0);
            return TC_ACT_SHOT;
        }
        // SAFETY: a helper for this context.
        if unsafe { bpf_skb_vlan_pop(context.skb.skb) } != 0 {
            count(Counter::DropVlan, 1, 0);
            return TC_ACT_SHOT;
        }
    }
    let arrival = Arrival {
        interface: skb.ifindex,
        cast: if skb.pkt_type == PACKET_HOST { Cast::Host } else { Cast::Group },
        length: skb.len - L3 as u32,
        segments: if skb.gso_segs > 1 { skb.gso_segs } else { 1 },
        segment_size: skb.gso_size,
    };
    let maps = Maps::new(context.as_ptr());
    let mut frame = Buffer::new(&context);
    let verdict = ingress(&maps, &frame, &arrival);
    let (counter, action) = match verdict {
        Verdict::Kernel(counter) => (counter, TCX_NEXT),
        Verdict::Drop(counter) => (counter, TC_ACT_SHOT),
        Verdict::Translate(counter, edit) => match rewrite::rewrite(&mut frame, &edit, false) {
            Some(()) => (counter, TCX_NEXT),
            None => (Counter::DropMalformed, TC_ACT_SHOT),
        },
        Verdict::Forward(counter, edit, hop) => {
            if hop.next_hop == 0 && rewrite::ethernet(&mut frame, edit.flow.macs()).is_none() {
                return TC_ACT_SHOT;
            }
            match rewrite::rewrite(&mut frame, &edit, true) {
                Some(()) => {
                    context.set_mark(FORWARD_MARK);
                    (counter, send(&hop))
                }
                None => (Counter::DropMalformed, TC_ACT_SHOT),
            }
        }
    };
    count(counter, arrival.segments, arrival.length);
    action
}

#[inline(always)]
fn send(hop: &Hop) -> i32 {
    if hop.next_hop == 0 {
        // SAFETY: takes numbers only.
        return unsafe { bpf_redirect(hop.egress, 0) } as i32;
    }
    // SAFETY: plain data for which all zeros is valid.
    let mut neighbour: bpf_redir_neigh = unsafe { core::mem::zeroed() };
    neighbour.nh_family = AF_INET;
    neighbour.__bindgen_anon_1.ipv4_nh = hop.next_hop;
    let size = size_of::<bpf_redir_neigh>() as i32;
    // SAFETY: the parameters live on this stack through the call.
    unsafe { bpf_redirect_neigh(hop.egress, &raw mut neighbour, size, 0) as i32 }
}

/// Frames that leave.
#[classifier]
pub fn tcx_egress(context: TcContext) -> i32 {
    // SAFETY: the kernel passes a valid context.
    let skb = unsafe { &*context.skb.skb };
    let forwarded = skb.ingress_ifindex != 0;
    if forwarded && skb.mark == FORWARD_MARK {
        return TCX_NEXT;
    }
    let departure = Departure {
        interface: skb.ifindex,
        forwarded,
        length: skb.len - L3 as u32,
        segments: if skb.gso_segs > 1 { skb.gso_segs } else { 1 },
    };
    let maps = Maps::new(context.as_ptr());
    let mut frame = Buffer::new(&context);
    let (counter, action) = match egress(&maps, &frame, &departure) {
        Verdict::Kernel(counter) => (counter, TCX_NEXT),
        Verdict::Translate(counter, edit)
            if rewrite::rewrite(&mut frame, &edit, false).is_some() =>
        {
            (counter, TCX_NEXT)
        }
        Verdict::Drop(counter) => (counter, TC_ACT_SHOT),
        Verdict::Translate(..) | Verdict::Forward(..) => (Counter::DropMalformed, TC_ACT_SHOT),
    };
    count(counter, departure.segments, departure.length);
    action
}

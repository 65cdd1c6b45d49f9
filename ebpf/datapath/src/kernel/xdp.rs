//! XDP: devices that can both receive and send in it. It carries what it can decide alone; what
//! needs the kernel (its stack, a neighbour to resolve) passes unmodified to the tcx hook of the
//! same device, which decides again.

use aya_ebpf::{
    EbpfContext, bindings::xdp_action, helpers::bpf_redirect, macros::xdp, programs::XdpContext,
};
use portcullis_datapath::{Arrival, Cast, Frame, FrameMut, L3, Tables, Verdict, ingress, rewrite};
use portcullis_datapath_abi::policy::XDP_TRANSMIT;

use super::tables::{Maps, count};

struct Buffer {
    data: usize,
    end: usize,
}

macro_rules! direct_access {
    ($($get:ident, $set:ident: $Type:ty;)*) => {
        impl Frame for Buffer { $(
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
        impl FrameMut for Buffer { $(
            #[inline(always)]
            fn $set(&mut self, offset: usize, value: $Type) -> Option<()> {
                if self.data + offset + size_of::<$Type>() > self.end {
                    return None;
                }
                // SAFETY: as above.
                unsafe { ((self.data + offset) as *mut $Type).write_volatile(value) };
                Some(())
            }
        )* }
    };
}
direct_access! {
    u8, set_u8: u8;
    u16, set_u16: u16;
    u32, set_u32: u32;
}

/// Frames that arrive.
#[xdp]
pub fn xdp_ingress(context: XdpContext) -> u32 {
    // SAFETY: the kernel passes a valid context.
    let interface = unsafe { (*context.ctx).ingress_ifindex };
    let mut frame = Buffer { data: context.data(), end: context.data_end() };
    let maps = Maps::new(context.as_ptr());
    // The driver has not compared the destination with the device's address yet.
    // One question after the other: joined conditions become code that the verifier refuses.
    let Some(low) = frame.u16(4) else {
        return xdp_action::XDP_PASS;
    };
    let Some(high) = frame.u32(0) else {
        return xdp_action::XDP_PASS;
    };
    let Some(known) = maps.interface(interface) else {
        return xdp_action::XDP_PASS;
    };
    let [a, b, c, d, e, f] = known.mac;
    if high != u32::from_ne_bytes([a, b, c, d]) || low != u16::from_ne_bytes([e, f]) {
        return xdp_action::XDP_PASS;
    }
    let arrival = Arrival {
        interface,
        cast: Cast::Host,
        length: (frame.end - frame.data) as u32 - L3 as u32,
        segments: 1,
        segment_size: 0,
    };
    let (counter, action) = match ingress(&maps, &frame, &arrival) {
        Verdict::Drop(counter) => (counter, xdp_action::XDP_DROP),
        Verdict::Forward(counter, edit, hop) => {
            let transmits =
                maps.interface(hop.egress).is_some_and(|egress| egress.flags & XDP_TRANSMIT != 0);
            if !transmits || hop.next_hop != 0 {
                return xdp_action::XDP_PASS;
            }
            if rewrite::ethernet(&mut frame, edit.flow.macs()).is_none()
                || rewrite::rewrite(&mut frame, &edit, true).is_none()
            {
                return xdp_action::XDP_DROP;
            }
            // SAFETY: takes numbers only.
            (counter, unsafe { bpf_redirect(hop.egress, 0) } as u32)
        }
        Verdict::Kernel(_) | Verdict::Translate(..) => return xdp_action::XDP_PASS,
    };
    count(counter, 1, arrival.length);
    action
}

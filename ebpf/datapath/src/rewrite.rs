//! Carrying a decision out on the packet. Checksums are updated by difference (RFC 1624).

use portcullis_datapath_abi::flow::{ICMP, TCP, UDP};

use crate::{
    Edit, FlowRef, Kind,
    checksum::{TTL_DECREMENT, add, apply, delta, delta16},
    frame::{FrameMut, HeadMut, L3, L4},
    icmp_error::{INNER_L3, INNER_L4},
    tcp::clamp_mss,
};

/// Sends a packet of [`Edit::plain`] on: all headers at once. `None`: as in [`rewrite`].
#[inline(always)]
pub fn plain<F: FrameMut>(frame: &mut F, edit: &Edit<'_>) -> Option<()> {
    if edit.ipv6 {
        let mut head = frame.head_mut::<{ L3 + 8 }>()?;
        link(&mut head, edit.flow);
        head.set_u8::<{ L3 + 7 }>(edit.ttl.wrapping_sub(1));
        return Some(());
    }
    if edit.kind == Kind::Udp {
        network_and_ports(&mut frame.head_mut::<{ L4 + 8 }>()?, edit);
    } else {
        network_and_ports(&mut frame.head_mut::<{ L4 + 20 }>()?, edit);
    }
    let (address_delta, transport_delta) = (edit.flow.address_delta(), edit.flow.transport_delta());
    // Last: the kernel may move the packet.
    if edit.kind == Kind::Udp {
        frame.update_transport_checksum(L4 + 6, address_delta, transport_delta, true)
    } else {
        frame.update_transport_checksum(L4 + 16, address_delta, transport_delta, false)
    }
}

#[inline(always)]
fn link<const N: usize>(head: &mut HeadMut<'_, N>, flow: FlowRef<'_>) {
    let [a, b, c] = flow.macs();
    head.set_u32::<0>(a);
    head.set_u32::<4>(b);
    head.set_u32::<8>(c);
}

#[inline(always)]
fn network_and_ports<const N: usize>(head: &mut HeadMut<'_, N>, edit: &Edit<'_>) {
    let flow = edit.flow;
    link(head, flow);
    head.set_u8::<{ L3 + 8 }>(edit.ttl.wrapping_sub(1));
    let checksum = head.read().u16::<{ L3 + 10 }>();
    // Three words and two carries at once.
    let sum = u32::from(!checksum) + u32::from(flow.address_delta()) + u32::from(TTL_DECREMENT);
    let sum = (sum & 0xffff) + (sum >> 16);
    head.set_u16::<{ L3 + 10 }>(!((sum + (sum >> 16)) as u16));
    head.set_u32::<{ L3 + 12 }>(flow.source());
    head.set_u32::<{ L3 + 16 }>(flow.destination());
    head.set_u16::<L4>(flow.source_port());
    head.set_u16::<{ L4 + 2 }>(flow.destination_port());
}

/// Replaces the Ethernet addresses (destination, then source).
#[inline(always)]
pub fn ethernet<F: FrameMut>(frame: &mut F, macs: [u32; 3]) -> Option<()> {
    let [a, b, c] = macs;
    frame.set_u32(0, a)?;
    frame.set_u32(4, b)?;
    frame.set_u32(8, c)
}

/// Translates a packet; `forward` also decrements its TTL. `None` if the frame became shorter than
/// it was when it was parsed, which leaves it half changed: it must be dropped.
#[inline(always)]
pub fn rewrite<F: FrameMut>(frame: &mut F, edit: &Edit<'_>, forward: bool) -> Option<()> {
    let flow = edit.flow;
    if edit.ipv6 {
        if forward {
            frame.set_u8(L3 + 7, edit.ttl.wrapping_sub(1))?;
        }
    } else if edit.kind == Kind::IcmpError {
        return icmp_error(frame, edit, forward);
    } else {
        translate(frame, flow, edit.kind, edit.ttl, forward)?;
    }
    if edit.mss != 0 {
        clamp_mss(frame, u32::from(edit.transport), edit.mss)?;
    }
    Some(())
}

#[inline(always)]
fn icmp_error<F: FrameMut>(frame: &mut F, edit: &Edit<'_>, forward: bool) -> Option<()> {
    let flow = edit.flow;
    // The error may come from any hop; behind a translation every hop has the same address.
    let (source, destination) = (frame.u32(L3 + 12)?, frame.u32(L3 + 16)?);
    let masquerade = flow.source() != frame.u32(INNER_L3 + 16)?;
    quoted(frame, flow, edit.protocol, edit.length)?;
    let new_source = if masquerade { flow.source() } else { source };
    let change = add(delta(source, new_source), delta(destination, flow.destination()));
    network_header(frame, edit.ttl, new_source, flow.destination(), change, forward)
}

#[inline(always)]
fn network_header<F: FrameMut>(
    frame: &mut F,
    ttl: u8,
    source: u32,
    destination: u32,
    address_delta: u16,
    forward: bool,
) -> Option<()> {
    let mut change = address_delta;
    if forward {
        frame.set_u8(L3 + 8, ttl.wrapping_sub(1))?;
        change = add(change, TTL_DECREMENT);
    }
    let checksum = frame.u16(L3 + 10)?;
    frame.set_u16(L3 + 10, apply(checksum, change))?;
    frame.set_u32(L3 + 12, source)?;
    frame.set_u32(L3 + 16, destination)
}

#[inline(always)]
fn translate<F: FrameMut>(
    frame: &mut F,
    flow: FlowRef<'_>,
    kind: Kind,
    ttl: u8,
    forward: bool,
) -> Option<()> {
    let address_delta = flow.address_delta();
    let port_delta = add(flow.transport_delta(), !address_delta);
    network_header(frame, ttl, flow.source(), flow.destination(), address_delta, forward)?;
    match kind {
        Kind::Tcp | Kind::Udp => {
            frame.set_u16(L4, flow.source_port())?;
            frame.set_u16(L4 + 2, flow.destination_port())?;
            let udp = kind == Kind::Udp;
            let offset = if udp { L4 + 6 } else { L4 + 16 };
            frame.update_transport_checksum(offset, address_delta, flow.transport_delta(), udp)
        }
        Kind::EchoRequest | Kind::EchoReply => {
            let id = if kind == Kind::EchoRequest {
                flow.source_port()
            } else {
                flow.destination_port()
            };
            let checksum = frame.u16(L4 + 2)?;
            frame.set_u16(L4 + 4, id)?;
            frame.set_u16(L4 + 2, apply(checksum, port_delta))
        }
        // Later fragments have no transport header, other protocols no checksum over addresses; the
        // rest has no flow.
        Kind::Fragment | Kind::Other | Kind::IcmpError | Kind::IcmpOther | Kind::Link => Some(()),
    }
}

/// Translates the packet quoted in an ICMP error, and the error's checksum. `flow` is the direction
/// that the error travels in; the quoted packet travelled in the other, so its destination is what
/// this direction's source becomes.
#[inline(always)]
fn quoted<F: FrameMut>(frame: &mut F, flow: FlowRef<'_>, protocol: u8, length: u16) -> Option<()> {
    // Change of all words behind the outer ICMP checksum.
    let transport = flow.transport_delta();
    let ports = add(transport, !flow.address_delta());
    let mut change = transport;
    let inner_checksum = frame.u16(INNER_L3 + 10)?;
    let inner_new = apply(inner_checksum, flow.address_delta());
    change = add(change, delta16(inner_checksum, inner_new));
    frame.set_u16(INNER_L3 + 10, inner_new)?;
    frame.set_u32(INNER_L3 + 12, flow.destination())?;
    frame.set_u32(INNER_L3 + 16, flow.source())?;
    let checksum_at = match protocol {
        ICMP => {
            // Only one of the two ports is the query id, the other is 0 and stays so.
            frame.set_u16(INNER_L4 + 4, flow.source_port() | flow.destination_port())?;
            Some((INNER_L4 + 2, ports))
        }
        UDP | TCP => {
            frame.set_u16(INNER_L4, flow.destination_port())?;
            frame.set_u16(INNER_L4 + 2, flow.source_port())?;
            match protocol {
                UDP => Some((INNER_L4 + 6, transport)),
                // Behind the eight bytes that must be quoted.
                _ if length >= 66 => Some((INNER_L4 + 16, transport)),
                _ => None,
            }
        }
        // Neither ports nor a checksum over addresses.
        _ => None,
    };
    if let Some((offset, difference)) = checksum_at
        && let Some(old) = frame.u16(offset)
        && (old != 0 || protocol != UDP)
    {
        let new = apply(old, difference);
        let new = if new == 0 && protocol == UDP { 0xffff } else { new };
        change = add(change, delta16(old, new));
        frame.set_u16(offset, new)?;
    }
    let outer = frame.u16(L4 + 2)?;
    frame.set_u16(L4 + 2, apply(outer, change))
}

//! Stages [`Stage::Fragment4`] and [`Stage::Fragment6`]: they give fragments their ports. Then these
//! pass as any packet of their flow does.

use portcullis_datapath_abi::{Counter, FragmentKey};

use crate::{
    Arrival, Stage, Tables, Verdict,
    flow::find4,
    fragments::{Ends, Piece, Place, known, place},
    frame::{Frame, L3, L4},
    hold::Held,
    ingress::Hook,
    packet::{Fragment, Packet},
    packet6::Packet6,
    tables::mapped,
    verdict::Drop,
};

/// Stage [`Stage::Fragment4`]. Frames in `held` are to come in again behind this one.
#[inline(always)]
pub fn fragment4<'a, T: Tables, F: Frame>(
    tables: &'a T,
    frame: &F,
    arrival: &Arrival,
    held: &mut Held,
) -> Verdict<'a> {
    // Held frames come in again by tcx.
    if arrival.hook == Hook::Xdp {
        return Verdict::Defer;
    }
    let Some(interface) = tables.interface(arrival.interface) else {
        return Verdict::Drop(Drop::from(Counter::DropInterface, Drop::UNKNOWN));
    };
    let from = interface.zone;
    let packet = match Packet::parse(frame, arrival.length) {
        Ok(packet) => packet,
        Err(reason) => return Verdict::Drop(Drop::from(reason, from)),
    };
    let Some(piece) = Piece::of4(frame, &packet, from) else {
        return Verdict::Drop(Drop::from(Counter::DropMalformed, from));
    };
    // One that must be cut is not noted as passed: its parts will come.
    if !packet.dont_fragment
        && let Some(mtu) = next_mtu(tables, &packet, &piece)
        && packet.length > mtu
    {
        return Verdict::Cut(mtu);
    }
    put(tables, &piece, arrival, Stage::Flow4, held)
}

/// MTU of the link by which the flow of a fragment leaves, if it is known.
#[inline(always)]
fn next_mtu<T: Tables>(tables: &T, packet: &Packet, piece: &Piece) -> Option<u16> {
    let ends = known(tables, piece)?;
    let config = tables.config()?;
    let mut key = packet.key(piece.key.zone);
    key.source_port = ends.source_port;
    key.destination_port = ends.destination_port;
    let flow = find4(tables, config, &key)?;
    // Of the router's own flows nothing leaves, and nothing is cached.
    (flow.generation() == config.generation).then(|| flow.mtu())
}

/// Stage [`Stage::Fragment6`], likewise.
#[inline(always)]
pub fn fragment6<'a, T: Tables, F: Frame>(
    tables: &'a T,
    frame: &F,
    arrival: &Arrival,
    held: &mut Held,
) -> Verdict<'a> {
    if arrival.hook == Hook::Xdp {
        return Verdict::Defer;
    }
    let Some(interface) = tables.interface(arrival.interface) else {
        return Verdict::Drop(Drop::from(Counter::DropInterface, Drop::UNKNOWN));
    };
    let from = interface.zone;
    let packet = match Packet6::parse(frame, arrival.length) {
        Ok(packet) => packet,
        Err(reason) => return Verdict::Drop(Drop::from(reason, from)),
    };
    match Piece::of6(frame, &packet, from) {
        Some(piece) => put(tables, &piece, arrival, Stage::Flow6, held),
        None => Verdict::Drop(Drop::from(Counter::DropMalformed, from)),
    }
}

#[inline(always)]
fn put<'a, T: Tables>(
    tables: &'a T,
    piece: &Piece,
    arrival: &Arrival,
    flow: Stage,
    held: &mut Held,
) -> Verdict<'a> {
    match place(tables, piece, arrival.length + L3 as u32, held) {
        Place::Of(ends) => Verdict::Located(flow, ends),
        Place::Early(slot) => Verdict::Hold(slot),
        Place::Refused(reason) => Verdict::Drop(Drop::from(reason, piece.key.zone)),
    }
}

impl Piece {
    /// An IPv4 fragment from `zone`. `None`: it is none (the reserved bit may have looked like it,
    /// which must be zero by RFC 791 section 3.1).
    #[inline(always)]
    pub(crate) fn of4<F: Frame>(frame: &F, packet: &Packet, zone: u8) -> Option<Self> {
        if matches!(packet.fragment, Fragment::Whole) {
            return None;
        }
        let word = u16::from_be(frame.u16(L3 + 6)?);
        Some(Self {
            key: FragmentKey {
                source: mapped(packet.source),
                destination: mapped(packet.destination),
                id: u32::from(packet.id),
                protocol: packet.protocol,
                zone,
                reserved: 0,
            },
            ends: Ends {
                source_port: packet.source_port,
                destination_port: packet.destination_port,
                protocol: packet.protocol,
            },
            offset: (word & 0x1fff) << 3,
            payload: packet.length.wrapping_sub((L4 - L3) as u16),
            more: word & 0x2000 != 0,
            ipv6: false,
        })
    }

    /// An IPv6 fragment from `zone`, likewise.
    #[inline(always)]
    pub(crate) fn of6<F: Frame>(frame: &F, packet: &Packet6, zone: u8) -> Option<Self> {
        if matches!(packet.fragment, Fragment::Whole) {
            return None;
        }
        let [_, _, high, low] = frame.copy::<4>(u32::from(packet.fragment_header))?;
        let word = u16::from_be_bytes([high, low]);
        let headers = packet.fragment_header.wrapping_sub(L3 as u16).wrapping_add(8);
        Some(Self {
            key: FragmentKey {
                source: packet.source,
                destination: packet.destination,
                id: packet.id,
                protocol: 0,
                zone,
                reserved: 0,
            },
            ends: Ends {
                source_port: packet.source_port,
                destination_port: packet.destination_port,
                protocol: packet.protocol,
            },
            offset: word & 0xfff8,
            payload: packet.length.checked_sub(headers)?,
            more: word & 1 != 0,
            ipv6: true,
        })
    }
}

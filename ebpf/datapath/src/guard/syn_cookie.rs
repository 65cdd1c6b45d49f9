//! Proof that a source exists before its connection takes a place in the flow table.
//!
//! The datapath answers a SYN as if it were the server, with a SYN-ACK that acknowledges a number
//! which the client has not sent: the kernel's SYN cookie for these addresses and ports. A client
//! that lives answers with a RST of just that sequence number (RFC 9293 section 3.10.7.3, state
//! SYN-SENT) and sends its SYN again; its address then counts as proven for a while and the
//! connection is opened like any other. Nothing is kept until the proof, no sequence number has to
//! be translated afterwards, and the client's program notices nothing. A forged source never sends
//! the RST.

use portcullis_datapath_abi::Counter;

use super::{must_prove, prove};
use crate::{
    Arrival, Frame, FrameMut, IPV6, L3, L4, L4_V6, Packet, Packet6, Tables,
    checksum::{add, apply, delta, delta16},
    packet::tcp,
    tables::mapped,
    verdict::Drop,
};

/// Addresses and ports of a connection, as its client writes them.
#[derive(Clone, Copy, Debug)]
pub struct Connection<'a> {
    /// The client; IPv4 as ::ffff:a.b.c.d.
    pub source: &'a [u32; 4],
    /// The server, likewise.
    pub destination: &'a [u32; 4],
    /// The client's port.
    pub source_port: u16,
    /// The server's port.
    pub destination_port: u16,
}

/// Hop limit of the answer (RFC 1700's default).
const HOPS: u8 = 64;

/// What the sender of a SYN is asked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Challenge {
    /// Family.
    pub ipv6: bool,
    /// Length of the TCP header in bytes.
    pub header: u8,
    /// The number that the answer must have.
    pub cookie: u32,
}

/// What the stage reads of a segment, whatever its family.
#[derive(Clone, Copy)]
struct Segment {
    source: [u32; 4],
    destination: [u32; 4],
    ports: [u16; 2],
    ipv6: bool,
    header: u8,
    payload: u32,
    flags: u8,
    sequence: u32,
}

/// Stage [`crate::Stage::Challenge`]: a SYN of a source that must prove itself, or a RST that may be
/// the proof. Either is dropped; a SYN gets an answer, if the result is one.
///
/// # Errors
/// The reason to drop the packet without an answer.
#[inline(always)]
pub fn challenge<T: Tables, F: Frame>(
    tables: &T,
    frame: &F,
    arrival: &Arrival,
) -> Result<Challenge, Drop> {
    let Some(interface) = tables.interface(arrival.interface) else {
        return Err(Drop::from(Counter::DropInterface, Drop::UNKNOWN));
    };
    let zone = interface.zone;
    let segment = match read(frame, arrival) {
        Ok(segment) => segment,
        Err(reason) => return Err(Drop::from(reason, zone)),
    };
    let [source_port, destination_port] = segment.ports;
    let connection = Connection {
        source: &segment.source,
        destination: &segment.destination,
        source_port,
        destination_port,
    };
    if segment.flags & tcp::RST != 0 {
        let proven = prove(tables, zone, &connection, segment.sequence, tables.now());
        let counter = if proven { Counter::DropProof } else { Counter::DropTcpState };
        return Err(Drop::from(counter, zone));
    }
    let unproven = Err(Drop::from(Counter::DropUnproven, zone));
    // Data in a SYN (TCP Fast Open) and extension headers would have to be sent back.
    if segment.payload != 0 || !must_prove(tables, zone, &segment.source, || tables.now()) {
        return unproven;
    }
    let Segment { ipv6, header, .. } = segment;
    match tables.make_cookie(&connection) {
        Some(cookie) => Ok(Challenge { ipv6, header, cookie }),
        None => unproven,
    }
}

#[inline(always)]
fn read<F: Frame>(frame: &F, arrival: &Arrival) -> Result<Segment, Counter> {
    if frame.u16(L3 - 2) == Some(IPV6) {
        let packet = Packet6::parse(frame, arrival.length)?;
        return Ok(Segment {
            source: packet.source,
            destination: packet.destination,
            ports: [packet.source_port, packet.destination_port],
            ipv6: true,
            header: packet.header,
            payload: u32::from(packet.length).wrapping_sub(40 + u32::from(packet.header)),
            flags: packet.tcp_flags,
            sequence: packet.sequence,
        });
    }
    let packet = Packet::parse(frame, arrival.length)?;
    Ok(Segment {
        source: mapped(packet.source),
        destination: mapped(packet.destination),
        ports: [packet.source_port, packet.destination_port],
        ipv6: false,
        header: packet.header,
        payload: u32::from(packet.length).wrapping_sub(20 + u32::from(packet.header)),
        flags: packet.tcp_flags,
        sequence: packet.sequence,
    })
}

/// Turns a SYN without data into the answer that asks its sender for proof. `None` if the frame is
/// shorter than it was when it was parsed: it must be dropped.
#[inline(always)]
pub fn write_challenge<F: FrameMut>(frame: &mut F, challenge: &Challenge) -> Option<()> {
    let Challenge { ipv6, header, cookie } = *challenge;
    let transport = if ipv6 { L4_V6 } else { L4 };
    swap32(frame, 0, 6)?;
    swap16(frame, 4, 10)?;
    if ipv6 {
        frame.set_u8(L3 + 7, HOPS)?;
        swap32(frame, L3 + 8, L3 + 24)?;
        swap32(frame, L3 + 12, L3 + 28)?;
        swap32(frame, L3 + 16, L3 + 32)?;
        swap32(frame, L3 + 20, L3 + 36)?;
    } else {
        let old = frame.u16(L3 + 8)?;
        frame.set_u8(L3 + 8, HOPS)?;
        let change = delta16(old, frame.u16(L3 + 8)?);
        let checksum = frame.u16(L3 + 10)?;
        frame.set_u16(L3 + 10, apply(checksum, change))?;
        swap32(frame, L3 + 12, L3 + 16)?;
    }
    // Exchanging addresses and ports leaves the sum as it is.
    swap16(frame, transport, transport + 2)?;
    let mut change = 0;
    for offset in [4, 8] {
        let old = frame.u32(transport + offset)?;
        frame.set_u32(transport + offset, cookie.to_be())?;
        change = add(change, delta(old, cookie.to_be()));
    }
    let old = frame.u16(transport + 12)?;
    frame.set_u8(transport + 13, tcp::SYN | tcp::ACK)?;
    change = add(change, delta16(old, frame.u16(transport + 12)?));
    let old = frame.u16(transport + 14)?;
    frame.set_u16(transport + 14, 0)?;
    change = add(change, delta16(old, 0));
    if header > 20 {
        // The end of the option list, before the first of the client's options.
        let old = frame.u16(transport + 20)?;
        frame.set_u16(transport + 20, 0)?;
        change = add(change, delta16(old, 0));
    }
    frame.update_transport_checksum(transport + 16, 0, change, false)
}

#[inline(always)]
fn swap32<F: FrameMut>(frame: &mut F, a: usize, b: usize) -> Option<()> {
    let (x, y) = (frame.u32(a)?, frame.u32(b)?);
    frame.set_u32(a, y)?;
    frame.set_u32(b, x)
}

#[inline(always)]
fn swap16<F: FrameMut>(frame: &mut F, a: usize, b: usize) -> Option<()> {
    let (x, y) = (frame.u16(a)?, frame.u16(b)?);
    frame.set_u16(a, y)?;
    frame.set_u16(b, x)
}

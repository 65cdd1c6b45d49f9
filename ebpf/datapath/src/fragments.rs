//! Fragments of IPv4 datagrams: the first one has the ports, the later ones find them here.
//!
//! A later fragment that overtakes the first is dropped; the sender's datagram is then lost whole,
//! as with any lost fragment.

use portcullis_datapath_abi::{FragmentKey, FragmentPorts};

use crate::{Fragment, Packet, Tables};

/// How long the later fragments may take, in ticks: RFC 791 suggests 15 s for reassembly.
const LIFETIME: u32 = 15;

/// Gives a later fragment its ports. False if its first fragment is not known.
#[inline(always)]
pub fn complete<T: Tables>(tables: &T, packet: &mut Packet, zone: u8) -> bool {
    if !matches!(packet.fragment, Fragment::Later) {
        return true;
    }
    let ports = find(tables, packet.source, packet.destination, tail(packet, zone));
    packet.source_port = ports as u16;
    packet.destination_port = (ports >> 16) as u16;
    ports != 0
}

/// Remembers the ports of a first fragment that passes.
#[inline(always)]
pub fn remember<T: Tables>(tables: &T, packet: &Packet, zone: u8) {
    if matches!(packet.fragment, Fragment::First) {
        let ports = u32::from(packet.source_port) | u32::from(packet.destination_port) << 16;
        insert(tables, packet.source, packet.destination, tail(packet, zone), ports);
    }
}

/// The rest of a key in one word: functions in the kernel take five arguments.
#[inline(always)]
fn tail(packet: &Packet, zone: u8) -> u32 {
    u32::from(packet.id) | u32::from(packet.protocol) << 16 | u32::from(zone) << 24
}

fn key(source: u32, destination: u32, tail: u32) -> FragmentKey {
    FragmentKey {
        source,
        destination,
        id: tail as u16,
        protocol: (tail >> 16) as u8,
        zone: (tail >> 24) as u8,
    }
}

/// Both ports; 0 if they are not known. (No flow has two ports of zero.)
#[inline(never)]
fn find<T: Tables>(tables: &T, source: u32, destination: u32, tail: u32) -> u32 {
    match tables.fragment(&key(source, destination, tail)) {
        Some(ports) if tables.now().wrapping_sub(ports.seen) < LIFETIME => {
            u32::from(ports.source_port) | u32::from(ports.destination_port) << 16
        }
        _ => 0,
    }
}

#[inline(never)]
fn insert<T: Tables>(tables: &T, source: u32, destination: u32, tail: u32, ports: u32) {
    let ports = FragmentPorts {
        source_port: ports as u16,
        destination_port: (ports >> 16) as u16,
        seen: tables.now(),
    };
    tables.remember_fragment(&key(source, destination, tail), &ports);
}

//! Flows: two entries for each, one per direction, so that a packet costs one lookup.

/// What a packet of one direction looks like when it arrives.
///
/// For ICMP echo the query id stands in the port of the side that asks: `source_port` in requests,
/// `destination_port` in replies; the other port is 0.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct FlowKey {
    /// Source address.
    pub source: u32,
    /// Destination address.
    pub destination: u32,
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// Zone that the packet comes from; [`crate::policy::ROUTER`] for the router's own. A flow is
    /// found only from the zone that it belongs to.
    pub zone: u8,
    /// Zero.
    pub reserved: u16,
}

/// One direction of a flow.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct FlowEntry {
    /// Packets of this direction (segments of an aggregated frame count one each).
    pub packets: u64,
    /// Bytes from the IP header on.
    pub bytes: u64,
    /// Source address after translation.
    pub source: u32,
    /// Destination address after translation.
    pub destination: u32,
    /// Source port after translation.
    pub source_port: u16,
    /// Destination port after translation.
    pub destination_port: u16,
    /// Difference that the address translation makes to a checksum (RFC 1624, HC' = ~(~HC + d)).
    pub address_delta: u16,
    /// Difference that the port translation makes to a checksum.
    pub port_delta: u16,
    /// Cached index of the device to leave by; valid while `generation` is the current one.
    pub egress: u32,
    /// Generation of routes and neighbours under which `egress`, `mtu` and `macs` were found; 0 for
    /// never.
    pub generation: u32,
    /// When the last packet passed, in ticks (see [`crate::TICK_SHIFT`]).
    pub last_seen: u32,
    /// Cached Ethernet destination and source, as they stand in the frame.
    pub macs: [u32; 3],
    /// Cached MTU of the egress device.
    pub mtu: u16,
    /// [`ORIGINAL`], [`LOCAL`].
    pub flags: u8,
    /// TCP flags seen in this direction: [`SYN`], [`ACK`], [`FIN`], [`RST`].
    pub seen: u8,
    /// Zone that the packets go to: the zone of the other direction's key.
    pub peer_zone: u8,
    /// Zero.
    pub reserved: [u8; 3],
}

/// This direction is the initiator's.
pub const ORIGINAL: u8 = 1;
/// Packets of this direction end at the router.
pub const LOCAL: u8 = 2;

/// A SYN was seen.
pub const SYN: u8 = 1;
/// A segment with ACK and without SYN was seen.
pub const ACK: u8 = 2;
/// A FIN was seen.
pub const FIN: u8 = 4;
/// A RST was seen.
pub const RST: u8 = 8;

/// IP protocol number of ICMP.
pub const ICMP: u8 = 1;
/// IP protocol number of TCP.
pub const TCP: u8 = 6;
/// IP protocol number of UDP.
pub const UDP: u8 = 17;

impl FlowEntry {
    /// The key of the other direction, given the key of this one.
    pub const fn peer_key(&self, key: &FlowKey) -> FlowKey {
        FlowKey {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            protocol: key.protocol,
            zone: self.peer_zone,
            reserved: 0,
        }
    }
}

/// Datagram whose fragments belong together (RFC 791).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct FragmentKey {
    /// Source address.
    pub source: u32,
    /// Destination address.
    pub destination: u32,
    /// Identification field.
    pub id: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// Zone that it comes from.
    pub zone: u8,
}

/// What only the first fragment says.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct FragmentPorts {
    /// Source port, as in [`FlowKey`].
    pub source_port: u16,
    /// Destination port, as in [`FlowKey`].
    pub destination_port: u16,
    /// When the first fragment passed, in ticks.
    pub seen: u32,
}

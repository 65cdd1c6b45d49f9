//! Frames, good ones and bad ones.

use std::net::{Ipv4Addr, Ipv6Addr};

use etherparse::{
    EtherType, Ethernet2Header, IcmpEchoHeader, Icmpv4Header, Icmpv4Type, IpNumber, Ipv4Header,
    PacketBuilder, TcpHeader, checksum::u32_16bit_word, icmpv4::TimeExceededCode,
};

pub type Mac = [u8; 6];

/// From one host to the next: hardware addresses.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    pub from: Mac,
    pub to: Mac,
}

impl Link {
    pub fn udp(self, source: Ipv4Addr, source_port: u16, to: Ipv4Addr, port: u16) -> Vec<u8> {
        self.udp_of(source, source_port, to, port, 64, 18)
    }

    pub fn udp_of(
        self,
        source: Ipv4Addr,
        source_port: u16,
        to: Ipv4Addr,
        port: u16,
        ttl: u8,
        length: usize,
    ) -> Vec<u8> {
        let payload = vec![0x55; length];
        let mut frame = Vec::new();
        PacketBuilder::ethernet2(self.from, self.to)
            .ipv4(source.octets(), to.octets(), ttl)
            .udp(source_port, port)
            .write(&mut frame, &payload)
            .expect("in memory");
        frame
    }

    pub fn tcp(
        self,
        source: (Ipv4Addr, u16),
        to: (Ipv4Addr, u16),
        change: impl FnOnce(&mut TcpHeader),
    ) -> Vec<u8> {
        let mut tcp = TcpHeader::new(source.1, to.1, 1000, 64_000);
        change(&mut tcp);
        let mut frame = Vec::new();
        PacketBuilder::ethernet2(self.from, self.to)
            .ipv4(source.0.octets(), to.0.octets(), 64)
            .tcp_header(tcp)
            .write(&mut frame, &[])
            .expect("in memory");
        frame
    }

    /// An ICMP message of another type than echo.
    pub fn icmp(self, source: Ipv4Addr, to: Ipv4Addr, kind: u8) -> Vec<u8> {
        let mut frame = Vec::new();
        let unknown = Icmpv4Type::Unknown { type_u8: kind, code_u8: 0, bytes5to8: [0, 1, 0, 1] };
        PacketBuilder::ethernet2(self.from, self.to)
            .ipv4(source.octets(), to.octets(), 64)
            .icmpv4(unknown)
            .write(&mut frame, &[0; 12])
            .expect("in memory");
        frame
    }

    /// Time exceeded, about a packet of which this is quoted.
    pub fn icmp_error(self, source: Ipv4Addr, to: Ipv4Addr, quoted: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2(self.from, self.to)
            .ipv4(source.octets(), to.octets(), 64)
            .icmpv4(Icmpv4Type::TimeExceeded(TimeExceededCode::TtlExceededInTransit))
            .write(&mut frame, quoted)
            .expect("in memory");
        frame
    }

    pub fn ping(self, source: Ipv4Addr, to: Ipv4Addr, id: u16) -> Vec<u8> {
        let mut frame = Vec::new();
        let echo = Icmpv4Header::new(Icmpv4Type::EchoRequest(IcmpEchoHeader { id, seq: 1 }));
        PacketBuilder::ethernet2(self.from, self.to)
            .ipv4(source.octets(), to.octets(), 64)
            .icmpv4(echo.icmp_type)
            .write(&mut frame, &[0; 12])
            .expect("in memory");
        frame
    }

    /// IPv4 with any protocol and payload.
    pub fn ip(
        self,
        source: Ipv4Addr,
        to: Ipv4Addr,
        protocol: u8,
        payload: &[u8],
        change: impl FnOnce(&mut Ipv4Header),
    ) -> Vec<u8> {
        let length = u16::try_from(payload.len()).expect("short");
        let mut ip = Ipv4Header::new(length, 64, IpNumber(protocol), source.octets(), to.octets())
            .expect("length");
        change(&mut ip);
        ip.header_checksum = ip.calc_header_checksum();
        let mut frame = Vec::new();
        let ethernet = Ethernet2Header {
            source: self.from,
            destination: self.to,
            ether_type: EtherType::IPV4,
        };
        ethernet.write(&mut frame).expect("in memory");
        ip.write(&mut frame).expect("in memory");
        frame.extend(payload);
        frame
    }

    /// IPv6 with any next header and payload.
    pub fn ip6(self, source: Ipv6Addr, to: Ipv6Addr, next: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        frame.extend(self.to);
        frame.extend(self.from);
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        frame.extend(u16::try_from(payload.len()).expect("short").to_be_bytes());
        frame.extend([next, 64]);
        frame.extend(source.octets());
        frame.extend(to.octets());
        frame.extend(payload);
        frame
    }
}

/// A UDP header without a checksum, and `length` bytes.
pub fn udp_payload(source: u16, destination: u16, length: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(source.to_be_bytes());
    bytes.extend(destination.to_be_bytes());
    bytes.extend((length + 8).to_be_bytes());
    bytes.extend([0; 2]);
    bytes.extend(vec![0x55; usize::from(length)]);
    bytes
}

/// Makes the checksum of an IPv4 header right again.
pub fn mend(frame: &mut [u8]) {
    let end = 14 + usize::from(frame[14] & 15) * 4;
    frame[24..26].copy_from_slice(&[0, 0]);
    let sum = u32_16bit_word::add_slice(0, &frame[14..end]);
    let checksum = u32_16bit_word::ones_complement(sum);
    frame[24..26].copy_from_slice(&checksum.to_ne_bytes());
}

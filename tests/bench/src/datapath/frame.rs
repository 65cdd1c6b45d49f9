//! Frames of the benchmark, with correct checksums that stay correct when a field varies: the
//! complement of each varying field stands elsewhere in the frame.

use std::net::Ipv4Addr;

/// First of the ports that number flows.
pub const FIRST_PORT: u16 = 0x4000;
/// Flows that ports alone can number; the address of one end takes the rest.
pub const PORTS: u32 = 0x4000;

/// Length of a frame without its check sequence that has 64 bytes on the wire.
pub const SMALLEST: usize = 60;

const ETHERNET: usize = 14;
const L4: usize = ETHERNET + 20;
const UDP: u8 = 17;
const TCP: u8 = 6;

/// One end of a flow.
pub type End = (Ipv4Addr, u16);

/// What a frame carries.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Content {
    /// UDP.
    Udp,
    /// First segment of a TCP connection.
    Syn,
    /// Its answer.
    SynAck,
    /// A segment of an open connection with this many bytes of payload.
    Segment(u16),
}

/// A frame and where its varying fields are.
#[derive(Clone, Debug)]
pub struct Template {
    /// From the Ethernet header on.
    pub bytes: Vec<u8>,
    /// Offset of the source port.
    pub source_port: i16,
    /// Offset of the destination port.
    pub destination_port: i16,
    /// Offset of the lower half of the source address.
    pub source_address: i16,
    /// Offset of the lower half of the destination address.
    pub destination_address: i16,
    /// Offset of the TCP sequence number.
    pub sequence: i16,
    /// Where the complement of the port stands; that of the address follows.
    pub port_complement: i16,
    /// Where the complement of the address stands for the IP header's checksum: the identification.
    pub identification: i16,
    /// Where the complement of the sequence number stands.
    pub sequence_complement: i16,
}

/// Offset of the IP header's checksum.
pub const HEADER_CHECKSUM: usize = ETHERNET + 10;

/// First sequence number of data.
pub const SEQUENCE: u32 = 1;

impl Template {
    /// A frame to `mac`; the port that numbers the flow is [`FIRST_PORT`] in it, `low` is the lower
    /// half of the address that numbers further flows.
    pub fn new(content: Content, mac: [u8; 6], from: End, to: End, low: u16) -> Self {
        let mut bytes = Vec::with_capacity(128);
        bytes.extend(mac);
        bytes.extend([2, 0, 0, 0, 0, 0x99, 8, 0]);
        let protocol = if content == Content::Udp { UDP } else { TCP };
        bytes.extend([0x45, 0, 0, 0]);
        bytes.extend((!low).to_be_bytes());
        bytes.extend([0x40, 0, 64, protocol, 0, 0]);
        bytes.extend(from.0.octets());
        bytes.extend(to.0.octets());
        bytes.extend(from.1.to_be_bytes());
        bytes.extend(to.1.to_be_bytes());
        let (port_complement, checksum) = match content {
            Content::Udp => {
                bytes.extend([0; 8]);
                (bytes.len() - 4, L4 + 6)
            }
            Content::Syn | Content::SynAck | Content::Segment(_) => {
                (tcp_header(&mut bytes, content), L4 + 16)
            }
        };
        put(&mut bytes, port_complement, (!FIRST_PORT).to_be_bytes());
        put(&mut bytes, port_complement + 2, (!low).to_be_bytes());
        let sequence_complement = bytes.len();
        if let Content::Segment(payload) = content {
            bytes.extend((!SEQUENCE).to_be_bytes());
            bytes.resize(sequence_complement + usize::from(payload), 0x55);
        }
        bytes.resize(bytes.len().max(SMALLEST), 0);
        // TCP frames shorter than the smallest do not occur here, so nothing is padded past the end.
        let length = (bytes.len() - ETHERNET) as u16;
        put(&mut bytes, ETHERNET + 2, length.to_be_bytes());
        let header = sum(bytes.get(ETHERNET..L4).unwrap_or_default(), 0);
        put(&mut bytes, HEADER_CHECKSUM, header.to_be_bytes());
        let length = length - 20;
        if content == Content::Udp {
            put(&mut bytes, L4 + 4, length.to_be_bytes());
        }
        let addresses = [from.0.octets(), to.0.octets()].concat();
        let pseudo = sum(&addresses, u32::from(protocol) + u32::from(length));
        let transport = sum(bytes.get(L4..).unwrap_or_default(), u32::from(!pseudo));
        put(&mut bytes, checksum, transport.to_be_bytes());
        Self {
            bytes,
            source_port: L4 as i16,
            destination_port: L4 as i16 + 2,
            source_address: ETHERNET as i16 + 14,
            destination_address: ETHERNET as i16 + 18,
            sequence: L4 as i16 + 4,
            port_complement: port_complement as i16,
            identification: ETHERNET as i16 + 4,
            sequence_complement: sequence_complement as i16,
        }
    }
}

impl Template {
    /// The IP header's checksum.
    pub fn header_checksum(&self) -> u16 {
        let field = self.bytes.get(HEADER_CHECKSUM..HEADER_CHECKSUM + 2);
        field.and_then(|bytes| bytes.try_into().ok()).map(u16::from_be_bytes).unwrap_or_default()
    }
}

/// The rest of a TCP header; returns where the value of its timestamp is.
fn tcp_header(bytes: &mut Vec<u8>, content: Content) -> usize {
    const FIN_TO_CWR: [(Content, u8); 2] = [(Content::Syn, 0x02), (Content::SynAck, 0x12)];
    let open = FIN_TO_CWR.iter().find(|(which, _)| *which == content).map(|(_, flags)| *flags);
    let (sequence, acknowledged) = match content {
        Content::Syn => (SEQUENCE - 1, 0),
        _ if open.is_some() => (0, SEQUENCE),
        _ => (SEQUENCE, 1),
    };
    bytes.extend(sequence.to_be_bytes());
    bytes.extend(u32::to_be_bytes(acknowledged));
    let (words, flags) = open.map_or((8_u8, 0x10), |flags| (10, flags));
    bytes.extend([words << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
    if open.is_some() {
        // Maximum segment size 1460, no operation, window scale 7.
        bytes.extend([2, 4, 0x05, 0xb4, 1, 3, 3, 7]);
    }
    // Timestamp.
    bytes.extend([1, 1, 8, 10]);
    let value = bytes.len();
    bytes.extend([0; 8]);
    value
}

fn put<const N: usize>(bytes: &mut [u8], offset: usize, value: [u8; N]) {
    if let Some(field) = bytes.get_mut(offset..offset + N) {
        field.copy_from_slice(&value);
    }
}

/// Internet checksum (RFC 1071).
pub fn sum(bytes: &[u8], start: u32) -> u16 {
    let mut total = start;
    for pair in bytes.chunks(2) {
        let [high, low] = [pair.first(), pair.get(1)].map(|byte| byte.copied().unwrap_or(0));
        total += u32::from(u16::from_be_bytes([high, low]));
    }
    while total >> 16 != 0 {
        total = (total & 0xffff) + (total >> 16);
    }
    !(total as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 100);
    const SERVER: Ipv4Addr = Ipv4Addr::new(203, 0, 112, 0);
    const LOW: u16 = 112 << 8;

    fn is_correct(bytes: &[u8]) -> bool {
        let (header, transport) = (&bytes[ETHERNET..L4], &bytes[L4..]);
        let length = u16::from_be_bytes([header[2], header[3]]) - 20;
        let pseudo = sum(&header[12..20], u32::from(header[9]) + u32::from(length));
        sum(header, 0) == 0 && sum(&transport[..usize::from(length)], u32::from(!pseudo)) == 0
    }

    fn all() -> Vec<Template> {
        let contents = [Content::Udp, Content::Syn, Content::SynAck, Content::Segment(64)];
        let template =
            |content| Template::new(content, [2; 6], (HOST, FIRST_PORT), (SERVER, 9), LOW);
        contents.map(template).to_vec()
    }

    #[test]
    fn checksums_are_right_for_every_flow() {
        for template in all() {
            assert!(is_correct(&template.bytes), "{template:?}");
            let mut other = template.bytes.clone();
            let at = |offset: i16| usize::try_from(offset).unwrap();
            put(&mut other, at(template.source_port), (FIRST_PORT + 77).to_be_bytes());
            put(&mut other, at(template.port_complement), (!(FIRST_PORT + 77)).to_be_bytes());
            put(&mut other, at(template.destination_address), (LOW + 3).to_be_bytes());
            for place in [template.port_complement + 2, template.identification] {
                put(&mut other, at(place), (!(LOW + 3)).to_be_bytes());
            }
            assert_ne!(other, template.bytes);
            assert!(is_correct(&other), "{template:?}");
        }
    }

    #[test]
    fn the_smallest_frame_has_64_bytes_on_the_wire() {
        assert_eq!(all()[0].bytes.len(), SMALLEST);
        assert_eq!(SMALLEST + 4, 64);
    }
}

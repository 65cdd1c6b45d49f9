//! The file that a capture becomes: pcapng, as Wireshark and tcpdump read it.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use pcap_file::{
    DataLink, PcapError,
    pcapng::{
        PcapNgWriter,
        blocks::{
            enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption},
            interface_description::{InterfaceDescriptionBlock, InterfaceDescriptionOption},
            section_header::{SectionHeaderBlock, SectionHeaderOption},
        },
    },
};
use portcullis_datapath_abi::{
    Counter,
    capture::{ANY_REASON, CaptureHeader},
};

/// Timestamps are of 10^-9 s.
const NANOSECONDS: u8 = 9;

/// What is known of a device.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Device {
    /// Name in the kernel.
    pub device: String,
    /// Name in the configuration.
    pub interface: String,
}

/// Names for what the datapath knows by number.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Names {
    /// Devices by index.
    pub devices: BTreeMap<u32, Device>,
    /// Zones by id.
    pub zones: BTreeMap<u8, String>,
}

/// A file in the making.
pub struct Pcapng {
    writer: PcapNgWriter<Vec<u8>>,
    names: Names,
    /// Number of each device in the file.
    interfaces: HashMap<u32, u32>,
    /// What is to be added to `CLOCK_MONOTONIC`, for the time of day in nanoseconds.
    offset_ns: u64,
    snap: u32,
}

impl Pcapng {
    /// Begins a file.
    ///
    /// # Errors
    /// None that can happen in memory.
    pub fn new(names: Names, offset_ns: u64, snap: u32) -> Result<Self, PcapError> {
        let section = SectionHeaderBlock {
            options: vec![SectionHeaderOption::UserApplication(Cow::Borrowed(concat!(
                "Portcullis ",
                env!("CARGO_PKG_VERSION")
            )))],
            ..SectionHeaderBlock::default()
        };
        let writer = PcapNgWriter::with_section_header(Vec::new(), section)?;
        Ok(Self { writer, names, interfaces: HashMap::new(), offset_ns, snap })
    }

    /// Adds a packet.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn packet(&mut self, header: &CaptureHeader, bytes: &[u8]) -> Result<(), PcapError> {
        let interface_id = self.interface(header.interface)?;
        // Bits 0 and 1 of epb_flags are the direction, with the same numbers.
        let mut options = vec![EnhancedPacketOption::Flags(u32::from(header.direction & 3))];
        if header.lost != 0 {
            options.push(EnhancedPacketOption::DropCount(u64::from(header.lost)));
        }
        if let Some(comment) = self.comment(header) {
            options.push(EnhancedPacketOption::Comment(comment.into()));
        }
        self.writer.write_pcapng_block(EnhancedPacketBlock {
            interface_id,
            timestamp: Duration::from_nanos(header.time_ns.wrapping_add(self.offset_ns)),
            original_len: header.length,
            data: Cow::Borrowed(bytes),
            options,
        })?;
        Ok(())
    }

    /// What was written since the last call.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(self.writer.get_mut())
    }

    fn interface(&mut self, index: u32) -> Result<u32, PcapError> {
        if let Some(number) = self.interfaces.get(&index) {
            return Ok(*number);
        }
        let known = self.names.devices.get(&index);
        let name = known.map_or_else(|| format!("index {index}"), |known| known.device.clone());
        let mut options = vec![InterfaceDescriptionOption::IfName(name.into())];
        if let Some(known) = known {
            let description = InterfaceDescriptionOption::IfDescription;
            options.push(description(known.interface.clone().into()));
        }
        options.push(InterfaceDescriptionOption::IfTsResol(NANOSECONDS));
        self.writer.write_pcapng_block(InterfaceDescriptionBlock {
            linktype: DataLink::ETHERNET,
            snaplen: self.snap,
            options,
        })?;
        let number = u32::try_from(self.interfaces.len()).unwrap_or(u32::MAX);
        self.interfaces.insert(index, number);
        Ok(number)
    }

    /// `drop.policy, wan > router`
    fn comment(&self, header: &CaptureHeader) -> Option<String> {
        if header.reason == ANY_REASON {
            return None;
        }
        let reason = Counter::ALL
            .get(usize::from(header.reason))
            .map_or_else(|| format!("reason {}", header.reason), |known| known.name().to_owned());
        let zone = |id: u8| self.names.zones.get(&id).map_or("?", String::as_str);
        Some(match (self.names.zones.get(&header.from), self.names.zones.get(&header.to)) {
            (None, None) => reason,
            (Some(from), None) => format!("{reason}, from {from}"),
            _ => format!("{reason}, {} > {}", zone(header.from), zone(header.to)),
        })
    }
}

#[cfg(test)]
mod tests {
    use pcap_file::pcapng::{Block, PcapNgReader};
    use portcullis_datapath_abi::capture::{ANY_ZONE, INBOUND, OUTBOUND};

    use super::*;

    fn names() -> Names {
        let device = |device: &str, interface: &str| Device {
            device: device.to_owned(),
            interface: interface.to_owned(),
        };
        Names {
            devices: BTreeMap::from([(2, device("eth0", "wan")), (5, device("br0", "lan"))]),
            zones: BTreeMap::from([
                (0, "router".to_owned()),
                (1, "lan".to_owned()),
                (2, "wan".to_owned()),
            ]),
        }
    }

    fn header(interface: u32, reason: u16, from: u8, to: u8) -> CaptureHeader {
        CaptureHeader {
            time_ns: 5_000_000_123,
            interface,
            length: 1500,
            captured: 60,
            reason,
            from,
            to,
            direction: INBOUND,
            ..CaptureHeader::default()
        }
    }

    #[test]
    fn an_independent_reader_reads_packets_interfaces_and_reasons() {
        let policy = Counter::DropPolicy as u16;
        let mut file = Pcapng::new(names(), 1_795_341_600_000_000_000, 60).unwrap();
        let mut bytes = file.take();
        for (mut header, lost) in [
            (header(5, ANY_REASON, 1, ANY_ZONE), 0),
            (header(2, policy, 2, 0), 7),
            (header(2, policy, 2, ANY_ZONE), 0),
            (header(9, policy, ANY_ZONE, ANY_ZONE), 0),
        ] {
            header.lost = lost;
            file.packet(&header, &[0xab; 60]).unwrap();
            bytes.extend(file.take());
        }
        let mut reader = PcapNgReader::new(&bytes[..]).unwrap();
        let (mut names, mut packets) = (Vec::new(), Vec::new());
        while let Some(block) = reader.next_block() {
            match block.unwrap().into_owned() {
                Block::InterfaceDescription(interface) => names.push(interface.options),
                Block::EnhancedPacket(packet) => packets.push(packet),
                other => panic!("{other:?}"),
            }
        }
        let name = |name: &'static str| InterfaceDescriptionOption::IfName(name.into());
        assert_eq!(
            names.iter().map(|options| options[0].clone()).collect::<Vec<_>>(),
            [name("br0"), name("eth0"), name("index 9")]
        );
        assert_eq!(packets.iter().map(|p| p.interface_id).collect::<Vec<_>>(), [0, 1, 1, 2]);
        let first = &packets[0];
        assert_eq!(first.timestamp, Duration::from_nanos(1_795_341_605_000_000_123));
        assert_eq!((first.original_len, first.data.len()), (1500, 60));
        assert_eq!(first.options, [EnhancedPacketOption::Flags(1)]);
        let comment = |index: usize| {
            packets[index].options.iter().find_map(|option| match option {
                EnhancedPacketOption::Comment(text) => Some(text.to_string()),
                _ => None,
            })
        };
        assert_eq!(comment(1).as_deref(), Some("drop.policy, wan > router"));
        assert!(packets[1].options.contains(&EnhancedPacketOption::DropCount(7)));
        assert_eq!(comment(2).as_deref(), Some("drop.policy, from wan"));
        assert_eq!(comment(3).as_deref(), Some("drop.policy"));
    }

    #[test]
    fn direction_is_in_the_flags() {
        let mut file = Pcapng::new(names(), 0, 60).unwrap();
        let out = CaptureHeader { direction: OUTBOUND, ..header(2, ANY_REASON, 1, ANY_ZONE) };
        file.packet(&out, &[]).unwrap();
        let bytes = file.take();
        let mut reader = PcapNgReader::new(&bytes[..]).unwrap();
        let mut last = None;
        while let Some(block) = reader.next_block() {
            last = Some(block.unwrap().into_owned());
        }
        let Some(Block::EnhancedPacket(packet)) = last else { panic!("{last:?}") };
        assert_eq!(packet.options, [EnhancedPacketOption::Flags(2)]);
    }
}

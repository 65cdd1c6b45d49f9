//! Messages of nfnetlink: netlink's header, then family, version and resource.

use netlink_packet_core::{Emitable, NLM_F_REQUEST, NetlinkHeader};

use super::attribute::Writer;

/// `NFNL_SUBSYS_NFTABLES`.
pub(super) const NFTABLES: u16 = 10;
/// `NFPROTO_INET`.
const INET: u8 = 1;
/// Bytes of netlink's header.
const HEADER: usize = 16;

/// Kinds of messages that we send (linux/netfilter/nf_tables.h, nfnetlink.h).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    BatchBegin,
    BatchEnd,
    NewTable,
    DeleteTable,
    NewChain,
    NewRule,
    NewSet,
    NewElements,
    NewObject,
    GetObjects,
}

impl Kind {
    const fn number(self) -> u16 {
        match self {
            // NLMSG_MIN_TYPE and the next.
            Self::BatchBegin => 0x10,
            Self::BatchEnd => 0x11,
            Self::NewTable => NFTABLES << 8,
            Self::DeleteTable => NFTABLES << 8 | 2,
            Self::NewChain => NFTABLES << 8 | 3,
            Self::NewRule => NFTABLES << 8 | 6,
            Self::NewSet => NFTABLES << 8 | 9,
            Self::NewElements => NFTABLES << 8 | 12,
            Self::NewObject => NFTABLES << 8 | 18,
            Self::GetObjects => NFTABLES << 8 | 19,
        }
    }

    const fn is_mark(self) -> bool {
        matches!(self, Self::BatchBegin | Self::BatchEnd)
    }
}

/// Writes one message.
pub(super) fn message(
    writer: &mut Writer,
    kind: Kind,
    flags: u16,
    sequence: u32,
    content: impl FnOnce(&mut Writer),
) {
    let (family, resource) = if kind.is_mark() { (0, NFTABLES) } else { (INET, 0) };
    frame(writer, (kind.number(), flags, sequence), (family, resource), content);
}

/// Writes a message of any part of netfilter: kind, flags and sequence number, family and resource.
pub(super) fn frame(
    writer: &mut Writer,
    (kind, flags, sequence): (u16, u16, u32),
    (family, resource): (u8, u16),
    content: impl FnOnce(&mut Writer),
) {
    let start = writer.len();
    writer.raw(&[0; HEADER]);
    let [high, low] = resource.to_be_bytes();
    writer.raw(&[family, 0, high, low]);
    content(writer);
    let mut header = NetlinkHeader::default();
    // The buffer of a batch may be larger, a message is not: it is at most some attributes, each
    // of which was checked.
    header.length = u32::try_from(writer.len() - start).unwrap_or(u32::MAX);
    header.message_type = kind;
    header.flags = NLM_F_REQUEST | flags;
    header.sequence_number = sequence;
    let mut bytes = [0; HEADER];
    header.emit(&mut bytes);
    writer.overwrite(start, &bytes);
}

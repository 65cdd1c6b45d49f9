//! Expressions: the instructions of the kernel's machine, which work on its registers.

use super::attribute::Writer;
use crate::ruleset::Verdict;

/// A register of 16 bytes: 1 to 4.
pub(super) type Register = u32;

/// An instruction. The order in which its attributes are written is that of nft.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Expression {
    Meta {
        key: u32,
        to: Register,
    },
    Connection {
        key: u32,
        to: Register,
    },
    /// Of the first packet's direction.
    Original {
        key: u32,
        to: Register,
    },
    SetConnection {
        key: u32,
        from: Register,
    },
    Payload {
        base: Header,
        offset: u32,
        length: u32,
        to: Register,
    },
    Route {
        key: u32,
        to: Register,
    },
    /// Of IPv6; no extension header of this kind, no match.
    ExtensionHeader {
        header: u8,
        offset: u32,
        length: u32,
        to: Register,
    },
    Compare {
        from: Register,
        operator: Comparison,
        value: Vec<u8>,
    },
    Outside {
        from: Register,
        first: Vec<u8>,
        last: Vec<u8>,
    },
    /// `stated`: whether the operation is named, as nft does where the text has a `&`.
    And {
        register: Register,
        mask: Vec<u8>,
        stated: bool,
    },
    ToNetworkOrder {
        register: Register,
        length: u32,
    },
    Lookup {
        from: Register,
        set: SetName,
        to: Option<Register>,
        negated: bool,
    },
    Immediate {
        to: Register,
        value: Vec<u8>,
    },
    Verdict(Verdict),
    Counter(String),
    Log {
        prefix: String,
        level: u32,
    },
    Limit {
        per_second: u32,
        burst: u32,
        over: bool,
    },
    Connections {
        most: u32,
    },
    Dynamic {
        set: SetName,
        update: bool,
        key: Register,
        limit: Box<Expression>,
    },
    Reject {
        kind: u32,
        code: u8,
    },
    Masquerade,
    Nat {
        kind: u32,
        family: u32,
        address: (Register, Option<Register>),
        port: Option<Register>,
        flags: u32,
    },
    WriteTcpOption {
        option: u8,
        offset: u32,
        length: u32,
        from: Register,
    },
}

/// A set by its name and its number in the batch.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct SetName {
    pub(super) name: String,
    pub(super) id: u32,
}

/// `NFT_PAYLOAD_*_HEADER`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u32)]
pub(super) enum Header {
    Link = 0,
    Network = 1,
    Transport = 2,
}

/// `NFT_CMP_*`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u32)]
pub(super) enum Comparison {
    Equal = 0,
    NotEqual = 1,
    AtMost = 3,
    AtLeast = 5,
}

/// `NFTA_LIST_ELEM`.
const ELEMENT: u16 = 1;
/// `NFTA_EXPR_NAME`, `NFTA_EXPR_DATA`.
const NAME: u16 = 1;
const DATA: u16 = 2;
/// `NFTA_DATA_VALUE`, `NFTA_DATA_VERDICT`.
const VALUE: u16 = 1;
const VERDICT: u16 = 2;
/// `NFT_OBJECT_COUNTER`.
const COUNTER_OBJECT: u32 = 1;

impl Expression {
    /// As an element of a list.
    pub(super) fn write_element(&self, writer: &mut Writer) {
        writer.nested(ELEMENT, |writer| self.write(writer));
    }

    fn write(&self, writer: &mut Writer) {
        writer.text(NAME, self.name());
        writer.nested(DATA, |writer| self.write_data(writer));
    }

    const fn name(&self) -> &'static str {
        match self {
            Self::Meta { .. } => "meta",
            Self::Connection { .. } | Self::Original { .. } | Self::SetConnection { .. } => "ct",
            Self::Payload { .. } => "payload",
            Self::Route { .. } => "rt",
            Self::Compare { .. } => "cmp",
            Self::Outside { .. } => "range",
            Self::And { .. } => "bitwise",
            Self::ToNetworkOrder { .. } => "byteorder",
            Self::Lookup { .. } => "lookup",
            Self::Immediate { .. } | Self::Verdict(_) => "immediate",
            Self::Counter(_) => "objref",
            Self::Log { .. } => "log",
            Self::Limit { .. } => "limit",
            Self::Connections { .. } => "connlimit",
            Self::Dynamic { .. } => "dynset",
            Self::Reject { .. } => "reject",
            Self::Masquerade => "masq",
            Self::Nat { .. } => "nat",
            Self::ExtensionHeader { .. } | Self::WriteTcpOption { .. } => "exthdr",
        }
    }

    fn write_data(&self, writer: &mut Writer) {
        match self {
            // NFTA_META_KEY, _DREG; NFTA_CT_KEY, _DREG; NFTA_RT_KEY, _DREG.
            Self::Meta { key, to } | Self::Connection { key, to } | Self::Route { key, to } => {
                writer.number(2, *key);
                writer.number(1, *to);
            }
            // NFTA_CT_KEY, _DREG, _DIRECTION (IP_CT_DIR_ORIGINAL).
            Self::Original { key, to } => {
                writer.number(2, *key);
                writer.number(1, *to);
                writer.byte(3, 0);
            }
            // NFTA_CT_KEY, _SREG.
            Self::SetConnection { key, from } => {
                writer.number(2, *key);
                writer.number(4, *from);
            }
            // NFTA_PAYLOAD_DREG, _BASE, _OFFSET, _LEN.
            Self::Payload { base, offset, length, to } => {
                writer.number(1, *to);
                writer.number(2, *base as u32);
                writer.number(3, *offset);
                writer.number(4, *length);
            }
            // NFTA_EXTHDR_DREG, _TYPE, _OFFSET, _LEN, _OP (NFT_EXTHDR_OP_IPV6), _FLAGS.
            Self::ExtensionHeader { header, offset, length, to } => {
                writer.number(1, *to);
                writer.byte(2, *header);
                writer.number(3, *offset);
                writer.number(4, *length);
                writer.number(6, 0);
                writer.number(5, 0);
            }
            // NFTA_CMP_SREG, _OP, _DATA.
            Self::Compare { from, operator, value } => {
                writer.number(1, *from);
                writer.number(2, *operator as u32);
                writer.nested(3, |writer| writer.bytes(VALUE, value));
            }
            // NFTA_RANGE_SREG, _OP (NFT_RANGE_NEQ), _FROM_DATA, _TO_DATA.
            Self::Outside { from, first, last } => {
                writer.number(1, *from);
                writer.number(2, 1);
                writer.nested(3, |writer| writer.bytes(VALUE, first));
                writer.nested(4, |writer| writer.bytes(VALUE, last));
            }
            // NFTA_BITWISE_SREG, _DREG, _OP (NFT_BITWISE_BOOL), _LEN, _MASK, _XOR.
            Self::And { register, mask, stated } => {
                writer.number(1, *register);
                writer.number(2, *register);
                if *stated {
                    writer.number(6, 0);
                }
                writer.number(3, u32::try_from(mask.len()).unwrap_or(0));
                writer.nested(4, |writer| writer.bytes(VALUE, mask));
                writer.nested(5, |writer| writer.bytes(VALUE, &vec![0; mask.len()]));
            }
            // NFTA_BYTEORDER_SREG, _DREG, _OP (NFT_BYTEORDER_HTON), _LEN, _SIZE.
            Self::ToNetworkOrder { register, length } => {
                writer.number(1, *register);
                writer.number(2, *register);
                writer.number(3, 1);
                writer.number(4, *length);
                writer.number(5, *length);
            }
            // NFTA_LOOKUP_SREG, _DREG, _SET, _SET_ID, _FLAGS.
            Self::Lookup { from, set, to, negated } => {
                writer.number(2, *from);
                if let Some(to) = to {
                    writer.number(3, *to);
                }
                writer.text(1, &set.name);
                writer.number(4, set.id);
                if *negated {
                    writer.number(5, 1);
                }
            }
            // NFTA_IMMEDIATE_DREG, _DATA.
            Self::Immediate { to, value } => {
                writer.number(1, *to);
                writer.nested(2, |writer| writer.bytes(VALUE, value));
            }
            Self::Verdict(verdict) => {
                writer.number(1, 0);
                writer.nested(2, |writer| write_verdict(writer, verdict));
            }
            // NFTA_OBJREF_IMM_TYPE, _IMM_NAME.
            Self::Counter(name) => {
                writer.number(1, COUNTER_OBJECT);
                writer.bytes(2, name.as_bytes());
            }
            // NFTA_LOG_PREFIX, _LEVEL.
            Self::Log { prefix, level } => {
                writer.text(2, prefix);
                writer.number(5, *level);
            }
            // NFTA_LIMIT_RATE, _UNIT (a second), _BURST, _TYPE (packets), _FLAGS.
            Self::Limit { per_second, burst, over } => {
                writer.long(1, u64::from(*per_second));
                writer.long(2, 1);
                writer.number(3, *burst);
                writer.number(4, 0);
                writer.number(5, u32::from(*over));
            }
            // NFTA_CONNLIMIT_COUNT, _FLAGS (beyond it).
            Self::Connections { most } => {
                writer.number(1, *most);
                writer.number(2, 1);
            }
            // NFTA_DYNSET_SREG_KEY, _OP, _SET_NAME, _SET_ID, _EXPR.
            Self::Dynamic { set, update, key, limit } => {
                writer.number(4, *key);
                writer.number(3, u32::from(*update));
                writer.text(1, &set.name);
                writer.number(2, set.id);
                writer.nested(7, |writer| limit.write(writer));
            }
            // NFTA_REJECT_TYPE, _ICMP_CODE.
            Self::Reject { kind, code } => {
                writer.number(1, *kind);
                writer.byte(2, *code);
            }
            Self::Masquerade => {}
            // NFTA_NAT_TYPE, _FAMILY, _REG_ADDR_MIN, _REG_ADDR_MAX, _REG_PROTO_MIN, _FLAGS.
            Self::Nat { kind, family, address: (first, last), port, flags } => {
                writer.number(1, *kind);
                writer.number(2, *family);
                writer.number(3, *first);
                if let Some(last) = last {
                    writer.number(4, *last);
                }
                if let Some(port) = port {
                    writer.number(5, *port);
                }
                if *flags != 0 {
                    writer.number(7, *flags);
                }
            }
            // NFTA_EXTHDR_SREG, _TYPE, _OFFSET, _LEN, _OP (NFT_EXTHDR_OP_TCPOPT).
            Self::WriteTcpOption { option, offset, length, from } => {
                writer.number(7, *from);
                writer.byte(2, *option);
                writer.number(3, *offset);
                writer.number(4, *length);
                writer.number(6, 1);
            }
        }
    }
}

/// `NFTA_DATA_VERDICT` with `NFTA_VERDICT_CODE`, `_CHAIN`.
pub(super) fn write_verdict(writer: &mut Writer, verdict: &Verdict) {
    writer.nested(VERDICT, |writer| {
        writer.bytes(1, &verdict.code().to_be_bytes());
        if let Some(chain) = verdict.chain() {
            writer.text(2, chain);
        }
    });
}

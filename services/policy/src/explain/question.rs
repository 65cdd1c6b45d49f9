//! A packet as a person writes it.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use portcullis_model::{
    MacAddress, Name,
    firewall::{IcmpMatch, Protocol},
};

/// `PROTOCOL SOURCE[:PORT] -> DESTINATION[:PORT] [in PLACE] [out PLACE] [type TYPE[/CODE]] [mac MAC]`
///
/// The protocol is `tcp`, `udp`, `icmp`, `icmpv6` or a number; a place is an interface or a zone. TCP
/// and UDP need a destination port; the source port is 49152 if it is left out. IPv6 addresses with a
/// port stand in brackets. ICMP is an echo request if no type is given.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Question {
    /// Protocol.
    pub protocol: Protocol,
    /// Source address.
    pub source: IpAddr,
    /// Source port; 0 if the protocol has none.
    pub source_port: u16,
    /// Destination address.
    pub destination: IpAddr,
    /// Destination port; 0 if the protocol has none.
    pub destination_port: u16,
    /// Of ICMP: `type << 8 | code`.
    pub icmp: u16,
    /// Interface or zone that it comes in by.
    pub inside: Option<Name>,
    /// Interface or zone that it leaves by.
    pub outside: Option<Name>,
    /// Hardware address of the sender.
    pub mac: Option<MacAddress>,
}

/// Source port of a packet that names none: the first that hosts choose (RFC 6335 section 6).
const EPHEMERAL: u16 = 49_152;

/// Why a text is not a packet.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum QuestionError {
    /// A word is missing.
    #[error(
        "{0} is missing; a packet is written as in: tcp 192.168.77.5:1234 -> 203.0.113.5:443 in lan"
    )]
    Missing(&'static str),
    /// A word means nothing here.
    #[error(
        "`{0}` is not understood: behind the addresses may stand `in PLACE`, `out PLACE`, `type TYPE/CODE` and `mac ADDRESS`, each once"
    )]
    Word(String),
    /// A value has the wrong form.
    #[error("`{word}` is not {what}")]
    Value {
        /// What was written.
        word: String,
        /// What it should be.
        what: &'static str,
    },
    /// Addresses of two families.
    #[error("{0} and {1} are of different address families")]
    Families(IpAddr, IpAddr),
    /// ICMP of the other family.
    #[error("`{0}` is not a protocol of {1}")]
    Protocol(Protocol, &'static str),
}

impl Question {
    /// Whether it is an echo request of ICMP or ICMPv6.
    pub fn is_echo_request(&self) -> bool {
        match self.protocol {
            Protocol::ICMP => self.icmp >> 8 == 8,
            Protocol::ICMPV6 => self.icmp >> 8 == 128,
            _ => false,
        }
    }
}

fn value<T: FromStr>(word: &str, what: &'static str) -> Result<T, QuestionError> {
    word.parse().map_err(|_| QuestionError::Value { word: word.to_owned(), what })
}

/// Address and, if it is there, port.
fn end(word: &str) -> Result<(IpAddr, Option<u16>), QuestionError> {
    if let Ok(address) = word.parse() {
        return Ok((address, None));
    }
    let end: SocketAddr =
        value(word, "an address, or address and port as in 192.0.2.1:80 or [2001:db8::1]:80")?;
    Ok((end.ip(), Some(end.port())))
}

impl FromStr for Question {
    type Err = QuestionError;

    fn from_str(text: &str) -> Result<Self, QuestionError> {
        let mut words = text.split_whitespace();
        let mut next = |what| words.next().ok_or(QuestionError::Missing(what));
        let protocol: Protocol = value(
            next("the protocol")?,
            "a protocol: tcp, udp, icmp, icmpv6 or a number from 0 to 255",
        )?;
        let (source, source_port) = end(next("the source")?)?;
        match next("`->`")? {
            "->" => {}
            word => {
                return Err(QuestionError::Value { word: word.to_owned(), what: "the arrow `->`" });
            }
        }
        let (destination, destination_port) = end(next("the destination")?)?;
        if source.is_ipv4() != destination.is_ipv4() {
            return Err(QuestionError::Families(source, destination));
        }
        match protocol {
            Protocol::ICMP if source.is_ipv6() => {
                return Err(QuestionError::Protocol(protocol, "IPv6"));
            }
            Protocol::ICMPV6 if source.is_ipv4() => {
                return Err(QuestionError::Protocol(protocol, "IPv4"));
            }
            _ => {}
        }
        let (source_port, destination_port) = if protocol.has_ports() {
            let port = destination_port.ok_or(QuestionError::Missing("the destination port"))?;
            (source_port.unwrap_or(EPHEMERAL), port)
        } else if source_port.is_none() && destination_port.is_none() {
            (0, 0)
        } else {
            return Err(QuestionError::Value {
                word: protocol.to_string(),
                what: "a protocol with ports",
            });
        };
        let echo = if protocol == Protocol::ICMPV6 { 128 } else { 8 };
        let mut question = Self {
            protocol,
            source,
            source_port,
            destination,
            destination_port,
            icmp: if protocol.is_icmp() { echo << 8 } else { 0 },
            inside: None,
            outside: None,
            mac: None,
        };
        let mut kind = None;
        while let Some(word) = words.next() {
            let mut argument =
                || words.next().ok_or(QuestionError::Missing("what belongs to the last word"));
            match word {
                "in" if question.inside.is_none() => {
                    question.inside = Some(value(argument()?, "an interface or zone")?);
                }
                "out" if question.outside.is_none() => {
                    question.outside = Some(value(argument()?, "an interface or zone")?);
                }
                "mac" if question.mac.is_none() => {
                    question.mac = Some(value(argument()?, "a hardware address")?);
                }
                "type" if kind.is_none() && protocol.is_icmp() => {
                    kind = Some(value(argument()?, "an ICMP type as in 8 or 3/4")?);
                }
                _ => return Err(QuestionError::Word(word.to_owned())),
            }
        }
        if let Some(IcmpMatch::Type { kind, code }) = kind {
            question.icmp = u16::from(kind) << 8 | u16::from(code.unwrap_or(0));
        }
        Ok(question)
    }
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = |address, port| super::end(address, port, self.protocol);
        let source = end(self.source, self.source_port);
        let destination = end(self.destination, self.destination_port);
        write!(f, "{} {source} -> {destination}", self.protocol)?;
        if self.protocol.is_icmp() {
            write!(f, " type {}/{}", self.icmp >> 8, self.icmp & 0xff)?;
        }
        if let Some(place) = &self.inside {
            write!(f, " in {place}")?;
        }
        if let Some(place) = &self.outside {
            write!(f, " out {place}")?;
        }
        if let Some(mac) = &self.mac {
            write!(f, " mac {mac}")?;
        }
        Ok(())
    }
}

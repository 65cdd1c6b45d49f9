//! What a client says, read from its message.

use std::net::Ipv4Addr;

use dhcproto::v4::{
    Flags, MAGIC, MessageType, Opcode, OptionCode, borrowed,
    borrowed::{DhcpOption, DhcpOptionIterator},
};

use super::{ClientId, HardwareAddress};

/// Header and magic cookie (RFC 2131 section 2).
const HEADER: usize = 240;
/// Where `file` stands, in case options overflow into it (option 52).
const FILE: std::ops::Range<usize> = 108..236;
/// Where `sname` stands.
const SNAME: std::ops::Range<usize> = 44..108;
/// `chaddr` has 16 octets.
const MAX_HARDWARE: u8 = 16;
/// An option that was split (RFC 3396) is joined up to this; more is of no use to us.
const MAX_OPTION: usize = 1024;

/// Why a datagram is not a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Malformed {
    /// No room for the header.
    #[error("shorter than the 240 octets of header and cookie")]
    Short,
    /// Not from a client.
    #[error("op is not BOOTREQUEST")]
    NotRequest,
    /// A BOOTP message or something else.
    #[error("magic cookie is not 99.130.83.99")]
    Cookie,
    /// Longer than `chaddr`.
    #[error("hlen {0} is more than 16")]
    HardwareLength(u8),
    /// Neither option 61 nor a hardware address.
    #[error("neither client identifier nor hardware address")]
    NoClient,
    /// BOOTP (RFC 951), which is not served, or a message that only servers send.
    #[error("no message type (option 53) that a client sends")]
    MessageType,
    /// A fixed-size option has another size.
    #[error("option {0} is not 4 octets")]
    AddressOption(u8),
}

/// A message of a client.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Request {
    /// Option 53.
    pub kind: MessageType,
    /// Transaction number.
    pub xid: u32,
    /// Flags as received; see [`Request::broadcast`].
    pub flags: Flags,
    /// The address the client has and answers ARP for, else 0.0.0.0.
    pub ciaddr: Ipv4Addr,
    /// The relay agent, else 0.0.0.0.
    pub giaddr: Ipv4Addr,
    /// `htype`, `hlen` and `chaddr`.
    pub hardware: HardwareAddress,
    /// Option 61, echoed in every reply (RFC 6842).
    pub client_identifier: Option<Vec<u8>>,
    /// Option 50.
    pub requested: Option<Ipv4Addr>,
    /// Option 54.
    pub server: Option<Ipv4Addr>,
    /// Option 55: codes the client wants, in its order; none if it did not say.
    pub parameters: Option<Vec<u8>>,
    /// Option 57: longest message the client takes, octets with IP and UDP header.
    pub max_size: Option<u16>,
    /// Option 12 as received.
    pub hostname: Option<Vec<u8>>,
    /// Option 81 as received (RFC 4702): flags, two result codes, name.
    pub fqdn: Option<Vec<u8>>,
    /// Option 82 as received, echoed as it is (RFC 3046 section 2.2).
    pub relay_information: Option<Vec<u8>>,
}

impl Request {
    /// Reads a UDP payload.
    ///
    /// # Errors
    /// What makes it unfit; options that are merely odd are left out.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        // Only the borrowed view of dhcproto is used: its owned decoder asserts on the length of
        // some options and loses the octets that must be echoed unchanged.
        let message = borrowed::Message::new(bytes).map_err(|_| Malformed::Short)?;
        if message.opcode() != Opcode::BootRequest {
            return Err(Malformed::NotRequest);
        }
        if bytes.get(HEADER - MAGIC.len()..HEADER) != Some(&MAGIC) {
            return Err(Malformed::Cookie);
        }
        if message.hlen() > MAX_HARDWARE {
            return Err(Malformed::HardwareLength(message.hlen()));
        }
        let options = Options::read(bytes);
        let hardware = HardwareAddress::new(message.htype().into(), message.chaddr())
            .ok_or(Malformed::HardwareLength(message.hlen()))?;
        let client_identifier =
            options.get(OptionCode::ClientIdentifier).filter(|id| (1..=255).contains(&id.len()));
        if client_identifier.is_none() && hardware.octets().is_empty() {
            return Err(Malformed::NoClient);
        }
        let kind = match options.get(OptionCode::MessageType) {
            Some(&[kind]) => MessageType::from(kind),
            _ => return Err(Malformed::MessageType),
        };
        if !matches!(
            kind,
            MessageType::Discover
                | MessageType::Request
                | MessageType::Decline
                | MessageType::Release
                | MessageType::Inform
        ) {
            return Err(Malformed::MessageType);
        }
        Ok(Self {
            kind,
            xid: message.xid(),
            flags: message.flags(),
            ciaddr: message.ciaddr(),
            giaddr: message.giaddr(),
            hardware,
            client_identifier: client_identifier.map(<[u8]>::to_vec),
            requested: options.address(OptionCode::RequestedIpAddress)?,
            server: options.address(OptionCode::ServerIdentifier)?,
            parameters: options.get(OptionCode::ParameterRequestList).map(<[u8]>::to_vec),
            max_size: options
                .get(OptionCode::MaxMessageSize)
                .and_then(|size| <[u8; 2]>::try_from(size).ok())
                .map(u16::from_be_bytes),
            hostname: options.get(OptionCode::Hostname).map(<[u8]>::to_vec),
            fqdn: options.get(OptionCode::ClientFQDN).map(<[u8]>::to_vec),
            relay_information: options.get(OptionCode::RelayAgentInformation).map(<[u8]>::to_vec),
        })
    }

    /// Who sent it.
    pub fn client(&self) -> ClientId {
        match &self.client_identifier {
            Some(identifier) => ClientId::Option(identifier.clone()),
            None => ClientId::Hardware(self.hardware.clone()),
        }
    }

    /// Whether the client cannot take unicast before it has its address.
    pub fn broadcast(&self) -> bool {
        self.flags.broadcast()
    }

    /// Whether a relay agent passed it on.
    pub fn relayed(&self) -> bool {
        !self.giaddr.is_unspecified()
    }
}

/// Options by code, parts of a split one joined (RFC 3396), in the order of RFC 2131 section 4.1:
/// options field, `file`, `sname`.
struct Options(Vec<(u8, Vec<u8>)>);

impl Options {
    fn read(bytes: &[u8]) -> Self {
        let mut options = Self(Vec::new());
        options.join(bytes.get(HEADER..));
        let overload = match options.get(OptionCode::OptionOverload) {
            Some(&[overload]) => overload,
            _ => 0,
        };
        if overload & 1 != 0 {
            options.join(bytes.get(FILE));
        }
        if overload & 2 != 0 {
            options.join(bytes.get(SNAME));
        }
        options
    }

    fn join(&mut self, field: Option<&[u8]>) {
        for option in DhcpOptionIterator::new(field.unwrap_or_default()) {
            self.push(&option);
        }
    }

    fn push(&mut self, option: &DhcpOption<'_>) {
        let code = u8::from(option.code());
        match self.0.iter_mut().find(|(known, _)| *known == code) {
            Some((_, data)) if data.len() + option.len() <= MAX_OPTION => {
                data.extend_from_slice(option.data());
            }
            Some(_) => {}
            None => self.0.push((code, option.data().to_vec())),
        }
    }

    fn get(&self, code: OptionCode) -> Option<&[u8]> {
        let code = u8::from(code);
        self.0.iter().find(|(known, _)| *known == code).map(|(_, data)| data.as_slice())
    }

    fn address(&self, code: OptionCode) -> Result<Option<Ipv4Addr>, Malformed> {
        self.get(code)
            .map(|data| {
                <[u8; 4]>::try_from(data)
                    .map(Ipv4Addr::from)
                    .map_err(|_| Malformed::AddressOption(code.into()))
            })
            .transpose()
    }
}

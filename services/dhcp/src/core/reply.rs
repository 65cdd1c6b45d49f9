//! What we say to a client, written to bytes.

use std::net::Ipv4Addr;

use dhcproto::{
    Encodable, Encoder,
    v4::{DhcpOption, Flags, HType, Message, MessageType, Opcode, OptionCode, UnknownOption},
};
use portcullis_model::HostName;

use super::{Request, hostname::FQDN_WIRE, scope::Scope};

/// Octets of IPv4 and UDP header.
const IP_UDP: usize = 28;
/// What every client must take (RFC 2131 section 2), octets with IP and UDP header.
const MIN_MAX_SIZE: u16 = 576;
/// No reply is longer, whatever a client would take: one Ethernet frame.
const MAX_SIZE: u16 = 1500;
/// Header and cookie.
const HEADER: usize = 240;
/// Octets kept free for what no client can do without: options 53, 54, 51, 58, 59 and 1, and one
/// router and DNS server.
const ESSENTIAL: usize = 50;
/// Smallest message of BOOTP (RFC 951), which some clients and relays still insist on.
const MIN_LENGTH: usize = 300;
/// FQDN flag S: the server updates the A record (RFC 4702 section 2.1).
const FQDN_S: u8 = 0x01;
/// FQDN flag O: the server overrode the client's wish.
const FQDN_O: u8 = 0x02;

/// Options for a client that does not say what it wants.
const DEFAULT_PARAMETERS: &[OptionCode] = &[
    OptionCode::SubnetMask,
    OptionCode::Router,
    OptionCode::DomainNameServer,
    OptionCode::DomainName,
    OptionCode::BroadcastAddr,
    OptionCode::NtpServers,
    OptionCode::InterfaceMtu,
];

/// One reply.
pub(crate) struct Reply<'a> {
    pub(crate) request: &'a Request,
    pub(crate) scope: &'a Scope,
    pub(crate) domain: &'a str,
    pub(crate) kind: MessageType,
    /// The address given or offered; unspecified in a NAK and in the answer to an INFORM.
    pub(crate) yiaddr: Ipv4Addr,
    /// Lease time in seconds; none in a NAK and in the answer to an INFORM.
    pub(crate) lease_s: Option<u32>,
    /// The client's name in the local domain.
    pub(crate) hostname: Option<&'a HostName>,
    /// Text for the client's log, in a NAK.
    pub(crate) message: Option<&'a str>,
}

impl Reply<'_> {
    /// The UDP payload; none if it cannot be written, which no input is known to cause.
    pub(crate) fn encode(&self) -> Option<Vec<u8>> {
        let mut bytes = self.header()?;
        let last = self.last_options()?;
        let room = self.room().saturating_sub(last.len() + 1);
        for option in self.options() {
            let option = encode(&option)?;
            // What does not fit is left out, the least important is at the end.
            if bytes.len() + option.len() <= room {
                bytes.extend_from_slice(&option);
            }
        }
        bytes.extend_from_slice(&last);
        bytes.push(OptionCode::End.into());
        bytes.resize(bytes.len().max(MIN_LENGTH), 0);
        Some(bytes)
    }

    /// Longest payload that the client takes.
    fn room(&self) -> usize {
        let size = self.request.max_size.unwrap_or(MIN_MAX_SIZE).clamp(MIN_MAX_SIZE, MAX_SIZE);
        usize::from(size) - IP_UDP
    }

    /// Header and cookie by table 3 of RFC 2131.
    fn header(&self) -> Option<Vec<u8>> {
        let request = self.request;
        let nak = self.kind == MessageType::Nak;
        let ciaddr =
            if self.kind == MessageType::Ack { request.ciaddr } else { Ipv4Addr::UNSPECIFIED };
        let mut flags = request.flags;
        if nak && request.relayed() {
            // The client may have an address of another subnet (RFC 2131 section 4.3.2).
            flags = Flags::set_broadcast(flags);
        }
        let mut message = Message::new_with_id(
            request.xid,
            ciaddr,
            self.yiaddr,
            Ipv4Addr::UNSPECIFIED,
            request.giaddr,
            request.hardware.octets(),
        );
        message
            .set_opcode(Opcode::BootReply)
            .set_htype(HType::from(request.hardware.kind()))
            .set_flags(flags);
        let mut bytes = encode(&message)?;
        // Options follow in an order of ours, which the sorted map of dhcproto cannot keep.
        bytes.truncate(HEADER);
        Some(bytes)
    }

    /// Options that may be left out for want of room, the most important first.
    fn options(&self) -> Vec<DhcpOption> {
        let mut options = vec![
            DhcpOption::MessageType(self.kind),
            DhcpOption::ServerIdentifier(self.scope.address()),
        ];
        if let Some(lease_s) = self.lease_s {
            options.push(DhcpOption::AddressLeaseTime(lease_s));
            options.push(DhcpOption::Renewal(lease_s / 2));
            options.push(DhcpOption::Rebinding((u64::from(lease_s) * 7 / 8) as u32));
        }
        if let Some(text) = self.message {
            options.push(DhcpOption::Message(text.to_owned()));
        }
        if self.kind != MessageType::Nak {
            // The mask comes before the routers (RFC 2132 section 3.3), asked for or not: a
            // client without it would guess by address class.
            let mut done = vec![OptionCode::SubnetMask];
            options.push(DhcpOption::SubnetMask(self.scope.network.netmask()));
            for code in self.wanted() {
                if !done.contains(&code) {
                    done.push(code);
                    options.extend(self.parameter(code));
                }
            }
        }
        options
    }

    fn wanted(&self) -> Vec<OptionCode> {
        match &self.request.parameters {
            Some(codes) => codes.iter().map(|code| OptionCode::from(*code)).collect(),
            None => DEFAULT_PARAMETERS.to_vec(),
        }
    }

    /// A configuration parameter, if there is something to say.
    fn parameter(&self, code: OptionCode) -> Option<DhcpOption> {
        let settings = &self.scope.settings;
        let own = || vec![self.scope.address()];
        let or_own = |list: &Vec<Ipv4Addr>| if list.is_empty() { own() } else { list.clone() };
        match code {
            OptionCode::Router => Some(DhcpOption::Router(or_own(&settings.routers))),
            OptionCode::DomainNameServer => {
                Some(DhcpOption::DomainNameServer(or_own(&settings.dns)))
            }
            OptionCode::DomainName if !self.domain.is_empty() => {
                Some(DhcpOption::DomainName(self.domain.to_owned()))
            }
            OptionCode::BroadcastAddr => {
                Some(DhcpOption::BroadcastAddr(self.scope.network.broadcast()))
            }
            OptionCode::NtpServers if !settings.ntp.is_empty() => {
                Some(DhcpOption::NtpServers(settings.ntp.clone()))
            }
            OptionCode::InterfaceMtu => settings.mtu.map(DhcpOption::InterfaceMtu),
            // Only the name that an administrator chose: a client keeps its own otherwise.
            OptionCode::Hostname => self
                .scope
                .reservation(&self.request.hardware)
                .and_then(|reservation| reservation.hostname.as_ref())
                .map(|name| DhcpOption::Hostname(name.to_string())),
            _ => None,
        }
    }

    /// What belongs at the end: FQDN (RFC 4702 section 4), the client identifier, which must come
    /// back (RFC 6842 section 3), and what a relay agent put in, as the last one. Relay information
    /// that leaves no room is left out (RFC 3046 section 2.2), and before it the FQDN.
    fn last_options(&self) -> Option<Vec<u8>> {
        let request = self.request;
        let option = |code: OptionCode, data: Option<&[u8]>| match data {
            Some(data) => {
                let option = UnknownOption::new(OptionCode::Unknown(code.into()), data.to_vec());
                encode(&DhcpOption::Unknown(option))
            }
            None => Some(Vec::new()),
        };
        let identifier =
            option(OptionCode::ClientIdentifier, request.client_identifier.as_deref())?;
        let mut spare =
            self.room().saturating_sub(HEADER + ESSENTIAL + identifier.len() + /* end */ 1);
        let mut fitting = |bytes: Vec<u8>| {
            if bytes.len() > spare {
                return Vec::new();
            }
            spare -= bytes.len();
            bytes
        };
        let relay = fitting(option(
            OptionCode::RelayAgentInformation,
            request.relay_information.as_deref(),
        )?);
        let fqdn = match (&request.fqdn, self.hostname) {
            (Some(asked), Some(name)) if self.kind == MessageType::Ack => {
                Some(self.fqdn(asked, name))
            }
            _ => None,
        };
        let fqdn = fitting(option(OptionCode::ClientFQDN, fqdn.as_deref())?);
        Some([fqdn, identifier, relay].concat())
    }

    fn fqdn(&self, asked: &[u8], name: &HostName) -> Vec<u8> {
        let asked = asked.first().copied().unwrap_or_default();
        let overridden = if asked & FQDN_S == 0 { FQDN_O } else { 0 };
        let wire = asked & FQDN_WIRE;
        // The result codes are deprecated and 255 in what a server sends (RFC 4702 section 2.2).
        let mut option = vec![FQDN_S | overridden | wire, 255, 255];
        if wire == 0 {
            option.extend_from_slice(name.as_str().as_bytes());
            option.push(b'.');
            option.extend_from_slice(self.domain.as_bytes());
            return option;
        }
        for label in [name.as_str()].into_iter().chain(self.domain.split('.')) {
            if let Ok(length @ 1..=63) = u8::try_from(label.len()) {
                option.push(length);
                option.extend_from_slice(label.as_bytes());
            }
        }
        option.push(0);
        option
    }
}

fn encode(what: &impl Encodable) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(MIN_LENGTH);
    what.encode(&mut Encoder::new(&mut bytes)).ok()?;
    Some(bytes)
}

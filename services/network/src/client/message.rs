//! DHCP messages: building ours, reading the server's. Pure.
//!
//! The wire format is dhcproto's; a reply is read option by option, so that one malformed option
//! spoils only itself, and nothing in it is believed before it is checked.

use std::{collections::BTreeMap, net::Ipv4Addr};

use dhcproto::{
    Encodable, Encoder,
    v4::{
        DhcpOption, Flags, HType, Message, MessageType, Opcode, OptionCode,
        borrowed::{self, DhcpOptionIterator},
    },
};
use ipnet::Ipv4Net;
use portcullis_model::{HostName, MacAddress};

use super::lease::{Grant, SHORTEST_LEASE_S};

/// A BOOTP message is at least so long; some relays drop shorter ones.
const SHORTEST_MESSAGE: usize = 300;

/// Largest message that we take (option 57): what fits into an Ethernet frame.
const LARGEST_MESSAGE: u16 = 1472;

/// What we ask for. The order is ours to choose but for RFC 3442: 121 before 3.
const REQUESTED: [OptionCode; 10] = [
    OptionCode::SubnetMask,
    OptionCode::ClasslessStaticRoute,
    OptionCode::Router,
    OptionCode::DomainNameServer,
    OptionCode::DomainName,
    OptionCode::InterfaceMtu,
    OptionCode::NtpServers,
    OptionCode::AddressLeaseTime,
    OptionCode::Renewal,
    OptionCode::Rebinding,
];

/// Most entries that are taken of any list.
const MOST_ENTRIES: usize = 64;

/// Smallest MTU that is accepted: what every host must take in one piece (RFC 791, RFC 2132).
const SMALLEST_MTU: u16 = 576;

/// A message of ours; see RFC 2131 table 5 for what goes into which.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// DHCPDISCOVER, DHCPREQUEST, DHCPDECLINE or DHCPRELEASE.
    pub kind: MessageType,
    /// Transaction.
    pub xid: u32,
    /// Seconds since we began to ask.
    pub secs: u16,
    /// Whether the answer shall be broadcast.
    pub broadcast: bool,
    /// Our address if we use it (`ciaddr`).
    pub address: Option<Ipv4Addr>,
    /// The address that we ask for (option 50).
    pub requested: Option<Ipv4Addr>,
    /// The server that we chose (option 54).
    pub server: Option<Ipv4Addr>,
    /// Our hardware address; also, with its type, the client identifier (option 61, RFC 2132).
    pub mac: MacAddress,
    /// Our name (option 12).
    pub hostname: &'a HostName,
}

impl Request<'_> {
    /// The message on the wire.
    pub fn encode(&self) -> Vec<u8> {
        let mut message = Message::default();
        message
            .set_opcode(Opcode::BootRequest)
            .set_htype(HType::Eth)
            .set_xid(self.xid)
            .set_secs(self.secs)
            .set_chaddr(&self.mac.0);
        if self.broadcast {
            message.set_flags(Flags::default().set_broadcast());
        }
        if let Some(address) = self.address {
            message.set_ciaddr(address);
        }
        let options = message.opts_mut();
        options.insert(DhcpOption::MessageType(self.kind));
        let mut identifier = vec![u8::from(HType::Eth)];
        identifier.extend(self.mac.0);
        options.insert(DhcpOption::ClientIdentifier(identifier));
        if let Some(address) = self.requested {
            options.insert(DhcpOption::RequestedIpAddress(address));
        }
        if let Some(server) = self.server {
            options.insert(DhcpOption::ServerIdentifier(server));
        }
        if matches!(self.kind, MessageType::Discover | MessageType::Request) {
            options.insert(DhcpOption::MaxMessageSize(LARGEST_MESSAGE));
            options.insert(DhcpOption::ParameterRequestList(REQUESTED.to_vec()));
            options.insert(DhcpOption::Hostname(self.hostname.to_string()));
        }
        let mut bytes = Vec::with_capacity(SHORTEST_MESSAGE);
        // A Vec takes everything; the error is that of fixed buffers.
        if message.encode(&mut Encoder::new(&mut bytes)).is_err() {
            bytes.clear();
        }
        bytes.resize(bytes.len().max(SHORTEST_MESSAGE), 0);
        bytes
    }
}

/// A server's message that answers us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// DHCPOFFER.
    Offer(Grant),
    /// DHCPACK.
    Ack(Grant),
    /// DHCPNAK, with the server and its reason.
    Nak {
        /// The server (option 54).
        server: Ipv4Addr,
        /// Its words (option 56), may be empty.
        text: String,
    },
}

/// Reads an answer to transaction `xid` of `mac`; none if it is anything else or damaged.
pub fn parse(payload: &[u8], xid: u32, mac: MacAddress) -> Option<Reply> {
    let message = borrowed::Message::new(payload).ok()?;
    let ours = message.opcode() == Opcode::BootReply
        && message.htype() == HType::Eth
        && message.hlen() == 6
        && message.chaddr() == mac.0
        && message.xid() == xid;
    if !ours {
        return None;
    }
    let options = Options::collect(payload, &message);
    let server = options.address(OptionCode::ServerIdentifier).filter(is_host)?;
    match options.get(OptionCode::MessageType)? {
        DhcpOption::MessageType(MessageType::Offer) => {
            grant(message.yiaddr(), server, &options).map(Reply::Offer)
        }
        DhcpOption::MessageType(MessageType::Ack) => {
            grant(message.yiaddr(), server, &options).map(Reply::Ack)
        }
        DhcpOption::MessageType(MessageType::Nak) => {
            let text = match options.get(OptionCode::Message) {
                Some(DhcpOption::Message(text)) => {
                    text.chars().filter(|c| !c.is_control()).take(128).collect()
                }
                _ => String::new(),
            };
            Some(Reply::Nak { server, text })
        }
        _ => None,
    }
}

/// The options of a message by code, with the pieces of long ones joined (RFC 3396).
struct Options(BTreeMap<u8, Vec<u8>>);

impl Options {
    fn collect(payload: &[u8], message: &borrowed::Message<'_>) -> Self {
        let mut options = Self(BTreeMap::new());
        options.extend(message.opts());
        // Option 52: `file` (1), `sname` (2) or both (3) hold further options, in this order.
        let overload = match options.get(OptionCode::OptionOverload) {
            Some(DhcpOption::OptionOverload(fields)) => fields,
            _ => 0,
        };
        for (field, range) in [(1, 108..236), (2, 44..108)] {
            if overload <= 3 && overload & field != 0 {
                options.extend(DhcpOptionIterator::new(payload.get(range).unwrap_or_default()));
            }
        }
        options
    }

    fn extend(&mut self, more: DhcpOptionIterator<'_>) {
        for option in more {
            self.0.entry(option.code().into()).or_default().extend(option.data());
        }
    }

    /// The option, if it is there and well-formed.
    fn get(&self, code: OptionCode) -> Option<DhcpOption> {
        let data = self.0.get(&code.into())?;
        // Through the lazy reader again, in pieces of at most 255 bytes with their headers.
        let mut wire = Vec::with_capacity(data.len() + 2);
        for piece in data.chunks(255) {
            wire.push(code.into());
            wire.push(u8::try_from(piece.len()).ok()?);
            wire.extend(piece);
        }
        DhcpOptionIterator::new(&wire).next()?.into_option().ok()
    }

    fn address(&self, code: OptionCode) -> Option<Ipv4Addr> {
        match self.get(code)? {
            DhcpOption::SubnetMask(address) | DhcpOption::ServerIdentifier(address) => {
                Some(address)
            }
            _ => None,
        }
    }

    fn addresses(&self, code: OptionCode) -> Vec<Ipv4Addr> {
        let list = match self.get(code) {
            Some(
                DhcpOption::Router(list)
                | DhcpOption::DomainNameServer(list)
                | DhcpOption::NtpServers(list),
            ) => list,
            _ => Vec::new(),
        };
        list.into_iter().filter(is_host).take(MOST_ENTRIES).collect()
    }

    fn seconds(&self, code: OptionCode) -> Option<u32> {
        match self.get(code)? {
            DhcpOption::AddressLeaseTime(seconds)
            | DhcpOption::Renewal(seconds)
            | DhcpOption::Rebinding(seconds) => Some(seconds),
            _ => None,
        }
    }
}

fn grant(address: Ipv4Addr, server: Ipv4Addr, options: &Options) -> Option<Grant> {
    let mask = if options.0.contains_key(&OptionCode::SubnetMask.into()) {
        options.address(OptionCode::SubnetMask)?
    } else {
        class_mask(address)
    };
    let address = Ipv4Net::with_netmask(address, mask).ok()?;
    let usable = is_host(&address.addr())
        && address.prefix_len() > 0
        && (address.prefix_len() > 30
            || address.addr() != address.network() && address.addr() != address.broadcast());
    let lease_s = options.seconds(OptionCode::AddressLeaseTime)?;
    if !usable || lease_s < SHORTEST_LEASE_S {
        return None;
    }
    let (renewal_s, rebinding_s) = Grant::timers(
        lease_s,
        options.seconds(OptionCode::Renewal),
        options.seconds(OptionCode::Rebinding),
    );
    Some(Grant {
        address,
        server,
        lease_s,
        renewal_s,
        rebinding_s,
        routes: routes(address.addr(), options),
        dns: options.addresses(OptionCode::DomainNameServer),
        ntp: options.addresses(OptionCode::NtpServers),
        domain: domain(options),
        mtu: match options.get(OptionCode::InterfaceMtu) {
            Some(DhcpOption::InterfaceMtu(mtu)) if mtu >= SMALLEST_MTU => Some(mtu),
            _ => None,
        },
    })
}

/// RFC 3442: where option 121 is present, option 3 is ignored.
fn routes(own: Ipv4Addr, options: &Options) -> Vec<(Ipv4Net, Option<Ipv4Addr>)> {
    let listed = match options.get(OptionCode::ClasslessStaticRoute) {
        Some(DhcpOption::ClasslessStaticRoute(listed)) if !listed.is_empty() => listed,
        _ => {
            let router = options.addresses(OptionCode::Router).into_iter().next();
            router.map(|router| (Ipv4Net::default(), router)).into_iter().collect()
        }
    };
    let mut routes = BTreeMap::new();
    for (destination, gateway) in listed.into_iter().take(MOST_ENTRIES) {
        let reachable = gateway.is_unspecified() || is_host(&gateway) && gateway != own;
        let network = destination.network();
        let unicast = !network.is_loopback() && !network.is_multicast() && !network.is_broadcast();
        if reachable && unicast {
            let gateway = (!gateway.is_unspecified()).then_some(gateway);
            routes.entry(destination.trunc()).or_insert(gateway);
        }
    }
    routes.into_iter().collect()
}

/// The domain, if it is one: it goes to other services and into pages.
fn domain(options: &Options) -> Option<String> {
    let Some(DhcpOption::DomainName(text)) = options.get(OptionCode::DomainName) else {
        return None;
    };
    let domain = text.trim_end_matches('\0').trim_end_matches('.').to_ascii_lowercase();
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    (domain.len() <= 253 && domain.split('.').all(label)).then_some(domain)
}

/// Whether it can be the address of one host.
fn is_host(address: &Ipv4Addr) -> bool {
    let [first, ..] = address.octets();
    (1..224).contains(&first) && first != 127
}

/// The mask of the address's class, for a server that sends none (RFC 2132 section 3.3).
fn class_mask(address: Ipv4Addr) -> Ipv4Addr {
    match address.octets() {
        [0..128, ..] => Ipv4Addr::new(255, 0, 0, 0),
        [128..192, ..] => Ipv4Addr::new(255, 255, 0, 0),
        _ => Ipv4Addr::new(255, 255, 255, 0),
    }
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;

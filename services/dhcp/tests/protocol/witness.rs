//! What must hold for every answer, whatever came in: kept apart from the server, it believes only
//! the bytes on the wire. The fuzz target `dhcp_server` uses it too.

use std::{collections::BTreeMap, net::Ipv4Addr};

use dhcproto::{
    Decodable,
    v4::{DhcpOption, Message, MessageType, OptionCode, borrowed},
};
use portcullis_dhcp::core::{
    Action, ClientId, LeaseState, Now, OFFER_MS, Outgoing, PROBE_MS, Request,
};
use portcullis_model::part::DhcpPart;

/// Follows the conversation.
pub struct Witness {
    part: DhcpPart,
    /// Who holds an address until when.
    held: BTreeMap<Ipv4Addr, (Request, i64)>,
    offered: BTreeMap<Ipv4Addr, (ClientId, i64)>,
}

impl Witness {
    pub fn new(part: DhcpPart) -> Self {
        Self { part, held: BTreeMap::new(), offered: BTreeMap::new() }
    }

    pub fn configure(&mut self, part: DhcpPart) {
        self.part = part;
    }

    /// After a restart or a new configuration, offers need not be held.
    pub fn forget_offers(&mut self) {
        self.offered.clear();
    }

    /// Takes note of a message before the server sees it.
    pub fn heard(&mut self, bytes: &[u8]) {
        let Ok(request) = Request::parse(bytes) else { return };
        let client = request.client();
        match request.kind {
            MessageType::Request if request.server.is_some() => {
                self.offered.retain(|_, (other, _)| *other != client);
            }
            MessageType::Release => self.let_go(request.ciaddr, &client),
            MessageType::Decline => {
                if let Some(address) = request.requested {
                    self.let_go(address, &client);
                }
            }
            _ => {}
        }
    }

    fn let_go(&mut self, address: Ipv4Addr, client: &ClientId) {
        self.offered.remove(&address);
        if self.held.get(&address).is_some_and(|(holder, _)| holder.client() == *client) {
            self.held.remove(&address);
        }
    }

    /// Checks what the server does.
    pub fn check(&mut self, actions: &[Action], now: Now) {
        for (place, action) in actions.iter().enumerate() {
            match action {
                Action::Send(sent) => {
                    let saved = actions.iter().take(place).any(|earlier| {
                        matches!(earlier, Action::Save(lease)
                            if lease.state == LeaseState::Bound
                                && sent.payload.get(16..20) == Some(&lease.address.octets()))
                    });
                    self.check_reply(sent, saved, now);
                }
                Action::Save(lease) if lease.state == LeaseState::Declined => {
                    self.held.remove(&lease.address);
                    self.offered.remove(&lease.address);
                }
                Action::Save(lease) if lease.state == LeaseState::Released => {
                    self.held.remove(&lease.address);
                }
                // A lease that the configuration ended.
                Action::Forget(address) => {
                    self.held.remove(address);
                }
                _ => {}
            }
        }
    }

    fn check_reply(&mut self, sent: &Outgoing, saved: bool, now: Now) {
        let reply = reply(sent);
        let address = reply.yiaddr();
        let kind = reply.opts().msg_type().expect("a message type");
        if address.is_unspecified() {
            assert_ne!(kind, MessageType::Offer, "an offer of nothing");
            if kind == MessageType::Nak {
                let client = identity(sent, &reply);
                self.offered.retain(|_, (other, _)| *other != client);
            }
            return;
        }
        let client = identity(sent, &reply);
        self.check_permitted(sent, &reply, address);
        let held_by_other = self.held.get(&address).filter(|(holder, until)| {
            let same_device = holder.hardware.octets() == reply.chaddr();
            *until > now.up_ms
                && holder.client() != client
                && !(same_device && self.is_reserved(address))
        });
        assert!(held_by_other.is_none(), "{address} has two holders: {held_by_other:?}, {reply}");
        let offered_to_other = self.offered.get(&address).filter(|(other, until)| {
            *until > now.up_ms && *other != client && !self.is_reserved(address)
        });
        assert!(offered_to_other.is_none(), "{address} is offered to another: {reply}");
        match kind {
            MessageType::Offer => {
                self.offered.retain(|_, (other, _)| *other != client);
                self.offered.insert(address, (client, now.up_ms + OFFER_MS));
            }
            MessageType::Ack => {
                assert!(saved, "acknowledged before it was stored: {reply}");
                let lease_s = match reply.opts().get(OptionCode::AddressLeaseTime) {
                    Some(DhcpOption::AddressLeaseTime(seconds)) => *seconds,
                    _ => panic!("no lease time: {reply}"),
                };
                let request = as_request(sent, &reply);
                let until = now.up_ms + i64::from(lease_s) * 1000;
                self.held.retain(|_, (holder, _)| holder.client() != client);
                self.offered.retain(|_, (other, _)| *other != client);
                self.held.insert(address, (request, until));
            }
            other => panic!("{other:?} with an address: {reply}"),
        }
    }

    fn check_permitted(&self, sent: &Outgoing, reply: &Message, address: Ipv4Addr) {
        let scope = self.part.servers.get(&sent.interface).expect("a scope");
        let network = scope.network;
        assert!(network.contains(&address), "{address} is outside {network}");
        assert!(
            ![network.addr(), network.network(), network.broadcast()].contains(&address),
            "{address} is nobody's to have"
        );
        let reservation = scope.server.reservations.iter().find(|r| r.address == address);
        match reservation {
            Some(reservation) => {
                assert_eq!(reservation.mac.0, reply.chaddr(), "reserved for another");
            }
            None => {
                let pool = scope.server.pool;
                assert!((pool.start..=pool.end).contains(&address), "{address} outside the pool");
            }
        }
    }

    fn is_reserved(&self, address: Ipv4Addr) -> bool {
        self.part
            .servers
            .values()
            .any(|scope| scope.server.reservations.iter().any(|r| r.address == address))
    }
}

/// A reply as a client reads it.
pub fn reply(sent: &Outgoing) -> Message {
    assert!(sent.payload.len() >= 300, "shorter than BOOTP allows");
    Message::from_bytes(&sent.payload).expect("dhcproto reads our replies")
}

fn identity(sent: &Outgoing, reply: &Message) -> ClientId {
    as_request(sent, reply).client()
}

/// The fields of a reply that repeat what the client said, as if it said them.
fn as_request(sent: &Outgoing, reply: &Message) -> Request {
    let mut message = Message::new_with_id(
        reply.xid(),
        Ipv4Addr::UNSPECIFIED,
        Ipv4Addr::UNSPECIFIED,
        Ipv4Addr::UNSPECIFIED,
        Ipv4Addr::UNSPECIFIED,
        reply.chaddr(),
    );
    message.set_htype(reply.htype());
    message.opts_mut().insert(DhcpOption::MessageType(MessageType::Discover));
    // The owned decoder stops at a host name that is not in wire format; this one does not.
    let mut options = borrowed::Message::new(&sent.payload).expect("a header").opts();
    if let Some(id) = options.find(|option| option.code() == OptionCode::ClientIdentifier) {
        message.opts_mut().insert(DhcpOption::ClientIdentifier(id.data().to_vec()));
    }
    let bytes = dhcproto::Encodable::to_vec(&message).expect("bytes");
    Request::parse(&bytes).expect("a request")
}

/// How long it takes from a DISCOVER of an unknown client to its OFFER, at most.
pub const OFFER_AFTER_MS: i64 = PROBE_MS;

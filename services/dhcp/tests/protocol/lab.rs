//! A server with a clock that only the test moves, clients in few words, and the witness.

use std::net::Ipv4Addr;

use dhcproto::{
    Encodable,
    v4::{DhcpOption, Flags, Message, MessageType, OptionCode},
};
use portcullis_dhcp::core::{Action, Arrival, Destination, LeaseRecord, Notice, Now, Server};
use portcullis_model::{MacAddress, Name, part::DhcpPart};
use serde_json::{Value, json};

use crate::witness::{self, OFFER_AFTER_MS, Witness};

pub const OURS: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 1);
pub const START_UNIX_MS: u64 = 1_800_000_000_400;

pub fn ip(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, 77, last)
}

pub fn mac(number: u8) -> MacAddress {
    MacAddress([2, 0, 0, 0, 0, number])
}

pub fn lan() -> Name {
    "lan".parse().expect("a name")
}

/// 192.168.77.1/24 with pool .100 to .109, and what the test adds.
pub fn part(extra: Value) -> DhcpPart {
    let mut server = json!({ "pool": { "start": "192.168.77.100", "end": "192.168.77.109" } });
    server.as_object_mut().expect("object").extend(extra.as_object().expect("object").clone());
    serde_json::from_value(json!({
        "domain": "lan",
        "servers": {
            "lan": { "network": "192.168.77.1/24", "server": server },
            "guest": { "network": "10.5.0.1/16", "server": {
                "pool": { "start": "10.5.0.10", "end": "10.5.0.20" } } },
        },
    }))
    .expect("a part")
}

/// A message of a client.
#[derive(Clone)]
pub struct Say(pub Message, Vec<u8>);

impl Say {
    pub fn new(kind: MessageType, from: MacAddress) -> Self {
        let none = Ipv4Addr::UNSPECIFIED;
        let mut message = Message::new_with_id(0x1234_5678, none, none, none, none, &from.0);
        message.opts_mut().insert(DhcpOption::MessageType(kind));
        Self(message, Vec::new())
    }
    /// An option as it stands, at the end.
    pub fn raw(mut self, code: u8, data: &[u8]) -> Self {
        self.1.extend([code, u8::try_from(data.len()).expect("short")]);
        self.1.extend_from_slice(data);
        self
    }
    pub fn option(mut self, option: DhcpOption) -> Self {
        self.0.opts_mut().insert(option);
        self
    }
    pub fn id(self, id: &[u8]) -> Self {
        self.option(DhcpOption::ClientIdentifier(id.to_vec()))
    }
    pub fn requested(self, address: Ipv4Addr) -> Self {
        self.option(DhcpOption::RequestedIpAddress(address))
    }
    pub fn server(self, address: Ipv4Addr) -> Self {
        self.option(DhcpOption::ServerIdentifier(address))
    }
    pub fn wants(self, codes: &[u8]) -> Self {
        let codes = codes.iter().map(|code| OptionCode::from(*code)).collect();
        self.option(DhcpOption::ParameterRequestList(codes))
    }
    pub fn name(self, name: &str) -> Self {
        self.option(DhcpOption::Hostname(name.to_owned()))
    }
    pub fn ciaddr(mut self, address: Ipv4Addr) -> Self {
        self.0.set_ciaddr(address);
        self
    }
    pub fn giaddr(mut self, address: Ipv4Addr) -> Self {
        self.0.set_giaddr(address);
        self
    }
    pub fn broadcast(mut self) -> Self {
        self.0.set_flags(Flags::default().set_broadcast());
        self
    }
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.0.to_vec().expect("bytes");
        bytes.pop();
        bytes.extend_from_slice(&self.1);
        bytes.push(255);
        bytes
    }
}

pub fn discover(from: MacAddress) -> Say {
    Say::new(MessageType::Discover, from)
}
pub fn request(from: MacAddress) -> Say {
    Say::new(MessageType::Request, from)
}
/// SELECTING.
pub fn select(from: MacAddress, address: Ipv4Addr) -> Say {
    request(from).server(OURS).requested(address)
}

/// A reply and where it went.
#[derive(Debug)]
pub struct Heard {
    pub to: Destination,
    pub message: Message,
}

impl Heard {
    pub fn kind(&self) -> MessageType {
        self.message.opts().msg_type().expect("a type")
    }
    pub fn address(&self) -> Ipv4Addr {
        self.message.yiaddr()
    }
    pub fn option(&self, code: OptionCode) -> Option<&DhcpOption> {
        self.message.opts().get(code)
    }
}

pub struct Lab {
    pub server: Server,
    pub witness: Witness,
    pub now: Now,
    /// Everything since the last `clear`.
    pub actions: Vec<Action>,
}

impl Lab {
    pub fn new(part: DhcpPart) -> Self {
        Self::with(part, Vec::new())
    }

    pub fn with(part: DhcpPart, leases: Vec<LeaseRecord>) -> Self {
        let now = Now { unix_ms: START_UNIX_MS, up_ms: 1_000 };
        let server = Server::new(&part, leases, now);
        Self { server, witness: Witness::new(part), now, actions: Vec::new() }
    }

    fn note(&mut self, actions: Vec<Action>) -> Vec<Heard> {
        self.witness.check(&actions, self.now);
        let heard = actions
            .iter()
            .filter_map(|action| match action {
                Action::Send(sent) => Some(Heard { to: sent.to, message: witness::reply(sent) }),
                _ => None,
            })
            .collect();
        self.actions.extend(actions);
        heard
    }

    /// A message by `lan`, and the replies at once.
    pub fn say_as(&mut self, say: &Say, broadcast: bool) -> Vec<Heard> {
        self.say_by("lan", say, broadcast)
    }

    pub fn say_by(&mut self, interface: &str, say: &Say, broadcast: bool) -> Vec<Heard> {
        let arrival = Arrival { interface: interface.parse().expect("a name"), broadcast };
        self.receive(&say.bytes(), &arrival)
    }

    pub fn receive(&mut self, bytes: &[u8], arrival: &Arrival) -> Vec<Heard> {
        self.witness.heard(bytes);
        let actions = self.server.receive(bytes, arrival, self.now);
        self.note(actions)
    }

    /// A broadcast message, and the one reply that comes at once or after a probe.
    pub fn say(&mut self, say: &Say) -> Option<Heard> {
        let mut heard = self.say_as(say, true);
        if heard.is_empty() && self.server.probing() {
            heard = self.pass(OFFER_AFTER_MS);
        }
        assert!(heard.len() <= 1, "more than one reply: {heard:?}");
        heard.pop()
    }

    /// Lets time pass, in the steps that the server asks for.
    pub fn pass(&mut self, ms: i64) -> Vec<Heard> {
        let end = self.now.up_ms + ms;
        let mut heard = Vec::new();
        while let Some(next) = self.server.next_deadline().filter(|next| *next <= end) {
            self.set(next.max(self.now.up_ms));
            let actions = self.server.tick(self.now);
            heard.extend(self.note(actions));
        }
        self.set(end);
        heard
    }

    fn set(&mut self, up_ms: i64) {
        let start = self.now.offset_ms();
        self.now.up_ms = up_ms;
        self.now.unix_ms = u64::try_from(start + up_ms).expect("after 1970");
    }

    pub fn in_use(&mut self, address: Ipv4Addr, by: MacAddress) -> Vec<Heard> {
        let actions = self.server.in_use(&lan(), address, by, self.now);
        self.note(actions)
    }

    pub fn configure(&mut self, part: DhcpPart) {
        self.witness.configure(part.clone());
        let actions = self.server.configure(&part, self.now);
        self.note(actions);
    }

    /// DISCOVER to ACK.
    pub fn lease(&mut self, say: &Say) -> Ipv4Addr {
        let offer = self.say(say).expect("an offer");
        assert_eq!(offer.kind(), MessageType::Offer);
        let mut take = say.clone().server(OURS).requested(offer.address());
        take.0.opts_mut().insert(DhcpOption::MessageType(MessageType::Request));
        let ack = self.say(&take).expect("an answer");
        assert_eq!(ack.kind(), MessageType::Ack);
        assert_eq!(ack.address(), offer.address());
        ack.address()
    }

    pub fn record(&self, address: Ipv4Addr) -> Option<LeaseRecord> {
        self.server.records(self.now).into_iter().find(|record| record.address == address)
    }

    pub fn name(&self, address: Ipv4Addr) -> Option<String> {
        self.record(address).and_then(|record| record.hostname).map(String::from)
    }

    pub fn notices(&self) -> impl Iterator<Item = &Notice> {
        self.actions.iter().filter_map(|action| match action {
            Action::Notice(notice) => Some(notice),
            _ => None,
        })
    }
}

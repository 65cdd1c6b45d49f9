//! What the rules say of a packet, by asking one after the other: slow, and easy to be sure of. The
//! tables of `compile.rs` are tested against it.

use std::net::IpAddr;

use portcullis_model::Action;

use crate::resolve::{
    PairDefault, Point, Resolved, ResolvedRule, mac_number, number_of, service_number,
};

/// What becomes of a flow.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Decision<'a> {
    /// The rule that decides; `None` for the default of the pair.
    pub rule: Option<&'a ResolvedRule>,
    /// What happens.
    pub action: Action,
    /// Whether it is logged.
    pub log: bool,
}

/// The first packet of a flow.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Packet {
    /// Id of the zone that it comes from.
    pub from: u8,
    /// Id of the zone that it goes to, 0 for the router.
    pub to: u8,
    /// Source address.
    pub source: IpAddr,
    /// Destination address, inside.
    pub destination: IpAddr,
    /// Protocol.
    pub protocol: u8,
    /// Source port; 0 if there is none.
    pub source_port: u16,
    /// Destination port; of ICMP `type << 8 | code`; 0 if there is none.
    pub destination_port: u16,
    /// Hardware address of the sender; zeros if there is none.
    pub mac: [u8; 6],
}

impl Packet {
    /// As rules see it.
    pub fn point(&self) -> Point {
        Point {
            from: self.from,
            to: self.to,
            values: [
                service_number(self.protocol, self.destination_port),
                number_of(self.source),
                number_of(self.destination),
                self.source_port.into(),
                mac_number(self.mac),
            ],
        }
    }
}

/// The first active rule that fits, or the default of the pair. Limits are not part of it.
pub fn evaluate<'a>(resolved: &'a Resolved, packet: &Packet) -> Decision<'a> {
    let point = packet.point();
    match resolved.rules.iter().find(|rule| rule.active && rule.fits(&point)) {
        Some(rule) => Decision { rule: Some(rule), action: rule.action, log: rule.log },
        None => {
            let PairDefault { action, log } = resolved.default_of(packet.from, packet.to);
            Decision { rule: None, action, log }
        }
    }
}

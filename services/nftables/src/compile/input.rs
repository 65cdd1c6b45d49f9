//! What is for the router itself.

use portcullis_model::{Action, Name, RouterService, firewall::ROUTER};

use super::{
    Compiler,
    matches::{
        Family, ICMP, ICMPV6, MARK_FORWARD, TCP, UDP, accept, drop, is, is_not, protocol, rule,
        within,
    },
    rules::Group,
};
use crate::ruleset::{ChainType, Field, Hook, Operand, Rule, Set, Statement, Type, Value, Verdict};

/// Neighbour discovery (RFC 4861) and listener discovery (RFC 2710, RFC 3810), which RFC 4890
/// section 4.4.1 asks to let in.
const LINK_MESSAGES: [u8; 9] = [130, 131, 132, 133, 134, 135, 136, 137, 143];
/// `PACKET_HOST`.
const TO_THIS_HOST: u8 = 0;

impl<'a> Compiler<'a> {
    pub(super) fn input(&mut self, groups: &[Group<'a>]) {
        let zones: Vec<&Name> = self.zones.keys().copied().collect();
        for from in &zones {
            let rules = self.service_rules(groups, from);
            self.chain(&format!("input.{from}"), rules);
        }
        let mut rules =
            vec![rule([is(Field::InputName, Value::Name("lo".to_owned()))], [accept()])];
        rules.extend(self.known_connections("router.flow", "router.icmp-error"));
        rules.push(self.link_messages());
        let ways = self.by_device(|from| Verdict::Goto(format!("input.{from}")));
        self.pool.named(Set::verdicts("input.zones".to_owned(), Type::InterfaceName, ways));
        rules.push(rule([Statement::VerdictMap(Field::InputName, "input.zones".to_owned())], []));
        rules.push(rule([self.count("drop.interface", None)], []));
        self.base("input", ChainType::Filter, Hook::Input, 0, rules);
    }

    fn link_messages(&mut self) -> Rule {
        let types = LINK_MESSAGES.map(Value::Byte);
        let set = Set::values("link-messages".to_owned(), Type::Icmpv6Type, types);
        let set = self.pool.named(set);
        let devices = self.all_devices();
        let counted = self.count("kernel.link-layer", None);
        rule(
            [
                within(Field::InputName, devices),
                Family::V6.statement(),
                protocol(ICMPV6),
                within(Field::Icmpv6Type, set),
            ],
            [counted, accept()],
        )
    }

    fn service_rules(&mut self, groups: &[Group<'a>], from: &Name) -> Vec<Rule> {
        let pair = (from.as_str(), ROUTER);
        let mut rules = Vec::new();
        for group in groups {
            rules.extend(group.rules(self, pair));
        }
        let served = self.verdict(Action::Allow, Some(pair));
        rules.push(rule([is(Field::Mark, Value::Host(MARK_FORWARD))], served.clone()));
        let firewall = self.firewall;
        let services = firewall.zones.get(from).map(|zone| &zone.services);
        let has = |service| services.is_some_and(|services| services.contains(&service));
        let port = |transport, number| {
            [protocol(transport), is(Field::DestinationPort, Value::Port(number))]
        };
        if has(RouterService::Dhcp) {
            let request = [vec![Family::V4.statement()], port(UDP, 67).to_vec()].concat();
            rules.push(rule(request, served.clone()));
        }
        // Of the services only DHCP is asked by broadcast.
        let group = is_not(Field::Cast, Operand::Value(Value::Byte(TO_THIS_HOST)));
        let refused = [self.count("drop.multicast", Some(pair)), drop()];
        rules.push(rule([group], refused));
        if has(RouterService::Dns) {
            rules.push(rule(port(UDP, 53), served.clone()));
            rules.push(rule(port(TCP, 53), served.clone()));
        }
        if has(RouterService::Web) {
            rules.push(rule(port(TCP, 443), served.clone()));
        }
        if has(RouterService::Ping) {
            for (family, icmp, field, echo) in [
                (Family::V4, ICMP, Field::IcmpType, 8),
                (Family::V6, ICMPV6, Field::Icmpv6Type, 128),
            ] {
                let request = [family.statement(), protocol(icmp), is(field, Value::Byte(echo))];
                rules.push(rule(request, served.clone()));
            }
        }
        rules.push(rule(self.verdict(Action::Deny, Some(pair)), []));
        rules
    }
}

//! What is forwarded.

use portcullis_model::{Action, Name, firewall::MssClamp};

use super::{
    Compiler,
    matches::{
        Family, ICMP, ICMPV6, MARK_BACK, MARK_FORWARD, TCP, accept, drop, is, is_not, matching,
        protocol, rule, state,
    },
    rules::Group,
};
use crate::ruleset::{
    Base, BasePolicy, Chain, ChainType, Field, Hook, Operand, Rule, SegmentSize, Set, Statement,
    Type, Value, Verdict, ct_state, tcp_flag,
};

/// ICMP redirects.
const REDIRECT: u8 = 5;

impl<'a> Compiler<'a> {
    pub(super) fn forward(&mut self, groups: &[Group<'a>]) {
        let zones: Vec<&Name> = self.zones.keys().copied().collect();
        for from in &zones {
            for to in &zones {
                let rules = self.pair(groups, from, to);
                self.chain(&format!("forward.{from}.{to}"), rules);
            }
            let ways = self.by_device(|to| Verdict::Goto(format!("forward.{from}.{to}")));
            let map = format!("forward.{from}.zones");
            self.pool.named(Set::verdicts(map.clone(), Type::InterfaceName, ways));
            let to = Statement::VerdictMap(Field::OutputName, map);
            let unknown = [self.count("drop.interface", None), drop()];
            self.chain(&format!("forward.{from}"), vec![rule([to], []), rule(unknown, [])]);
        }
        let mut rules = self.known_connections("forwarded", "forwarded");
        let ways = self.by_device(|from| Verdict::Goto(format!("forward.{from}")));
        self.pool.named(Set::verdicts("forward.zones".to_owned(), Type::InterfaceName, ways));
        rules.push(rule([Statement::VerdictMap(Field::InputName, "forward.zones".to_owned())], []));
        rules.push(rule([self.count("drop.interface", None)], []));
        self.base("forward", ChainType::Filter, Hook::Forward, 0, rules);
    }

    /// A chain that packets enter by themselves. Those that filter drop what they do not accept.
    pub(super) fn base(
        &mut self,
        name: &str,
        kind: ChainType,
        hook: Hook,
        priority: i32,
        rules: Vec<Rule>,
    ) {
        let filters = matches!(hook, Hook::Input | Hook::Forward) && priority == 0;
        let policy = if filters { BasePolicy::Drop } else { BasePolicy::Accept };
        let base = Some(Base { kind, hook, priority, policy });
        self.chains.push(Chain { name: name.to_owned(), base, rules });
    }

    /// Packets of known connections pass, those that cannot begin one do not.
    pub(super) fn known_connections(&mut self, reason: &str, icmp_reason: &str) -> Vec<Rule> {
        let no_detour = self.count("drop.ipv6-extension", None);
        let no_icmp = self.count("drop.icmp", None);
        let no_tcp = self.count("drop.tcp-state", None);
        let malformed = self.count("drop.malformed", None);
        let errors = self.count(icmp_reason, None);
        let passed = self.count(reason, None);
        let invalid = || state(ct_state::INVALID);
        vec![
            // Nobody but a router of the same link has a say in routes.
            rule(
                [
                    Family::V4.statement(),
                    protocol(ICMP),
                    is(Field::IcmpType, Value::Byte(REDIRECT)),
                ],
                [no_icmp.clone(), drop()],
            ),
            // Nor does the sender of a packet, by a list of addresses to visit (RFC 5095, RFC 6092
            // section 3.1 REC-4).
            rule(
                [
                    Family::V6.statement(),
                    is(Field::RoutingType, Value::Byte(0)),
                    is_not(Field::SegmentsLeft, Operand::Value(Value::Byte(0))),
                ],
                [no_detour, drop()],
            ),
            rule([state(ct_state::ESTABLISHED)], [passed, accept()]),
            rule([state(ct_state::RELATED)], [errors, accept()]),
            rule([invalid(), protocol(TCP)], [no_tcp, drop()]),
            rule([invalid(), protocol(ICMP)], [no_icmp.clone(), drop()]),
            rule([invalid(), protocol(ICMPV6)], [no_icmp, drop()]),
            rule([invalid()], [malformed, drop()]),
        ]
    }

    /// First packets from one zone to another.
    fn pair(&mut self, groups: &[Group<'a>], from: &Name, to: &Name) -> Vec<Rule> {
        let pair = (from.as_str(), to.as_str());
        // Neighbour discovery is of the link, and not for others; connections are not made of it.
        let link = [self.count("drop.icmp", Some(pair)), drop()];
        let mut rules = vec![rule([state(ct_state::UNTRACKED)], link)];
        for group in groups {
            rules.extend(group.rules(self, pair));
        }
        let passed = self.verdict(Action::Allow, Some(pair));
        let mark = |mark| is(Field::Mark, Value::Host(mark));
        rules.push(rule([mark(MARK_FORWARD)], passed.clone()));
        if from == to {
            rules.push(rule([mark(MARK_BACK)], passed));
        }
        let policy = self.firewall.policies.iter().find(|one| one.from == *from && one.to == *to);
        let action = policy.map_or(Action::Deny, |policy| policy.action);
        if policy.is_some_and(|policy| policy.log) {
            let word = match action {
                Action::Allow => "allow",
                Action::Deny => "deny",
                Action::Reject => "reject",
            };
            rules.push(rule(self.log(format!("policy {from} {to} {word} ")), []));
        }
        rules.push(rule(self.verdict(action, Some(pair)), []));
        rules
    }

    /// MSS clamping of what comes by or leaves by a zone.
    pub(super) fn segment_sizes(&mut self) {
        let firewall = self.firewall;
        let mut rules = Vec::new();
        for (name, zone) in &firewall.zones {
            let sizes: &[SegmentSize] = match zone.mss_clamp {
                MssClamp::Off => continue,
                MssClamp::PathMtu => &[SegmentSize::Route],
                MssClamp::Bytes(bytes) => &[SegmentSize::Route, SegmentSize::Bytes(bytes)],
            };
            let ways = [self.arrives_by(name), self.leaves_by(name)];
            for way in ways.into_iter().flatten() {
                for size in sizes {
                    let flags = Operand::Masked(
                        Value::Byte(tcp_flag::SYN | tcp_flag::RST),
                        Value::Byte(tcp_flag::SYN),
                    );
                    let syn = [way.clone(), protocol(TCP), matching(Field::TcpFlags, flags)];
                    rules.push(rule(syn, [Statement::SegmentSize(*size)]));
                }
            }
        }
        if !rules.is_empty() {
            self.base("segment-size", ChainType::Filter, Hook::Forward, MANGLE, rules);
        }
    }
}

/// Before the filters (`NF_IP_PRI_MANGLE`).
pub(super) const MANGLE: i32 = -150;

/// Lets pass what bogons and floods do not concern: known connections, and neighbour discovery, whose
/// sources belong to no internet.
pub(super) fn pass_known() -> Rule {
    rule([state(ct_state::ESTABLISHED | ct_state::RELATED | ct_state::UNTRACKED)], [accept()])
}

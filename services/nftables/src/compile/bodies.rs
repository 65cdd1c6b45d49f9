//! What is done with packets that a rule or default fits.

use portcullis_model::Action;

use super::{
    Compiler,
    matches::{Family, TCP, UDP, accept, drop, goto, protocol, rule},
};
use crate::ruleset::{Meter, Rate, Reject, Rule, Statement};

/// The chain that answers what is refused.
pub(super) const REJECT: &str = "refused";
/// Reason of what no rule or policy lets in.
pub(super) const POLICY: &str = "drop.policy";

/// A pair of zones.
pub(super) type Pair<'a> = (&'a str, &'a str);

impl Compiler<'_> {
    /// What an action comes to.
    pub(super) fn verdict(&mut self, action: Action, pair: Option<Pair<'_>>) -> Vec<Statement> {
        match action {
            Action::Allow => {
                let to_router =
                    pair.is_some_and(|(_, to)| to == portcullis_model::firewall::ROUTER);
                let reason = if to_router { "router.service" } else { "forwarded" };
                vec![self.count(reason, None), accept()]
            }
            Action::Deny => vec![self.count(POLICY, pair), drop()],
            Action::Reject => {
                if !self.chains.iter().any(|chain| chain.name == REJECT) {
                    // Programs take the first two for "connection refused" and give up at once; the
                    // last is for what has no ports.
                    let reset = [protocol(TCP), Statement::Reject(Reject::TcpReset)];
                    let closed = [protocol(UDP), Statement::Reject(Reject::PortUnreachable)];
                    let other = [Statement::Reject(Reject::Prohibited)];
                    let rules = vec![rule(reset, []), rule(closed, []), rule(other, [])];
                    self.chain(REJECT, rules);
                }
                vec![self.count(POLICY, pair), goto(REJECT)]
            }
        }
    }

    /// A line in the kernel's log, as often as the configuration allows.
    pub(super) fn log(&self, prefix: String) -> [Statement; 2] {
        let per_second = self.firewall.log.per_second;
        let rate = Rate { per_second, burst: per_second };
        [Statement::Limit(rate), Statement::Log(prefix)]
    }

    /// Rules that drop what is beyond the rule's limits; the chain is the rule's own.
    pub(super) fn limits(
        &mut self,
        chain: &str,
        model: &portcullis_model::firewall::Rule,
    ) -> Vec<Rule> {
        let mut rules = Vec::new();
        if let Some(limit) = model.rate_limit {
            let rate = Rate { per_second: limit.per_second, burst: limit.burst };
            let refused = [self.count("drop.rate-limit", None), drop()];
            if limit.per_source {
                let meter = Meter::Rate(rate);
                rules.extend(self.by_source(&format!("{chain}.rate"), meter, &refused));
            } else {
                rules.push(rule([Statement::Over(rate)], refused));
            }
        }
        if let Some(most) = model.connections_per_source {
            let refused = [self.count("drop.connections", None), drop()];
            let meter = Meter::Connections(most);
            rules.extend(self.by_source(&format!("{chain}.connections"), meter, &refused));
        }
        rules
    }

    /// A limit for each source address, in a set of its own for each family.
    fn by_source(&mut self, name: &str, meter: Meter, refused: &[Statement]) -> Vec<Rule> {
        let connections = matches!(meter, Meter::Connections(_));
        Family::BOTH
            .into_iter()
            .map(|family| {
                let name = format!("{name}{}", family.digit());
                let set = self.pool.accounts(name, family, connections);
                let metered = Statement::Meter { set, key: family.source(), meter };
                rule([family.statement(), metered], refused.iter().cloned())
            })
            .collect()
    }
}

//! Names of the counters: a reason as the datapath names it, and the pair of zones.

/// Counter of a reason, for one pair of zones if it is known: `drop.policy/lan/wan`.
pub fn counter_name(reason: &str, pair: Option<(&str, &str)>) -> String {
    match pair {
        Some((from, to)) => format!("{reason}/{from}/{to}"),
        None => reason.to_owned(),
    }
}

/// The parts of a [`counter_name`].
pub fn reason_and_pair(name: &str) -> (&str, Option<(&str, &str)>) {
    match name.split_once('/') {
        Some((reason, zones)) => (reason, zones.split_once('/')),
        None => (name, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for pair in [None, Some(("lan", "router"))] {
            let name = counter_name("drop.policy", pair);
            assert_eq!(reason_and_pair(&name), ("drop.policy", pair));
        }
    }
}

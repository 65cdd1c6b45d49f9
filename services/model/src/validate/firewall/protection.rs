//! `firewall.protection`, `flow_export` and `log`.

use super::{
    super::{Problems, addresses::unusable_ip},
    at_most, sets, zone,
};
use crate::firewall::Firewall;

pub(super) fn check(firewall: &Firewall, problems: &mut Problems) {
    let protection = &firewall.protection;
    let path = "firewall.protection";
    sets::addresses(firewall, &format!("{path}.blocklist"), &protection.blocklist, problems);
    sets::addresses(firewall, &format!("{path}.exempt"), &protection.exempt, problems);
    for (index, name) in protection.zones.iter().flatten().enumerate() {
        zone(firewall, format!("{path}.zones[{index}]"), name, problems);
    }
    for (kind, limit) in
        [("syn", protection.syn), ("udp", protection.udp), ("icmp", protection.icmp)]
    {
        for (field, value) in [("per_source", limit.per_source), ("total", limit.total)] {
            problems.range(
                format!("{path}.{kind}.{field}"),
                value,
                0..=100_000_000,
                "packets a second (0 is no limit)",
            );
        }
    }

    let export = &firewall.flow_export;
    let path = "firewall.flow_export";
    at_most(&format!("{path}.collectors"), export.collectors.len(), 8, "collectors", problems);
    for (index, collector) in export.collectors.iter().enumerate() {
        let path = format!("{path}.collectors[{index}]");
        if let Some(why) = unusable_ip(collector.0.ip()) {
            problems.add(path, format!("{} {why}; a host address is needed", collector.0.ip()));
        } else if collector.0.port() == 0 {
            problems.add(path, "port 0 is not allowed: 1 to 65535");
        }
    }
    for (field, value) in [
        ("active_timeout_s", export.active_timeout_s),
        ("template_refresh_s", export.template_refresh_s),
    ] {
        problems.range(format!("{path}.{field}"), value, 10..=86_400, "seconds");
    }
    problems.range("firewall.log.per_second", firewall.log.per_second, 1..=10_000, "lines");
}

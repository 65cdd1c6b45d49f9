//! Early drop, as the configuration wants it: blocklist, bogons, flood limits, SYN cookies. Pure;
//! `install::guard` writes it into the maps, the core's `guard` asks them.

mod prefixes;

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
};

use ipnet::IpNet;
use portcullis_bus::network::InterfaceStatus;
use portcullis_datapath_abi::guard::{BLOCKLIST, EXEMPTIONS, Guard, Limit, MALFORMED};
use portcullis_model::{
    Name,
    firewall::{FloodLimit, Sets, SynCookies},
    part::FirewallPart,
};

pub use prefixes::{Prefix, Sources, Trie, bogons};

/// Packets that may come at once: as many as in a quarter of a second, and never fewer than this.
const LEAST_BURST: u32 = 20;

/// What the guard's maps shall hold.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct DesiredGuard {
    /// Settings, with [`Guard::cookie_zones`] as if the table were under attack.
    pub settings: Guard,
    /// When connections must prove that their source exists.
    pub syn_cookies: SynCookies,
    /// What the table of prefixes is made of.
    pub sources: Sources,
}

impl DesiredGuard {
    /// The table of prefixes.
    pub fn prefixes(&self) -> Trie {
        prefixes::compile(&self.sources)
    }

    /// The settings to be in force now.
    pub fn settings(&self, attacked: bool) -> Guard {
        let prove = match self.syn_cookies {
            SynCookies::Off => false,
            SynCookies::Auto => attacked,
            SynCookies::Always => true,
        };
        Guard { cookie_zones: if prove { self.settings.cookie_zones } else { 0 }, ..self.settings }
    }
}

/// Compiles the part; `ids` are the zones' ids.
pub fn compile(
    part: &FirewallPart,
    interfaces: &[InterfaceStatus],
    ids: &BTreeMap<Name, u8>,
) -> DesiredGuard {
    let protection = &part.firewall.protection;
    let sets = Sets::of(&part.firewall);
    let mask = |wanted: &dyn Fn(&Name) -> bool| {
        ids.iter().filter(|(name, _)| wanted(name)).fold(0, |mask, (_, id)| mask | 1 << (id & 31))
    };
    let zone = |name: &Name| part.firewall.zones.get(name);
    let bogon_zones = mask(&|name| zone(name).is_some_and(|zone| zone.bogons));
    let flood_zones = match &protection.zones {
        Some(zones) => mask(&|name| zones.contains(name)),
        None => mask(&|name| zone(name).is_some_and(|zone| zone.masquerade)),
    };
    let bogons_refused = |name: &str| part.firewall.zones.get(name).is_some_and(|zone| zone.bogons);
    let sources = Sources {
        blocked: sets.addresses(&protection.blocklist).prefixes().collect(),
        exempt: sets.addresses(&protection.exempt).prefixes().collect(),
        bogons: bogon_zones != 0,
        own: interfaces
            .iter()
            // A source of the LAN that comes from outside is forged.
            .filter(|status| bogons_refused(&status.zone))
            .flat_map(|status| &status.addresses)
            .filter_map(|text| text.parse::<IpNet>().ok())
            // Every link has this one; it says nothing about where the router is.
            .filter(|net| !is_link_local(net))
            .collect(),
    };
    let mut flags = 0;
    for (wanted, flag) in [
        (!sources.blocked.is_empty(), BLOCKLIST),
        (!sources.exempt.is_empty(), EXEMPTIONS),
        (protection.malformed, MALFORMED),
    ] {
        if wanted {
            flags |= flag;
        }
    }
    let classes = [protection.syn, protection.udp, protection.icmp];
    let settings = Guard {
        per_source: classes.map(|FloodLimit { per_source, .. }| limit(per_source)),
        total: classes.map(|FloodLimit { total, .. }| limit(total)),
        flood_zones,
        bogon_zones,
        cookie_zones: flood_zones,
        flags,
    };
    DesiredGuard { settings, syn_cookies: protection.syn_cookies, sources }
}

const fn limit(per_second: u32) -> Limit {
    let burst = per_second / 4;
    Limit::new(per_second, if burst > LEAST_BURST { burst } else { LEAST_BURST })
}

fn is_link_local(net: &IpNet) -> bool {
    match net.addr() {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => Ipv6Addr::is_unicast_link_local(&address),
    }
}

#[cfg(test)]
mod tests {
    use portcullis_datapath_abi::guard::{BLOCKED, BOGON, FloodClass};
    use portcullis_model::Document;

    use super::*;

    fn compiled(document: &str) -> DesiredGuard {
        let part = FirewallPart::of(&Document::parse(document).expect("a document"));
        let status = |zone: &str, address: &str| InterfaceStatus {
            zone: zone.to_owned(),
            addresses: vec![address.to_owned(), "fe80::1/64".to_owned()],
            ..InterfaceStatus::default()
        };
        let interfaces = [status("lan", "192.168.77.1/24"), status("wan", "100.64.3.2/18")];
        let ids = [("lan", 1), ("wan", 2)].map(|(name, id)| (name.parse().expect("a name"), id));
        compile(&part, &interfaces, &BTreeMap::from(ids))
    }

    #[test]
    fn by_default_the_outside_is_guarded_and_cookies_wait_for_an_attack() {
        let desired = compiled("");
        assert_eq!(desired.settings.bogon_zones, 1 << 2);
        assert_eq!(desired.settings.flood_zones, 1 << 2);
        assert_eq!(desired.settings(false).cookie_zones, 0);
        assert_eq!(desired.settings(true).cookie_zones, 1 << 2);
        let limit = desired.settings.per_source[FloodClass::Syn as usize];
        assert_eq!(limit, Limit::new(500, 125));
        let trie = desired.prefixes();
        let ask = |address: &str| trie.flags_of(address.parse().expect("an address"));
        assert_eq!(ask("100.64.3.1"), 0, "the provider's own router is a neighbour");
        assert_eq!(ask("100.127.0.1"), BOGON);
        assert_eq!(ask("192.168.77.100"), BOGON, "a host of the LAN does not come from outside");
        assert_eq!(ask("fe80::2"), BOGON);
    }

    #[test]
    fn sets_are_filled_in() {
        let desired = compiled(
            "[firewall.addresses.bad]\nmembers = [\"192.0.2.10-192.0.2.13\", \"2001:db8::/32\"]\n\
             [firewall.protection]\nblocklist = [\"@bad\", \"198.51.100.7\"]\nzones = [\"lan\"]\n\
             syn_cookies = \"always\"\n",
        );
        assert_eq!(desired.settings.flags & BLOCKLIST, BLOCKLIST);
        assert_eq!(desired.settings(false).cookie_zones, 1 << 1);
        let trie = desired.prefixes();
        let ask = |address: &str| trie.flags_of(address.parse().expect("an address")) & BLOCKED;
        for (address, flags) in [
            ("192.0.2.9", 0),
            ("192.0.2.10", BLOCKED),
            ("192.0.2.13", BLOCKED),
            ("192.0.2.14", 0),
            ("198.51.100.7", BLOCKED),
            ("2001:db8:1::1", BLOCKED),
        ] {
            assert_eq!(ask(address), flags, "{address}");
        }
    }
}

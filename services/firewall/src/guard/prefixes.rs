//! The trie of unwanted sources: blocklist and bogons in one table of 128-bit prefixes, so that a
//! packet costs one lookup. The longest prefix counts, so each carries what those around it say too.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use portcullis_datapath_abi::guard::{BLOCKED, BOGON, EXEMPT, MAPPED_LENGTH};

/// IPv4 prefixes that no packet from the internet comes from (RFC 6890 and the IANA registry of
/// special-purpose addresses, 2024-10).
const BOGONS4: [&str; 14] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
];

/// The same for IPv6: all but the global unicast addresses 2000::/3, and what is set apart in them.
const BOGONS6: [&str; 7] =
    ["::/3", "4000::/2", "8000::/1", "2001:2::/48", "2001:10::/28", "2001:db8::/32", "3fff::/20"];

/// All of them.
pub fn bogons() -> impl Iterator<Item = IpNet> {
    BOGONS4.iter().chain(&BOGONS6).filter_map(|text| text.parse().ok())
}

/// A prefix of the trie: its bits, its length, 0 to 128.
pub type Prefix = (u128, u8);

const ALL_OF_IPV4: Prefix = (0xffff << 32, MAPPED_LENGTH as u8);

/// What the trie is made of.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Sources {
    /// Nothing passes from or to these.
    pub blocked: Vec<IpNet>,
    /// The rates of these are not limited.
    pub exempt: Vec<IpNet>,
    /// Whether bogons are marked.
    pub bogons: bool,
    /// Networks that the router itself is in: those are no bogons, for there are routers behind
    /// routers.
    pub own: Vec<IpNet>,
}

/// The trie's content.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Trie {
    /// Flags by prefix.
    pub entries: BTreeMap<Prefix, u32>,
    /// The lengths that there are, longest first.
    lengths: Vec<u8>,
}

/// Makes the trie.
pub fn compile(sources: &Sources) -> Trie {
    #[derive(Clone, Copy, Default)]
    struct Said {
        set: u32,
        clear: u32,
    }
    // Sorted, a prefix comes before all that it contains.
    let mut said: BTreeMap<Prefix, Said> = BTreeMap::from([(ALL_OF_IPV4, Said::default())]);
    for net in &sources.blocked {
        said.entry(prefix(net)).or_default().set |= BLOCKED;
    }
    for net in &sources.exempt {
        said.entry(prefix(net)).or_default().set |= EXEMPT;
    }
    if sources.bogons {
        for net in bogons() {
            said.entry(prefix(&net)).or_default().set |= BOGON;
        }
        for net in &sources.own {
            said.entry(prefix(net)).or_default().clear |= BOGON;
        }
    }
    let mut around: Vec<(Prefix, u32)> = Vec::new();
    let mut result = BTreeMap::new();
    for (prefix, said) in said {
        while around.last().is_some_and(|(outer, _)| !contains(*outer, prefix)) {
            around.pop();
        }
        let outer = around.last().map_or(0, |(_, flags)| *flags);
        // What is said of IPv6 prefixes is not said of the IPv4 addresses that stand in them.
        let inherited = if prefix == ALL_OF_IPV4 { 0 } else { outer };
        let flags = (inherited | said.set) & !said.clear;
        around.push((prefix, flags));
        // What says no more than the prefix around it takes no place.
        if flags != outer {
            result.insert(prefix, flags);
        }
    }
    let lengths: BTreeSet<u8> = result.keys().map(|(_, length)| *length).collect();
    Trie { entries: result, lengths: lengths.into_iter().rev().collect() }
}

/// As it stands in the trie: IPv4 in ::ffff:0:0/96.
fn prefix(net: &IpNet) -> Prefix {
    match net.trunc() {
        IpNet::V4(net) => {
            let bits = net.network().to_ipv6_mapped().to_bits();
            (bits, net.prefix_len() + MAPPED_LENGTH as u8)
        }
        IpNet::V6(net) => (net.network().to_bits(), net.prefix_len()),
    }
}

fn contains(outer: Prefix, inner: Prefix) -> bool {
    let ((bits, length), (address, inner_length)) = (outer, inner);
    let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
    length <= inner_length && address & mask == bits
}

impl Trie {
    /// What the longest prefix says of an address.
    pub fn flags_of(&self, address: IpAddr) -> u32 {
        let bits = match address {
            IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
            IpAddr::V6(address) => address.to_bits(),
        };
        let flags = |length: &u8| {
            let mask = u128::MAX.checked_shl(128 - u32::from(*length)).unwrap_or(0);
            self.entries.get(&(bits & mask, *length)).copied()
        };
        self.lengths.iter().find_map(flags).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().expect("a prefix")).collect()
    }

    fn trie(blocked: &[&str], own: &[&str]) -> Trie {
        compile(&Sources { blocked: nets(blocked), own: nets(own), bogons: true, exempt: vec![] })
    }

    fn ask(trie: &Trie, address: &str) -> u32 {
        trie.flags_of(address.parse().expect("an address"))
    }

    #[test]
    fn bogons_are_what_is_not_on_the_internet() {
        let trie = super::tests::trie(&[], &[]);
        for address in [
            "10.1.2.3",
            "0.0.0.0",
            "192.168.1.1",
            "255.255.255.255",
            "fe80::1",
            "::1",
            "2001:db8::1",
        ] {
            assert_eq!(ask(&trie, address), BOGON, "{address}");
        }
        for address in ["1.1.1.1", "8.8.8.8", "192.0.9.1", "2606:4700::1111", "2a00::1"] {
            assert_eq!(ask(&trie, address), 0, "{address}");
        }
    }

    #[test]
    fn the_networks_of_the_router_are_no_bogons_but_may_be_blocked() {
        let trie = super::tests::trie(&["192.168.1.66/32"], &["192.168.1.9/24"]);
        assert_eq!(ask(&trie, "192.168.1.1"), 0);
        assert_eq!(ask(&trie, "192.168.2.1"), BOGON);
        assert_eq!(ask(&trie, "192.168.1.66"), BLOCKED);
    }

    #[test]
    fn inside_a_blocked_prefix_all_is_blocked() {
        let trie = super::tests::trie(&["0.0.0.0/0", "10.0.0.0/8", "10.2.0.0/16"], &[]);
        assert_eq!(ask(&trie, "1.1.1.1"), BLOCKED);
        assert_eq!(ask(&trie, "10.2.3.4"), BLOCKED | BOGON);
        assert_eq!(ask(&trie, "2606:4700::1111"), 0);
        let trie = super::tests::trie(&["::/0"], &[]);
        assert_eq!(ask(&trie, "1.1.1.1"), 0, "not IPv4");
        assert_eq!(ask(&trie, "2606:4700::1111"), BLOCKED);
    }

    fn any_net() -> impl Strategy<Value = IpNet> {
        prop_oneof![
            (any::<u32>(), 0..=32_u8).prop_map(|(bits, length)| {
                IpNet::new_assert(IpAddr::from(bits.to_be_bytes()), length).trunc()
            }),
            (any::<u128>(), 0..=128_u8).prop_map(|(bits, length)| {
                IpNet::new_assert(IpAddr::from(bits.to_be_bytes()), length).trunc()
            }),
        ]
    }

    proptest! {
        #[test]
        fn an_address_is_blocked_exactly_if_a_prefix_of_the_list_has_it(
            list in prop::collection::vec(any_net(), 0..40),
            other in any::<u128>(),
            inside in any::<prop::sample::Index>(),
        ) {
            let trie = compile(&Sources { blocked: list.clone(), bogons: true, ..Sources::default() });
            let mut addresses = vec![IpAddr::from(other.to_be_bytes())];
            if !list.is_empty() {
                addresses.push(inside.get(&list).network());
                addresses.push(inside.get(&list).broadcast());
            }
            for address in addresses {
                // ::ffff:0:0/96 is IPv4 in this table; such packets are refused before.
                prop_assume!(address.to_canonical() == address);
                let blocked = list.iter().any(|net| net.contains(&address));
                prop_assert_eq!(trie.flags_of(address) & BLOCKED != 0, blocked);
            }
        }
    }
}

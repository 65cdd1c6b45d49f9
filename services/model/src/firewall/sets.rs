//! Sets resolved: what lists of addresses and ports come to once the sets in them are filled in.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::{IpNet, Ipv4Net, Ipv4Subnets, Ipv6Net, Ipv6Subnets};

use super::{AddressMatch, Firewall, PortMatch, PortRange};
use crate::Name;

/// Addresses of both families: sorted ranges, both ends included, that neither overlap nor touch.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct AddressRanges {
    /// IPv4.
    pub v4: Vec<(Ipv4Addr, Ipv4Addr)>,
    /// IPv6.
    pub v6: Vec<(Ipv6Addr, Ipv6Addr)>,
}

impl AddressRanges {
    /// Whether there is no address in it.
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    /// Whether `address` is in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        fn among<T: Ord>(ranges: &[(T, T)], address: &T) -> bool {
            let after = ranges.partition_point(|(first, _)| first <= address);
            after
                .checked_sub(1)
                .and_then(|i| ranges.get(i))
                .is_some_and(|(_, last)| address <= last)
        }
        match address {
            IpAddr::V4(address) => among(&self.v4, &address),
            IpAddr::V6(address) => among(&self.v6, &address),
        }
    }

    /// The fewest prefixes that are the same addresses, IPv4 first, in order.
    pub fn prefixes(&self) -> impl Iterator<Item = IpNet> {
        let v4 = self.v4.iter().flat_map(|(first, last)| Ipv4Subnets::new(*first, *last, 0));
        let v6 = self.v6.iter().flat_map(|(first, last)| Ipv6Subnets::new(*first, *last, 0));
        v4.map(IpNet::from).chain(v6.map(IpNet::from))
    }

    /// How many ranges there are.
    pub fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// How many IPv4 addresses there are.
    pub fn count_v4(&self) -> u64 {
        self.v4.iter().map(|(a, b)| u64::from(b.to_bits()) - u64::from(a.to_bits()) + 1).sum()
    }

    /// The IPv4 ranges without single addresses.
    pub fn v4_without(&self, taken: &BTreeSet<Ipv4Addr>) -> Vec<(Ipv4Addr, Ipv4Addr)> {
        let mut rest = Vec::new();
        for (first, last) in &self.v4 {
            let mut from = Some(first.to_bits());
            for gap in taken.range(first..=last) {
                let gap = gap.to_bits();
                if let Some(from) = from.filter(|from| *from < gap) {
                    rest.push((from.into(), (gap - 1).into()));
                }
                from = gap.checked_add(1).filter(|next| *next <= last.to_bits());
            }
            rest.extend(from.map(|from| (from.into(), *last)));
        }
        rest
    }

    fn add(&mut self, first: IpAddr, last: IpAddr) {
        match (first, last) {
            (IpAddr::V4(first), IpAddr::V4(last)) => self.v4.push((first, last)),
            (IpAddr::V6(first), IpAddr::V6(last)) => self.v6.push((first, last)),
            // `AddressMatch` cannot be read from such a text.
            _ => {}
        }
    }

    fn extend(&mut self, other: &Self) {
        self.v4.extend_from_slice(&other.v4);
        self.v6.extend_from_slice(&other.v6);
    }

    fn tidy(&mut self) {
        merge(&mut self.v4, |end, start| {
            u64::from(start.to_bits()) <= u64::from(end.to_bits()) + 1
        });
        merge(&mut self.v6, |end, start| start.to_bits() <= end.to_bits().saturating_add(1));
    }
}

/// Sorts ranges and joins those of which `touches(end of one, start of the next)`.
fn merge<T: Copy + Ord>(ranges: &mut Vec<(T, T)>, touches: impl Fn(T, T) -> bool) {
    ranges.sort_unstable();
    ranges.dedup_by(|next, kept| {
        let joined = touches(kept.1, next.0);
        if joined {
            kept.1 = kept.1.max(next.1);
        }
        joined
    });
}

impl From<IpNet> for AddressRanges {
    fn from(net: IpNet) -> Self {
        let mut ranges = Self::default();
        match net {
            IpNet::V4(net) => ranges.v4.push(ends4(net)),
            IpNet::V6(net) => ranges.v6.push((net.network(), net.broadcast())),
        }
        ranges
    }
}

fn ends4(net: Ipv4Net) -> (Ipv4Addr, Ipv4Addr) {
    (net.network(), net.broadcast())
}

impl FromIterator<Ipv6Net> for AddressRanges {
    fn from_iter<I: IntoIterator<Item = Ipv6Net>>(nets: I) -> Self {
        let mut ranges = Self::default();
        ranges.v6.extend(nets.into_iter().map(|net| (net.network(), net.broadcast())));
        ranges.tidy();
        ranges
    }
}

/// All sets of a firewall, resolved once. A set that does not exist, the repetition in a set that
/// contains itself, and what is [too much](Excess) count as empty: [`crate::validate`] refuses them.
#[derive(Clone, Debug, Default)]
pub struct Sets {
    addresses: BTreeMap<Name, AddressRanges>,
    ports: BTreeMap<Name, Vec<PortRange>>,
    /// Of both kinds, in all sets.
    ranges: usize,
    excess: Option<Excess>,
}

/// Sets that come to too much when those that they name are filled in: a short document can stand for
/// a very long one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Excess {
    /// Table of the set, `addresses` or `ports`.
    pub table: &'static str,
    /// The first set with which it is too much.
    pub set: Name,
    /// What is.
    pub of: ExcessOf,
}

/// What there is too much of.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ExcessOf {
    /// Sets within sets: [`Sets::MAX_NESTING`].
    Nesting,
    /// Ranges: [`Sets::MAX_RANGES`].
    Ranges,
}

impl Sets {
    /// How deep sets may stand within sets, the outermost counted.
    pub const MAX_NESTING: usize = 16;
    /// Ranges of addresses and ports that all sets together may come to.
    pub const MAX_RANGES: usize = 262_144;

    /// The sets of `firewall`.
    pub fn of(firewall: &Firewall) -> Self {
        let mut sets = Self::default();
        let mut walk = Walk { table: "addresses", levels: BTreeMap::new() };
        for name in firewall.addresses.keys() {
            sets.resolve_addresses(firewall, name, 1, &mut walk);
        }
        walk = Walk { table: "ports", levels: BTreeMap::new() };
        for name in firewall.ports.keys() {
            sets.resolve_ports(firewall, name, 1, &mut walk);
        }
        sets
    }

    /// What was too much, the first of it.
    pub fn excess(&self) -> Option<&Excess> {
        self.excess.as_ref()
    }

    /// What the address set `name` comes to; none if there is no such set.
    pub fn set(&self, name: &Name) -> Option<&AddressRanges> {
        self.addresses.get(name)
    }

    /// What a list of addresses comes to. An empty list comes to no address, though in most fields
    /// it means any.
    pub fn addresses<'a>(&self, list: impl IntoIterator<Item = &'a AddressMatch>) -> AddressRanges {
        let mut ranges = AddressRanges::default();
        let mut filled_in = BTreeSet::new();
        // Sets that have much in common must not take the memory of all of them.
        let mut long = 4096;
        for one in list {
            match one {
                AddressMatch::Net(net) => ranges.add(net.network(), net.broadcast()),
                AddressMatch::Range(first, last) => ranges.add(*first, *last),
                AddressMatch::Set(name) => {
                    if let Some(members) = self.addresses.get(name)
                        && filled_in.insert(name)
                    {
                        ranges.extend(members);
                    }
                }
            }
            if ranges.len() > long {
                ranges.tidy();
                long = 2 * ranges.len() + 4096;
            }
        }
        ranges.tidy();
        ranges
    }

    /// What a list of ports comes to: sorted ranges that neither overlap nor touch. An empty list
    /// comes to no port.
    pub fn ports<'a>(&self, list: impl IntoIterator<Item = &'a PortMatch>) -> Vec<PortRange> {
        let mut ranges = Vec::new();
        let mut filled_in = BTreeSet::new();
        let tidy = |ranges: &mut Vec<_>| {
            merge(ranges, |end: u16, start: u16| start <= end.saturating_add(1));
        };
        for one in list {
            match one {
                PortMatch::Range(range) => ranges.push((range.first(), range.last())),
                PortMatch::Set(name) => {
                    let members = self.ports.get(name).filter(|_| filled_in.insert(name));
                    let members = members.into_iter().flatten();
                    ranges.extend(members.map(|range| (range.first(), range.last())));
                }
            }
            // There are no more than that apart.
            if ranges.len() > usize::from(u16::MAX) {
                tidy(&mut ranges);
            }
        }
        tidy(&mut ranges);
        ranges.into_iter().filter_map(|(first, last)| PortRange::new(first, last)).collect()
    }

    fn resolve_addresses(
        &mut self,
        firewall: &Firewall,
        name: &Name,
        depth: usize,
        walk: &mut Walk,
    ) {
        let Some(set) = firewall.addresses.get(name).filter(|_| self.enters(name, depth, walk))
        else {
            return;
        };
        let inner = set.members.iter().filter_map(|member| match member {
            AddressMatch::Set(inner) => Some(inner),
            AddressMatch::Net(_) | AddressMatch::Range(..) => None,
        });
        for inner in inner.clone() {
            self.resolve_addresses(firewall, inner, depth + 1, walk);
        }
        self.leaves(name, inner, walk);
        let resolved = self.addresses(&set.members);
        if self.has_room(name, resolved.len(), walk) {
            self.addresses.insert(name.clone(), resolved);
        }
    }

    fn resolve_ports(&mut self, firewall: &Firewall, name: &Name, depth: usize, walk: &mut Walk) {
        let Some(set) = firewall.ports.get(name).filter(|_| self.enters(name, depth, walk)) else {
            return;
        };
        let inner = set.members.iter().filter_map(|member| match member {
            PortMatch::Set(inner) => Some(inner),
            PortMatch::Range(_) => None,
        });
        for inner in inner.clone() {
            self.resolve_ports(firewall, inner, depth + 1, walk);
        }
        self.leaves(name, inner, walk);
        let resolved = self.ports(&set.members);
        if self.has_room(name, resolved.len(), walk) {
            self.ports.insert(name.clone(), resolved);
        }
    }

    /// Whether a set is to be looked at now: not if it was already, nor too deep.
    fn enters(&mut self, name: &Name, depth: usize, walk: &mut Walk) -> bool {
        if walk.levels.contains_key(name) {
            return false;
        }
        if depth > Self::MAX_NESTING {
            self.exceeds(name, ExcessOf::Nesting, walk);
            return false;
        }
        // While its members are looked at: a cycle ends here.
        walk.levels.insert(name.clone(), 0);
        true
    }

    fn leaves<'a>(&mut self, name: &Name, inner: impl Iterator<Item = &'a Name>, walk: &mut Walk) {
        let deepest = inner.filter_map(|inner| walk.levels.get(inner)).max().copied().unwrap_or(0);
        if deepest >= Self::MAX_NESTING {
            self.exceeds(name, ExcessOf::Nesting, walk);
        }
        walk.levels.insert(name.clone(), deepest + 1);
    }

    fn has_room(&mut self, name: &Name, ranges: usize, walk: &Walk) -> bool {
        let total = self.ranges.saturating_add(ranges);
        if total > Self::MAX_RANGES {
            self.exceeds(name, ExcessOf::Ranges, walk);
            return false;
        }
        self.ranges = total;
        true
    }

    fn exceeds(&mut self, name: &Name, of: ExcessOf, walk: &Walk) {
        self.excess.get_or_insert_with(|| Excess { table: walk.table, set: name.clone(), of });
    }
}

/// The way through the sets of a table.
struct Walk {
    table: &'static str,
    /// Of the sets that were looked at already: one more than the deepest set in it.
    levels: BTreeMap<Name, usize>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(texts: &[&str]) -> Vec<AddressMatch> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn prefixes(ranges: &AddressRanges) -> Vec<String> {
        ranges.prefixes().map(|net| net.to_string()).collect()
    }

    #[test]
    fn members_merge_into_the_fewest_prefixes() {
        let sets = Sets::default();
        let ranges = sets.addresses(&list(&[
            "10.0.1.0/24",
            "10.0.0.0-10.0.0.255",
            "10.0.0.7",
            "2001:db8::1",
            "2001:db8::",
            "255.255.255.255",
        ]));
        assert_eq!(prefixes(&ranges), ["10.0.0.0/23", "255.255.255.255/32", "2001:db8::/127"]);
        assert!(ranges.contains("10.0.1.255".parse().unwrap()));
        assert!(!ranges.contains("10.0.2.0".parse().unwrap()));
        assert!(ranges.contains("2001:db8::1".parse().unwrap()));
        assert!(!ranges.contains("2001:db8::2".parse().unwrap()));
        assert!(!AddressRanges::default().contains("::".parse().unwrap()));
    }

    #[test]
    fn single_addresses_are_left_out() {
        let ranges = Sets::default().addresses(&list(&[
            "0.0.0.0-0.0.0.3",
            "10.0.0.1",
            "255.255.255.254/31",
        ]));
        let without = |taken: &[&str]| -> Vec<String> {
            let taken = taken.iter().map(|text| text.parse().unwrap()).collect();
            ranges.v4_without(&taken).iter().map(|(a, b)| format!("{a}-{b}")).collect()
        };
        let whole = ["0.0.0.0-0.0.0.3", "10.0.0.1-10.0.0.1", "255.255.255.254-255.255.255.255"];
        assert_eq!(without(&["10.0.0.2"]), whole);
        assert_eq!(
            without(&["0.0.0.0", "0.0.0.2", "10.0.0.1", "255.255.255.255"]),
            ["0.0.0.1-0.0.0.1", "0.0.0.3-0.0.0.3", "255.255.255.254-255.255.255.254"]
        );
    }

    #[test]
    fn whole_families_stay_apart() {
        let ranges = Sets::default().addresses(&list(&["0.0.0.0/0", "::/0"]));
        assert_eq!(prefixes(&ranges), ["0.0.0.0/0", "::/0"]);
        assert_eq!(ranges.count_v4(), 1 << 32);
    }

    #[test]
    fn sets_contain_sets_and_cycles_end() {
        let text = "[firewall.addresses.a]\nmembers = [\"@b\", \"10.0.0.1\"]\n\
                    [firewall.addresses.b]\nmembers = [\"@a\", \"@missing\", \"10.0.0.0\"]\n\
                    [firewall.ports.web]\nmembers = [80, \"@tls\", \"81-89\"]\n\
                    [firewall.ports.tls]\nmembers = [443]\n";
        let document = crate::Document::parse(text).unwrap();
        let sets = Sets::of(&document.firewall);
        assert_eq!(prefixes(&sets.addresses(&list(&["@a"]))), ["10.0.0.0/31"]);
        let web = sets.ports(&["@web".parse().unwrap()]);
        assert_eq!(web, [PortRange::new(80, 89).unwrap(), PortRange::new(443, 443).unwrap()]);
    }
}

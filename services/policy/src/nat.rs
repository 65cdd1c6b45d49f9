//! Port forwards, 1:1 addresses and pools, compiled for the tables that `portcullis-datapath`
//! translates first packets with. IPv4 only.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use ipnet::{IpNet, Ipv4Net};
use portcullis_datapath_abi::{
    flow::{TCP, UDP},
    from_address,
    nat::{
        CHOICES, External, ExternalKey, FROM_SOURCES, Forward, ForwardKey, ForwardList,
        ForwardSourceKey, HAIRPIN, HAS_FORWARDS, HAS_STATIC, INWARD, LOG, MAX_FORWARDS, MSS_BY_MTU,
        NO_FORWARD, OF_INTERFACE, OUTWARD, Pool, PoolBlock, PoolBlockKey, PoolKey, RESERVED_WORDS,
        StaticKey, mss_flags, reserved_index,
    },
    policy::{MASQUERADE, SOURCE_POOLS, STATIC_NAT},
};
use portcullis_model::{
    Firewall, Name,
    firewall::{AddressRanges, ForwardProtocol, MssClamp, PortForward, Sets, Zone},
};

/// An interface of the router.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct NatInterface {
    /// Id of its zone.
    pub zone: u8,
    /// Its IPv4 addresses; masqueraded flows take the first.
    pub addresses: Vec<Ipv4Addr>,
}

/// Keys with the number of bits that count, and their values.
pub type Prefixes<K, V> = BTreeMap<(u32, K), V>;

/// Contents of the tables of the translation, all for bank 0.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Nat {
    /// External addresses.
    pub externals: Prefixes<ExternalKey, External>,
    /// Port forwards by external port.
    pub forward_ports: Prefixes<ForwardKey, ForwardList>,
    /// Port forwards by number.
    pub forwards: Vec<Forward>,
    /// Sources of port forwards.
    pub forward_sources: Prefixes<ForwardSourceKey, u32>,
    /// 1:1 addresses.
    pub statics: Prefixes<StaticKey, u32>,
    /// Pools by source.
    pub pools: Prefixes<PoolKey, Pool>,
    /// Addresses of pools.
    pub pool_blocks: Prefixes<PoolBlockKey, PoolBlock>,
    /// Bits of reserved ports.
    pub reserved: Vec<u64>,
    /// Flags of zones, by id.
    pub zone_flags: BTreeMap<u8, u32>,
    /// What could not be compiled, one sentence each. It is not translated, and so not let through.
    pub problems: Vec<String>,
}

/// Ports of the router's own services and clients: 53, 67, 68, 443.
const OWN_PORTS: [(bool, u16); 5] = [(false, 53), (true, 53), (true, 67), (true, 68), (false, 443)];

/// Port forwards of more ports than this do not keep masqueraded flows from using them, for else an
/// exposed host would leave none.
const LARGEST_RESERVED: u32 = 8192;

/// Compiles. `zones` are the ids of the zones.
pub fn compile_nat(
    firewall: &Firewall,
    zones: &BTreeMap<Name, u8>,
    interfaces: &[NatInterface],
) -> Nat {
    let mut build = Build {
        sets: Sets::of(firewall),
        zones,
        interfaces,
        nat: Nat { reserved: vec![0; RESERVED_WORDS as usize], ..Nat::default() },
        pooled: BTreeMap::new(),
        external_flags: BTreeMap::new(),
    };
    for (udp, port) in OWN_PORTS {
        build.reserve(udp, port, port);
    }
    for (name, zone) in &firewall.zones {
        if let Some(id) = zones.get(name) {
            build.nat.zone_flags.insert(*id, zone_flags(zone));
        }
    }
    build.statics(firewall);
    build.pools(firewall);
    build.forwards(firewall);
    build.externals();
    build.nat
}

fn zone_flags(zone: &Zone) -> u32 {
    let mss = match zone.mss_clamp {
        MssClamp::Off => 0,
        MssClamp::PathMtu => MSS_BY_MTU,
        MssClamp::Bytes(bytes) => bytes,
    };
    mss_flags(mss) | if zone.masquerade { MASQUERADE } else { 0 }
}

struct Build<'a> {
    sets: Sets,
    zones: &'a BTreeMap<Name, u8>,
    interfaces: &'a [NatInterface],
    nat: Nat,
    /// Addresses of pools by zone.
    pooled: BTreeMap<u8, Vec<Ipv4Net>>,
    /// Zone and flags of single external addresses.
    external_flags: BTreeMap<Ipv4Addr, (u8, u8)>,
}

/// What a port forward takes of an external address.
struct Claim {
    first: u16,
    last: u16,
    /// Of the port forward.
    number: u16,
    /// Whether no other comes after it.
    everybody: bool,
}

impl Build<'_> {
    fn zone(&mut self, name: &Name, what: &str) -> Option<u8> {
        let id = self.zones.get(name).copied();
        if id.is_none() {
            self.nat.problems.push(format!("{what}: zone {name} is not there"));
        }
        id
    }

    fn set_zone_flag(&mut self, zone: u8, flag: u32) {
        *self.nat.zone_flags.entry(zone).or_default() |= flag;
    }

    fn add_external(&mut self, zone: u8, address: Ipv4Addr, flag: u8) {
        self.external_flags.entry(address).or_insert((zone, 0)).1 |= flag;
    }

    fn reserve(&mut self, udp: bool, first: u16, last: u16) {
        for port in first..=last {
            let index = reserved_index(0, udp, port) as usize;
            if let Some(word) = self.nat.reserved.get_mut(index) {
                *word |= 1 << (port % 64);
            }
        }
    }

    fn statics(&mut self, firewall: &Firewall) {
        for entry in &firewall.static_nat {
            let what = format!("static_nat {} = {}", entry.external, entry.internal);
            let Some(zone) = self.zone(&entry.zone, &what) else {
                continue;
            };
            let masquerades = firewall.zones.get(&entry.zone).is_some_and(|zone| zone.masquerade);
            let primary = |interface: &NatInterface| {
                interface.zone == zone && interface.addresses.first() == Some(&entry.external)
            };
            if masquerades && self.interfaces.iter().any(primary) {
                self.nat.problems.push(format!(
                    "{what}: all other hosts are masqueraded with {}: it needs an address of its own",
                    entry.external
                ));
                continue;
            }
            self.set_zone_flag(zone, STATIC_NAT);
            self.add_external(zone, entry.external, HAS_STATIC);
            for (direction, address, other) in [
                (INWARD, entry.external, entry.internal),
                (OUTWARD, entry.internal, entry.external),
            ] {
                let key = StaticKey {
                    address: from_address(address),
                    bank: 0,
                    zone,
                    direction,
                    reserved: 0,
                };
                self.nat.statics.insert((StaticKey::BITS, key), from_address(other));
            }
        }
    }

    fn pools(&mut self, firewall: &Firewall) {
        let own: BTreeSet<Ipv4Addr> = self
            .external_flags
            .iter()
            .filter(|(_, (_, flags))| flags & HAS_STATIC != 0)
            .map(|(address, _)| *address)
            .collect();
        let mut next = 0;
        for (number, entry) in (1..).zip(&firewall.source_nat) {
            let what = format!("source_nat {number}");
            let Some(zone) = self.zone(&entry.zone, &what) else {
                continue;
            };
            let ranges = self.sets.addresses(&entry.addresses).v4_without(&own);
            if ranges.is_empty() {
                self.nat.problems.push(format!("{what}: there is no address to take"));
                continue;
            }
            let first = next;
            for (from, to) in ranges {
                let (from, to) = (u32::from(from), u32::from(to));
                let block = PoolBlock { index: next, address: from };
                for (index, bits) in split(next, next + (to - from), 32) {
                    let key = PoolBlockKey { bank: 0, index: index.to_be() };
                    self.nat.pool_blocks.insert((PoolBlockKey::FIXED_BITS + bits, key), block);
                }
                next += to - from + 1;
                let nets = split(from, to, 32).filter_map(|(address, bits)| {
                    Ipv4Net::new(address.into(), u8::try_from(bits).ok()?).ok()
                });
                self.pooled.entry(zone).or_default().extend(nets);
            }
            self.set_zone_flag(zone, SOURCE_POOLS);
            let pool = Pool { first, count: next - first };
            let sources = if entry.sources.is_empty() {
                vec![Ipv4Net::default()]
            } else {
                v4_prefixes(&self.sets.addresses(&entry.sources))
            };
            for source in sources {
                // The first entry that fits decides, but the table prefers the longest prefix.
                let decided = (0..=source.prefix_len()).any(|bits| {
                    Ipv4Net::new(source.addr(), bits)
                        .is_ok_and(|wider| self.nat.pools.contains_key(&pool_key(zone, wider)))
                });
                if !decided {
                    self.nat.pools.insert(pool_key(zone, source), pool);
                }
            }
        }
    }

    fn forwards(&mut self, firewall: &Firewall) {
        // Of each external address and protocol, in order.
        let mut claims: BTreeMap<(Ipv4Addr, u8), Vec<Claim>> = BTreeMap::new();
        for entry in firewall.port_forwards.iter().filter(|entry| entry.enabled) {
            let what = format!("port forward {}", entry.name);
            let Some(zone) = self.zone(&entry.zone, &what) else {
                continue;
            };
            let addresses: Vec<Ipv4Addr> = if entry.addresses.is_empty() {
                let here = self.interfaces.iter().filter(|interface| interface.zone == zone);
                here.flat_map(|interface| interface.addresses.clone()).collect()
            } else {
                entry.addresses.clone()
            };
            for address in &addresses {
                self.add_external(zone, *address, HAS_FORWARDS);
            }
            for range in &entry.ports {
                let (first, last) = (range.first(), range.last());
                if self.nat.forwards.len() >= MAX_FORWARDS as usize {
                    let problem = format!("{what}: more than {MAX_FORWARDS} ranges of ports");
                    self.nat.problems.push(problem);
                    break;
                }
                let number = self.nat.forwards.len() as u16;
                self.add_forward(entry, zone, first, number);
                let everybody = entry.sources.is_empty() && entry.hairpin;
                for (protocol, wanted) in [(TCP, ForwardProtocol::Tcp), (UDP, ForwardProtocol::Udp)]
                {
                    if !entry.protocol.overlaps(wanted) {
                        continue;
                    }
                    if u32::from(last - first) < LARGEST_RESERVED {
                        self.reserve(protocol == UDP, first, last);
                    }
                    for address in &addresses {
                        let claim = Claim { first, last, number, everybody };
                        claims.entry((*address, protocol)).or_default().push(claim);
                    }
                }
            }
        }
        for ((address, protocol), claims) in claims {
            self.add_ports(address, protocol, &claims);
        }
    }

    fn add_forward(&mut self, entry: &PortForward, zone: u8, first_port: u16, number: u16) {
        let mut flags = 0;
        for (flag, set) in
            [(HAIRPIN, entry.hairpin), (LOG, entry.log), (FROM_SOURCES, !entry.sources.is_empty())]
        {
            flags |= if set { flag } else { 0 };
        }
        self.nat.forwards.push(Forward {
            to: from_address(entry.to),
            first_port,
            to_port: entry.to_port.unwrap_or(first_port),
            zone,
            flags,
            reserved: 0,
        });
        for net in v4_prefixes(&self.sets.addresses(&entry.sources)) {
            let source = from_address(net.network());
            let key = ForwardSourceKey { bank: 0, reserved: 0, number, source };
            let bits = ForwardSourceKey::FIXED_BITS + u32::from(net.prefix_len());
            self.nat.forward_sources.insert((bits, key), 1);
        }
    }

    /// Cuts the ports where a claim begins or ends: between two cuts the same ones apply.
    fn add_ports(&mut self, address: Ipv4Addr, protocol: u8, claims: &[Claim]) {
        let mut cuts: BTreeSet<u32> = BTreeSet::new();
        for claim in claims {
            cuts.extend([u32::from(claim.first), u32::from(claim.last) + 1]);
        }
        let cuts: Vec<u32> = cuts.into_iter().collect();
        let mut segments: Vec<(u32, u32, ForwardList)> = Vec::new();
        for pair in cuts.windows(2) {
            let [from, behind] = pair else {
                continue;
            };
            let mut numbers = Vec::new();
            for claim in claims {
                if u32::from(claim.first) <= *from && *from <= u32::from(claim.last) {
                    numbers.push(claim.number);
                    if claim.everybody {
                        break;
                    }
                }
            }
            if numbers.is_empty() {
                continue;
            }
            if numbers.len() > CHOICES {
                self.nat.problems.push(format!(
                    "port {from} of {address}: of its port forwards only the first {CHOICES} are looked at"
                ));
            }
            let mut list = [NO_FORWARD; CHOICES];
            for (place, number) in list.iter_mut().zip(numbers) {
                *place = number;
            }
            match segments.last_mut() {
                Some((_, last, same)) if *last + 1 == *from && same.0 == list => *last = behind - 1,
                _ => segments.push((*from, behind - 1, ForwardList(list))),
            }
        }
        for (first, last, list) in segments {
            for (port, bits) in split(first, last, 16) {
                let key = ForwardKey {
                    bank: 0,
                    protocol,
                    reserved: 0,
                    address: from_address(address),
                    port: (port as u16).to_be(),
                    tail: 0,
                };
                self.nat.forward_ports.insert((ForwardKey::FIXED_BITS + bits, key), list);
            }
        }
    }

    /// All addresses by which hosts inside are known, in zones that translate.
    fn externals(&mut self) {
        let translating: BTreeSet<u8> = self
            .nat
            .zone_flags
            .iter()
            .filter(|(_, flags)| **flags & (MASQUERADE | STATIC_NAT | SOURCE_POOLS) != 0)
            .map(|(zone, _)| *zone)
            .collect();
        let mut primary_of_zone: BTreeMap<u8, Ipv4Addr> = BTreeMap::new();
        let mut primary_of_address: BTreeMap<Ipv4Addr, Ipv4Addr> = BTreeMap::new();
        for interface in self.interfaces {
            let Some(primary) = interface.addresses.first() else {
                continue;
            };
            primary_of_zone.entry(interface.zone).or_insert(*primary);
            for address in &interface.addresses {
                primary_of_address.insert(*address, *primary);
                if translating.contains(&interface.zone) {
                    self.external_flags.entry(*address).or_insert((interface.zone, 0));
                }
                if let Some((_, flags)) = self.external_flags.get_mut(address) {
                    *flags |= OF_INTERFACE;
                }
            }
        }
        let mut nets: Vec<(Ipv4Net, u8, u8)> = Vec::new();
        for (zone, pool) in &self.pooled {
            nets.extend(pool.iter().map(|net| (*net, *zone, 0)));
        }
        // After the pools: what is known of a single address counts.
        nets.extend(
            self.external_flags
                .iter()
                .map(|(address, (zone, flags))| (Ipv4Net::from(*address), *zone, *flags)),
        );
        for (net, zone, flags) in nets {
            let primary = primary_of_address.get(&net.addr()).or(primary_of_zone.get(&zone));
            let external = External {
                masquerade: primary.copied().map_or(0, from_address),
                zone,
                flags,
                zone_flags: self.nat.zone_flags.get(&zone).copied().unwrap_or_default() as u16,
            };
            let key = ExternalKey { bank: 0, address: from_address(net.network()) };
            let bits = ExternalKey::FIXED_BITS + u32::from(net.prefix_len());
            self.nat.externals.insert((bits, key), external);
        }
    }
}

fn pool_key(zone: u8, source: Ipv4Net) -> (u32, PoolKey) {
    let key = PoolKey { bank: 0, zone, reserved: 0, source: from_address(source.network()) };
    (PoolKey::FIXED_BITS + u32::from(source.prefix_len()), key)
}

fn v4_prefixes(ranges: &AddressRanges) -> Vec<Ipv4Net> {
    ranges
        .prefixes()
        .filter_map(|net| match net {
            IpNet::V4(net) => Some(net),
            IpNet::V6(_) => None,
        })
        .collect()
}

/// The fewest prefixes of numbers of `width` bits that are those from `first` to `last`: a number
/// and how many of its bits count.
fn split(first: u32, last: u32, width: u32) -> impl Iterator<Item = (u32, u32)> {
    let mut next = Some(u64::from(first));
    let last = u64::from(last);
    std::iter::from_fn(move || {
        let from = next.filter(|from| *from <= last)?;
        let mut bits = 0;
        while bits < width
            && from.is_multiple_of(1 << (bits + 1))
            && from + (1 << (bits + 1)) - 1 <= last
        {
            bits += 1;
        }
        next = Some(from + (1 << bits));
        Some((from as u32, width - bits))
    })
}

#[cfg(test)]
#[path = "nat_tests.rs"]
mod tests;

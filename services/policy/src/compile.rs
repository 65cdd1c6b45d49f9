//! From rules to the tables that the datapath classifies with; their layout is told in
//! `portcullis_datapath_abi::classifier`.

use std::{
    collections::{BTreeMap, HashMap},
    net::Ipv4Addr,
};

use portcullis_datapath_abi::classifier::{
    self, ClassKey, Dimension, FULL_CONE, HEADER, LIMITED, LOG, NODE, NODE_LINES, RATED,
    SOURCE_RATED, SPACE_BITS, after_pairs, class_space, decision,
};
use portcullis_datapath_abi::policy::NO_RULE;
use portcullis_model::Action;

use crate::{
    merge,
    resolve::{Resolved, ResolvedRule},
    vector::{MAX_POSITIONS, Vector, sweep},
};

/// A line, as words.
pub type Words = [u64; 4];

/// Why rules cannot be compiled.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CompileError {
    /// More rules than positions.
    #[error("{0} rules, even when neighbours are merged: at most {MAX_POSITIONS} are possible")]
    TooMany(usize),
}

/// The tables.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Compiled {
    /// The lines of a bank.
    pub lines: Vec<Words>,
    /// The entries of the tries.
    pub classes: Vec<ClassEntry>,
}

/// An entry of a trie.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ClassEntry {
    dimension: Dimension,
    address: [u32; 4],
    bits: u32,
    line: u32,
}

impl Compiled {
    /// Keys of the tries in a bank, how many bits of each count, and their values.
    pub fn class_entries(&self, bank: u32) -> impl Iterator<Item = (ClassKey, u32, u32)> {
        self.classes.iter().flat_map(move |entry| entry.keys(bank).into_iter().flatten())
    }
}

impl ClassEntry {
    /// Its own key, and that of all of IPv4 if it is around it. An entry inside comes later, so its value
    /// stays where two have that one key.
    fn keys(&self, bank: u32) -> [Option<(ClassKey, u32, u32)>; 2] {
        let ClassEntry { dimension, address, bits, line } = *self;
        let space = class_space(bank, dimension);
        let whole = ClassKey { space, address };
        if dimension == Dimension::Mac {
            return [Some((whole, SPACE_BITS + bits, line)), None];
        }
        let ipv4 = Ipv4Addr::UNSPECIFIED.to_ipv6_mapped().to_bits();
        if bits >= 96 {
            let key = ClassKey::of(bank, dimension, address);
            return [Some((key, SPACE_BITS + bits - key.bits_left_out(), line)), None];
        }
        let is_around = (as_number(address) ^ ipv4).checked_shr(128 - bits).unwrap_or(0) == 0;
        let all = is_around.then(|| {
            let key = ClassKey::of(bank, dimension, in_packet(ipv4));
            (key, SPACE_BITS, line)
        });
        [Some((whole, SPACE_BITS + bits, line)), all]
    }
}

/// Compiles the rules that are active.
///
/// # Errors
/// If there are too many.
pub fn compile(resolved: &Resolved) -> Result<Compiled, CompileError> {
    let active = resolved.rules.iter().filter(|rule| rule.active && !rule.is_empty());
    let rules = merge::merge(active.cloned()).rules;
    if rules.len() > MAX_POSITIONS {
        return Err(CompileError::TooMany(rules.len()));
    }
    let zones = u32::from(resolved.zones);
    let mut compiler = Compiler {
        rules: &rules,
        lines: vec![Words::default(); after_pairs(zones) as usize],
        vectors: HashMap::new(),
        classes: HashMap::new(),
        nodes: HashMap::new(),
        entries: Vec::new(),
    };
    let first_rule = compiler.add_rules();
    let mut roots = [0; 2];
    for dimension in Dimension::ALL {
        let any = compiler.any(dimension);
        compiler.put_class(classifier::any(dimension), &any);
        match dimension {
            Dimension::Service => roots[0] = compiler.services(&any),
            Dimension::SourcePort => roots[1] = compiler.source_ports(&any),
            Dimension::Source | Dimension::Destination => compiler.addresses(dimension, 128, &any),
            Dimension::Mac => compiler.addresses(dimension, 48, &any),
        }
    }
    let count = halves(0, rules.len() as u32);
    compiler.put(HEADER, [0, halves(zones, first_rule), halves(roots[0], roots[1]), count]);
    compiler.pairs(resolved);
    Ok(Compiled { lines: compiler.lines, classes: compiler.entries })
}

struct Compiler<'a> {
    rules: &'a [ResolvedRule],
    lines: Vec<Words>,
    /// First line of the blocks of each vector.
    vectors: HashMap<Vector, u32>,
    /// Line of the class of each vector.
    classes: HashMap<Vector, u32>,
    nodes: HashMap<Vec<u32>, u32>,
    entries: Vec<ClassEntry>,
}

const fn halves(low: u32, high: u32) -> u64 {
    low as u64 | (high as u64) << 32
}

fn action_number(action: Action) -> u8 {
    match action {
        Action::Deny => 0,
        Action::Allow => 1,
        Action::Reject => 2,
    }
}

/// FNV-1a of a rule's name: with it the service finds the numbers of rules in the tables in force.
pub fn name_hash(name: &str) -> u32 {
    name.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

impl Compiler<'_> {
    fn push(&mut self, words: Words) -> u32 {
        let number = self.lines.len() as u32;
        self.lines.push(words);
        number
    }

    fn put(&mut self, number: u32, words: Words) {
        if let Some(line) = self.lines.get_mut(number as usize) {
            *line = words;
        }
    }

    fn positions(&self) -> impl Iterator<Item = (u32, &ResolvedRule)> {
        (0..).zip(self.rules)
    }

    /// Lines of the rules; returns the first.
    fn add_rules(&mut self) -> u32 {
        let first = self.lines.len() as u32;
        for rule in self.rules {
            self.lines.push(rule_words(rule));
        }
        first
    }

    /// Positions of the rules that do not ask for a dimension.
    fn any(&self, dimension: Dimension) -> Vector {
        let mut vector = Vector::default();
        for (position, rule) in self.positions() {
            if rule.field(dimension).is_none() {
                vector.set(position);
            }
        }
        vector
    }

    /// First line of a vector's blocks.
    fn blocks(&mut self, vector: &Vector) -> u32 {
        if let Some(first) = self.vectors.get(vector) {
            return *first;
        }
        let first = self.lines.len() as u32;
        self.lines.extend(vector.blocks().iter().map(|(_, block)| *block));
        self.vectors.insert(vector.clone(), first);
        first
    }

    fn put_class(&mut self, number: u32, vector: &Vector) {
        let first = self.blocks(vector);
        self.put(number, [vector.summary(), first.into(), 0, 0]);
    }

    /// Line of the class of these positions, besides those of `any`.
    fn class(&mut self, positions: &Vector, any: &Vector) -> u32 {
        if positions.blocks().is_empty() {
            return HEADER;
        }
        if let Some(line) = self.classes.get(positions) {
            return *line;
        }
        let line = self.push(Words::default());
        self.put_class(line, &positions.filled_up(any));
        self.classes.insert(positions.clone(), line);
        line
    }

    /// Entries of a trie. `width` is the number of bits of its addresses.
    fn addresses(&mut self, dimension: Dimension, width: u32, any: &Vector) {
        self.classes.clear();
        // Only its own prefix and those around it say whom an address fits.
        let mut prefixes: BTreeMap<(u128, u32), Vec<u32>> = BTreeMap::new();
        for (position, rule) in (0..).zip(self.rules) {
            for (first, length) in rule.field(dimension).into_iter().flat_map(|f| f.prefixes()) {
                prefixes.entry((first, length)).or_default().push(position);
            }
        }
        // The prefixes around the one in hand, the innermost last: last number, positions, class.
        let mut around: Vec<(u128, Vector, u32)> = Vec::new();
        for ((first, length), positions) in prefixes {
            while around.last().is_some_and(|(last, ..)| *last < first) {
                around.pop();
            }
            let (mut vector, outer) = match around.last() {
                Some((_, vector, line)) => (vector.clone(), *line),
                None => (Vector::default(), HEADER),
            };
            for position in positions {
                vector.set(position);
            }
            let line = self.class(&vector, any);
            if line != outer {
                let shifted = first << (128 - width);
                let bits = length.saturating_sub(128 - width);
                self.entries.push(ClassEntry {
                    dimension,
                    address: in_packet(shifted),
                    bits,
                    line,
                });
            }
            around.push((last_of(first, length), vector, line));
        }
    }

    /// Node of protocols, then destination ports.
    fn services(&mut self, any: &Vector) -> u32 {
        self.classes.clear();
        let mut by_protocol: BTreeMap<u8, Vec<(u128, u128, u32)>> = BTreeMap::new();
        for (position, rule) in (0..).zip(self.rules) {
            for (low, high) in rule.field(Dimension::Service).into_iter().flat_map(|f| f.iter()) {
                for protocol in low >> 16..=high >> 16 {
                    let start = protocol << 16;
                    let part = (low.max(start) - start, high.min(start | 0xffff) - start, position);
                    by_protocol.entry(protocol as u8).or_default().push(part);
                }
            }
        }
        let mut nodes = vec![HEADER; 256];
        for (protocol, intervals) in by_protocol {
            let ports = self.ports(intervals, any);
            if let Some(node) = nodes.get_mut(usize::from(protocol)) {
                *node = ports;
            }
        }
        self.node(nodes)
    }

    fn source_ports(&mut self, any: &Vector) -> u32 {
        self.classes.clear();
        let mut intervals = Vec::new();
        for (position, rule) in (0..).zip(self.rules) {
            let field = rule.field(Dimension::SourcePort).into_iter().flat_map(|f| f.iter());
            intervals.extend(field.map(|(low, high)| (low, high, position)));
        }
        self.ports(intervals, any)
    }

    /// Node of the upper byte of ports, then of the lower one.
    fn ports(&mut self, intervals: Vec<(u128, u128, u32)>, any: &Vector) -> u32 {
        let mut classes: Vec<u32> = Vec::with_capacity(1 << 16);
        let mut line = HEADER;
        for (start, positions) in sweep(intervals, 0, self.rules.len()) {
            classes.resize(start.min(1 << 16) as usize, line);
            line = self.class(&positions, any);
        }
        classes.resize(1 << 16, line);
        let upper = classes.chunks(256).map(|lower| self.node(lower.to_vec())).collect();
        self.node(upper)
    }

    /// A node for each value of a byte; one node if all are the same.
    fn node(&mut self, values: Vec<u32>) -> u32 {
        if let Some(first) = values.first()
            && values.iter().all(|value| value == first)
        {
            return *first;
        }
        if let Some(node) = self.nodes.get(&values) {
            return *node;
        }
        let first = self.lines.len() as u32;
        for eight in values.chunks((256 / NODE_LINES) as usize) {
            let mut words = Words::default();
            for (word, two) in words.iter_mut().zip(eight.chunks(2)) {
                if let [low, high] = two {
                    *word = halves(*low, *high);
                }
            }
            self.lines.push(words);
        }
        let node = first | NODE;
        self.nodes.insert(values, node);
        node
    }

    fn pairs(&mut self, resolved: &Resolved) {
        let zones = resolved.zones;
        let mut pairs: BTreeMap<(u8, u8), (Vector, u32)> = BTreeMap::new();
        for (position, rule) in (0..).zip(self.rules) {
            let asked = Dimension::ALL
                .into_iter()
                .filter(|dimension| rule.field(*dimension).is_some())
                .fold(0, |bits, dimension| bits | dimension.bit());
            for from in (0..zones).filter(|from| rule.from >> from & 1 == 1) {
                for to in (0..zones).filter(|to| rule.to >> to & 1 == 1) {
                    let (vector, dimensions) = pairs.entry((from, to)).or_default();
                    vector.set(position);
                    *dimensions |= asked;
                }
            }
        }
        for from in 0..zones {
            for to in 0..zones {
                let default = resolved.default_of(from, to);
                let flags = if default.log { LOG } else { 0 };
                let decision = decision(NO_RULE, action_number(default.action), flags, 0);
                let (vector, asked) = pairs.remove(&(from, to)).unwrap_or_default();
                let first = self.blocks(&vector);
                let number = classifier::pair(zones.into(), from, to);
                self.put(number, [decision, vector.summary(), halves(first, asked), 0]);
            }
        }
    }
}

fn rule_words(rule: &ResolvedRule) -> Words {
    let (interval, tolerance) = rule.rate_limit.map_or((0, 0), |limit| {
        let interval = 1_000_000_000 / limit.per_second.max(1);
        // The first of a burst is on time.
        (interval, u64::from(interval) * u64::from(limit.burst.saturating_sub(1)))
    });
    let flags = [
        (LOG, rule.log),
        (FULL_CONE, rule.full_cone),
        (LIMITED, rule.connections.is_some()),
        (RATED, rule.rate_limit.is_some_and(|limit| !limit.per_source)),
        (SOURCE_RATED, rule.rate_limit.is_some_and(|limit| limit.per_source)),
    ];
    let flags = flags.iter().filter(|(_, set)| *set).fold(0, |all, (flag, _)| all | flag);
    let connections = rule.connections.unwrap_or(0);
    [
        decision(rule.number, action_number(rule.action), flags, connections),
        halves(interval, name_hash(rule.name.as_str())),
        tolerance,
        0,
    ]
}

fn last_of(first: u128, length: u32) -> u128 {
    first | u128::MAX.checked_shr(length).unwrap_or(0)
}

/// The number that the words of an address in a packet are.
fn as_number(address: [u32; 4]) -> u128 {
    address.into_iter().fold(0, |number, word| number << 32 | u128::from(u32::from_be(word)))
}

/// A number as the words of an address in a packet.
fn in_packet(number: u128) -> [u32; 4] {
    let word = |shift: u32| ((number >> shift) as u32).to_be();
    [word(96), word(64), word(32), word(0)]
}

//! Which rule decides about the first packet of a flow, by the bit vectors of
//! `portcullis_datapath_abi::classifier`: as many steps for ten thousand rules as for ten.

use portcullis_datapath_abi::{
    Counter,
    classifier::{
        BLOCK_BITS, BLOCKS, ClassKey, Dimension, HEADER, Line, NODE, OVER_CONNECTIONS, OVER_RATE,
        SPACE_BITS, SourceKey, any, class_space, pair,
    },
    policy::NO_RULE,
};

use portcullis_flow_table::{AtomicU32, AtomicU64};

use crate::limits;

/// Maps and clock of the policy.
pub trait PolicyTables {
    /// The bank in force, 0 or 1.
    fn bank(&self) -> u32;
    /// A line of the policy.
    fn line(&self, bank: u32, number: u32) -> Option<&Line>;
    /// Line of the class of the longest prefix that has the key's address; `bits` of the key count.
    fn class(&self, key: &ClassKey, bits: u32) -> Option<u32>;
    /// State of the rate of a source, made if there is none.
    fn rule_rate(&self, key: &SourceKey) -> Option<&AtomicU64>;
    /// Number of flows of a source, made if there is none; `None` if there is no room.
    fn connections(&self, key: &SourceKey) -> Option<&AtomicU32>;
    /// Time in nanoseconds.
    fn policy_clock(&self) -> u64;
}

/// The first packet of a flow.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// Zone that it comes from.
    pub from: u8,
    /// Zone that it goes to; [`portcullis_datapath_abi::policy::ROUTER`] for the router itself.
    pub to: u8,
    /// Source address as it came; IPv4 as ::ffff:a.b.c.d.
    pub source: &'a [u32; 4],
    /// Destination address after its translation.
    pub destination: &'a [u32; 4],
    /// Protocol, the upper layer's in IPv6.
    pub protocol: u8,
    /// Source port in network order; 0 if the protocol has none.
    pub source_port: u16,
    /// Destination port after its translation, in network order; of ICMP `type << 8 | code`, in
    /// network order too; 0 for other protocols.
    pub destination_port: u16,
    /// Hardware address of the sender; zeros if there is none.
    pub mac: [u8; 6],
}

/// What a rule or the default of a pair of zones does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Action {
    /// Drops without an answer.
    Deny = 0,
    /// Lets pass.
    Allow = 1,
    /// Drops and tells the sender.
    Reject = 2,
}

/// What becomes of a flow.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Ruling {
    /// What happens.
    pub action: Action,
    /// Flags of `portcullis_datapath_abi::classifier`: `LOG`, `FULL_CONE`, `LIMITED`, `OVER_RATE`,
    /// `OVER_CONNECTIONS`.
    pub flags: u8,
    /// Number of the rule that decided; [`NO_RULE`] for the default of the pair.
    pub rule: u16,
}

impl Ruling {
    const REFUSED: Self = Self { action: Action::Deny, flags: 0, rule: NO_RULE };

    /// As the lower half of a `decision` word says.
    #[inline(always)]
    const fn of(decision: u32) -> Self {
        let action = match decision >> 16 & 0xff {
            1 => Action::Allow,
            2 => Action::Reject,
            _ => Action::Deny,
        };
        Self { action, flags: (decision >> 24) as u8, rule: decision as u16 }
    }

    /// How the packet is counted if it is refused.
    #[inline(always)]
    pub const fn reason(self) -> Counter {
        if self.flags & OVER_RATE != 0 {
            Counter::DropRateLimit
        } else if self.flags & OVER_CONNECTIONS != 0 {
            Counter::DropConnections
        } else {
            Counter::DropPolicy
        }
    }
}

/// Decides about a first packet; counts it where the deciding rule has a limit. A ruling with
/// `LIMITED` has counted the flow for its source: if none comes of it, [`limits::release`] takes it
/// back.
#[inline(never)]
pub fn classify<T: PolicyTables>(tables: &T, question: &Question<'_>) -> Ruling {
    let bank = tables.bank();
    let Some(line) = tables.line(bank, deciding_line(tables, bank, question)) else {
        return Ruling::REFUSED;
    };
    let mut ruling = Ruling::of(line.low(0));
    if ruling.rule != NO_RULE {
        ruling = limits::limit(tables, line, question.source, ruling);
    }
    ruling
}

/// What becomes of flows between two zones for which there are no rules; `None` if there are.
#[inline(always)]
pub(crate) fn default_of<T: PolicyTables>(tables: &T, from: u8, to: u8) -> Option<Ruling> {
    let bank = tables.bank();
    let header = tables.line(bank, HEADER)?;
    let pair = tables.line(bank, pair(header.low(1), from, to))?;
    if pair.word(1) == 0 { Some(Ruling::of(pair.low(0))) } else { None }
}

/// Whether there are rules for flows between two zones.
#[inline(always)]
pub fn has_rules<T: PolicyTables>(tables: &T, from: u8, to: u8) -> bool {
    let bank = tables.bank();
    let Some(header) = tables.line(bank, HEADER) else {
        return false;
    };
    tables.line(bank, pair(header.low(1), from, to)).is_some_and(|pair| pair.word(1) != 0)
}

/// What is known of a packet on the way to its rule.
struct Search {
    bank: u32,
    /// Dimensions that the rules of the pair ask for.
    asked: u32,
    /// Blocks that may have the rule.
    blocks: u64,
    /// Class in each dimension; the header is the class of no bits.
    classes: [u32; 5],
}

/// Line of the rule that decides, or of the pair.
#[inline(always)]
fn deciding_line<T: PolicyTables>(tables: &T, bank: u32, question: &Question<'_>) -> u32 {
    let Some(header) = tables.line(bank, HEADER) else {
        return HEADER;
    };
    let zones = pair(header.low(1), question.from, question.to);
    let Some(pair) = tables.line(bank, zones) else {
        return HEADER;
    };
    // The lower half of the last word is 0, the class of no bits; only the verifier must not know,
    // lest it follows each dimension's absence through all that comes.
    let mut search =
        Search { bank, asked: pair.high(2), blocks: pair.word(1), classes: [header.low(3); 5] };
    // One after the other in so many words: with a loop the verifier would have to follow an index
    // into the stack. The cheapest comes first; once nothing fits, no other is asked.
    narrow(tables, question, &mut search, Dimension::Service);
    narrow(tables, question, &mut search, Dimension::Source);
    narrow(tables, question, &mut search, Dimension::Destination);
    narrow(tables, question, &mut search, Dimension::SourcePort);
    narrow(tables, question, &mut search, Dimension::Mac);
    for _ in 0..BLOCKS {
        if search.blocks == 0 {
            break;
        }
        let block = search.blocks.trailing_zeros();
        search.blocks &= search.blocks - 1;
        if let Some(bit) = first_fit(tables, pair, &search, block) {
            return header.high(1).wrapping_add(block * BLOCK_BITS + bit);
        }
    }
    zones
}

/// Leaves only the blocks that may have a rule for the packet's class in a dimension.
#[inline(always)]
fn narrow<T: PolicyTables>(
    tables: &T,
    question: &Question<'_>,
    search: &mut Search,
    dimension: Dimension,
) {
    if search.blocks == 0 {
        return;
    }
    if search.asked & dimension.bit() == 0 {
        return;
    }
    let class = match dimension {
        Dimension::Service => service_class(tables, search.bank, question),
        Dimension::SourcePort => source_port_class(tables, search.bank, question),
        Dimension::Source | Dimension::Destination | Dimension::Mac => {
            address_class(tables, search.bank, question, dimension)
        }
    };
    let summary = |number| tables.line(search.bank, number).map_or(0, |line| line.word(0));
    let fits = summary(class) | summary(any(dimension));
    search.blocks &= fits;
    if let Some(slot) = search.classes.get_mut(dimension as usize) {
        *slot = class;
    }
}

/// A function of its own: the key of the trie is on its stack, not on its caller's.
#[inline(never)]
fn address_class<T: PolicyTables>(
    tables: &T,
    bank: u32,
    question: &Question<'_>,
    dimension: Dimension,
) -> u32 {
    let key = match dimension {
        Dimension::Source => ClassKey::of(bank, dimension, *question.source),
        Dimension::Destination => ClassKey::of(bank, dimension, *question.destination),
        _ => {
            let [a, b, c, d, e, f] = question.mac;
            let address =
                [u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, 0, 0]), 0, 0];
            ClassKey { space: class_space(bank, dimension), address }
        }
    };
    // Nothing in a trie is longer than its addresses are, so all bits may count.
    tables.class(&key, SPACE_BITS + 128).unwrap_or(HEADER)
}

#[inline(never)]
fn service_class<T: PolicyTables>(tables: &T, bank: u32, question: &Question<'_>) -> u32 {
    let root = tables.line(bank, HEADER).map_or(HEADER, |header| header.low(2));
    let [high, low] = question.destination_port.to_ne_bytes();
    port_class(tables, bank, node(tables, bank, root, question.protocol), high, low)
}

#[inline(never)]
fn source_port_class<T: PolicyTables>(tables: &T, bank: u32, question: &Question<'_>) -> u32 {
    let root = tables.line(bank, HEADER).map_or(HEADER, |header| header.high(2));
    let [high, low] = question.source_port.to_ne_bytes();
    port_class(tables, bank, root, high, low)
}

#[inline(always)]
fn port_class<T: PolicyTables>(tables: &T, bank: u32, root: u32, high: u8, low: u8) -> u32 {
    let middle = node(tables, bank, root, high);
    node(tables, bank, middle, low)
}

/// What a node says for the next byte; a class goes on as it is.
#[inline(always)]
fn node<T: PolicyTables>(tables: &T, bank: u32, node: u32, byte: u8) -> u32 {
    if node & NODE == 0 {
        return node;
    }
    let number = (node & !NODE).wrapping_add(u32::from(byte >> 3));
    let Some(line) = tables.line(bank, number) else {
        return HEADER;
    };
    let word = line.word(usize::from(byte >> 1 & 3));
    if byte & 1 == 0 { word as u32 } else { (word >> 32) as u32 }
}

/// The first position of a block that fits in all dimensions, within the block.
#[inline(always)]
fn first_fit<T: PolicyTables>(tables: &T, pair: &Line, search: &Search, block: u32) -> Option<u32> {
    let first = tables.line(search.bank, stored(pair.word(1), pair.low(2), block))?;
    let mut fits = [first.word(0), first.word(1), first.word(2), first.word(3)];
    keep_fitting(tables, search, block, Dimension::Service, &mut fits)?;
    keep_fitting(tables, search, block, Dimension::Source, &mut fits)?;
    keep_fitting(tables, search, block, Dimension::Destination, &mut fits)?;
    if pair.high(2) & RARELY_ASKED != 0 {
        keep_fitting(tables, search, block, Dimension::SourcePort, &mut fits)?;
        keep_fitting(tables, search, block, Dimension::Mac, &mut fits)?;
    }
    let [a, b, c, d] = fits;
    if a != 0 {
        Some(a.trailing_zeros())
    } else if b != 0 {
        Some(64 + b.trailing_zeros())
    } else if c != 0 {
        Some(128 + c.trailing_zeros())
    } else if d != 0 {
        Some(192 + d.trailing_zeros())
    } else {
        None
    }
}

/// Dimensions that few rules ask for.
const RARELY_ASKED: u32 = Dimension::SourcePort.bit() | Dimension::Mac.bit();

/// Takes out of a block what does not fit in a dimension: nothing, if no rule of the pair asks for
/// it, since then all of them are in its class "any".
#[inline(always)]
fn keep_fitting<T: PolicyTables>(
    tables: &T,
    search: &Search,
    block: u32,
    dimension: Dimension,
    fits: &mut [u64; 4],
) -> Option<()> {
    let mut vector = tables.line(search.bank, *search.classes.get(dimension as usize)?)?;
    if vector.word(0) >> block & 1 == 0 {
        vector = tables.line(search.bank, any(dimension))?;
    }
    let of_class = tables.line(search.bank, stored(vector.word(0), vector.low(1), block))?;
    let [a, b, c, d] = fits;
    *a &= of_class.word(0);
    *b &= of_class.word(1);
    *c &= of_class.word(2);
    *d &= of_class.word(3);
    Some(())
}

/// Line of a block: only those of the summary are stored.
#[inline(always)]
const fn stored(summary: u64, first: u32, block: u32) -> u32 {
    first.wrapping_add((summary & ((1 << block) - 1)).count_ones())
}

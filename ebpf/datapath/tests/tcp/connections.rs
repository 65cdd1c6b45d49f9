//! Honest connections over a network that loses, delays, repeats and aggregates: the gate stands in
//! the middle and must not drop anything that either end still needs.
//!
//! The ends are a small TCP (RFC 9293): sequence space, windows with scale, retransmission,
//! out-of-order reassembly, delayed reading, probes of a closed window, keepalives.

use std::collections::{BTreeMap, VecDeque};

use portcullis_datapath::tcp::Judgement;
use proptest::prelude::*;

use crate::gate::{ACK, FIN, Gate, SYN, Sent};

struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        // Splitmix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }

    fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }
}

/// Offsets from the initial sequence number, as 64-bit numbers: 0 is the SYN, 1 the first byte.
struct End {
    isn: u32,
    peer_isn: Option<u32>,
    scale: Option<u8>,
    peer_scale: Option<u8>,
    buffer: u64,
    mss: u64,
    /// Bytes to send; FIN follows.
    total: u64,
    unacknowledged: u64,
    next: u64,
    highest: u64,
    peer_window: u64,
    /// Next expected of the peer; 0 before its SYN.
    expected: u64,
    /// Arrived beyond that: first to last.
    early: BTreeMap<u64, u64>,
    /// Arrived and not read by the application.
    unread: u64,
    peer_fin: Option<u64>,
    answer_due: bool,
    /// Steps since something new came.
    quiet: u64,
}

impl End {
    fn open(&self) -> bool {
        self.unacknowledged > 0 && self.expected > 0
    }

    /// All sent and acknowledged, and everything received.
    fn done(&self) -> bool {
        self.unacknowledged == self.total + 2
            && self.peer_fin.is_some_and(|fin| self.expected == fin + 1)
    }

    fn in_flight(&self) -> u64 {
        self.highest - self.unacknowledged
    }

    fn scaled(&self) -> bool {
        self.scale.is_some() && self.peer_scale.is_some()
    }

    fn window(&self) -> u16 {
        let free = self.buffer - self.unread.min(self.buffer);
        let shift = if self.scaled() { self.scale.unwrap_or(0) } else { 0 };
        (free >> shift).min(65_535) as u16
    }

    fn segment(&self, flags: u8, from: u64, length: u64) -> Sent {
        let acknowledges = self.expected > 0;
        let acknowledgment = match self.peer_isn {
            Some(isn) if acknowledges => isn.wrapping_add(self.expected as u32),
            _ => 0,
        };
        let free = self.buffer - self.unread.min(self.buffer);
        Sent {
            flags: flags | if acknowledges { ACK } else { 0 },
            sequence: self.isn.wrapping_add(from as u32),
            acknowledgment,
            // The window of a SYN is not scaled.
            window: if flags & SYN != 0 { free.min(65_535) as u16 } else { self.window() },
            length: length as u32,
            scale: if flags & SYN != 0 { self.scale } else { None },
        }
    }

    /// From the sequence number `from` on, at most one segment.
    fn data(&self, from: u64, limit: u64) -> Sent {
        let length = (self.total + 1).saturating_sub(from).min(self.mss).min(limit);
        let fin = from + length == self.total + 1 && length < limit;
        self.segment(if fin { FIN } else { 0 }, from, length)
    }

    fn send(&mut self, chance: &mut Chance, out: &mut VecDeque<Sent>) {
        if !self.open() {
            return;
        }
        while self.next < self.total + 2 && self.next < self.unacknowledged + self.peer_window {
            let limit = self.unacknowledged + self.peer_window - self.next;
            let sent = self.data(self.next, limit);
            let taken = u64::from(sent.end().wrapping_sub(sent.sequence));
            if taken == 0 {
                break;
            }
            out.push_back(sent);
            self.next += taken;
            self.answer_due = false;
            if chance.percent(30) {
                break;
            }
        }
        self.highest = self.highest.max(self.next);
        if self.answer_due {
            // While it goes back, BSD numbers acknowledgments behind all it ever sent.
            let number = if chance.percent(50) { self.highest } else { self.next };
            out.push_back(self.segment(0, number, 0));
            self.answer_due = false;
        }
    }

    /// Nothing new came for a while.
    fn timeout(&mut self, chance: &mut Chance, out: &mut VecDeque<Sent>) {
        if self.unacknowledged == 0 {
            out.push_back(self.segment(SYN, 0, 0));
            return;
        }
        if self.peer_window == 0 && self.next == self.unacknowledged && self.next < self.total + 2 {
            // A probe: an old number, as Linux does it, or a byte beyond the window, as BSD does.
            if chance.percent(50) {
                out.push_back(self.segment(0, self.unacknowledged - 1, 0));
            } else {
                out.push_back(self.data(self.unacknowledged, 1));
                self.highest = self.highest.max(self.unacknowledged + 1);
            }
        } else if self.unacknowledged < self.highest {
            // From the oldest on again.
            let sent = self.data(self.unacknowledged, self.highest - self.unacknowledged);
            self.next = self.unacknowledged + u64::from(sent.end().wrapping_sub(sent.sequence));
            out.push_back(sent);
        } else {
            // A keepalive.
            out.push_back(self.segment(0, self.unacknowledged - 1, chance.below(2)));
        }
    }

    fn receive(&mut self, sent: &Sent, out: &mut VecDeque<Sent>) {
        let before = (self.unacknowledged, self.expected);
        self.take_in(sent, out);
        if before != (self.unacknowledged, self.expected) {
            self.quiet = 0;
        }
    }

    fn take_in(&mut self, sent: &Sent, out: &mut VecDeque<Sent>) {
        if sent.flags & SYN != 0 {
            if self.peer_isn.is_none() {
                self.peer_isn = Some(sent.sequence);
                self.peer_scale = sent.scale;
                self.expected = 1;
            }
            self.answer_due = true;
        }
        let Some(peer_isn) = self.peer_isn else {
            return;
        };
        let offset = sent.sequence.wrapping_sub(peer_isn);
        let from = self
            .expected
            .wrapping_add_signed(i64::from(offset.wrapping_sub(self.expected as u32) as i32));
        let taken = u64::from(sent.end().wrapping_sub(sent.sequence));
        if sent.flags & SYN == 0 && taken > 0 && from + taken <= self.expected {
            // Here already: answered, and not looked at any further (RFC 9293 section 3.10.7.4).
            self.answer_due = true;
            return;
        }
        if sent.flags & ACK != 0 {
            let offset = sent.acknowledgment.wrapping_sub(self.isn);
            let base = self.unacknowledged;
            let acknowledged =
                base.wrapping_add_signed(i64::from(offset.wrapping_sub(base as u32) as i32));
            assert!(acknowledged <= self.highest.max(1), "acknowledges what was not sent");
            if acknowledged >= self.unacknowledged {
                self.unacknowledged = acknowledged;
                self.next = self.next.max(acknowledged);
                let shift = if self.scaled() && sent.flags & SYN == 0 {
                    self.peer_scale.unwrap_or(0)
                } else {
                    0
                };
                self.peer_window = u64::from(sent.window) << shift;
            }
        }
        if self.unacknowledged == 0 {
            // The other SYN of a passive open.
            out.push_back(self.segment(SYN, 0, 0));
            self.answer_due = false;
            self.highest = self.highest.max(1);
            self.next = self.next.max(1);
            return;
        }
        if taken == 0 {
            // An old number with nothing behind it asks for an answer.
            if from != self.expected {
                self.answer_due = true;
            }
            return;
        }
        self.answer_due = true;
        if sent.flags & FIN != 0 {
            self.peer_fin = Some(from + taken - 1);
        }
        let space = self.expected + self.buffer - self.unread.min(self.buffer);
        // What does not fit is cut off.
        let (from, to) = (from.max(self.expected), (from + taken).min(space.max(self.expected)));
        if from < to {
            let last = self.early.entry(from).or_insert(to);
            *last = (*last).max(to);
        }
        while let Some((&first, &last)) = self.early.first_key_value() {
            if first > self.expected {
                break;
            }
            if last > self.expected {
                self.unread += last - self.expected;
                self.expected = last;
            }
            self.early.remove(&first);
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Network {
    loss: u64,
    repeats: u64,
    /// Longest delay on each half of the way, in steps.
    delay: u64,
    aggregates: bool,
}

/// Segments on half of a way, by the step in which they arrive.
#[derive(Default)]
struct Wire {
    flying: BTreeMap<u64, Vec<Sent>>,
    last: u64,
}

impl Wire {
    fn put(&mut self, now: u64, sent: Sent, network: &Network, chance: &mut Chance) {
        let copies = 1 + u64::from(chance.percent(network.repeats));
        for _ in 0..copies {
            if chance.percent(network.loss) {
                continue;
            }
            let at = now + 1 + chance.below(network.delay);
            // Without delay variation there is no reordering either.
            self.last = self.last.max(at);
            let at = if network.delay <= 1 { self.last } else { at };
            self.flying.entry(at).or_default().push(sent);
        }
    }

    fn take(&mut self, now: u64) -> Vec<Sent> {
        let later = self.flying.split_off(&(now + 1));
        let due = std::mem::replace(&mut self.flying, later);
        due.into_values().flatten().collect()
    }
}

/// As GRO does it: data that follows directly becomes one frame.
fn aggregate(segments: Vec<Sent>) -> Vec<Sent> {
    let mut frames: Vec<Sent> = Vec::new();
    for sent in segments {
        if let Some(last) = frames.last_mut()
            && last.flags == ACK
            && sent.flags == ACK
            && last.length > 0
            && sent.length > 0
            && last.end() == sent.sequence
            && last.acknowledgment == sent.acknowledgment
            && last.window == sent.window
            && last.length + sent.length < 65_000
        {
            last.length += sent.length;
            continue;
        }
        frames.push(sent);
    }
    frames
}

#[derive(Clone, Debug)]
struct Setup {
    isn: [u32; 2],
    scale: [Option<u8>; 2],
    buffer: [u64; 2],
    total: [u64; 2],
    network: Network,
    simultaneous: bool,
    slow_reader: bool,
}

/// Runs a connection to its end; returns how many segments passed and how many old ones were
/// dropped.
fn run(setup: &Setup, seed: u64) -> (u64, u64) {
    let mut chance = Chance(seed);
    let mut ends = [0, 1].map(|index: usize| End {
        isn: setup.isn[index],
        peer_isn: None,
        scale: setup.scale[index],
        peer_scale: None,
        buffer: setup.buffer[index],
        mss: 1460,
        total: setup.total[index],
        unacknowledged: 0,
        next: 0,
        highest: 0,
        peer_window: 0,
        expected: 0,
        early: BTreeMap::new(),
        unread: 0,
        peer_fin: None,
        answer_due: false,
        quiet: 0,
    });
    let gate = Gate::new();
    let mut wires: [[Wire; 2]; 2] = Default::default();
    let (mut passed, mut dropped) = (0, 0);
    let openers = if setup.simultaneous { 2 } else { 1 };
    for (index, end) in ends.iter_mut().enumerate().take(openers) {
        end.highest = 1;
        end.next = 1;
        let syn = end.segment(SYN, 0, 0);
        // The first of all must arrive before the other side's, or that would be a new flow.
        let first = Network { loss: 0, repeats: 0, delay: 1, aggregates: false };
        let network = if index == 0 { &first } else { &setup.network };
        wires[index][0].put(index as u64, syn, network, &mut chance);
    }
    for now in 0..200_000_u64 {
        for index in 0..2 {
            let mut arrived = wires[index][0].take(now);
            if setup.network.aggregates {
                arrived = aggregate(arrived);
            }
            for sent in arrived {
                if gate.judge(index, &sent) == Judgement::InWindow {
                    passed += 1;
                    wires[index][1].put(now, sent, &setup.network, &mut chance);
                    continue;
                }
                // Only what says nothing new to its receiver, what its receiver has already, or what
                // was overtaken by more than a window of answers; and only in a network that reorders.
                let receiver = &ends[1 - index];
                let peer_isn = receiver.peer_isn.expect("the first SYN passed");
                let news = sent.end().wrapping_sub(peer_isn.wrapping_add(receiver.expected as u32));
                let acknowledged = sent
                    .acknowledgment
                    .wrapping_sub(receiver.isn.wrapping_add(receiver.unacknowledged as u32));
                let takes = sent.end() != sent.sequence;
                let data = takes && news as i32 > 0;
                let known = takes && news as i32 <= 0;
                let acknowledged =
                    if sent.flags & ACK == 0 { 0 } else { i64::from(acknowledged as i32) };
                let old = acknowledged <= 0;
                let overtaken = acknowledged + 66_000 <= receiver.in_flight() as i64;
                assert!(
                    known || old && (!data || overtaken),
                    "dropped {sent:?} at {now}, {:?}, receiver expects {} knows {} sent {}",
                    gate.sides(),
                    receiver.expected,
                    receiver.unacknowledged,
                    receiver.highest,
                );
                assert!(setup.network.delay > 1, "dropped {sent:?} although nothing overtakes");
                dropped += 1;
            }
            for sent in wires[index][1].take(now) {
                let mut out = VecDeque::new();
                ends[1 - index].receive(&sent, &mut out);
                for sent in out {
                    wires[1 - index][0].put(now, sent, &setup.network, &mut chance);
                }
            }
        }
        for (index, end) in ends.iter_mut().enumerate() {
            let mut out = VecDeque::new();
            // The application reads, and at times it does not.
            if !setup.slow_reader || chance.percent(10) {
                let read =
                    if setup.slow_reader { chance.below(end.unread + 1) } else { end.unread };
                end.unread -= read;
                end.answer_due |= read > 0 && end.open();
            }
            end.send(&mut chance, &mut out);
            end.quiet += 1;
            if end.quiet > 4 * setup.network.delay + 20 && !end.done() && end.highest > 0 {
                end.quiet = 0;
                end.timeout(&mut chance, &mut out);
            }
            for sent in out {
                wires[index][0].put(now, sent, &setup.network, &mut chance);
            }
        }
        if ends.iter().all(End::done) {
            return (passed, dropped);
        }
    }
    panic!(
        "not done: {:?}",
        ends.map(|end| (end.unacknowledged, end.total, end.expected, end.peer_window, end.unread))
    );
}

fn setups() -> impl Strategy<Value = Setup> {
    // Close to the wrap of sequence numbers, too.
    let isn = prop_oneof![any::<u32>(), (u32::MAX - 100_000)..u32::MAX];
    let scale = prop_oneof![Just(None), (0..15_u8).prop_map(Some)];
    let buffer = prop_oneof![1000..4000_u64, 4000..70_000_u64, 70_000..3_000_000_u64];
    let total = prop_oneof![Just(0), 1..100_000_u64, 100_000..2_000_000_u64];
    let network = (0..25_u64, 0..10_u64, 1..40_u64, any::<bool>()).prop_map(
        |(loss, repeats, delay, aggregates)| Network { loss, repeats, delay, aggregates },
    );
    (
        [isn.clone(), isn],
        [scale.clone(), scale],
        [buffer.clone(), buffer],
        [total.clone(), total],
        network,
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(|(isn, scale, buffer, total, network, simultaneous, slow_reader)| Setup {
            isn,
            // A unit of the window is a small part of the buffer, as hosts choose it.
            scale: [0, 1].map(|index: usize| {
                let largest = buffer[index].ilog2().saturating_sub(6) as u8;
                scale[index].map(|scale| scale.min(largest))
            }),
            buffer,
            // Small buffers take long.
            total: [total[0].min(buffer[1] * 100), total[1].min(buffer[0] * 100)],
            network,
            simultaneous,
            slow_reader,
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn no_honest_connection_is_disturbed(setup in setups(), seed: u64) {
        run(&setup, seed);
    }

    #[test]
    fn a_network_that_does_not_reorder_loses_nothing_at_the_gate(setup in setups(), seed: u64) {
        let network = Network { delay: 1, ..setup.network };
        let (passed, dropped) = run(&Setup { network, ..setup }, seed);
        prop_assert!(passed >= 4 && dropped == 0);
    }
}

//! Making and ending flows.

use core::mem::offset_of;

use portcullis_datapath_abi::{
    Config, Counter, FlowKey, FlowKey6, FlowRecord,
    flow::{EntryKind, FREE, IPV6, LIVE, NO_SCALE, Payload, TRANSLATED},
};
use portcullis_flow_table::{Hash, InsertError, hash16, hash40, insert, remove};

use super::{FlowRef, FlowTables, NextHop, lookup::Index};
use crate::checksum::{add, delta, delta16};

/// What a flow is made of, whatever its family.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    /// Flags of the record.
    pub flags: u8,
    /// Rule that let it in.
    pub rule: u16,
    /// Mapping that it uses.
    pub mapping: u32,
    /// The time in ticks.
    pub now: u32,
    /// Current generation of routes, for `hop`.
    pub generation: u32,
    /// Packets and bytes of the initiator that are counted already.
    pub counted: (u32, u32),
}

/// An IPv4 flow to be made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct New4<'k> {
    /// Packets of the initiator, as they arrive.
    pub forward: &'k FlowKey,
    /// Packets of the other end, as they arrive.
    pub reverse: &'k FlowKey,
    /// The rest.
    pub terms: Terms,
    /// The initiator's next hop, if it is known.
    pub hop: Option<NextHop>,
}

/// An IPv6 flow to be made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct New6<'k> {
    /// Packets of the initiator, as they arrive, with [`FlowKey6::peer_zone`].
    pub key: &'k FlowKey6,
    /// The rest.
    pub terms: Terms,
    /// The initiator's next hop, if it is known.
    pub hop: Option<NextHop>,
}

/// Makes a flow. If another CPU made the same meanwhile, that one stays: the packet finds it.
///
/// # Errors
/// The table is full, or the key of the other direction is another flow's. Nothing is left behind.
#[inline(always)]
pub(crate) fn create4<T: FlowTables>(
    tables: &T,
    config: &Config,
    new: &New4<'_>,
) -> Result<u32, Counter> {
    let number = tables.take_record(config.flows).ok_or(Counter::DropFull)?;
    let Some(record) = tables.record(number) else {
        return Err(Counter::DropFull);
    };
    // SAFETY: the number is ours, nobody else looks at the record before it is in the index.
    let flow = unsafe { FlowRef::new(record, number, 0) };
    fill(flow, &new.terms, new.hop.as_ref());
    let (forward, reverse) = (new.forward, new.reverse);
    let source = delta(forward.source, reverse.destination);
    let destination = delta(forward.destination, reverse.source);
    let ports = add(
        delta16(forward.source_port, reverse.destination_port),
        delta16(forward.destination_port, reverse.source_port),
    );
    let addresses = add(source, destination);
    let transport = add(addresses, ports);
    // SAFETY: as above.
    unsafe {
        let ends = flow.ends4();
        (*ends).keys = [*forward, *reverse];
        // The way back takes the same differences away.
        (*ends).address_delta = [addresses, !addresses];
        (*ends).transport_delta = [transport, !transport];
        let translated = forward.source != reverse.destination
            || forward.destination != reverse.source
            || forward.source_port != reverse.destination_port
            || forward.destination_port != reverse.source_port;
        if translated {
            (*flow.record()).flags |= TRANSLATED;
        }
    }
    let seed = config.seed;
    let hashes = [
        hash16(seed, forward.words(EntryKind::Flow)),
        hash16(seed, reverse.words(EntryKind::Flow)),
    ];
    publish(tables, config, number, hashes)
}

/// The same for IPv6.
///
/// # Errors
/// As [`create4`].
#[inline(always)]
pub(crate) fn create6<T: FlowTables>(
    tables: &T,
    config: &Config,
    new: &New6<'_>,
) -> Result<u32, Counter> {
    let number = tables.take_record(config.flows).ok_or(Counter::DropFull)?;
    let Some(record) = tables.record(number) else {
        return Err(Counter::DropFull);
    };
    // SAFETY: as above.
    let flow = unsafe { FlowRef::new(record, number, 0) };
    fill(flow, &new.terms, new.hop.as_ref());
    // SAFETY: as above; `ends` has room for the key and any bits are valid.
    unsafe {
        (&raw mut (*record.as_ptr()).ends).cast::<FlowKey6>().write(*new.key);
        (*record.as_ptr()).flags |= IPV6;
    }
    let hashes =
        [hash40(config.seed, new.key.words()), hash40(config.seed, new.key.reverse().words())];
    publish(tables, config, number, hashes)
}

#[inline(always)]
fn fill(flow: FlowRef<'_>, terms: &Terms, hop: Option<&NextHop>) {
    let record: *mut FlowRecord = flow.record();
    // SAFETY: the record is the caller's alone. Word by word: a whole record on the stack would be
    // a third of it. The ends, in front, are the caller's to write, all of them.
    unsafe {
        let words = record.cast::<u64>();
        for index in offset_of!(FlowRecord, packets) / 8..size_of::<FlowRecord>() / 8 {
            words.add(index).write_volatile(0);
        }
        let (packets, bytes) = terms.counted;
        (&raw mut (*record).packets).cast::<u64>().write(u64::from(packets));
        (&raw mut (*record).bytes).cast::<u64>().write(u64::from(bytes));
        (*record).last_seen = terms.now;
        (*record).created = terms.now;
        (*record).mapping = terms.mapping;
        (*record).rule = terms.rule;
        (*record).flags = terms.flags;
        let [ours, theirs] = &mut (*record).sides;
        ours.scale = NO_SCALE;
        theirs.scale = NO_SCALE;
        (*record).state = LIVE;
    }
    if let Some(hop) = hop {
        flow.cache(hop, terms.generation);
    }
}

/// Enters a record into the index under both keys, the other end's first: whoever finds the
/// initiator's finds both.
#[inline(always)]
fn publish<T: FlowTables>(
    tables: &T,
    config: &Config,
    number: u32,
    hashes: [Hash; 2],
) -> Result<u32, Counter> {
    let index = Index { tables, buckets: config.buckets };
    let [forward, reverse] = hashes;
    let payload = |direction| Payload::new(EntryKind::Flow, number, direction).0;
    // A host that reaches itself by its external address and port (RFC 4787 REQ-9): its packets and
    // their answers look the same when they arrive, so one entry is enough.
    let itself = forward == reverse;
    let first = if itself { Ok(()) } else { insert(&index, reverse, payload(1)) };
    let refused = match first {
        Ok(()) => match insert(&index, forward, payload(0)) {
            Ok(()) => return Ok(number),
            Err(error) => {
                remove(&index, reverse, payload(1));
                error
            }
        },
        Err(error) => error,
    };
    if let Some(record) = tables.record(number) {
        // SAFETY: the record is still ours alone. Left `LIVE`, the service would take it for a flow
        // that it has to end, and hand the number back a second time.
        unsafe { (&raw mut (*record.as_ptr()).state).write_volatile(FREE) };
    }
    tables.return_record(number);
    Err(match refused {
        // Another CPU's packet of the same flow came first, or the key is another flow's: the
        // caller looks whether there is a flow now.
        InsertError::Exists(_) => Counter::DropPorts,
        InsertError::Full => Counter::DropFull,
        InsertError::Busy => Counter::DropBusy,
    })
}

/// Takes an IPv4 or IPv6 flow out of the index; the service clears the rest away.
#[inline(always)]
pub(crate) fn end<T: FlowTables>(tables: &T, config: &Config, flow: FlowRef<'_>, ipv6: bool) {
    let index = Index { tables, buckets: config.buckets };
    let seed = config.seed;
    let initial = if flow.direction() == 0 { flow } else { flow.reverse() };
    let payload = |direction| Payload::new(EntryKind::Flow, flow.number(), direction).0;
    let hashes = if ipv6 {
        let key = flow.key6();
        [hash40(seed, key.words()), hash40(seed, key.reverse().words())]
    } else {
        [hash16(seed, initial.key_words()), hash16(seed, initial.reverse().key_words())]
    };
    let [forward, reverse] = hashes;
    let removed = remove(&index, forward, payload(0));
    if remove(&index, reverse, payload(1)) || (removed && forward == reverse) {
        // Whoever takes the second entry away has ended the flow; another CPU may be at it too.
        flow.set_gone();
    }
}

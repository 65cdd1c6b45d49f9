//! Mappings: an internal address and port, and the external ones that all its flows take.

use core::{marker::PhantomData, ptr::NonNull};

use portcullis_datapath_abi::{
    Config, Counter, FlowKey, Mapping,
    flow::{
        ENDPOINT_INDEPENDENT_FILTER, EntryKind, GONE, ICMP, LIVE, MAPPING_CLOSED, NO_MAPPING,
        Payload, UDP,
    },
    nat::{References, bank, reserved_index},
    policy::ROUTER,
};
use portcullis_flow_table::{
    AtomicU32, Hash, InsertError, find as find_entry, hash16, insert, remove,
};

use super::NatTables;
use crate::flow::Index;

/// Ports tried for a mapping before it is refused.
const ATTEMPTS: u32 = 8;
/// Of these, how many are tried among the well-known ports for a port that is one.
const LOW_ATTEMPTS: u32 = 4;
/// First port that is not well-known (RFC 6335 section 6).
const HIGH: u16 = 1024;

/// A mapping in the table.
#[derive(Clone, Copy)]
pub(super) struct MappingRef<'a> {
    mapping: NonNull<Mapping>,
    number: u32,
    table: PhantomData<&'a Mapping>,
}

macro_rules! fields {
    ($($field:ident: $Type:ty;)*) => { $(
        #[inline(always)]
        pub(super) fn $field(self) -> $Type {
            // SAFETY: `at` has it from the table, whose memory stays valid while the program runs.
            unsafe { (*self.mapping.as_ptr()).$field }
        }
    )* };
}

impl<'a> MappingRef<'a> {
    #[inline(always)]
    fn at<T: NatTables>(tables: &'a T, number: u32) -> Option<Self> {
        Some(Self { mapping: tables.mapping(number)?, number, table: PhantomData })
    }

    fields! {
        internal: u32;
        internal_port: u16;
        external_port: u16;
        zone: u8;
        flags: u8;
    }

    #[inline(always)]
    pub(super) fn number(self) -> u32 {
        self.number
    }

    #[inline(always)]
    fn references(self) -> References<'a> {
        // SAFETY: as above, and this field is changed by atomic operations only.
        References(unsafe { AtomicU32::from_ptr(&raw mut (*self.mapping.as_ptr()).references) })
    }

    #[inline(always)]
    fn words(self, kind: EntryKind) -> [u64; 2] {
        // SAFETY: as above.
        let mapping = unsafe { &*self.mapping.as_ptr() };
        match kind {
            EntryKind::External => mapping.external_key().words(kind),
            _ => mapping.internal_key().words(kind),
        }
    }

    /// Lets anybody outside send to it, from now on.
    #[inline(always)]
    fn open_filter(self) {
        // SAFETY: as above. Other CPUs set the same bit, nobody takes it away.
        unsafe {
            (&raw mut (*self.mapping.as_ptr()).flags).write_volatile(ENDPOINT_INDEPENDENT_FILTER);
        }
    }
}

/// The mapping whose internal or external key `key` is.
#[inline(always)]
pub(super) fn find<'a, T: NatTables>(
    tables: &'a T,
    config: &Config,
    kind: EntryKind,
    key: &FlowKey,
) -> Option<MappingRef<'a>> {
    let words = key.words(kind);
    let index = Index { tables, buckets: config.buckets };
    let payload = Payload(find_entry(&index, hash16(config.seed, words))?);
    if payload.kind() != kind as u32 {
        return None;
    }
    let mapping = MappingRef::at(tables, payload.number())?;
    if mapping.words(kind) == words { Some(mapping) } else { None }
}

/// The mapping of `key`'s source by `external`, an address of `zone`, counting one flow more: the one
/// that there is, else a new one.
///
/// # Errors
/// No port is free, or no mapping.
#[inline(always)]
pub(super) fn acquire<'a, T: NatTables>(
    tables: &'a T,
    config: &Config,
    key: &FlowKey,
    external: u32,
    extra: u32,
) -> Result<MappingRef<'a>, Counter> {
    let internal = FlowKey {
        source: key.source,
        destination: external,
        source_port: key.source_port,
        destination_port: 0,
        protocol: key.protocol,
        zone: key.zone,
        reserved: 0,
    };
    let full_cone = extra & FULL_CONE != 0;
    if let Some(mapping) = find(tables, config, EntryKind::Internal, &internal)
        && mapping.references().acquire()
    {
        if full_cone && mapping.flags() & ENDPOINT_INDEPENDENT_FILTER == 0 {
            mapping.open_filter();
        }
        return Ok(mapping);
    }
    let number = make(tables, config, &internal, extra);
    if number <= Payload::MAX_RECORD
        && let Some(mapping) = MappingRef::at(tables, number)
    {
        return Ok(mapping);
    }
    // Another CPU was faster.
    if let Some(mapping) = find(tables, config, EntryKind::Internal, &internal)
        && mapping.references().acquire()
    {
        return Ok(mapping);
    }
    Err(match number {
        TABLE_FULL => Counter::DropFull,
        TABLE_BUSY => Counter::DropBusy,
        _ => Counter::DropPorts,
    })
}

/// In `extra`: anybody may send to the external end. The low byte is the external zone.
pub(super) const FULL_CONE: u32 = 0x100;

// What `make` returns when there is no new mapping: beyond all numbers.
const TABLE_BUSY: u32 = u32::MAX - 2;
const TABLE_FULL: u32 = u32::MAX - 1;
const NO_PORT: u32 = u32::MAX;

/// Makes a mapping with one flow and returns its number. Not inlined: it is rare, and insertion
/// takes stack.
#[inline(never)]
fn make<T: NatTables>(tables: &T, config: &Config, internal: &FlowKey, extra: u32) -> u32 {
    let Some(number) = tables.take_mapping(config.mappings) else {
        return TABLE_FULL;
    };
    let Some(mapping) = tables.mapping(number) else {
        return TABLE_FULL;
    };
    let mut external = FlowKey {
        source: 0,
        destination: internal.destination,
        source_port: 0,
        destination_port: internal.source_port,
        protocol: internal.protocol,
        zone: extra as u8,
        reserved: 0,
    };
    // SAFETY: the number is ours alone until it is in the index.
    unsafe {
        let mapping = mapping.as_ptr();
        (*mapping).internal = internal.source;
        (*mapping).external = internal.destination;
        (*mapping).internal_port = internal.source_port;
        (*mapping).protocol = internal.protocol;
        (*mapping).zone = internal.zone;
        (*mapping).external_zone = external.zone;
        (*mapping).flags = if extra & FULL_CONE != 0 { ENDPOINT_INDEPENDENT_FILTER } else { 0 };
        (*mapping).references = 1;
        (*mapping).idle_since = 0;
        (*mapping).reserved = 0;
        (&raw mut (*mapping).state).write_volatile(u32::from(LIVE));
    }
    let index = Index { tables, buckets: config.buckets };
    let mut refused = NO_PORT;
    let mut claimed = None;
    for attempt in 0..ATTEMPTS {
        if attempt > 0 {
            external.destination_port = another_port(tables, internal, attempt);
        }
        if is_reserved(tables, config, internal, external.destination_port) {
            continue;
        }
        // SAFETY: as above.
        unsafe { (*mapping.as_ptr()).external_port = external.destination_port };
        let hash = hash16(config.seed, external.words(EntryKind::External));
        match insert(&index, hash, Payload::new(EntryKind::External, number, 0).0) {
            Ok(()) => {
                claimed = Some(hash);
                break;
            }
            Err(InsertError::Exists(_)) => {}
            Err(InsertError::Full) => {
                refused = TABLE_FULL;
                break;
            }
            Err(InsertError::Busy) => {
                refused = TABLE_BUSY;
                break;
            }
        }
    }
    let Some(claimed) = claimed else {
        // SAFETY: as above.
        unsafe { (&raw mut (*mapping.as_ptr()).state).write_volatile(0) };
        tables.return_mapping(number);
        return refused;
    };
    let hash = hash16(config.seed, internal.words(EntryKind::Internal));
    match insert(&index, hash, Payload::new(EntryKind::Internal, number, 0).0) {
        Ok(()) => number,
        Err(error) => {
            retract(tables, config, number, claimed);
            match error {
                InsertError::Exists(_) => NO_PORT,
                InsertError::Full => TABLE_FULL,
                InsertError::Busy => TABLE_BUSY,
            }
        }
    }
}

/// Takes a mapping back that is in the index by its external end only. A packet from outside may have
/// found it, so its number goes the way of all mappings that end: by the service.
#[inline(always)]
fn retract<T: NatTables>(tables: &T, config: &Config, number: u32, external: Hash) {
    let index = Index { tables, buckets: config.buckets };
    remove(&index, external, Payload::new(EntryKind::External, number, 0).0);
    if let Some(mapping) = MappingRef::at(tables, number) {
        let references = mapping.references();
        references.release();
        references.0.fetch_or(MAPPING_CLOSED, core::sync::atomic::Ordering::SeqCst);
        // SAFETY: as in the getters.
        unsafe {
            (&raw mut (*mapping.mapping.as_ptr()).state).write_volatile(u32::from(GONE));
        }
    }
}

/// A random port of the range and parity of the internal one (RFC 4787 REQ-3, REQ-4), or of the
/// range above if the well-known ports were tried in vain. ICMP query ids have neither.
#[inline(always)]
fn another_port<T: NatTables>(tables: &T, internal: &FlowKey, attempt: u32) -> u16 {
    let wanted = u16::from_be(internal.source_port);
    let chance = tables.chance();
    if internal.protocol == ICMP {
        return (chance as u16).to_be();
    }
    let parity = wanted & 1;
    let low = wanted < HIGH && wanted != 0 && attempt < LOW_ATTEMPTS;
    let port = if low {
        (chance as u16 & (HIGH / 2 - 1)) << 1 | parity
    } else {
        let pairs = (0x1_0000 - u32::from(HIGH)) / 2;
        let pair = (u64::from(chance) * u64::from(pairs)) >> 32;
        HIGH + ((pair as u16) << 1) + parity
    };
    port.to_be()
}

/// Whether a port must not be given to this internal end: no port at all, or one that the router's
/// services or port forwards have. The router's own flows may come from its services' ports.
#[inline(always)]
fn is_reserved<T: NatTables>(tables: &T, config: &Config, internal: &FlowKey, port: u16) -> bool {
    if internal.protocol == ICMP {
        return false;
    }
    let port = u16::from_be(port);
    if port == 0 {
        return true;
    }
    if internal.zone == ROUTER {
        return false;
    }
    let word = tables.reserved(reserved_index(bank(config.bank), internal.protocol == UDP, port));
    word >> (port & 63) & 1 == 1
}

/// Takes back the reference of a flow that was not made after all.
#[inline(always)]
pub fn release<T: NatTables>(tables: &T, number: u32) {
    if number != NO_MAPPING
        && let Some(mapping) = MappingRef::at(tables, number)
    {
        mapping.references().release();
    }
}

//! Finding the flow of a packet.

use portcullis_datapath_abi::{
    Config, FlowKey, FlowKey6,
    flow::{EntryKind, Payload},
};
use portcullis_flow_table::{AtomicU32, Bucket, Memory, find, hash16, hash40};

use super::{FlowRef, FlowTables};

/// The index, as the table's functions want it.
pub(crate) struct Index<'a, T> {
    pub(crate) tables: &'a T,
    pub(crate) buckets: u32,
}

impl<T: FlowTables> Memory for Index<'_, T> {
    #[inline(always)]
    fn buckets(&self) -> u32 {
        self.buckets
    }

    #[inline(always)]
    fn bucket(&self, index: u32) -> Option<&Bucket> {
        self.tables.bucket(index)
    }

    #[inline(always)]
    fn lock(&self, index: u32) -> Option<&AtomicU32> {
        self.tables.lock(index)
    }
}

/// The flow of IPv4 packets with this key.
#[inline(always)]
pub fn find4<'a, T: FlowTables>(
    tables: &'a T,
    config: &Config,
    key: &FlowKey,
) -> Option<FlowRef<'a>> {
    find4_words(tables, config, key.words(EntryKind::Flow))
}

/// The same, with the key as words.
#[inline(always)]
pub(crate) fn find4_words<'a, T: FlowTables>(
    tables: &'a T,
    config: &Config,
    words: [u64; 2],
) -> Option<FlowRef<'a>> {
    let index = Index { tables, buckets: config.buckets };
    let payload = Payload(find(&index, hash16(config.seed, words))?);
    // A mapping's entry has the hash of another kind, but may share the fingerprint: then there is no
    // such record.
    let record = tables.record(payload.flow())?;
    // SAFETY: map memory stays valid while the program runs, and the number of a removed flow is
    // given to another much later than that.
    let flow = unsafe { FlowRef::new(record, payload.number(), payload.direction()) };
    if flow.key_words() == words { Some(flow) } else { None }
}

/// The flow of IPv6 packets with this key (without [`FlowKey6::peer_zone`]).
#[inline(always)]
pub fn find6<'a, T: FlowTables>(
    tables: &'a T,
    config: &Config,
    key: &FlowKey6,
) -> Option<FlowRef<'a>> {
    find6_words(tables, config, key.words())
}

/// The same, with the key as words.
#[inline(always)]
pub(crate) fn find6_words<'a, T: FlowTables>(
    tables: &'a T,
    config: &Config,
    words: [u64; 5],
) -> Option<FlowRef<'a>> {
    /// In the last word, behind ports, protocol and zone.
    const PEER_ZONE: u32 = 48;
    let index = Index { tables, buckets: config.buckets };
    let payload = Payload(find(&index, hash40(config.seed, words))?);
    // A question of its own, unlike above: without it the compiler puts undefined values by, which the
    // verifier refuses.
    if payload.kind() != EntryKind::Flow as u32 {
        return None;
    }
    let record = tables.record(payload.number())?;
    // SAFETY: as above.
    let flow = unsafe { FlowRef::new(record, payload.number(), payload.direction()) };
    // SAFETY: the record is valid.
    let [a, b, c, d, tail] = unsafe { (*record.as_ptr()).ends };
    let [e, f, g, h, wanted] = words;
    let same = if flow.direction() == 0 {
        // One question after the other: joined conditions become code that the verifier refuses.
        a == e && b == f && c == g && d == h && (tail ^ wanted) << (64 - PEER_ZONE) == 0
    } else {
        let ports = (wanted as u32).rotate_left(16);
        let zone = wanted >> 40;
        a == g
            && b == h
            && c == e
            && d == f
            && tail as u32 == ports
            && (tail >> 32) as u8 == (wanted >> 32) as u8
            && tail >> PEER_ZONE == zone
    };
    if same { Some(flow) } else { None }
}

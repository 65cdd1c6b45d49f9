//! Answers of upstreams, kept for as long as their records say.
//!
//! Kept as encoded messages: compact, and of known size. The oldest unused answers go first, when
//! there are too many or they take too many bytes.

use std::time::{Duration, Instant};

use hashlink::LruCache;
use hickory_proto::{
    op::{Message, MessageType, OpCode, ResponseCode},
    rr::{RData, Record, RecordType},
};

use crate::{
    reply::{ExtendedError, Reply},
    request::Question,
};

/// Records are kept for a day at most, whatever they say (RFC 8767 section 4 advises a cap).
const MAX_TTL: u32 = 86_400;

/// Absence is kept for three hours at most (RFC 2308 section 5).
const MAX_NEGATIVE_TTL: u32 = 3 * 3600;

/// An answer that ran out is still given for a day if no upstream answers (RFC 8767 section 5).
const MAX_STALE: Duration = Duration::from_secs(86_400);

/// TTL in a stale answer, seconds (RFC 8767 section 4).
const STALE_TTL: u32 = 30;

/// Failures are remembered for this long, so that a broken domain does not keep the upstreams
/// busy (RFC 9520 section 3.2 asks for 1 s at least).
const FAILURE: Duration = Duration::from_secs(2);

/// Failures remembered at most.
const MAX_FAILURES: usize = 1000;

/// Bytes of an answer of usual size; the cache takes so many times its number of entries.
const USUAL_SIZE: usize = 512;

/// Bytes of all answers at most, however many entries are allowed: the service's memory is bounded
/// (`memory_mib` in its manifest).
const MAX_BYTES: usize = 24 << 20;

/// Bytes that an entry costs besides its key and message: the list's node, its place in the hash
/// table, and what the allocator adds.
const OVERHEAD: usize = 160;

/// What an answer is kept under: name in lower case, type, DO and CD.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Key(Box<[u8]>);

impl Key {
    /// The key of a question.
    pub fn of(question: &Question) -> Self {
        let flags = u8::from(question.dnssec_ok) | (u8::from(question.checking_disabled) << 1);
        let [high, low] = u16::from(question.query_type).to_be_bytes();
        let mut bytes = vec![flags, high, low];
        for label in question.name.iter() {
            bytes.push(u8::try_from(label.len()).unwrap_or(u8::MAX));
            bytes.extend(label.iter().map(u8::to_ascii_lowercase));
        }
        Self(bytes.into())
    }
}

#[derive(Debug)]
struct Entry {
    message: Box<[u8]>,
    stored: Instant,
    ttl: Duration,
}

/// The cache.
#[derive(Debug)]
pub struct Cache {
    entries: LruCache<Key, Entry>,
    failures: LruCache<Key, (Instant, Option<ExtendedError>)>,
    max_entries: usize,
    bytes: usize,
}

impl Cache {
    /// A cache for `max_entries` answers; 0 keeps none.
    pub fn new(max_entries: u32) -> Self {
        Self {
            entries: LruCache::new_unbounded(),
            failures: LruCache::new(MAX_FAILURES),
            max_entries: usize::try_from(max_entries).unwrap_or(usize::MAX),
            bytes: 0,
        }
    }

    /// Changes the bound.
    pub fn set_max_entries(&mut self, max_entries: u32) {
        self.max_entries = usize::try_from(max_entries).unwrap_or(usize::MAX);
        self.shrink();
    }

    /// Forgets everything: the upstreams changed, and others may say something else.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.failures.clear();
        self.bytes = 0;
    }

    /// Answers kept, and the bytes that they take.
    pub fn size(&self) -> (usize, usize) {
        (self.entries.len(), self.bytes)
    }

    /// Keeps an upstream's answer, if it may be kept.
    pub fn insert(&mut self, key: Key, query_type: RecordType, reply: &Reply, now: Instant) {
        self.failures.remove(&key);
        let ttl = time_to_live(query_type, reply);
        if ttl == 0 || self.max_entries == 0 {
            return;
        }
        let Some(message) = encode(reply) else { return };
        let entry = Entry { message, stored: now, ttl: Duration::from_secs(ttl.into()) };
        self.bytes += cost(&key, &entry);
        if let Some(old) = self.entries.remove(&key) {
            self.bytes -= cost(&key, &old);
        }
        self.entries.insert(key, entry);
        self.shrink();
    }

    /// Remembers that no upstream had an answer.
    pub fn insert_failure(&mut self, key: Key, why: Option<ExtendedError>, now: Instant) {
        self.failures.insert(key, (now, why));
    }

    /// An answer that is still good, with what is left of its TTLs.
    pub fn get(&mut self, key: &Key, now: Instant) -> Option<Reply> {
        let entry = self.entries.get(key)?;
        let age = now.saturating_duration_since(entry.stored);
        if age >= entry.ttl {
            return None;
        }
        let age = u32::try_from(age.as_secs()).unwrap_or(u32::MAX);
        decode(&entry.message, |ttl| ttl.saturating_sub(age))
    }

    /// A failure of the last moments.
    pub fn get_failure(&mut self, key: &Key, now: Instant) -> Option<Option<ExtendedError>> {
        let (since, why) = self.failures.get(key)?;
        (now.saturating_duration_since(*since) < FAILURE).then(|| why.clone())
    }

    /// An answer that ran out, for when there is no other (RFC 8767).
    pub fn get_stale(&mut self, key: &Key, now: Instant) -> Option<Reply> {
        let entry = self.entries.get(key)?;
        if now.saturating_duration_since(entry.stored) > entry.ttl + MAX_STALE {
            return None;
        }
        let mut reply = decode(&entry.message, |_| STALE_TTL)?;
        let code = if reply.code == ResponseCode::NXDomain { 19 } else { 3 };
        reply.extended_error = ExtendedError::new(code, "no upstream answers");
        Some(reply)
    }

    fn shrink(&mut self) {
        let max_bytes = self.max_entries.saturating_mul(USUAL_SIZE).min(MAX_BYTES);
        while self.entries.len() > self.max_entries || self.bytes > max_bytes {
            let Some((key, entry)) = self.entries.remove_lru() else { return };
            self.bytes -= cost(&key, &entry);
        }
    }
}

fn cost(key: &Key, entry: &Entry) -> usize {
    OVERHEAD + key.0.len() + entry.message.len()
}

fn encode(reply: &Reply) -> Option<Box<[u8]>> {
    let mut message = Message::new(0, MessageType::Response, OpCode::Query);
    message.metadata.response_code = reply.code;
    message.answers.clone_from(&reply.answers);
    message.authorities.clone_from(&reply.authorities);
    message.additionals.clone_from(&reply.additionals);
    message.to_vec().ok().map(Vec::into_boxed_slice)
}

fn decode(message: &[u8], ttl: impl Fn(u32) -> u32) -> Option<Reply> {
    let mut message = Message::from_vec(message).ok()?;
    let Message { answers, authorities, additionals, .. } = &mut message;
    for record in answers.iter_mut().chain(authorities).chain(additionals) {
        record.ttl = ttl(record.ttl);
    }
    Some(Reply {
        answers: message.answers,
        authorities: message.authorities,
        additionals: message.additionals,
        ..Reply::error(message.metadata.response_code, None)
    })
}

/// Prepares an upstream's records for the cache and the client: TTLs with the highest bit set
/// count as zero (RFC 2181 section 8), long ones are cut, and the SOA of a negative answer carries
/// the negative TTL (RFC 2308 section 5).
pub fn bound_ttls(reply: &mut Reply) {
    let negative = is_negative(reply);
    for record in &mut reply.authorities {
        if let (true, RData::SOA(soa)) = (negative, &record.data) {
            record.ttl = sane(record.ttl).min(sane(soa.minimum)).min(MAX_NEGATIVE_TTL);
        }
    }
    let Reply { answers, authorities, additionals, .. } = reply;
    for record in answers.iter_mut().chain(authorities).chain(additionals) {
        record.ttl = sane(record.ttl).min(MAX_TTL);
    }
}

fn sane(ttl: u32) -> u32 {
    if ttl > i32::MAX.cast_unsigned() { 0 } else { ttl }
}

fn is_negative(reply: &Reply) -> bool {
    reply.code == ResponseCode::NXDomain
        || reply.authorities.iter().any(|record| record.record_type() == RecordType::SOA)
}

/// Seconds for which a reply may be kept: the shortest TTL in it. A negative one without SOA is
/// not kept (RFC 2308 section 5).
fn time_to_live(query_type: RecordType, reply: &Reply) -> u32 {
    let answered = reply.answers.iter().any(|record| record.record_type() == query_type);
    let positive = reply.code == ResponseCode::NoError && answered;
    let has_soa = reply.authorities.iter().any(|r| r.record_type() == RecordType::SOA);
    let cacheable = positive
        || (has_soa && matches!(reply.code, ResponseCode::NoError | ResponseCode::NXDomain));
    let records: [&[Record]; 3] = [&reply.answers, &reply.authorities, &reply.additionals];
    match records.into_iter().flatten().map(|record| record.ttl).min() {
        Some(ttl) if cacheable => ttl,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::{
        Name,
        rdata::{A, CNAME, SOA},
    };
    use proptest::prelude::*;

    use super::*;

    fn question(name: &str) -> Question {
        Question {
            name: Name::from_ascii(name).unwrap(),
            query_type: RecordType::A,
            dnssec_ok: false,
            checking_disabled: false,
        }
    }

    fn key(name: &str) -> Key {
        Key::of(&question(name))
    }

    fn record(name: &str, ttl: u32, data: RData) -> Record {
        Record::from_rdata(Name::from_ascii(name).unwrap(), ttl, data)
    }

    fn positive(ttl: u32) -> Reply {
        Reply {
            answers: vec![record("www.example.", ttl, RData::A(A::new(192, 0, 2, 1)))],
            ..Reply::error(ResponseCode::NoError, None)
        }
    }

    fn negative(code: ResponseCode, ttl: u32, minimum: u32) -> Reply {
        let soa = SOA::new(Name::root(), Name::root(), 1, 1, 1, 1, minimum);
        let mut reply = Reply {
            authorities: vec![record("example.", ttl, RData::SOA(soa))],
            ..Reply::error(code, None)
        };
        bound_ttls(&mut reply);
        reply
    }

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn ttls_count_down_and_end() {
        let (mut cache, now) = (Cache::new(10), Instant::now());
        cache.insert(key("www.example."), RecordType::A, &positive(60), now);
        let later = cache.get(&key("WWW.Example."), now + secs(25)).unwrap();
        assert_eq!(later.answers[0].ttl, 35);
        assert_eq!(cache.get(&key("www.example."), now + secs(60)), None);
        let stale = cache.get_stale(&key("www.example."), now + secs(3600)).unwrap();
        assert_eq!(stale.answers[0].ttl, STALE_TTL);
        assert_eq!(stale.extended_error.unwrap().code, 3);
        assert_eq!(cache.get_stale(&key("www.example."), now + secs(86_400 + 61)), None);
    }

    #[test]
    fn absence_is_kept_for_the_soa_s_minimum() {
        let (mut cache, now) = (Cache::new(10), Instant::now());
        for code in [ResponseCode::NXDomain, ResponseCode::NoError] {
            let reply = negative(code, 3600, 300);
            cache.insert(key("no.example."), RecordType::A, &reply, now);
            let kept = cache.get(&key("no.example."), now + secs(100)).unwrap();
            assert_eq!((kept.code, kept.authorities[0].ttl), (code, 200));
            assert_eq!(cache.get(&key("no.example."), now + secs(300)), None);
        }
        let reply = negative(ResponseCode::NXDomain, 1_000_000, 1_000_000);
        assert_eq!(time_to_live(RecordType::A, &reply), MAX_NEGATIVE_TTL);
    }

    #[test]
    fn what_must_not_be_kept_is_not() {
        let (mut cache, now) = (Cache::new(10), Instant::now());
        let no_soa = Reply::error(ResponseCode::NXDomain, None);
        let failure = Reply { code: ResponseCode::ServFail, ..positive(60) };
        let alias = RData::CNAME(CNAME(Name::from_ascii("b.example.").unwrap()));
        let dangling = Reply {
            answers: vec![record("www.example.", 60, alias)],
            ..Reply::error(ResponseCode::NoError, None)
        };
        for reply in [no_soa, failure, dangling, positive(0)] {
            cache.insert(key("www.example."), RecordType::A, &reply, now);
            assert_eq!(cache.size(), (0, 0), "{reply:?}");
        }
        let mut wrapped = positive(0x8000_0001);
        bound_ttls(&mut wrapped);
        assert_eq!(wrapped.answers[0].ttl, 0);
    }

    #[test]
    fn questions_with_other_bits_are_other_questions() {
        let plain = question("a.example.");
        let secure = Question { dnssec_ok: true, ..plain.clone() };
        let unchecked = Question { checking_disabled: true, ..plain.clone() };
        assert_ne!(Key::of(&plain), Key::of(&secure));
        assert_ne!(Key::of(&plain), Key::of(&unchecked));
    }

    #[test]
    fn failures_are_short_lived_and_do_not_displace_answers() {
        let (mut cache, now) = (Cache::new(10), Instant::now());
        cache.insert(key("www.example."), RecordType::A, &positive(60), now);
        cache.insert_failure(key("www.example."), None, now + secs(70));
        assert_eq!(cache.get_failure(&key("www.example."), now + secs(71)), Some(None));
        assert_eq!(cache.get_failure(&key("www.example."), now + secs(73)), None);
        assert!(cache.get_stale(&key("www.example."), now + secs(71)).is_some());
    }

    proptest! {
        #[test]
        fn the_cache_stays_within_its_bounds_and_counts_its_bytes(
            max in 0_u32..20,
            names in proptest::collection::vec((0_u8..40, 1_usize..30), 0..200),
        ) {
            let (mut cache, now) = (Cache::new(max), Instant::now());
            for (name, answers) in names {
                let mut reply = positive(60);
                reply.answers = vec![reply.answers[0].clone(); answers];
                cache.insert(key(&format!("n{name}.example.")), RecordType::A, &reply, now);
                let (entries, bytes) = cache.size();
                prop_assert!(entries <= max as usize && bytes <= max as usize * USUAL_SIZE);
            }
            let sum: usize = cache.entries.iter().map(|(key, entry)| cost(key, entry)).sum();
            prop_assert_eq!(sum, cache.size().1);
        }
    }
}

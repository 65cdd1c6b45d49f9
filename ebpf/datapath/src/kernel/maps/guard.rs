//! Maps of the guard, and the kernel's SYN cookies.

use aya_ebpf::{
    helpers::{
        self, bpf_tcp_raw_check_syncookie_ipv4, bpf_tcp_raw_check_syncookie_ipv6,
        bpf_tcp_raw_gen_syncookie_ipv4, bpf_tcp_raw_gen_syncookie_ipv6,
    },
    macros::map,
    maps::{
        Array, LruHashMap,
        lpm_trie::{Key, LpmTrie},
    },
};
use portcullis_datapath::guard::{Connection, GuardTables, MAPPED};
use portcullis_datapath_abi::guard::{
    FLOOD_CLASSES, FLOOD_SOURCES, FloodClass, FloodKey, Guard, MAX_PREFIXES, VERIFIED_SOURCES,
};

use portcullis_flow_table::AtomicU64;

use super::Maps;

#[map]
static GUARD: Array<Guard> = Array::pinned(1, 0);
#[map]
static PREFIXES: LpmTrie<[u32; 4], u32> = LpmTrie::pinned(MAX_PREFIXES, 0);
#[map]
static FLOOD_RATES: LruHashMap<FloodKey, u64> = LruHashMap::pinned(FLOOD_SOURCES, 0);
#[map]
static FLOOD_TOTALS: Array<u64> = Array::pinned(FLOOD_CLASSES as u32, 0);
#[map]
static VERIFIED: LruHashMap<[u32; 4], u32> = LruHashMap::pinned(VERIFIED_SOURCES, 0);

impl GuardTables for Maps {
    #[inline(always)]
    fn guard(&self) -> Option<&Guard> {
        GUARD.get(0)
    }

    #[inline(always)]
    fn prefix_flags(&self, address: &[u32; 4]) -> u32 {
        PREFIXES.get(Key::new(128, *address)).copied().unwrap_or(0)
    }

    #[inline(always)]
    fn source_rate(&self, key: &FloodKey) -> Option<&AtomicU64> {
        if FLOOD_RATES.get_ptr(key).is_none() {
            let _ = FLOOD_RATES.insert(key, 0, 0);
        }
        // SAFETY: map memory stays valid while the program runs; the words are changed by atomic
        // operations only.
        Some(unsafe { AtomicU64::from_ptr(FLOOD_RATES.get_ptr_mut(key)?) })
    }

    #[inline(always)]
    fn total_rate(&self, class: FloodClass) -> Option<&AtomicU64> {
        // SAFETY: as above.
        Some(unsafe { AtomicU64::from_ptr(FLOOD_TOTALS.get_ptr_mut(class as u32)?) })
    }

    #[inline(always)]
    fn verified_until(&self, address: &[u32; 4]) -> Option<u32> {
        // SAFETY: the value is copied at once.
        unsafe { VERIFIED.get(address).copied() }
    }

    #[inline(always)]
    fn verify(&self, address: &[u32; 4], until: u32) {
        let _ = VERIFIED.insert(address, until, 0);
    }

    #[inline(always)]
    fn nanoseconds(&self) -> u64 {
        // SAFETY: takes nothing, returns a number.
        unsafe { helpers::bpf_ktime_get_ns() }
    }

    #[inline(always)]
    fn make_cookie(&self, connection: &Connection<'_>) -> Option<u32> {
        // Above the cookie stands the MSS; negative is an error.
        let cookie = make_cookie(connection);
        (cookie >= 0).then_some(cookie as u32)
    }

    #[inline(always)]
    fn check_cookie(&self, connection: &Connection<'_>, cookie: u32) -> bool {
        check_cookie(connection, cookie)
    }
}

// The kernel wants headers: the ones that it gets have what it reads, and zeros elsewhere.

/// Length of both an IPv4 and a TCP header without options.
const HEADER: u32 = 20;
/// Data offset of such a TCP header and no flags, as the word at offset 12.
const DATA_OFFSET: u32 = 0x5000_0000_u32.to_be();

#[inline(always)]
fn tcp_header(connection: &Connection<'_>, sequence: u32, acknowledged: u32) -> [u32; 5] {
    let [a, b] = connection.source_port.to_ne_bytes();
    let [c, d] = connection.destination_port.to_ne_bytes();
    let ports = u32::from_ne_bytes([a, b, c, d]);
    [ports, sequence.to_be(), acknowledged.to_be(), DATA_OFFSET, 0]
}

#[inline(always)]
fn ipv4_header(connection: &Connection<'_>) -> Option<[u32; 5]> {
    let ([a, b, c, source], [.., destination]) = (connection.source, connection.destination);
    (*a == 0 && *b == 0 && *c == MAPPED).then_some([0, 0, 0, *source, *destination])
}

#[inline(always)]
fn ipv6_header(connection: &Connection<'_>) -> [u32; 10] {
    let ([a, b, c, d], [e, f, g, h]) = (connection.source, connection.destination);
    [0, 0, *a, *b, *c, *d, *e, *f, *g, *h]
}

#[inline(never)]
fn make_cookie(connection: &Connection<'_>) -> i64 {
    let mut tcp = tcp_header(connection, 0, 0);
    let tcp = (&raw mut tcp).cast();
    match ipv4_header(connection) {
        Some(mut ip) => {
            // SAFETY: both headers live on this stack and are of the length that is said.
            unsafe { bpf_tcp_raw_gen_syncookie_ipv4((&raw mut ip).cast(), tcp, HEADER) }
        }
        None => {
            let mut ip = ipv6_header(connection);
            // SAFETY: as above.
            unsafe { bpf_tcp_raw_gen_syncookie_ipv6((&raw mut ip).cast(), tcp, HEADER) }
        }
    }
}

#[inline(never)]
fn check_cookie(connection: &Connection<'_>, cookie: u32) -> bool {
    // The kernel takes one off each.
    let mut tcp = tcp_header(connection, 1, cookie.wrapping_add(1));
    let tcp = (&raw mut tcp).cast();
    let answer = match ipv4_header(connection) {
        Some(mut ip) => {
            // SAFETY: as above.
            unsafe { bpf_tcp_raw_check_syncookie_ipv4((&raw mut ip).cast(), tcp) }
        }
        None => {
            let mut ip = ipv6_header(connection);
            // SAFETY: as above.
            unsafe { bpf_tcp_raw_check_syncookie_ipv6((&raw mut ip).cast(), tcp) }
        }
    };
    answer == 0
}

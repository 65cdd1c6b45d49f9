//! How full the index gets, and how evenly, with keys as real traffic has them.

use portcullis_flow_table::{IN_USE, InsertError, find, hash16, hash40, insert, remove};

use crate::memory::{Index, SEED};

/// Entries for each flow: two directions and, for translated ones, two ends of a mapping.
const ENTRIES: u32 = 4;

/// Keys like those of a table of flows: few addresses, one protocol, ports that count up.
fn key(number: u32) -> [u64; 2] {
    let source = u64::from(0x0101_a8c0 + (number >> 14 << 24));
    let destination = u64::from(0x0a71_00cb_u32);
    let source_port = u64::from((1024 + (number & 0x3fff)) as u16);
    [source | destination << 32, source_port | 0x35 << 16 | 17 << 32]
}

fn buckets_for(entries: u32) -> u32 {
    // As the service sizes it: 5.75 places for each four, a load of 0.7 when the table is full.
    (u64::from(entries) * 23 / 16 / 8) as u32
}

/// Inserts `entries`; returns how many found no place.
fn fill(index: &Index, entries: u32) -> u32 {
    let mut full = 0;
    for number in 0..entries {
        match insert(index, hash16(SEED, key(number)), number | IN_USE) {
            Ok(()) => {}
            Err(InsertError::Full) => full += 1,
            Err(other) => panic!("entry {number}: {other:?}"),
        }
    }
    full
}

#[test]
fn a_load_of_one_half_has_room_for_every_entry() {
    let entries = 1 << 20;
    let index = Index::new(entries / 8 * 2);
    assert_eq!(fill(&index, entries), 0);
    for number in 0..entries {
        assert_eq!(find(&index, hash16(SEED, key(number))), Some(number | IN_USE));
    }
}

#[test]
fn filling_a_table_to_its_end_refuses_one_in_ten_thousand_at_most() {
    let entries = (1 << 19) * ENTRIES;
    let index = Index::new(buckets_for(entries));
    let full = fill(&index, entries);
    assert!(full <= entries / 10_000, "{full} of {entries}");
}

/// Entries that come and go make buckets less even than entries that only come. Of what is refused,
/// one in `share` at most, when so many of `places` are used.
fn churn(used: u32, places: u32, share: u32) {
    let index = Index::new(buckets_for(places));
    fill(&index, used);
    let mut full = 0;
    let steps = 4 * used;
    for number in 0..steps {
        remove(&index, hash16(SEED, key(number)), number | 1 << 31);
        let new = number + used;
        if insert(&index, hash16(SEED, key(new)), new | 1 << 31).is_err() {
            full += 1;
        }
    }
    assert!(full <= steps / share, "{full} of {steps}");
}

#[test]
fn churn_in_a_full_table_refuses_one_in_a_few_hundred_at_most() {
    churn(1 << 18, 1 << 18, 300);
}

#[test]
fn churn_where_unreplied_flows_begin_to_make_room_refuses_next_to_none() {
    churn((1 << 18) / 8 * 7, 1 << 18, 10_000);
}

#[test]
fn addresses_of_ipv6_spread_as_well() {
    let entries = 100_000_u32;
    let index = Index::new(buckets_for(entries / 7 * 8));
    for number in 0..entries {
        // Privacy addresses of one prefix that speak to one server.
        let host = u64::from(number / 100).wrapping_mul(0x0101);
        let key = [0xb80d_0120, host, 0x0000_4860, 0x8888, u64::from(number % 100) << 16 | 443];
        assert_eq!(insert(&index, hash40(SEED, key), number | IN_USE), Ok(()), "{number}");
    }
}

/// The secret is drawn once for a table's lifetime: none may be a bad one for ports or addresses in a
/// row, as masqueraded flows have them.
#[test]
fn no_secret_crowds_keys_in_a_row() {
    let entries = 1 << 12;
    let mut state = 1_u64;
    let mut random = || {
        // splitmix64 (Steele, Lea, Flood 2014).
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    };
    // Steps of the source port (as in the packet, high byte first), and of the last octet of the
    // destination.
    for (ports, addresses) in [(1_u16, 0_u64), (2, 0), (256, 0), (0, 1), (1, 1)] {
        for _ in 0..300 {
            let seed = [random(), random()];
            let index = Index::new(entries / 8 * 2);
            let base = random();
            for number in 0..entries {
                let port = (number as u16).wrapping_mul(ports).wrapping_add(base as u16);
                let address = u64::from(number) * addresses;
                let words = [
                    (base & 0xffff_ffff) | u64::from((address as u32).swap_bytes()) << 32,
                    u64::from(port.to_be()) | 0x35 << 16 | 17 << 32,
                ];
                if ports != 0 && number >= 65_536 / u32::from(ports) {
                    break;
                }
                let result = insert(&index, hash16(seed, words), number | IN_USE);
                assert_eq!(result, Ok(()), "{seed:x?}, {ports}, {addresses}, {number}");
            }
        }
    }
}

/// A lookup takes one cache line as long as entries are in the first of their buckets: how many would
/// be in it without the other is known (Poisson), and no kind of key fills buckets less evenly.
#[test]
fn buckets_fill_evenly() {
    let entries = 1 << 20;
    let index = Index::new(entries / 8 * 2);
    assert_eq!(fill(&index, entries), 0);
    let occupancy = index.occupancy();
    let share = |used: usize| {
        let count = occupancy.iter().filter(|bucket| **bucket == used).count();
        count as f64 / occupancy.len() as f64
    };
    // Of a Poisson distribution with mean 4: 1.8 % are empty, 7.3 % have one, 14.7 % two.
    assert!((0.014..0.020).contains(&share(0)), "{}", share(0));
    assert!((0.062..0.076).contains(&share(1)), "{}", share(1));
    assert!((0.130..0.152).contains(&share(2)), "{}", share(2));
    assert!(share(8) < 0.02, "{}", share(8));
}

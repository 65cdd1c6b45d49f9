//! What must hold for any bytes in the place of the boot state. Shared by the fuzz target and the
//! test that replays its corpus.
use portcullis_bootstate::record::{self, Record};
use portcullis_bootstate::{Decision, Origin, RECORD_SIZE, Slot, decode_pair};
use sha2::{Digest, Sha256};

pub fn run(data: &[u8]) {
    // As they come: two records of any length.
    let (first, second) = data.split_at(data.len().min(RECORD_SIZE));
    check(first, second);
    // With the checksum made right, so that what is behind it is reached.
    check(&summed(data), &summed(data.get(40..).unwrap_or_default()));
}

/// A record that begins with `data` and has the right checksum.
fn summed(data: &[u8]) -> Vec<u8> {
    let mut record = data.to_vec();
    record.resize(RECORD_SIZE - 32, 0);
    let sum = Sha256::digest(&record);
    record.extend_from_slice(&sum);
    record
}

fn check(first: &[u8], second: &[u8]) {
    let loaded = decode_pair(first, second);
    for bytes in [first, second] {
        if let Ok(record) = record::decode(bytes) {
            assert_eq!(record::encode(&record), bytes, "one record has one encoding");
        }
    }
    assert_eq!(loaded.origin == Origin::Default, loaded.damage.iter().all(Option::is_some));
    if let Decision::Start(slot) = loaded.state.choose(|_| true) {
        let mut state = loaded.state;
        state.before_boot(slot);
        let pending = loaded.next(state);
        let written = pending.bytes;
        let Record { state: stored, .. } =
            record::decode(&written).expect("what is written is read");
        assert_eq!(stored, state);
        assert_eq!(state.get(slot.other()), loaded.state.get(slot.other()));
    }
    for slot in Slot::ALL {
        if let Decision::Start(started) = loaded.state.choose(|intact| intact == slot) {
            assert_eq!(started, slot);
        }
    }
}

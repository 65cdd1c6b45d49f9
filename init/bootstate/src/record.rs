//! One record of the boot state, little-endian, byte by byte:
//!
//! | offset | size | field |
//! |---:|---:|---|
//! | 0 | 8 | magic, ASCII `PCSTATE` and a zero |
//! | 8 | 4 | format version, 1 |
//! | 12 | 4 | zero |
//! | 16 | 8 | generation, one more with every write (modulo 2^64); the newer one of two valid records counts |
//! | 24 | 8 | slot a: priority, tries left, confirmed (0 or 1), boot failures, four zeros |
//! | 32 | 8 | slot b: the same |
//! | 40 | 4024 | zero |
//! | 4064 | 32 | SHA-256 of the 4064 bytes before it |
//!
//! The checksum stands last and covers the whole record, so a torn write never passes. It is a
//! SHA-256 and not a CRC because every reader of the boot state has SHA-256 already.
use crate::{BootState, SlotState};
use sha2::{Digest, Sha256};

/// Size of a record in bytes; also its alignment, so it never shares a flash page with the other.
pub const RECORD_SIZE: usize = 4096;

/// First bytes of every record.
pub const MAGIC: [u8; 8] = *b"PCSTATE\0";

/// The format this crate writes and reads.
pub const FORMAT: u32 = 1;

/// Bytes of a record that the checksum covers.
const SUMMED_SIZE: usize = RECORD_SIZE - 32;

/// What a record holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// Counts the writes of boot states on this disk.
    pub generation: u64,
    /// The boot state.
    pub state: BootState,
}

/// Why a record does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Fewer bytes than a record has.
    #[error("record has {0} bytes, it must have {RECORD_SIZE}")]
    Size(usize),
    /// Never written.
    #[error("empty")]
    Empty,
    /// Not fully written, or damaged later.
    #[error("checksum does not match")]
    Checksum,
    /// Written by a newer version.
    #[error("format version is {0}, this program reads {FORMAT}")]
    Format(u32),
    /// A value that no version of this program writes.
    #[error("unknown values in valid record")]
    Value,
}

/// Encodes a record in the layout above.
#[must_use]
pub fn encode(record: &Record) -> [u8; RECORD_SIZE] {
    let mut bytes = [0; RECORD_SIZE];
    let mut at = 0;
    let mut put = |field: &[u8]| {
        if let Some(place) = bytes.get_mut(at..at + field.len()) {
            place.copy_from_slice(field);
        }
        at += field.len();
    };
    put(&MAGIC);
    put(&FORMAT.to_le_bytes());
    put(&[0; 4]);
    put(&record.generation.to_le_bytes());
    for slot in [record.state.a, record.state.b] {
        put(&[
            slot.priority,
            slot.tries_left,
            slot.confirmed.into(),
            slot.boot_failures,
            0,
            0,
            0,
            0,
        ]);
    }
    if let Some((summed, sum)) = bytes.split_last_chunk_mut::<32>() {
        *sum = Sha256::digest(summed).into();
    }
    bytes
}

/// Decodes a record.
///
/// # Errors
/// Why the record does not count; bytes of any content and length give an answer.
pub fn decode(bytes: &[u8]) -> Result<Record, RecordError> {
    let whole = bytes.first_chunk::<RECORD_SIZE>().filter(|_| bytes.len() == RECORD_SIZE);
    let (summed, sum) = whole
        .and_then(|whole| whole.split_last_chunk::<32>())
        .ok_or(RecordError::Size(bytes.len()))?;
    if bytes.iter().all(|&byte| byte == 0) {
        return Err(RecordError::Empty);
    }
    if <[u8; 32]>::from(Sha256::digest(summed)) != *sum {
        return Err(RecordError::Checksum);
    }
    let mut rest = summed;
    let mut take = || {
        let (field, after) = rest.split_first_chunk::<8>().ok_or(RecordError::Size(bytes.len()))?;
        rest = after;
        Ok(*field)
    };
    if take()? != MAGIC {
        return Err(RecordError::Value);
    }
    let [f0, f1, f2, f3, 0, 0, 0, 0] = take()? else {
        return Err(RecordError::Value);
    };
    let format = u32::from_le_bytes([f0, f1, f2, f3]);
    if format != FORMAT {
        return Err(RecordError::Format(format));
    }
    let generation = u64::from_le_bytes(take()?);
    let state = BootState { a: slot(take()?)?, b: slot(take()?)? };
    if rest.iter().any(|&byte| byte != 0) {
        return Err(RecordError::Value);
    }
    Ok(Record { generation, state })
}

fn slot(field: [u8; 8]) -> Result<SlotState, RecordError> {
    match field {
        [priority, tries_left, confirmed @ (0 | 1), boot_failures, 0, 0, 0, 0] => {
            Ok(SlotState { priority, tries_left, confirmed: confirmed == 1, boot_failures })
        }
        _ => Err(RecordError::Value),
    }
}

// Keeps the doc table honest at compile time.
const _: () = assert!(SUMMED_SIZE == 4064);

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Record {
        let a = SlotState { priority: 15, tries_left: 2, confirmed: false, boot_failures: 1 };
        let b = SlotState { priority: 14, tries_left: 0, confirmed: true, boot_failures: 0 };
        Record { generation: 0x0102_0304_0506_0708, state: BootState { a, b } }
    }

    /// Changes bytes and makes the checksum right again.
    fn patched(at: usize, byte: u8) -> Result<Record, RecordError> {
        let mut bytes = encode(&example());
        bytes[at] = byte;
        let sum: [u8; 32] = Sha256::digest(&bytes[..4064]).into();
        bytes[4064..].copy_from_slice(&sum);
        decode(&bytes)
    }

    #[test]
    fn layout_is_the_documented_one() {
        let bytes = encode(&example());
        assert_eq!(&bytes[..8], b"PCSTATE\0");
        assert_eq!(bytes[8..16], [1, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[16..24], [8, 7, 6, 5, 4, 3, 2, 1]);
        assert_eq!(bytes[24..40], [15, 2, 0, 1, 0, 0, 0, 0, 14, 0, 1, 0, 0, 0, 0, 0]);
        assert!(bytes[40..4064].iter().all(|&byte| byte == 0));
        assert_eq!(decode(&bytes), Ok(example()));
    }

    #[test]
    fn each_fault_has_its_name() {
        assert_eq!(decode(&[]), Err(RecordError::Size(0)));
        assert_eq!(decode(&[0; 4097]), Err(RecordError::Size(4097)));
        assert_eq!(decode(&[0; 4096]), Err(RecordError::Empty));
        assert_eq!(decode(&[0xff; 4096]), Err(RecordError::Checksum));
        assert_eq!(patched(0, b'X'), Err(RecordError::Value));
        assert_eq!(patched(8, 2), Err(RecordError::Format(2)));
        assert_eq!(patched(12, 1), Err(RecordError::Value));
        assert_eq!(patched(26, 2), Err(RecordError::Value));
        assert_eq!(patched(28, 1), Err(RecordError::Value));
        assert_eq!(patched(4063, 1), Err(RecordError::Value));
        let mut bytes = encode(&example());
        bytes[25] ^= 1;
        assert_eq!(decode(&bytes), Err(RecordError::Checksum));
    }
}

//! The boot state of a disk, read and written through the kernel.

use std::{fs::File, io, os::unix::fs::FileExt};

use portcullis_bootstate::{BootState, Fingerprint, Loaded, RECORD_SIZE, decode_pair};

type Record = [u8; RECORD_SIZE];

/// Each record is read by itself: a bad sector under one must not cost the other.
fn records(state: &File) -> [io::Result<Record>; 2] {
    [0, RECORD_SIZE as u64].map(|offset| {
        let mut record = [0; RECORD_SIZE];
        state.read_exact_at(&mut record, offset).map(|()| record)
    })
}

/// Reads the boot state from the `state` partition.
///
/// # Errors
/// If neither record can be read.
pub fn read(state: &File) -> io::Result<Loaded> {
    match records(state) {
        [Err(error), Err(_)] => Err(error),
        [first, second] => Ok(decode_pair(
            first.as_ref().map_or(&[], Record::as_slice),
            second.as_ref().map_or(&[], Record::as_slice),
        )),
    }
}

/// Makes `new` the boot state of a disk whose boot state is `loaded`, if that is another one.
/// Returns whether it was written.
///
/// # Errors
/// If the disk fails; the old one counts then.
pub fn write(state: &File, loaded: &Loaded, new: BootState) -> io::Result<bool> {
    if new == loaded.state {
        return Ok(false);
    }
    let pending = loaded.next(new);
    state.write_all_at(&pending.bytes, pending.offset as u64)?;
    state.sync_all()?;
    Ok(true)
}

/// By what the boot manager names the disk that it started from.
///
/// # Errors
/// If a record cannot be read.
pub fn fingerprint(state: &File) -> io::Result<Fingerprint> {
    let [first, second] = records(state);
    Ok(Fingerprint::of(&first?, &second?))
}

#[cfg(test)]
mod tests {
    use portcullis_bootstate::{Origin, PAIR_SIZE, Slot};

    use super::*;

    #[test]
    fn what_is_written_is_read_and_named_otherwise() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&BootState::flashed_records(), 0).unwrap();
        let (loaded, named) = (read(&file).unwrap(), fingerprint(&file).unwrap());
        let mut new = loaded.state;
        new.confirm(Slot::A);
        assert!(!write(&file, &loaded, loaded.state).unwrap());
        assert_eq!(fingerprint(&file).unwrap(), named);
        assert!(write(&file, &loaded, new).unwrap());
        assert_eq!(read(&file).unwrap().state, new);
        assert_ne!(fingerprint(&file).unwrap(), named);
    }

    #[test]
    fn an_unreadable_record_does_not_cost_the_other() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&BootState::flashed_records(), 0).unwrap();
        // The end of the file stands for a sector that cannot be read.
        file.set_len(PAIR_SIZE as u64 - 1).unwrap();
        let loaded = read(&file).unwrap();
        assert_eq!((loaded.state, loaded.origin), (BootState::flashed(), Origin::First));
        assert!(fingerprint(&file).is_err(), "half a boot state names no disk");
        file.set_len(0).unwrap();
        assert!(read(&file).is_err());
    }
}

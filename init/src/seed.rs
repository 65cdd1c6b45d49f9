//! The random seed: what the kernel's generator knows is carried over a reboot, so that a machine
//! without other sources has good random numbers at once.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use rustix::ioctl::{Setter, ioctl, opcode};

/// Bytes of a seed: the strength of the kernel's generator.
const SIZE: usize = 32;

/// Argument of RNDADDENTROPY (`struct rand_pool_info` with its buffer).
#[repr(C)]
struct PoolInfo {
    entropy_bits: i32,
    size: i32,
    bytes: [u8; SIZE],
}

/// Gives the seed to the kernel and removes it from the disk: a seed counts once, also if the
/// power fails in between.
///
/// # Errors
/// If there is a seed that cannot be used; none at all is no error.
pub fn restore(path: &Path) -> io::Result<bool> {
    let mut bytes = [0; SIZE];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut bytes));
    match read {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => {
            let _ = fs::remove_file(path);
            return Err(e);
        }
        Ok(()) => {}
    }
    // First gone from the disk, then credited.
    fs::remove_file(path)?;
    if let Some(folder) = path.parent() {
        File::open(folder)?.sync_all()?;
    }
    let random = File::options().write(true).open("/dev/urandom")?;
    let bits = i32::try_from(SIZE * 8).unwrap_or(0);
    let info = PoolInfo { entropy_bits: bits, size: bits / 8, bytes };
    // RNDADDENTROPY: its number counts only the two integers.
    // SAFETY: the kernel reads the two integers and `size` bytes after them, all in `info`.
    unsafe {
        ioctl(&random, Setter::<{ opcode::write::<[i32; 2]>(b'R', 3) }, PoolInfo>::new(info))?;
    }
    Ok(true)
}

/// Writes a new seed, readable by root alone, if the kernel's generator is ready.
///
/// # Errors
/// If it cannot be written.
pub fn save(path: &Path) -> io::Result<()> {
    let mut bytes = [0; SIZE];
    // Without blocking: what an unready generator gives would not deserve credit later.
    let flags = rustix::rand::GetRandomFlags::NONBLOCK;
    rustix::rand::getrandom(&mut bytes[..], flags)?;
    let new = path.with_extension("new");
    let mut file =
        File::options().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_counts_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("random-seed");
        assert!(!restore(&path).unwrap());
        save(&path).unwrap();
        let first = fs::read(&path).unwrap();
        assert!(first.len() == SIZE && first.iter().any(|&b| b != 0));
        // Needs root, as init is.
        assert!(restore(&path).unwrap());
        assert!(!path.exists());
        save(&path).unwrap();
        assert_ne!(fs::read(&path).unwrap(), first);
        fs::write(&path, b"short").unwrap();
        assert!(restore(&path).is_err() && !path.exists());
    }
}

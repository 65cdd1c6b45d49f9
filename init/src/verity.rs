//! dm-verity over a slot, by the ioctls of the device mapper (linux/dm-ioctl.h).
//!
//! The three calls that are needed stand here: the crates for the device mapper bring the whole of
//! it, with bindings generated at build time, into an initrd that has to stay small.

use std::{fs::File, io, path::PathBuf};

use portcullis_bundle::{Manifest, verity};
use rustix::ioctl::{Opcode, Updater, ioctl, opcode};

/// Name of the mapped device.
const NAME: &[u8] = b"portcullis-root";

/// Control device of the device mapper.
const CONTROL: &str = "/dev/mapper/control";

/// `sizeof(struct dm_ioctl)`, which is part of the calls' numbers.
const HEADER: usize = 312;

/// `sizeof(struct dm_target_spec)`.
const TARGET: usize = 40;

/// Room for header, target and its parameters.
const BUFFER: usize = 4096;

const READ_ONLY: u32 = 1;

const fn command(number: u8) -> Opcode {
    opcode::read_write::<[u8; HEADER]>(0xfd, number)
}

const CREATE: Opcode = command(3);
/// DM_DEV_SUSPEND, which without the flag for suspending resumes.
const RESUME: Opcode = command(6);
const LOAD_TABLE: Opcode = command(9);

/// Makes the verified, read-only device of a slot and returns its node. A block that does not
/// match panics the kernel.
///
/// # Errors
/// The step that failed.
pub fn open(manifest: &Manifest, slot_device: &str) -> io::Result<PathBuf> {
    let step = |what: &'static str| {
        move |e: rustix::io::Errno| io::Error::other(format!("dm-verity: {what}: {e}"))
    };
    let control = File::options()
        .read(true)
        .write(true)
        .open(CONTROL)
        .map_err(|e| io::Error::new(e.kind(), format!("{CONTROL}: {e}")))?;
    let table = verity::table(manifest, slot_device);

    let mut request = Request::new(READ_ONLY, None)?;
    call::<CREATE>(&control, &mut request).map_err(step("create"))?;
    let minor = request.minor();
    let mut request = Request::new(READ_ONLY, Some((table.sectors(), &table.to_string())))?;
    call::<LOAD_TABLE>(&control, &mut request).map_err(step("load table"))?;
    let mut request = Request::new(0, None)?;
    call::<RESUME>(&control, &mut request).map_err(step("resume"))?;
    Ok(PathBuf::from(format!("/dev/dm-{minor}")))
}

fn call<const OPCODE: Opcode>(control: &File, request: &mut Request) -> rustix::io::Result<()> {
    // SAFETY: every number above is that of a call which takes a `struct dm_ioctl` with the size
    // of the whole buffer in its `data_size`, and writes no more than that back.
    unsafe { ioctl(control, Updater::<OPCODE, [u8; BUFFER]>::new(&mut request.0)) }
}

/// A `struct dm_ioctl`, with at most one target after it.
struct Request([u8; BUFFER]);

impl Request {
    fn new(flags: u32, target: Option<(u64, &str)>) -> io::Result<Self> {
        let mut request = Self([0; BUFFER]);
        let size = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).to_ne_bytes();
        // Version 4.0.0 of the interface; data_size; data_start; target_count; flags; name.
        request.put(0, &4_u32.to_ne_bytes())?;
        request.put(12, &size(BUFFER))?;
        request.put(16, &size(HEADER))?;
        request.put(28, &flags.to_ne_bytes())?;
        request.put(48, NAME)?;
        if let Some((sectors, parameters)) = target {
            request.put(20, &size(1))?;
            request.put(HEADER + 8, &sectors.to_ne_bytes())?;
            request.put(HEADER + 24, b"verity")?;
            // Leaves a zero at the end of the parameters.
            if parameters.len() >= BUFFER - HEADER - TARGET {
                return Err(io::Error::other("dm-verity: table too long"));
            }
            request.put(HEADER + TARGET, parameters.as_bytes())?;
        }
        Ok(request)
    }

    fn put(&mut self, offset: usize, bytes: &[u8]) -> io::Result<()> {
        let place = self.0.get_mut(offset..offset + bytes.len());
        place
            .ok_or_else(|| io::Error::other("dm-verity: request too long"))?
            .copy_from_slice(bytes);
        Ok(())
    }

    /// Minor number in the `dev` that the kernel filled in (the form of huge_encode_dev).
    fn minor(&self) -> u64 {
        let bytes = self.0.get(40..48).and_then(|b| b.try_into().ok()).unwrap_or_default();
        let device = u64::from_ne_bytes(bytes);
        (device & 0xff) | ((device >> 12) & 0xf_ff00)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_kernel() {
        assert_eq!((CREATE, RESUME, LOAD_TABLE), (0xc138_fd03, 0xc138_fd06, 0xc138_fd09));
    }

    #[test]
    fn requests_have_the_kernels_layout() {
        let request = Request::new(READ_ONLY, Some((800, "1 /dev/x"))).unwrap();
        assert_eq!(request.0[..4], 4_u32.to_ne_bytes());
        assert_eq!(request.0[48..63], *NAME);
        assert_eq!(request.0[320..328], 800_u64.to_ne_bytes());
        assert_eq!(&request.0[336..343], b"verity\0");
        assert_eq!(&request.0[352..361], b"1 /dev/x\0");
        assert!(Request::new(0, Some((1, &"x".repeat(BUFFER)))).is_err());
    }
}

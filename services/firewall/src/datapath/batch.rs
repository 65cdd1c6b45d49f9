//! Reading a hash map in batches: one system call for thousands of entries (kernel 5.6).

use std::{io, os::fd::AsRawFd};

const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;

/// `bpf_attr.batch` of linux/bpf.h.
#[repr(C)]
struct BatchAttribute {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// Place in a map; opaque to us.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cursor(Option<u32>);

/// Reads the next entries into `keys` and `values`, which are of the same length, and returns how
/// many; `true` if these were the last.
///
/// # Safety
/// `K` and `V` are the map's key and value: of their size, and valid for any bytes.
pub(super) unsafe fn lookup<K: aya::Pod, V: aya::Pod>(
    map: &impl AsRawFd,
    cursor: &mut Cursor,
    keys: &mut [K],
    values: &mut [V],
) -> io::Result<(usize, bool)> {
    let start = cursor.0;
    let mut next = 0_u32;
    let room = keys.len().min(values.len());
    let mut attribute = BatchAttribute {
        in_batch: start.as_ref().map_or(0, |start| std::ptr::from_ref(start) as u64),
        out_batch: (&raw mut next) as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count: u32::try_from(room).unwrap_or(u32::MAX),
        map_fd: u32::try_from(map.as_raw_fd()).map_err(io::Error::other)?,
        elem_flags: 0,
        flags: 0,
    };
    // SAFETY: all pointers live through the call, and the kernel writes at most `count` elements of
    // the map's own sizes, which the caller vouches for.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_MAP_LOOKUP_BATCH,
            &raw mut attribute,
            size_of::<BatchAttribute>(),
        )
    };
    let count = attribute.count as usize;
    if result == 0 {
        cursor.0 = Some(next);
        return Ok((count, false));
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() == Some(libc::ENOENT) {
        return Ok((count, true));
    }
    Err(error)
}

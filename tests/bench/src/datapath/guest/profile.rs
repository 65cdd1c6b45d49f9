//! Where instructions go: samples of the instruction pointer, taken by the guest's clock and so once
//! in a number of instructions.

use std::{
    collections::BTreeMap,
    fs, io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    ptr,
};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

/// Instructions between two samples; 10,000 is the least that the kernel takes.
const PERIOD: u64 = 10_007;
/// Bytes of the ring, a power of two of pages.
const RING: usize = 16 << 20;
const PAGE: usize = 4096;

/// Share of a function, or of a BPF program.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Share {
    /// Its name.
    pub function: String,
    /// Between 0 and 1.
    pub share: f64,
}

/// Runs `body` and says where it spent its instructions, the largest share first.
///
/// # Errors
/// If the kernel does not sample; the error of `body`.
pub fn profile(body: impl FnOnce() -> Result<()>) -> Result<Vec<Share>> {
    let sampler = Sampler::new()?;
    sampler.control(PERF_EVENT_IOC_ENABLE)?;
    let outcome = body();
    sampler.control(PERF_EVENT_IOC_DISABLE)?;
    outcome?;
    let symbols = symbols()?;
    let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
    let mut all = 0_u32;
    sampler.samples(|address| {
        let function = symbols.range(..=address).next_back();
        *counts.entry(function.map_or("?", |(_, name)| name.as_str())).or_default() += 1;
        all += 1;
    })?;
    ensure!(all > 0, "no samples");
    let mut shares: Vec<_> = counts
        .into_iter()
        .map(|(function, count)| Share {
            function: function.to_owned(),
            share: f64::from(count) / f64::from(all),
        })
        .collect();
    shares.sort_by(|one, other| other.share.total_cmp(&one.share));
    Ok(shares)
}

/// Functions of the kernel, its modules and BPF programs, by address.
fn symbols() -> Result<BTreeMap<u64, String>> {
    let text = fs::read_to_string("/proc/kallsyms").context("/proc/kallsyms")?;
    let mut symbols = BTreeMap::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (Some(address), Some(_), Some(name)) = (words.next(), words.next(), words.next())
        else {
            continue;
        };
        symbols.insert(u64::from_str_radix(address, 16)?, name.to_owned());
    }
    Ok(symbols)
}

const PERF_EVENT_IOC_ENABLE: libc::c_ulong = 0x2400;
const PERF_EVENT_IOC_DISABLE: libc::c_ulong = 0x2401;

struct Sampler {
    event: OwnedFd,
    ring: *mut u8,
}

impl Sampler {
    fn new() -> Result<Self> {
        /// First version of the kernel's structure, 64 bytes; the kernel takes the rest as zero.
        #[repr(C)]
        #[derive(Default)]
        struct Attributes {
            kind: u32,
            size: u32,
            config: u64,
            sample_period: u64,
            sample_type: u64,
            read_format: u64,
            flags: u64,
            wakeup: u32,
            breakpoint: u32,
            config1: u64,
        }
        const SOFTWARE: u32 = 1;
        const CPU_CLOCK: u64 = 0;
        const SAMPLE_IP: u64 = 1;
        const DISABLED: u64 = 1;
        let attributes = Attributes {
            kind: SOFTWARE,
            size: size_of::<Attributes>() as u32,
            config: CPU_CLOCK,
            sample_period: PERIOD,
            sample_type: SAMPLE_IP,
            flags: DISABLED,
            ..Attributes::default()
        };
        let (any_process, cpu, no_group, no_flags) = (-1, 0, -1, 0);
        // SAFETY: the attributes live through the call and say their size.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_perf_event_open,
                &raw const attributes,
                any_process,
                cpu,
                no_group,
                no_flags,
            )
        };
        ensure!(fd >= 0, "perf_event_open: {}", io::Error::last_os_error());
        // SAFETY: the kernel just made this descriptor for us.
        let event = unsafe { OwnedFd::from_raw_fd(i32::try_from(fd)?) };
        // SAFETY: a new mapping at an address that the kernel chooses.
        let ring = unsafe {
            libc::mmap(
                ptr::null_mut(),
                PAGE + RING,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                event.as_raw_fd(),
                0,
            )
        };
        ensure!(ring != libc::MAP_FAILED, "ring of samples: {}", io::Error::last_os_error());
        Ok(Self { event, ring: ring.cast() })
    }

    fn control(&self, request: libc::c_ulong) -> Result<()> {
        // SAFETY: these requests take no argument.
        let result = unsafe { libc::ioctl(self.event.as_raw_fd(), request, 0) };
        ensure!(result == 0, "perf event: {}", io::Error::last_os_error());
        Ok(())
    }

    /// Calls `each` with every sampled address. The event must be disabled.
    fn samples(&self, mut each: impl FnMut(u64)) -> Result<()> {
        const DATA_HEAD: usize = 1024;
        const RECORD_SAMPLE: u64 = 9;
        const WORD: usize = size_of::<u64>();
        // SAFETY: the first page is the kernel's control page, with the head at this offset.
        let head = unsafe { self.ring.add(DATA_HEAD).cast::<u64>().read_volatile() };
        let head = usize::try_from(head)?;
        ensure!(head <= RING, "{head} bytes of samples do not fit into the ring");
        let mut at = 0;
        while at + 2 * WORD <= head {
            // SAFETY: below the head, so inside the ring and written; records are multiples of
            // eight bytes.
            let (header, address) = unsafe {
                let record = self.ring.add(PAGE + at).cast::<u64>();
                (record.read(), record.add(1).read())
            };
            if header & 0xffff_ffff == RECORD_SAMPLE {
                each(address);
            }
            let length = usize::try_from(header >> 48)?;
            ensure!(length >= WORD, "a record of {length} bytes");
            at += length;
        }
        Ok(())
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this length, and nothing points into it any more.
        unsafe { libc::munmap(self.ring.cast(), PAGE + RING) };
    }
}

//! Frames into the stack of a device, by BPF_PROG_TEST_RUN with live frames (kernel 5.18).

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use anyhow::{Context, Result};

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_TEST_RUN: libc::c_long = 10;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;
const BPF_F_TEST_XDP_LIVE_FRAMES: u32 = 1 << 1;

/// Length of a frame without its check sequence: 64 bytes on the wire.
pub const FRAME: usize = 60;

/// An XDP program that writes a frame, with the port of a random flow, and passes it to the stack.
///
/// It writes all headers each time: the kernel uses the pages of live frames again as the stack left
/// them. The first word of the payload takes up the difference that the port makes to the UDP
/// checksum, so that this stays right.
pub struct Generator {
    program: OwnedFd,
    frame: [u8; FRAME],
}

/// Which port varies.
#[derive(Clone, Copy)]
pub enum Vary {
    /// The source's: packets of the initiators.
    Source,
    /// The destination's: answers to them.
    Destination,
}

/// First of the ports.
pub const FIRST_PORT: u16 = 0x4000;

impl Generator {
    /// For frames like this one, whose varying port is [`FIRST_PORT`], of a number of flows (a power
    /// of two up to 16,384).
    pub fn new(frame: [u8; FRAME], vary: Vary, flows: u32) -> Result<Self> {
        Ok(Self { program: load(&frame, vary, flows)?, frame })
    }

    /// Sends `count` frames into the device with this index, in the caller's network namespace;
    /// returns the CPU time per frame in nanoseconds.
    pub fn send(&self, device: u32, count: u32) -> Result<f64> {
        #[repr(C)]
        struct XdpContext {
            data: u32,
            data_end: u32,
            data_meta: u32,
            ingress_ifindex: u32,
            rx_queue_index: u32,
            egress_ifindex: u32,
        }
        #[repr(C)]
        #[derive(Default)]
        struct TestRun {
            prog_fd: u32,
            retval: u32,
            data_size_in: u32,
            data_size_out: u32,
            data_in: u64,
            data_out: u64,
            repeat: u32,
            duration: u32,
            ctx_size_in: u32,
            ctx_size_out: u32,
            ctx_in: u64,
            ctx_out: u64,
            flags: u32,
            cpu: u32,
            batch_size: u32,
            reserved: u32,
        }
        let context = XdpContext {
            data: 0,
            data_end: FRAME as u32,
            data_meta: 0,
            ingress_ifindex: device,
            rx_queue_index: 0,
            egress_ifindex: 0,
        };
        let mut run = TestRun {
            prog_fd: self.program.as_raw_fd().unsigned_abs(),
            data_size_in: FRAME as u32,
            data_in: self.frame.as_ptr() as u64,
            repeat: count,
            ctx_size_in: size_of::<XdpContext>() as u32,
            ctx_in: (&raw const context) as u64,
            flags: BPF_F_TEST_XDP_LIVE_FRAMES,
            batch_size: 64,
            ..TestRun::default()
        };
        let before = cpu_time()?;
        bpf(BPF_PROG_TEST_RUN, &mut run).context("BPF_PROG_TEST_RUN with live frames")?;
        let spent = cpu_time()?.checked_sub(before).context("CPU time ran backwards")?;
        Ok(spent as f64 / f64::from(count))
    }

    /// Attaches the program to a device: that is what gives a veth device the receive queue that
    /// live frames need. It sees no packet there.
    pub fn occupy(&self, device: u32) -> Result<OwnedFd> {
        #[repr(C)]
        struct LinkCreate {
            prog_fd: u32,
            target_ifindex: u32,
            attach_type: u32,
            flags: u32,
            rest: [u64; 4],
        }
        let mut create = LinkCreate {
            prog_fd: self.program.as_raw_fd().unsigned_abs(),
            target_ifindex: device,
            attach_type: BPF_XDP,
            flags: XDP_FLAGS_DRV_MODE,
            rest: [0; 4],
        };
        let fd = bpf(BPF_LINK_CREATE, &mut create).context("XDP on the ingress device")?;
        // SAFETY: the kernel just made this descriptor for us.
        Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd)?) })
    }
}

/// CPU time of this thread in nanoseconds, softirqs that it runs included.
fn cpu_time() -> Result<u64> {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID)?;
    Ok(u64::try_from(time.tv_sec())? * 1_000_000_000 + u64::try_from(time.tv_nsec())?)
}

fn load(frame: &[u8; FRAME], vary: Vary, flows: u32) -> Result<OwnedFd> {
    let instruction = |code: u8, destination: u8, source: u8, offset: i16, immediate: u32| {
        u64::from(code)
            | u64::from(destination) << 8
            | u64::from(source) << 12
            | u64::from(offset.cast_unsigned()) << 16
            | u64::from(immediate) << 32
    };
    let port = match vary {
        Vary::Source => 34,
        Vary::Destination => 36,
    };
    let headers = frame.chunks_exact(4).take(11);
    let mut program = vec![
        instruction(0xbf, 6, 1, 0, 0),                     // r6 = context
        instruction(0x85, 0, 0, 0, 7),                     // r0 = get_prandom_u32()
        instruction(0x57, 0, 0, 0, flows - 1),             // r0 &= flows - 1
        instruction(0x07, 0, 0, 0, u32::from(FIRST_PORT)), // r0 += first port
        instruction(0xdc, 0, 0, 0, 16),                    // r0 = htobe16(r0)
        instruction(0x61, 2, 6, 0, 0),                     // r2 = data
        instruction(0x61, 3, 6, 4, 0),                     // r3 = data_end
        instruction(0xbf, 4, 2, 0, 0),                     // r4 = r2
        instruction(0x07, 4, 0, 0, 44),                    // r4 += 44
        instruction(0x2d, 4, 3, 3 + 11, 0),                // if r4 > r3 goto out
    ];
    for (word, offset) in headers.zip((0_i16..).step_by(4)) {
        let word = word.try_into().map(u32::from_ne_bytes).context("four bytes")?;
        program.push(instruction(0x62, 2, 0, offset, word)); // *(u32 *)(data + offset) = word
    }
    program.extend([
        instruction(0x6b, 2, 0, port, 0), // *(u16 *)(data + port) = r0
        instruction(0xa7, 0, 0, 0, 0xffff_ffff), // r0 = ~r0
        instruction(0x6b, 2, 0, 42, 0),   // *(u16 *)(data + payload) = r0
        instruction(0xb7, 0, 0, 0, 2),    // out: r0 = XDP_PASS
        instruction(0x95, 0, 0, 0, 0),    // exit
    ]);
    #[repr(C)]
    struct ProgLoad {
        prog_type: u32,
        insn_cnt: u32,
        insns: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log_buf: u64,
        kern_version: u32,
        prog_flags: u32,
        prog_name: [u8; 16],
        prog_ifindex: u32,
        expected_attach_type: u32,
    }
    let mut load = ProgLoad {
        prog_type: BPF_PROG_TYPE_XDP,
        insn_cnt: program.len() as u32,
        insns: program.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
        kern_version: 0,
        prog_flags: 0,
        prog_name: *b"generator\0\0\0\0\0\0\0",
        prog_ifindex: 0,
        expected_attach_type: BPF_XDP,
    };
    let fd = bpf(BPF_PROG_LOAD, &mut load).context("loading the frame generator")?;
    // SAFETY: the kernel just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd)?) })
}

fn bpf<T>(command: libc::c_long, attribute: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: the attribute is of the layout that the command asks for, and it and what it points
    // to live through the call.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attribute), size_of::<T>())
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

//! The few BPF system calls and instructions that the benchmark's own programs need.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use anyhow::{Context, Result};

const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_PROG_TEST_RUN: libc::c_long = 10;
const BPF_PROG_GET_FD_BY_ID: libc::c_long = 13;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_MAP_TYPE_PROG_ARRAY: u32 = 3;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;
const BPF_F_TEST_XDP_LIVE_FRAMES: u32 = 1 << 1;
const PSEUDO_MAP_FD: u8 = 1;
const PSEUDO_MAP_VALUE: u8 = 2;

/// Frames that the kernel runs between two flushes of what was redirected, a multiple of 16. Less
/// than the 64 packets that a NAPI poll may take: a full poll is left to be continued, and if
/// another process waits for the CPU then, by a kernel thread and so after the next frames came in.
pub const BATCH: u32 = 48;

/// One instruction (RFC 9669).
pub const fn instruction(
    code: u8,
    destination: u8,
    source: u8,
    offset: i16,
    immediate: u32,
) -> u64 {
    code as u64
        | (destination as u64) << 8
        | (source as u64) << 12
        | (offset.cast_unsigned() as u64) << 16
        | (immediate as u64) << 32
}

/// The two instructions that load a map.
pub fn load_map(register: u8, map: &impl AsRawFd) -> [u64; 2] {
    let fd = map.as_raw_fd().cast_unsigned();
    [instruction(0x18, register, PSEUDO_MAP_FD, 0, fd), 0]
}

/// The two instructions that load the address of the only value of an array.
pub fn load_value(register: u8, map: &impl AsRawFd) -> [u64; 2] {
    let fd = map.as_raw_fd().cast_unsigned();
    [instruction(0x18, register, PSEUDO_MAP_VALUE, 0, fd), 0]
}

/// An array of one value that a program counts in, `N` words long.
pub struct Words<const N: usize>(OwnedFd);

impl<const N: usize> Words<N> {
    /// All zero.
    pub fn new() -> Result<Self> {
        create_map(BPF_MAP_TYPE_ARRAY, (N * size_of::<u64>()) as u32).map(Self)
    }

    /// What stands in it.
    pub fn get(&self) -> Result<[u64; N]> {
        let mut value = [0; N];
        self.element(BPF_MAP_LOOKUP_ELEM, &raw mut value)?;
        Ok(value)
    }

    /// Replaces it.
    pub fn set(&self, mut value: [u64; N]) -> Result<()> {
        self.element(BPF_MAP_UPDATE_ELEM, &raw mut value)
    }

    fn element(&self, command: libc::c_long, value: *mut [u64; N]) -> Result<()> {
        element(&self.0, command, value.cast())
    }
}

impl<const N: usize> AsRawFd for Words<N> {
    fn as_raw_fd(&self) -> i32 {
        self.0.as_raw_fd()
    }
}

/// An array with one program to call at the end of another.
pub struct TailCall(OwnedFd);

impl TailCall {
    /// With this program in it.
    pub fn to(program: &impl AsRawFd) -> Result<Self> {
        let array = create_map(BPF_MAP_TYPE_PROG_ARRAY, 4)?;
        let mut fd = program.as_raw_fd();
        element(&array, BPF_MAP_UPDATE_ELEM, (&raw mut fd).cast()).context("tail call")?;
        Ok(Self(array))
    }
}

impl AsRawFd for TailCall {
    fn as_raw_fd(&self) -> i32 {
        self.0.as_raw_fd()
    }
}

fn create_map(kind: u32, value_size: u32) -> Result<OwnedFd> {
    #[repr(C)]
    struct Create {
        map_type: u32,
        key_size: u32,
        value_size: u32,
        max_entries: u32,
        map_flags: u32,
    }
    let mut create =
        Create { map_type: kind, key_size: 4, value_size, max_entries: 1, map_flags: 0 };
    descriptor(BPF_MAP_CREATE, &mut create).context("creating a map")
}

/// `value` points to at least the map's value size.
fn element(map: &OwnedFd, command: libc::c_long, value: *mut u8) -> Result<()> {
    #[repr(C)]
    struct Element {
        map_fd: u32,
        padding: u32,
        key: u64,
        value: u64,
        flags: u64,
    }
    let key = 0_u32;
    let mut element = Element {
        map_fd: map.as_raw_fd().cast_unsigned(),
        padding: 0,
        key: (&raw const key) as u64,
        value: value as u64,
        flags: 0,
    };
    bpf(command, &mut element)?;
    Ok(())
}

/// A pinned map, program or link.
///
/// # Errors
/// If there is none at this path.
pub fn pinned(path: &Path) -> Result<OwnedFd> {
    #[repr(C)]
    struct Pin {
        path: u64,
        fd: u32,
        flags: u32,
    }
    let name = CString::new(path.as_os_str().as_bytes())?;
    let mut pin = Pin { path: name.as_ptr() as u64, fd: 0, flags: 0 };
    descriptor(BPF_OBJ_GET, &mut pin).with_context(|| path.display().to_string())
}

/// A loaded XDP program.
pub struct XdpProgram(OwnedFd);

impl XdpProgram {
    /// Loads it.
    ///
    /// # Errors
    /// With the verifier's words if it refuses.
    pub fn load(name: &str, instructions: &[u64]) -> Result<Self> {
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
        let mut prog_name = [0; 16];
        for (to, from) in prog_name.iter_mut().zip(name.bytes().take(15)) {
            *to = from;
        }
        let mut log = vec![0_u8; 1 << 16];
        let mut load = ProgLoad {
            prog_type: BPF_PROG_TYPE_XDP,
            insn_cnt: instructions.len() as u32,
            insns: instructions.as_ptr() as u64,
            license: c"GPL".as_ptr() as u64,
            log_level: 1,
            log_size: log.len() as u32,
            log_buf: log.as_mut_ptr() as u64,
            kern_version: 0,
            prog_flags: 0,
            prog_name,
            prog_ifindex: 0,
            expected_attach_type: BPF_XDP,
        };
        descriptor(BPF_PROG_LOAD, &mut load).map(Self).with_context(|| {
            let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
            let said = log.get(..end).unwrap_or_default();
            format!("loading {name}: {}", String::from_utf8_lossy(said))
        })
    }

    /// One that is loaded already.
    ///
    /// # Errors
    /// If there is none with this id.
    pub fn by_id(id: u32) -> Result<Self> {
        let mut query = [id, 0, 0];
        descriptor(BPF_PROG_GET_FD_BY_ID, &mut query).map(Self).context("attached program")
    }

    /// Attaches it to a device of the caller's network namespace, in the driver. A veth device has
    /// the receive queue that live frames need only with a program.
    pub fn attach(&self, device: u32) -> Result<OwnedFd> {
        #[repr(C)]
        struct LinkCreate {
            prog_fd: u32,
            target_ifindex: u32,
            attach_type: u32,
            flags: u32,
            rest: [u64; 4],
        }
        let mut create = LinkCreate {
            prog_fd: self.0.as_raw_fd().cast_unsigned(),
            target_ifindex: device,
            attach_type: BPF_XDP,
            flags: XDP_FLAGS_DRV_MODE,
            rest: [0; 4],
        };
        descriptor(BPF_LINK_CREATE, &mut create).with_context(|| format!("XDP on device {device}"))
    }

    /// Runs it on `count` frames as if they came in by the device, and does with them what it says
    /// (BPF_PROG_TEST_RUN with live frames, kernel 5.18).
    pub fn run_live(&self, frame: &[u8], device: u32, count: u32) -> Result<()> {
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
            data_end: frame.len() as u32,
            data_meta: 0,
            ingress_ifindex: device,
            rx_queue_index: 0,
            egress_ifindex: 0,
        };
        let mut run = TestRun {
            prog_fd: self.0.as_raw_fd().cast_unsigned(),
            data_size_in: frame.len() as u32,
            data_in: frame.as_ptr() as u64,
            repeat: count,
            ctx_size_in: size_of::<XdpContext>() as u32,
            ctx_in: (&raw const context) as u64,
            flags: BPF_F_TEST_XDP_LIVE_FRAMES,
            batch_size: BATCH,
            ..TestRun::default()
        };
        bpf(BPF_PROG_TEST_RUN, &mut run).context("BPF_PROG_TEST_RUN with live frames")?;
        Ok(())
    }
}

impl AsRawFd for XdpProgram {
    fn as_raw_fd(&self) -> i32 {
        self.0.as_raw_fd()
    }
}

fn descriptor<T>(command: libc::c_long, attribute: &mut T) -> Result<OwnedFd> {
    let fd = bpf(command, attribute)?;
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

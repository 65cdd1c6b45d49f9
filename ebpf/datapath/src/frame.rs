//! Bytes of a frame, as decisions read them and rewriting writes them.

use core::{marker::PhantomData, ptr::NonNull};

use crate::checksum::{apply, apply_udp};

/// Offset of the network header behind Ethernet.
pub const L3: usize = 14;
/// Offset of the transport header behind IPv4 without options.
pub const L4: usize = L3 + 20;
/// Offset of what follows the fixed IPv6 header.
pub const L4_V6: usize = L3 + 40;

/// EtherType of IPv4.
pub const IPV4: u16 = 0x0800_u16.to_be();
/// EtherType of IPv6.
pub const IPV6: u16 = 0x86dd_u16.to_be();

/// Readable bytes of a frame. `None` beyond the end.
pub trait Frame {
    /// The first `N` bytes, checked once.
    fn head<const N: usize>(&self) -> Option<Head<'_, N>>;
    /// One byte at an offset that is known when the program is compiled.
    fn u8(&self, offset: usize) -> Option<u8>;
    /// Two bytes as they stand, likewise.
    fn u16(&self, offset: usize) -> Option<u16>;
    /// Four bytes as they stand, likewise.
    fn u32(&self, offset: usize) -> Option<u32>;
    /// A copy of `N` bytes at an offset that the packet gives. In the kernel this is a call.
    fn copy<const N: usize>(&self, offset: u32) -> Option<[u8; N]>;
}

/// Writable bytes of a frame. `None` beyond the end.
pub trait FrameMut: Frame {
    /// Writes one byte.
    fn set_u8(&mut self, offset: usize, value: u8) -> Option<()>;
    /// Writes two bytes as they stand.
    fn set_u16(&mut self, offset: usize, value: u16) -> Option<()>;
    /// Writes four bytes as they stand.
    fn set_u32(&mut self, offset: usize, value: u32) -> Option<()>;
    /// Writes `N` bytes of the transport header at an offset that the packet gives; its checksum must
    /// be updated too. In the kernel this is a call that moves the packet.
    fn set<const N: usize>(&mut self, offset: u32, bytes: &[u8; N]) -> Option<()>;

    /// The first `N` bytes, checked once, to be written.
    fn head_mut<const N: usize>(&mut self) -> Option<HeadMut<'_, N>>;

    /// Updates the TCP or UDP checksum at `offset` for a change of addresses and of ports: the
    /// difference that the addresses make, and that both make together. A UDP checksum of zero means
    /// none and stays (RFC 768).
    ///
    /// The kernel's socket buffers may hold the checksum of the pseudo-header alone, to be
    /// completed by the device; only they know, so they replace this.
    #[inline(always)]
    fn update_transport_checksum(
        &mut self,
        offset: usize,
        _address_delta: u16,
        transport_delta: u16,
        udp: bool,
    ) -> Option<()> {
        let old = self.u16(offset)?;
        if udp && old == 0 {
            return Some(());
        }
        let new = if udp { apply_udp(old, transport_delta) } else { apply(old, transport_delta) };
        self.set_u16(offset, new)
    }
}

/// The first `N` bytes of a frame. Offsets are constants and checked when the program is compiled,
/// so that a packet costs one comparison with its end.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a, const N: usize> {
    start: NonNull<u8>,
    frame: PhantomData<&'a [u8; N]>,
}

macro_rules! read {
    ($($(#[$doc:meta])* $name:ident: $Type:ty;)*) => { $(
        $(#[$doc])*
        #[inline(always)]
        pub fn $name<const AT: usize>(self) -> $Type {
            const { assert!(AT + size_of::<$Type>() <= N) };
            let place = self.start.as_ptr().wrapping_add(AT).cast::<$Type>();
            // SAFETY: `new` promises these bytes. In the kernel, alignment is no concern of packet
            // memory, while `read_unaligned` would become loads of single bytes; the volatile
            // access keeps the compiler from drawing conclusions from the address.
            unsafe {
                if cfg!(target_arch = "bpf") { place.read_volatile() } else { place.read_unaligned() }
            }
        }
    )* };
}

impl<'a, const N: usize> Head<'a, N> {
    /// Of a frame.
    ///
    /// # Safety
    /// `N` bytes from `start` on can be read for `'a`.
    #[inline(always)]
    pub const unsafe fn new(start: NonNull<u8>) -> Self {
        Self { start, frame: PhantomData }
    }

    read! {
        /// One byte.
        u8: u8;
        /// Two bytes as they stand.
        u16: u16;
        /// Four bytes as they stand.
        u32: u32;
        /// Eight bytes as they stand.
        u64: u64;
    }
}

/// The first `N` bytes of a frame, to be written; see [`Head`].
#[derive(Debug)]
pub struct HeadMut<'a, const N: usize> {
    start: NonNull<u8>,
    frame: PhantomData<&'a mut [u8; N]>,
}

macro_rules! write {
    ($($(#[$doc:meta])* $name:ident: $Type:ty;)*) => { $(
        $(#[$doc])*
        #[inline(always)]
        pub fn $name<const AT: usize>(&mut self, value: $Type) {
            const { assert!(AT + size_of::<$Type>() <= N) };
            let place = self.start.as_ptr().wrapping_add(AT).cast::<$Type>();
            // SAFETY: as for reading.
            unsafe {
                if cfg!(target_arch = "bpf") {
                    place.write_volatile(value);
                } else {
                    place.write_unaligned(value);
                }
            }
        }
    )* };
}

impl<'a, const N: usize> HeadMut<'a, N> {
    /// Of a frame.
    ///
    /// # Safety
    /// `N` bytes from `start` on can be read and written for `'a`, by nobody else.
    #[inline(always)]
    pub const unsafe fn new(start: NonNull<u8>) -> Self {
        Self { start, frame: PhantomData }
    }

    /// To be read.
    #[inline(always)]
    pub fn read(&self) -> Head<'_, N> {
        Head { start: self.start, frame: PhantomData }
    }

    write! {
        /// One byte.
        set_u8: u8;
        /// Two bytes as they stand.
        set_u16: u16;
        /// Four bytes as they stand.
        set_u32: u32;
    }
}

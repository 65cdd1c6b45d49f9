//! An array map as memory: mapped once, then read and written without system calls, while the
//! packet path does the same.

use std::{io, marker::PhantomData, os::fd::AsRawFd, ptr::NonNull};

use aya::maps::MapData;
use memmap2::{MmapOptions, MmapRaw};

use super::{DatapathError, Result};

/// The kernel lays the elements of an array out at multiples of this.
const STRIDE: usize = 8;

/// The elements of an array map made with `BPF_F_MMAPABLE`.
///
/// Others change them at any time, so there are no references to plain data here: elements are
/// copied by [`Self::read`], or reached by pointers of which only single fields are used, as atomics.
pub(super) struct Mapped<T> {
    memory: MmapRaw,
    length: u32,
    elements: PhantomData<T>,
}

impl<T> Mapped<T> {
    /// Maps all of `map`, whose elements are `T`s.
    pub(super) fn of(map: &MapData, name: &'static str) -> Result<Self> {
        let failed = |source| DatapathError::Memory { name, source };
        let info =
            map.info().map_err(|source| DatapathError::Map { name, source: Box::new(source) })?;
        if info.value_size() as usize != size_of::<T>() {
            return Err(failed(io::Error::other(format!(
                "elements of {} bytes, expected {}",
                info.value_size(),
                size_of::<T>()
            ))));
        }
        let length = info.max_entries();
        let bytes = (length as usize).checked_mul(Self::stride());
        let bytes = bytes.ok_or_else(|| failed(io::Error::from(io::ErrorKind::OutOfMemory)))?;
        let memory = MmapOptions::new()
            .len(bytes)
            .map_raw(std::os::fd::AsFd::as_fd(map.fd()).as_raw_fd())
            .map_err(failed)?;
        Ok(Self { memory, length, elements: PhantomData })
    }

    const fn stride() -> usize {
        size_of::<T>().next_multiple_of(STRIDE)
    }

    /// Number of elements.
    pub(super) const fn len(&self) -> u32 {
        self.length
    }

    /// Where an element is; `None` beyond the end. Valid for as long as this value lives.
    pub(super) fn pointer(&self, index: u32) -> Option<NonNull<T>> {
        if index >= self.length {
            return None;
        }
        let offset = index as usize * Self::stride();
        // SAFETY: `offset` is inside the mapping, which has `length` elements of this stride.
        NonNull::new(unsafe { self.memory.as_mut_ptr().add(offset) }.cast())
    }
}

impl<T: aya::Pod> Mapped<T> {
    /// A copy of an element; the packet path may be changing it. `None` beyond the end.
    pub(super) fn read(&self, index: u32) -> Option<T> {
        // SAFETY: inside the mapping and aligned: pages and the stride are. Any bits are a value.
        self.pointer(index).map(|element| unsafe { element.as_ptr().read_volatile() })
    }

    /// Replaces an element. Nobody else may be using it.
    pub(super) fn write(&self, index: u32, value: T) {
        if let Some(element) = self.pointer(index) {
            // SAFETY: as in `read`.
            unsafe { element.as_ptr().write_volatile(value) }
        }
    }
}

impl<T: Atomic> Mapped<T> {
    /// An element; `None` beyond the end.
    pub(super) fn get(&self, index: u32) -> Option<&T> {
        // SAFETY: inside the mapping and aligned, for as long as `self` lives; others change it as
        // atomics do.
        self.pointer(index).map(|element| unsafe { element.as_ref() })
    }
}

/// Types of atomic integers only: they may be shared with whoever maps the same memory.
///
/// # Safety
/// Every byte belongs to an atomic integer.
pub(super) unsafe trait Atomic {}

// SAFETY: it is one.
unsafe impl Atomic for std::sync::atomic::AtomicU32 {}
// SAFETY: an array of `AtomicU64`.
unsafe impl Atomic for portcullis_flow_table::Bucket {}
// SAFETY: an array of `AtomicU64`.
unsafe impl Atomic for portcullis_datapath_abi::classifier::Line {}

//! Atomic integers of array map values.
//!
//! The compiler's description of the kernel's virtual machine says that it has no compare-and-swap,
//! so `core` leaves the operations out; its third instruction set (kernel 5.12) has them. There the
//! compiler's intrinsics are called directly; everywhere else these are the types of `core`.

#[cfg(not(target_arch = "bpf"))]
pub use core::sync::atomic::{AtomicU32, AtomicU64};

#[cfg(target_arch = "bpf")]
pub use machine::{AtomicU32, AtomicU64};

/// The upper half of a word.
#[cfg(not(target_arch = "bpf"))]
#[inline(always)]
pub(crate) fn upper_half(word: &AtomicU64) -> u32 {
    (word.load(core::sync::atomic::Ordering::Relaxed) >> 32) as u32
}

/// The lower half of a word.
#[cfg(not(target_arch = "bpf"))]
#[inline(always)]
pub(crate) fn lower_half(word: &AtomicU64) -> u32 {
    word.load(core::sync::atomic::Ordering::Relaxed) as u32
}

#[cfg(target_arch = "bpf")]
pub(crate) use machine::{lower_half, upper_half};

#[cfg(target_arch = "bpf")]
mod machine {
    use core::{
        cell::UnsafeCell,
        intrinsics::{AtomicOrdering, atomic_cxchg, atomic_or, atomic_xadd, atomic_xchg},
        sync::atomic::Ordering,
    };

    const SEQ_CST: AtomicOrdering = AtomicOrdering::SeqCst;

    /// The upper half of a word, in one load (little-endian).
    #[inline(always)]
    pub(crate) fn upper_half(word: &AtomicU64) -> u32 {
        // SAFETY: the cell is valid and aligned, and has two halves.
        unsafe { word.0.get().cast::<u32>().add(1).read_volatile() }
    }

    /// The lower half of a word, in one load.
    #[inline(always)]
    pub(crate) fn lower_half(word: &AtomicU64) -> u32 {
        // SAFETY: as above.
        unsafe { word.0.get().cast::<u32>().read_volatile() }
    }

    macro_rules! atomic {
        ($Name:ident, $Integer:ty) => {
            /// As in `core::sync::atomic`. Loads and stores are relaxed, everything else is
            /// sequentially consistent, whatever is asked for.
            #[repr(transparent)]
            #[derive(Debug, Default)]
            pub struct $Name(UnsafeCell<$Integer>);

            // SAFETY: all accesses are single instructions that no other CPU sees half of.
            unsafe impl Sync for $Name {}

            impl $Name {
                /// With a value.
                pub const fn new(value: $Integer) -> Self {
                    Self(UnsafeCell::new(value))
                }

                /// The integer at `pointer`.
                ///
                /// # Safety
                /// `pointer` is valid and aligned for `'a`, and all other accesses are atomic.
                #[inline(always)]
                pub const unsafe fn from_ptr<'a>(pointer: *mut $Integer) -> &'a Self {
                    // SAFETY: the type is a transparent wrapper; the rest is the caller's promise.
                    unsafe { &*pointer.cast() }
                }

                /// The value now.
                #[inline(always)]
                pub fn load(&self, _order: Ordering) -> $Integer {
                    // SAFETY: the cell is valid and aligned.
                    unsafe { self.0.get().read_volatile() }
                }

                /// Sets the value.
                #[inline(always)]
                pub fn store(&self, value: $Integer, _order: Ordering) {
                    // SAFETY: as above.
                    unsafe { self.0.get().write_volatile(value) }
                }

                /// Sets the value to `new` if it is `current`.
                ///
                /// # Errors
                /// The value that it is instead.
                #[inline(always)]
                pub fn compare_exchange(
                    &self,
                    current: $Integer,
                    new: $Integer,
                    _success: Ordering,
                    _failure: Ordering,
                ) -> Result<$Integer, $Integer> {
                    // SAFETY: as above.
                    let (before, swapped) =
                        unsafe { atomic_cxchg::<_, SEQ_CST, SEQ_CST>(self.0.get(), current, new) };
                    if swapped { Ok(before) } else { Err(before) }
                }

                /// Sets the value and gives the one before.
                #[inline(always)]
                pub fn swap(&self, value: $Integer, _order: Ordering) -> $Integer {
                    // SAFETY: as above.
                    unsafe { atomic_xchg::<_, SEQ_CST>(self.0.get(), value) }
                }

                /// Adds, wrapping, and gives the value before.
                #[inline(always)]
                pub fn fetch_add(&self, value: $Integer, _order: Ordering) -> $Integer {
                    // SAFETY: as above.
                    unsafe { atomic_xadd::<_, _, SEQ_CST>(self.0.get(), value) }
                }

                /// Sets bits and gives the value before.
                #[inline(always)]
                pub fn fetch_or(&self, bits: $Integer, _order: Ordering) -> $Integer {
                    // SAFETY: as above.
                    unsafe { atomic_or::<_, _, SEQ_CST>(self.0.get(), bits) }
                }

                /// Subtracts, wrapping, and gives the value before.
                #[inline(always)]
                pub fn fetch_sub(&self, value: $Integer, order: Ordering) -> $Integer {
                    self.fetch_add(value.wrapping_neg(), order)
                }
            }
        };
    }
    atomic!(AtomicU32, u32);
    atomic!(AtomicU64, u64);
}

//! A frame in memory.

use std::ptr::NonNull;

use crate::{
    LONGEST, NO_SUM, Summed, Verdict, add,
    frame::{Frame, FrameMut, Head, HeadMut},
    rewrite,
};

/// A frame.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Bytes(pub Vec<u8>);

macro_rules! access {
    ($($get:ident, $set:ident: $Type:ty;)*) => {
        impl Frame for Bytes {
            fn head<const N: usize>(&self) -> Option<Head<'_, N>> {
                let start = NonNull::from(self.0.first_chunk::<N>()?).cast();
                // SAFETY: the chunk is there and borrowed for as long as its head.
                Some(unsafe { Head::new(start) })
            }

            fn copy<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
                self.0.get(offset as usize..)?.first_chunk::<N>().copied()
            }

            $(
                fn $get(&self, offset: usize) -> Option<$Type> {
                    let end = offset.checked_add(size_of::<$Type>())?;
                    self.0.get(offset..end)?.try_into().ok().map(<$Type>::from_ne_bytes)
                }
            )*
        }
        impl FrameMut for Bytes {
            fn head_mut<const N: usize>(&mut self) -> Option<HeadMut<'_, N>> {
                let start = NonNull::from(self.0.first_chunk_mut::<N>()?).cast();
                // SAFETY: the chunk is there and borrowed for as long as its head.
                Some(unsafe { HeadMut::new(start) })
            }

            fn set<const N: usize>(&mut self, offset: u32, bytes: &[u8; N]) -> Option<()> {
                let offset = offset as usize;
                self.0.get_mut(offset..offset.checked_add(N)?)?.copy_from_slice(bytes);
                Some(())
            }

            $(
                fn $set(&mut self, offset: usize, value: $Type) -> Option<()> {
                    let end = offset.checked_add(size_of::<$Type>())?;
                    self.0.get_mut(offset..end)?.copy_from_slice(&value.to_ne_bytes());
                    Some(())
                }
            )*
        }
    };
}
access! {
    u8, set_u8: u8;
    u16, set_u16: u16;
    u32, set_u32: u32;
}

impl Summed for Bytes {
    fn sum(&self, at: u32, length: u32) -> u32 {
        let (at, end) = (at as usize, at as usize + length as usize);
        match self.0.get(at..end) {
            Some(bytes) if !bytes.is_empty() && length <= LONGEST => {
                let word = |pair: &[u8]| match *pair {
                    [first, second] => u16::from_ne_bytes([first, second]),
                    [last] => u16::from_ne_bytes([last, 0]),
                    _ => 0,
                };
                u32::from(bytes.chunks(2).map(word).fold(0, add))
            }
            _ => NO_SUM,
        }
    }
}

impl Bytes {
    /// Carries a verdict out as the hooks do. False if the packet must be dropped.
    pub fn carry_out(&mut self, verdict: &Verdict<'_>) -> bool {
        match verdict {
            Verdict::Kernel(_) => true,
            Verdict::Translate(_, edit) => rewrite::rewrite(self, edit, false).is_some(),
            Verdict::Forward(_, edit, _) if edit.plain => rewrite::plain(self, edit).is_some(),
            Verdict::Forward(_, edit, hop) => {
                (!hop.cached || rewrite::ethernet(self, edit.flow.macs()).is_some())
                    && rewrite::rewrite(self, edit, true).is_some()
            }
            Verdict::Drop(_)
            | Verdict::Answer(_)
            | Verdict::Hold(_)
            | Verdict::Cut(_)
            | Verdict::Next(_)
            | Verdict::Located(..)
            | Verdict::Defer => false,
        }
    }
}

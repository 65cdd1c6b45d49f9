//! The programs: of each hook one for each stage. They read the context, call the core and carry out
//! its verdict; decisions are in the library.

mod answer;
mod capture;
mod challenge;
mod cut;
mod egress;
mod fragment;
mod maps;
mod skb;
mod sum;
mod tcx;
mod xdp;

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier refuses programs that could get here: it is an endless loop.
    loop {}
}

/// The helpers that redirect packets are open to GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";

/// Reads and writes with bounds checks that the verifier understands, for a type with the fields `data`
/// and `end`.
macro_rules! direct_access {
    ($Type:ty, $($get:ident, $set:ident: $Integer:ty;)*) => {
        impl portcullis_datapath::Frame for $Type {
            #[inline(always)]
            fn head<const N: usize>(&self) -> Option<portcullis_datapath::Head<'_, N>> {
                if self.data + N > self.end {
                    return None;
                }
                // SAFETY: inside the packet, by the check that the verifier repeats; packets do not lie
                // at address 0.
                Some(unsafe {
                    let start = core::ptr::NonNull::new_unchecked(self.data as *mut u8);
                    portcullis_datapath::Head::new(start)
                })
            }

            #[inline(always)]
            fn copy<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
                self.load(offset)
            }

            $(
                #[inline(always)]
                fn $get(&self, offset: usize) -> Option<$Integer> {
                    if self.data + offset + size_of::<$Integer>() > self.end {
                        return None;
                    }
                    // SAFETY: inside the packet, by the check that the verifier repeats. Alignment is
                    // no concern of this machine's packet memory, while `read_unaligned` would become
                    // loads of single bytes; the volatile access keeps the compiler from drawing
                    // conclusions from the address.
                    Some(unsafe { ((self.data + offset) as *const $Integer).read_volatile() })
                }
            )*
        }

        impl portcullis_datapath::FrameMut for $Type {
            #[inline(always)]
            fn head_mut<const N: usize>(&mut self) -> Option<portcullis_datapath::HeadMut<'_, N>> {
                if self.data + N > self.end {
                    return None;
                }
                // SAFETY: inside the packet, by the check that the verifier repeats; packets do not lie
                // at address 0.
                Some(unsafe {
                    let start = core::ptr::NonNull::new_unchecked(self.data as *mut u8);
                    portcullis_datapath::HeadMut::new(start)
                })
            }

            #[inline(always)]
            fn set<const N: usize>(&mut self, offset: u32, bytes: &[u8; N]) -> Option<()> {
                self.store(offset, bytes)
            }

            $(
                #[inline(always)]
                fn $set(&mut self, offset: usize, value: $Integer) -> Option<()> {
                    if self.data + offset + size_of::<$Integer>() > self.end {
                        return None;
                    }
                    // SAFETY: as above.
                    unsafe { ((self.data + offset) as *mut $Integer).write_volatile(value) };
                    Some(())
                }
            )*

            #[inline(always)]
            fn update_transport_checksum(
                &mut self,
                offset: usize,
                address_delta: u16,
                transport_delta: u16,
                udp: bool,
            ) -> Option<()> {
                self.update_checksum(offset, address_delta, transport_delta, udp)
            }
        }
    };
}
use direct_access;

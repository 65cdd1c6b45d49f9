//! The kernel's socket buffers as frames.

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR},
    helpers::{bpf_skb_load_bytes, bpf_skb_store_bytes},
    programs::TcContext,
};

use portcullis_datapath::add;

use super::direct_access;

/// A socket buffer, of which the first bytes are read and written directly.
pub struct Buffer<'a> {
    context: &'a TcContext,
    data: usize,
    end: usize,
}

impl<'a> Buffer<'a> {
    /// Makes the first `wanted` bytes directly readable, if there are that many.
    #[inline(always)]
    pub fn new(context: &'a TcContext, wanted: u32) -> Self {
        let length = context.len();
        let wanted = if length < wanted { length } else { wanted };
        if context.data() + wanted as usize > context.data_end() {
            // On failure the core finds the frame short.
            let _ = context.pull_data(wanted);
        }
        Self { context, data: context.data(), end: context.data_end() }
    }

    /// The kernel's own structure, for its helpers.
    #[inline(always)]
    pub fn skb(&self) -> *mut __sk_buff {
        self.context.skb.skb
    }

    /// The kernel has moved the packet.
    #[inline(always)]
    fn look_again(&mut self) {
        self.data = self.context.data();
        self.end = self.context.data_end();
    }

    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        // SAFETY: a helper for this context; the bytes are on this stack.
        let result = unsafe {
            bpf_skb_load_bytes(
                self.context.skb.skb.cast(),
                offset,
                bytes.as_mut_ptr().cast(),
                N as u32,
            )
        };
        (result == 0).then_some(bytes)
    }

    #[inline(always)]
    fn store<const N: usize>(&mut self, offset: u32, bytes: &[u8; N]) -> Option<()> {
        // SAFETY: as above.
        let result = unsafe {
            bpf_skb_store_bytes(
                self.context.skb.skb.cast(),
                offset,
                bytes.as_ptr().cast(),
                N as u32,
                // The sum over the packet stays as it is: the transport checksum is updated too.
                0,
            )
        };
        self.look_again();
        (result == 0).then_some(())
    }

    /// By the kernel's helper, which knows whether the field holds a whole checksum or only that of the
    /// pseudo-header.
    #[inline(always)]
    fn update_checksum(
        &mut self,
        offset: usize,
        address_delta: u16,
        transport_delta: u16,
        udp: bool,
    ) -> Option<()> {
        let port_delta = add(transport_delta, !address_delta);
        let zero = if udp { u64::from(BPF_F_MARK_MANGLED_0) } else { 0 };
        // A difference of 0 has two forms.
        if port_delta != 0 && port_delta != 0xffff {
            self.context.l4_csum_replace(offset, 0, u64::from(port_delta), zero).ok()?;
        }
        if address_delta != 0 && address_delta != 0xffff {
            let pseudo = zero | u64::from(BPF_F_PSEUDO_HDR);
            self.context.l4_csum_replace(offset, 0, u64::from(address_delta), pseudo).ok()?;
        }
        self.look_again();
        Some(())
    }
}

direct_access! {
    Buffer<'_>,
    u8, set_u8: u8;
    u16, set_u16: u16;
    u32, set_u32: u32;
}

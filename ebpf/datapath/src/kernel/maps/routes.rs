//! The kernel's routing and neighbour tables.

use core::mem::MaybeUninit;

use aya_ebpf::{bindings::bpf_fib_lookup, helpers};
use portcullis_datapath::{Route, RouteQuery, mapped};

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const FIB_SUCCESS: i64 = 0;
const FIB_NO_NEIGHBOUR: i64 = 7;
const FIB_FRAG_NEEDED: i64 = 8;

/// Looks a route up; false if there is none, else all of `route` is set. Not inlined: its parameters
/// would stand on the stack once for each caller.
#[inline(never)]
pub fn lookup(
    context: *mut core::ffi::c_void,
    query: &RouteQuery,
    route: &mut MaybeUninit<Route>,
) -> bool {
    let mut fib = MaybeUninit::<bpf_fib_lookup>::uninit();
    // Word by word: what sets memory for the compiler goes byte by byte.
    let words = fib.as_mut_ptr().cast::<u32>();
    for index in 0..size_of::<bpf_fib_lookup>() / 4 {
        // SAFETY: inside the structure, which is aligned for these.
        unsafe { words.add(index).write_volatile(0) };
    }
    // SAFETY: plain data for which all zeros is valid.
    let fib = unsafe { fib.assume_init_mut() };
    fib.l4_protocol = query.protocol;
    // Ports stay zero: they matter to port-based rules only, and later fragments have none.
    // The length stays zero too: the kernel would compare aggregated frames with the MTU.
    if query.ipv6 {
        fib.family = AF_INET6;
        fib.__bindgen_anon_3.ipv6_src = query.source;
        fib.__bindgen_anon_4.ipv6_dst = query.destination;
    } else {
        let ([.., source], [.., destination]) = (query.source, query.destination);
        fib.family = AF_INET;
        fib.__bindgen_anon_2.tos = query.tos;
        fib.__bindgen_anon_3.ipv4_src = source;
        fib.__bindgen_anon_4.ipv4_dst = destination;
    }
    fib.ifindex = query.interface;
    let size = size_of::<bpf_fib_lookup>() as i32;
    // SAFETY: the context is the packet's, the parameters live on this stack.
    let result = unsafe { helpers::bpf_fib_lookup(context, &raw mut *fib, size, 0) };
    // Of a packet larger than the device's MTU it says so, and has found everything.
    let found = result == FIB_SUCCESS || result == FIB_FRAG_NEEDED;
    if !found && result != FIB_NO_NEIGHBOUR {
        return false;
    }
    let route = route.as_mut_ptr();
    // SAFETY: the place is the caller's. The helper filled in the side of the unions that belongs to
    // the family; any bits are valid. Field by field: the stack is short.
    unsafe {
        (*route).egress = fib.ifindex;
        (*route).next_hop = if query.ipv6 {
            fib.__bindgen_anon_4.ipv6_dst
        } else {
            mapped(fib.__bindgen_anon_4.ipv4_dst)
        };
        // Without a neighbour the lookup does not get as far as the MTU, and its addresses are zeros.
        (*route).mtu =
            if found { fib.__bindgen_anon_1.mtu_result } else { device_mtu(context, fib.ifindex) };
        (*route).resolved = found;
        let ([a, b, c, d, e, f], [g, h, i, j, k, l]) = (fib.dmac, fib.smac);
        (*route).macs = [
            u32::from_ne_bytes([a, b, c, d]),
            u32::from_ne_bytes([e, f, g, h]),
            u32::from_ne_bytes([i, j, k, l]),
        ];
    }
    true
}

/// The MTU of a device; 0 if there is none.
#[inline(always)]
pub fn device_mtu(context: *mut core::ffi::c_void, interface: u32) -> u16 {
    let mut mtu = 0_u32;
    // SAFETY: the context is the packet's. Whether this packet fits is decided elsewhere; the answer is
    // in `mtu`.
    unsafe { helpers::bpf_check_mtu(context, interface, &raw mut mtu, 0, 0) };
    mtu as u16
}

//! Addresses of the link layer, as packet(7) sockets take them.

use nix::{
    libc,
    sys::socket::{LinkAddr, SockaddrLike},
};
use portcullis_model::MacAddress;

/// EtherType of IPv4.
pub(super) const IPV4: u16 = 0x0800;
/// EtherType of ARP.
pub(super) const ARP: u16 = 0x0806;

/// `sockaddr_ll` for `mac` on the device `index`; index 0 is every device.
pub(super) fn address(index: u32, ether_type: u16, mac: MacAddress) -> std::io::Result<LinkAddr> {
    let [a, b, c, d, e, f] = mac.0;
    let raw = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as libc::c_ushort,
        sll_protocol: ether_type.to_be(),
        sll_ifindex: index.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: [a, b, c, d, e, f, 0, 0],
    };
    let size = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: `raw` is a whole sockaddr_ll of the family that it names and lives through the call,
    // which copies it.
    unsafe { LinkAddr::from_raw((&raw const raw).cast(), Some(size)) }
        .ok_or_else(|| std::io::ErrorKind::InvalidInput.into())
}

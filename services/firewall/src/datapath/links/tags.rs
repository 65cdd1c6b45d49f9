//! Where the VLAN tag of a frame is when XDP sees it.
//!
//! Network cards take the tag (IEEE 802.1Q) off a frame and put it down beside it, where the kernel finds
//! it but an XDP program does not: a frame of VLAN 20 would look like an untagged one and pass for one of
//! the zone that the card itself is in. So a card leaves tags in the frames before XDP gets them. Tagged
//! frames then go on to the kernel, which takes the tag off.

use std::{io, os::fd::AsRawFd};

use nix::{
    errno::Errno,
    libc,
    sys::socket::{AddressFamily, SockFlag, SockType, socket},
};

// linux/sockios.h, linux/ethtool.h.
const SIOCETHTOOL: u32 = 0x8946;
const ETHTOOL_GFLAGS: u32 = 0x25;
const ETHTOOL_SFLAGS: u32 = 0x26;
const ETH_FLAG_RXVLAN: u32 = 1 << 8;

/// `struct ethtool_value`
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// Makes a device leave the tags in the frames that it receives.
///
/// # Errors
/// What the kernel says, or that the device cannot.
pub(super) fn leave_in_frames(device: &str) -> io::Result<()> {
    let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
    let flags = call(&socket, device, ETHTOOL_GFLAGS, 0)?;
    if flags & ETH_FLAG_RXVLAN == 0 {
        return Ok(());
    }
    call(&socket, device, ETHTOOL_SFLAGS, flags & !ETH_FLAG_RXVLAN)?;
    // Drivers keep what they cannot change, without an error.
    if call(&socket, device, ETHTOOL_GFLAGS, 0)? & ETH_FLAG_RXVLAN != 0 {
        return Err(io::Error::other("takes VLAN tags off frames and cannot leave them"));
    }
    tracing::info!(device, "VLAN tags stay in the frames for XDP");
    Ok(())
}

fn call(socket: &impl AsRawFd, device: &str, command: u32, data: u32) -> io::Result<u32> {
    let mut value = Value { command, data };
    // SAFETY: plain data for which all zeros is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays zero.
    let room = request.ifr_name.len() - 1;
    if device.len() > room {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (place, byte) in request.ifr_name.iter_mut().zip(device.bytes()) {
        *place = byte.cast_signed() as libc::c_char;
    }
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: the call takes a `struct ifreq` whose data is a `struct ethtool_value`; both live here.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL as _, &raw mut request) };
    Errno::result(result)?;
    Ok(value.data)
}

//! What the drivers of network devices can do with XDP, as the kernel tells by generic netlink
//! (family `netdev`, linux/netdev.h, since kernel 6.3).

use std::{collections::BTreeMap, io, os::fd::AsRawFd};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NlaBuffer, NlasIterator,
};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send,
    socket,
};

/// What a device's driver can do.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Features {
    /// It runs XDP programs, natively.
    pub receives: bool,
    /// It carries out their redirections to other devices.
    pub redirects: bool,
    /// It sends frames that were redirected to it. Many drivers can only while a program is attached
    /// to the device.
    pub transmits: bool,
}

// linux/netdev.h: enum netdev_xdp_act.
const ACT_BASIC: u64 = 1;
const ACT_REDIRECT: u64 = 2;
const ACT_NDO_XMIT: u64 = 4;

impl Features {
    const fn of(bits: u64) -> Self {
        Self {
            receives: bits & ACT_BASIC != 0,
            redirects: bits & ACT_REDIRECT != 0,
            transmits: bits & ACT_NDO_XMIT != 0,
        }
    }
}

const HEADER: usize = 16;
/// Of generic netlink: command, version, two bytes of nothing.
const GENERIC: usize = 4;

// linux/genetlink.h.
const CONTROL_FAMILY: u16 = 0x10;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;
// linux/netdev.h.
const DEV_GET: u8 = 1;
const DEV_IFINDEX: u16 = 1;
const DEV_XDP_FEATURES: u16 = 3;

/// Features of all devices of this network namespace by index.
///
/// # Errors
/// What the kernel says; an old one does not know the family.
pub(super) fn features() -> io::Result<BTreeMap<u32, Features>> {
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkGeneric,
    )?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;

    let mut name = attribute(FAMILY_NAME, b"netdev\0");
    name.resize(name.len().next_multiple_of(4), 0);
    let mut family = None;
    ask(&socket, CONTROL_FAMILY, GET_FAMILY, NLM_F_ACK, &name, &mut |attributes| {
        family = family.or_else(|| number(attributes, FAMILY_ID));
    })?;
    let family = family.and_then(|id| u16::try_from(id).ok());
    let family = family.ok_or_else(|| io::Error::from(io::ErrorKind::Unsupported))?;

    let mut found = BTreeMap::new();
    ask(&socket, family, DEV_GET, NLM_F_DUMP, &[], &mut |attributes| {
        let index = number(attributes, DEV_IFINDEX).and_then(|index| u32::try_from(index).ok());
        if let (Some(index), Some(bits)) = (index, number(attributes, DEV_XDP_FEATURES)) {
            found.insert(index, Features::of(bits));
        }
    })?;
    Ok(found)
}

/// Sends one request and hands the attributes of every answer to `each`, until the last.
fn ask(
    socket: &impl AsRawFd,
    family: u16,
    command: u8,
    flags: u16,
    attributes: &[u8],
    each: &mut dyn FnMut(&[u8]),
) -> io::Result<()> {
    let length = HEADER + GENERIC + attributes.len();
    let mut request = Vec::with_capacity(length);
    request.extend(u32::try_from(length).map_err(io::Error::other)?.to_ne_bytes());
    request.extend(family.to_ne_bytes());
    request.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    request.extend([0; 8]);
    request.extend([command, 1, 0, 0]);
    request.extend(attributes);
    send(socket.as_raw_fd(), &request, MsgFlags::empty())?;

    let mut buffer = vec![0; 32 * 1024];
    loop {
        let received = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        let mut rest = buffer.get(..received).unwrap_or_default();
        while let Some((kind, payload, next)) = message(rest) {
            match kind {
                NLMSG_DONE => return Ok(()),
                NLMSG_ERROR => {
                    let code = payload.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
                    return match code {
                        0 => Ok(()),
                        code => Err(io::Error::from_raw_os_error(code.wrapping_neg())),
                    };
                }
                _ => each(payload.get(GENERIC..).unwrap_or_default()),
            }
            rest = next;
        }
    }
}

/// Type and payload of the first message, and what is behind it.
fn message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
    let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
    let payload = bytes.get(HEADER..length)?;
    Some((kind, payload, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = (4 + value.len()) as u16;
    [&length.to_ne_bytes(), &kind.to_ne_bytes(), value].concat()
}

/// The value of an attribute that is a number of 16, 32 or 64 bits.
fn number(attributes: &[u8], wanted: u16) -> Option<u64> {
    NlasIterator::new(attributes).flatten().find(|nla| nla.kind() == wanted).and_then(value)
}

fn value<T: AsRef<[u8]> + ?Sized>(nla: NlaBuffer<&T>) -> Option<u64> {
    match nla.value() {
        [a, b] => Some(u16::from_ne_bytes([*a, *b]).into()),
        [a, b, c, d] => Some(u32::from_ne_bytes([*a, *b, *c, *d]).into()),
        bytes => Some(u64::from_ne_bytes(bytes.try_into().ok()?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bits_of_the_kernel_are_told_apart() {
        assert_eq!(Features::of(0), Features::default());
        let ixgbe = Features::of(0b1011);
        assert!(ixgbe.receives && ixgbe.redirects && !ixgbe.transmits);
        assert!(Features::of(0x7f).transmits);
    }

    #[test]
    fn attributes_of_all_widths_are_read_and_cut_ones_are_not() {
        let mut bytes = attribute(DEV_IFINDEX, &7_u32.to_ne_bytes());
        bytes.extend(attribute(DEV_XDP_FEATURES, &3_u64.to_ne_bytes()));
        assert_eq!(number(&bytes, DEV_IFINDEX), Some(7));
        assert_eq!(number(&bytes, DEV_XDP_FEATURES), Some(3));
        assert_eq!(number(&bytes, 9), None);
        bytes.truncate(bytes.len() - 1);
        assert_eq!(number(&bytes, DEV_XDP_FEATURES), None);
        assert_eq!(number(&attribute(FAMILY_ID, &20_u16.to_ne_bytes()), FAMILY_ID), Some(20));
        assert!(message(&[1, 2, 3]).is_none());
    }

    /// Every namespace has a loopback device, which has no XDP of its own.
    #[test]
    fn this_kernel_answers() -> io::Result<()> {
        let all = features()?;
        assert_eq!(all.get(&1), Some(&Features::default()), "{all:?}");
        Ok(())
    }
}

//! Connection tracking: room for many flows, in a table that all network namespaces share, and
//! forgetting them.

use std::{fs, os::fd::AsRawFd as _};

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket,
};

const MOST: &str = "/proc/sys/net/netfilter/nf_conntrack_max";
const BUCKETS: &str = "/proc/sys/net/netfilter/nf_conntrack_buckets";

/// The kernel's own settings are too small for more flows than this on some machines.
const USUAL: u32 = 32_768;

/// Settings as they were; put back when this goes.
#[derive(Debug)]
pub struct ConntrackRoom {
    most: String,
    buckets: String,
}

impl ConntrackRoom {
    /// Makes room for this many flows, with a hash table of as many buckets, as somebody does who
    /// expects them; nothing if they are few.
    ///
    /// # Errors
    /// If connection tracking is not loaded.
    pub fn new(flows: u32) -> Result<Option<Self>> {
        if flows <= USUAL {
            return Ok(None);
        }
        let read = |path| fs::read_to_string(path).with_context(|| format!("reading {path}"));
        let this = Self { most: read(MOST)?, buckets: read(BUCKETS)? };
        write(BUCKETS, &flows.to_string())?;
        write(MOST, &(flows * 2).to_string())?;
        Ok(Some(this))
    }
}

impl Drop for ConntrackRoom {
    fn drop(&mut self) {
        // Nothing more can be done about it here.
        let _ = write(BUCKETS, self.buckets.trim()).and_then(|()| write(MOST, self.most.trim()));
    }
}

fn write(path: &str, value: &str) -> Result<()> {
    fs::write(path, value).with_context(|| format!("writing {path}"))
}

/// Forgets all connections of the caller's network namespace.
///
/// # Errors
/// What the kernel says.
pub fn flush() -> Result<()> {
    const DELETE_CONNTRACK: u16 = 1 << 8 | 2;
    const REQUEST_WITH_ANSWER: u16 = 1 | 4;
    const ERROR: u16 = 2;
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkNetFilter,
    )?;
    // Header (length, type, flags, sequence, port), then family, version and resource: all of them.
    let mut message = Vec::from(20_u32.to_ne_bytes());
    message.extend(DELETE_CONNTRACK.to_ne_bytes());
    message.extend(REQUEST_WITH_ANSWER.to_ne_bytes());
    message.extend([0; 12]);
    send(socket.as_raw_fd(), &message, MsgFlags::empty())?;
    let mut answer = [0; 256];
    let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    let answer = answer.get(..length).unwrap_or_default();
    let kind = answer.get(4..6).and_then(|bytes| Some(u16::from_ne_bytes(bytes.try_into().ok()?)));
    let code =
        answer.get(16..20).and_then(|bytes| Some(i32::from_ne_bytes(bytes.try_into().ok()?)));
    ensure!(kind == Some(ERROR) && code == Some(0), "flushing connection tracking: {code:?}");
    Ok(())
}

//! Watching routes, neighbours and links: when one changes, cached next hops must be looked up
//! again. What changed does not matter, so nothing is parsed.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};
use tokio::io::unix::AsyncFd;

/// linux/rtnetlink.h: RTMGRP_LINK, _NEIGH, _IPV4_IFADDR, _IPV4_ROUTE, _IPV4_RULE, _IPV6_IFADDR,
/// _IPV6_ROUTE; and RTNLGRP_IPV6_RULE, which is 19.
const GROUPS: u32 = 0x1 | 0x4 | 0x10 | 0x40 | 0x80 | 0x100 | 0x400 | 1 << (19 - 1);

/// A subscription to the kernel's notifications.
pub struct Routes {
    socket: AsyncFd<OwnedFd>,
}

impl Routes {
    /// Subscribes.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn watch() -> io::Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkRoute,
        )?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, GROUPS))?;
        // SAFETY: the descriptor is owned by the value and closed with it, not before.
        let socket = unsafe { AsyncFd::register(socket) }?;
        Ok(Self { socket })
    }

    /// Waits for a change, and takes all that are there.
    ///
    /// # Errors
    /// What the kernel says; an overflow of its queue counts as a change.
    pub async fn changed(&self) -> io::Result<()> {
        loop {
            let mut ready = self.socket.readable().await?;
            let mut seen = false;
            let mut buffer = [0; 8192];
            loop {
                match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                    Ok(_) | Err(nix::errno::Errno::ENOBUFS) => seen = true,
                    Err(nix::errno::Errno::EAGAIN) => break,
                    Err(nix::errno::Errno::EINTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            ready.clear_ready();
            if seen {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use portcullis_netns::Namespace;

    use super::*;

    /// Needs root and iproute2.
    #[test]
    fn a_change_of_either_family_is_heard() {
        let namespace = Namespace::new("routes").unwrap_or_else(|error| panic!("{error}"));
        for change in [
            "ip rule add from 192.0.2.1 table 7",
            "ip -6 rule add from 2001:db8::1 table 7",
            "ip route add blackhole 192.0.2.0/24",
            "ip -6 route add blackhole 2001:db8::/32",
        ] {
            let heard = namespace.enter(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(async {
                    let routes = Routes::watch()?;
                    namespace.run(change)?;
                    let heard = tokio::time::timeout(Duration::from_secs(10), routes.changed());
                    Ok(heard.await??)
                })
            });
            assert!(heard.is_ok(), "{change}: {heard:?}");
        }
    }
}

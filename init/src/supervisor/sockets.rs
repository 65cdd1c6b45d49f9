//! The sockets that init makes for services. They stay open in init, so that no caller is refused
//! and no packet is answered by "port unreachable" while a service restarts.

use std::{
    fs, io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{
            fs::{PermissionsExt, chown},
            net::{UnixDatagram, UnixListener},
        },
    },
    path::Path,
};

use rustix::event::{PollFd, PollFlags, Timespec};
use socket2::{Domain, Protocol, Socket, Type};

use crate::{
    manifest::{Listen, Manifest, SocketKind, SocketOption},
    places::Places,
};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;

/// A socket with the name that the service takes it by.
#[derive(Debug)]
pub struct Named {
    /// Name in LISTEN_FDNAMES.
    pub name: String,
    /// The socket.
    pub fd: OwnedFd,
}

/// All sockets of one service; those that cannot be made, or that the service has spoilt, are made
/// before its next start.
#[derive(Debug, Default)]
pub struct Sockets {
    made: Vec<Named>,
}

impl Sockets {
    /// Makes the sockets that are not there yet; the errors name those that could not be made.
    pub fn complete(
        &mut self,
        manifest: &Manifest,
        bus_group: u32,
        places: &Places,
    ) -> Vec<io::Error> {
        let mut errors = Vec::new();
        self.made.retain(|named| {
            let whole = is_whole(&named.fd);
            if !whole {
                tracing::warn!(service = manifest.name, socket = named.name, "made anew");
            }
            whole
        });
        if !self.has("bus") {
            let made = bus_listener(&places.bus_socket(&manifest.name), bus_group);
            errors.extend(self.add("bus", made.map(OwnedFd::from)).err());
        }
        for listen in &manifest.listen {
            if !self.has(&listen.name) {
                let made = listener(listen)
                    .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", listen.address)));
                errors.extend(self.add(&listen.name, made).err());
            }
        }
        errors
    }

    fn has(&self, name: &str) -> bool {
        self.made.iter().any(|n| n.name == name)
    }

    fn add(&mut self, name: &str, made: io::Result<OwnedFd>) -> io::Result<()> {
        let fd = made.map_err(|e| io::Error::new(e.kind(), format!("socket `{name}`: {e}")))?;
        self.made.push(Named { name: name.to_owned(), fd });
        Ok(())
    }

    /// Copies for a new process, in the order of their names' appearance.
    ///
    /// # Errors
    /// If descriptors run out.
    pub fn duplicate(&self) -> io::Result<Vec<Named>> {
        let copy =
            |n: &Named| Ok(Named { name: n.name.clone(), fd: n.fd.as_fd().try_clone_to_owned()? });
        self.made.iter().map(copy).collect()
    }
}

/// A listening Unix socket that root and `group` may connect to.
///
/// # Errors
/// With the path.
pub fn bus_listener(path: &Path, group: u32) -> io::Result<UnixListener> {
    remove(path)?;
    let listener = UnixListener::bind(path).map_err(|e| with_path(path, &e))?;
    chown(path, Some(0), Some(group)).map_err(|e| with_path(path, &e))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o660))
        .map_err(|e| with_path(path, &e))?;
    Ok(listener)
}

/// A datagram socket that only root and `user` may send to.
///
/// # Errors
/// With the path.
pub fn notify_socket(path: &Path, user: u32) -> io::Result<UnixDatagram> {
    remove(path)?;
    let socket = UnixDatagram::bind(path).map_err(|e| with_path(path, &e))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))
        .map_err(|e| with_path(path, &e))?;
    chown(path, Some(user), Some(user)).map_err(|e| with_path(path, &e))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Whether a socket still does what it was made for. The service has the same one, not one like it:
/// after shutdown(2) nobody could connect any more, and after connect(2) only one peer be heard,
/// however often the service is restarted.
fn is_whole(socket: &OwnedFd) -> bool {
    let hung_up = PollFlags::HUP | PollFlags::RDHUP;
    let mut looked_at = [PollFd::new(socket, PollFlags::RDHUP)];
    let looked = rustix::event::poll(&mut looked_at, Some(&Timespec::default()));
    let [looked_at] = looked_at;
    let open = looked.is_ok() && !looked_at.revents().intersects(hung_up);
    open && rustix::net::getpeername(socket).is_err()
}

fn listener(listen: &Listen) -> io::Result<OwnedFd> {
    let domain = Domain::for_address(listen.address);
    let socket = match listen.kind {
        SocketKind::Udp => Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?,
        SocketKind::Tcp => Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?,
    };
    for option in &listen.options {
        set(&socket, *option, listen.address.is_ipv6())?;
    }
    if listen.kind == SocketKind::Tcp {
        // Connections of an earlier run in TIME_WAIT must not keep the port.
        socket.set_reuse_address(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&listen.address.into())?;
    if listen.kind == SocketKind::Tcp {
        socket.listen(BACKLOG)?;
    }
    Ok(socket.into())
}

fn set(socket: &Socket, option: SocketOption, ipv6: bool) -> io::Result<()> {
    match option {
        SocketOption::Broadcast => socket.set_broadcast(true),
        SocketOption::ReuseAddress => socket.set_reuse_address(true),
        SocketOption::Ipv6Only => socket.set_only_v6(true),
        SocketOption::FreeBind if ipv6 => socket.set_freebind_v6(true),
        SocketOption::FreeBind => socket.set_freebind_v4(true),
        SocketOption::PacketInfo => packet_info(socket, ipv6),
    }
}

/// Of the crates in use only rustix's neighbours know these two options.
fn packet_info(socket: &Socket, ipv6: bool) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let on: libc::c_int = 1;
    let (level, option) = if ipv6 {
        (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO)
    } else {
        (libc::IPPROTO_IP, libc::IP_PKTINFO)
    };
    let length = libc::socklen_t::try_from(size_of_val(&on)).unwrap_or_default();
    // SAFETY: the descriptor is open and `on` is valid for the length given.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const on).cast(), length)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(with_path(path, &e)),
        _ => Ok(()),
    }
}

fn with_path(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    /// Needs root, as init is.
    #[test]
    fn a_socket_that_a_service_has_spoilt_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let places = Places { data: folder.path().into(), run: folder.path().into(), cgroup: None };
        fs::create_dir(places.bus()).unwrap();
        let listen = |name: &str| {
            format!("[[listen]]\nname = \"{name}\"\nkind = \"{name}\"\naddress = \"127.0.0.1:1\"\n")
        };
        let text = "description = \"x\"\nuser = 200\nmemory_mib = 16\n".to_owned();
        let mut manifest = Manifest::parse("x", &(text + &listen("tcp") + &listen("udp"))).unwrap();
        manifest.listen.iter_mut().for_each(|l| l.address.set_port(0));

        let mut sockets = Sockets::default();
        assert!(sockets.complete(&manifest, 200, &places).is_empty());
        let fd = |sockets: &Sockets, name: &str| {
            let found = sockets.duplicate().unwrap().into_iter().find(|n| n.name == name);
            Socket::from(found.unwrap().fd)
        };
        let address = fd(&sockets, "tcp").local_addr().unwrap();
        assert!(sockets.complete(&manifest, 200, &places).is_empty());
        assert_eq!(fd(&sockets, "tcp").local_addr().unwrap(), address, "the same while it works");

        for name in ["bus", "tcp"] {
            fd(&sockets, name).shutdown(std::net::Shutdown::Both).unwrap();
        }
        let peer = std::net::SocketAddr::from(([127, 0, 0, 1], 9));
        fd(&sockets, "udp").connect(&peer.into()).unwrap();
        assert!(sockets.complete(&manifest, 200, &places).is_empty());
        UnixStream::connect(places.bus_socket("x")).unwrap();
        let address = fd(&sockets, "tcp").local_addr().unwrap().as_socket().unwrap();
        std::net::TcpStream::connect(address).unwrap();
        assert!(fd(&sockets, "udp").peer_addr().is_err());
    }
}

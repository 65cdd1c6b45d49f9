//! Sockets made by init and handed over by LISTEN_FDS / LISTEN_FDNAMES (sd_listen_fds(3)).

use std::{
    collections::BTreeMap,
    net::{TcpListener, UdpSocket},
    os::{
        fd::{FromRawFd, OwnedFd, RawFd},
        unix::{fs::PermissionsExt, net::UnixListener},
    },
    path::PathBuf,
};

/// Name of the bus socket in LISTEN_FDNAMES.
const BUS: &str = "bus";

/// A socket is missing or of the wrong kind.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// LISTEN_FDS and its companions do not fit together.
    #[error("sockets from init: {0}")]
    Handover(std::io::Error),
    /// The manifest does not declare this socket.
    #[error(
        "no socket named `{0}` was handed over; it must be a [[listen]] in the service's manifest"
    )]
    Missing(String),
    /// The socket cannot be used.
    #[error("socket `{name}`: {source}")]
    Setup {
        /// Name in the manifest.
        name: String,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The bus socket could not be made (outside the appliance).
    #[error("cannot listen on {path}: {source}")]
    Bind {
        /// Path of the socket.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
}

/// The sockets handed over, by name.
#[derive(Debug, Default)]
pub struct Sockets {
    by_name: BTreeMap<String, OwnedFd>,
}

impl Sockets {
    /// Takes over what init passed to this process; call once, before anything opens files.
    ///
    /// # Errors
    /// If the environment names descriptors that do not exist.
    pub fn from_environment() -> Result<Self, SocketError> {
        let handed = sd_notify::listen_fds_with_names().map_err(SocketError::Handover)?;
        let mut by_name = BTreeMap::new();
        for (fd, name) in handed {
            by_name.insert(name, adopt(fd));
        }
        Ok(Self { by_name })
    }

    /// Whether init handed over a socket of this name.
    pub fn has(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// Takes the descriptor named `name`.
    ///
    /// # Errors
    /// [`SocketError::Missing`].
    pub fn take(&mut self, name: &str) -> Result<OwnedFd, SocketError> {
        self.by_name.remove(name).ok_or_else(|| SocketError::Missing(name.to_owned()))
    }

    /// Takes a UDP socket, non-blocking, registered with the runtime.
    ///
    /// # Errors
    /// If it is missing or not a socket that tokio can use.
    pub fn udp(&mut self, name: &str) -> Result<tokio::net::UdpSocket, SocketError> {
        let socket = UdpSocket::from(self.take(name)?);
        socket
            .set_nonblocking(true)
            .and_then(|()| tokio::net::UdpSocket::from_std(socket))
            .map_err(|source| SocketError::Setup { name: name.to_owned(), source })
    }

    /// Takes a TCP listener, non-blocking, registered with the runtime.
    ///
    /// # Errors
    /// If it is missing or not a socket that tokio can use.
    pub fn tcp(&mut self, name: &str) -> Result<tokio::net::TcpListener, SocketError> {
        let socket = TcpListener::from(self.take(name)?);
        socket
            .set_nonblocking(true)
            .and_then(|()| tokio::net::TcpListener::from_std(socket))
            .map_err(|source| SocketError::Setup { name: name.to_owned(), source })
    }

    pub(crate) fn bus(&mut self, service: &str) -> Result<tokio::net::UnixListener, SocketError> {
        let listener = if self.has(BUS) {
            UnixListener::from(self.take(BUS)?)
        } else {
            listen_on_path(portcullis_bus::socket_path(service))?
        };
        listener
            .set_nonblocking(true)
            .and_then(|()| tokio::net::UnixListener::from_std(listener))
            .map_err(|source| SocketError::Setup { name: BUS.to_owned(), source })
    }
}

/// Development only: in the appliance init makes every bus socket.
fn listen_on_path(path: PathBuf) -> Result<UnixListener, SocketError> {
    let make = || {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        Ok(listener)
    };
    make().map_err(|source| SocketError::Bind { path: path.clone(), source })
}

fn adopt(fd: RawFd) -> OwnedFd {
    // SAFETY: LISTEN_PID named this process, so the descriptor was passed for it to own, and it
    // is adopted once, before anything else in the process could have got the number.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

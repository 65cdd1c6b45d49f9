//! Sockets in namespaces.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result, ensure};
use portcullis_netns::Namespace;

use crate::{MOMENT, PATIENCE};

/// A UDP socket of a namespace.
///
/// # Errors
/// If the address is not to be had.
pub fn udp(namespace: &Namespace, address: impl Into<SocketAddr>) -> Result<UdpSocket> {
    let address = address.into();
    namespace.enter(|| {
        let socket = UdpSocket::bind(address).with_context(|| address.to_string())?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(socket)
    })
}

/// A TCP listener of a namespace.
///
/// # Errors
/// If the address is not to be had.
pub fn listen(namespace: &Namespace, address: impl Into<SocketAddr>) -> Result<TcpListener> {
    let address = address.into();
    namespace.enter(|| TcpListener::bind(address).with_context(|| address.to_string()))
}

/// A TCP connection from a namespace, with [`PATIENCE`] for all that is read and written.
///
/// # Errors
/// If nobody accepts it.
pub fn connect(namespace: &Namespace, to: impl Into<SocketAddr>) -> Result<TcpStream> {
    let to = to.into();
    namespace.enter(|| {
        let stream =
            TcpStream::connect_timeout(&to, PATIENCE).with_context(|| format!("to {to}"))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(stream)
    })
}

/// Sends from one socket to an address, and returns from where it came at the other socket; `None`
/// if it did not.
///
/// # Errors
/// If it cannot be sent.
pub fn reaches(
    from: &UdpSocket,
    to: impl Into<SocketAddr>,
    at: &UdpSocket,
) -> Result<Option<SocketAddr>> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let text = format!("datagram {}", COUNT.fetch_add(1, Ordering::Relaxed));
    from.send_to(text.as_bytes(), to.into())?;
    let mut buffer = [0; 64];
    at.set_read_timeout(Some(MOMENT))?;
    while let Ok((length, peer)) = at.recv_from(&mut buffer) {
        if buffer.get(..length) == Some(text.as_bytes()) {
            return Ok(Some(peer));
        }
    }
    Ok(None)
}

/// Connects over TCP, sends a byte each way; returns whom the listener saw.
///
/// # Errors
/// If that does not work.
pub fn connects(
    from: &Namespace,
    to: impl Into<SocketAddr>,
    listener: &TcpListener,
) -> Result<SocketAddr> {
    let mut client = connect(from, to)?;
    let (mut accepted, peer) = listener.accept()?;
    accepted.set_read_timeout(Some(PATIENCE))?;
    let mut byte = [0];
    client.write_all(b"q")?;
    accepted.read_exact(&mut byte)?;
    accepted.write_all(b"a")?;
    client.read_exact(&mut byte)?;
    ensure!(&byte == b"a");
    Ok(peer)
}

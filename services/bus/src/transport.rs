//! The server's end of a connection. It takes no message above a limit: zbus makes room for what a
//! header announces, up to 128 MiB, before anything of it has come, and a caller that was taken over
//! must not bring down PID 1 by that. Nor does it take descriptors, which no interface has as an
//! argument: those that come are closed by the kernel.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{BorrowedFd, OwnedFd},
    sync::Arc,
};

use async_trait::async_trait;
use rustix::net::{
    RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, Shutdown,
    recvmsg, sendmsg, shutdown,
};
use tokio::{io::Interest, net::UnixStream};
use zbus::{
    Message,
    connection::socket::{ReadHalf, Socket, Split, WriteHalf},
    fdo::ConnectionCredentials,
};

/// The part of a message that says how long it is (D-Bus specification, "Message Format").
const FIXED_HEADER: usize = 16;

/// A stream from a caller.
#[derive(Debug)]
pub(crate) struct Transport {
    /// The stream.
    pub(crate) stream: UnixStream,
    /// User id of the caller.
    pub(crate) uid: u32,
    /// Bytes of the longest message that is taken.
    pub(crate) longest: usize,
}

impl Socket for Transport {
    type ReadHalf = Bounded;
    type WriteHalf = Writer;

    fn split(self) -> Split<Bounded, Writer> {
        let Self { stream, uid, longest } = self;
        let stream = Arc::new(stream);
        let reader = Reader { stream: stream.clone(), uid };
        Split::new(Bounded { reader, longest }, Writer(stream))
    }
}

/// Looks at the announced length before zbus makes room for it.
#[derive(Debug)]
pub(crate) struct Bounded {
    reader: Reader,
    longest: usize,
}

#[async_trait]
impl ReadHalf for Bounded {
    async fn receive_message(
        &mut self,
        seq: u64,
        received: &mut Vec<u8>,
        received_fds: &mut Vec<OwnedFd>,
    ) -> zbus::Result<Message> {
        let mut part = [0; FIXED_HEADER];
        while received.len() < FIXED_HEADER {
            let missing = part.get_mut(received.len()..).unwrap_or_default();
            let (length, _) = self.reader.recvmsg(missing).await?;
            if length == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            received.extend_from_slice(missing.get(..length).unwrap_or_default());
        }
        match announced(received) {
            Some(length) if length <= self.longest => {
                self.reader.receive_message(seq, received, received_fds).await
            }
            length => {
                tracing::warn!(uid = self.reader.uid, length, "bus message refused");
                Err(zbus::Error::ExcessData)
            }
        }
    }

    async fn recvmsg(&mut self, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
        self.reader.recvmsg(buffer).await
    }

    fn can_pass_unix_fd(&self) -> bool {
        self.reader.can_pass_unix_fd()
    }

    async fn peer_credentials(&mut self) -> io::Result<ConnectionCredentials> {
        self.reader.peer_credentials().await
    }
}

/// Bytes of a message as its header announces them; none if it is no header.
fn announced(header: &[u8]) -> Option<usize> {
    let number = |at: usize| {
        let bytes: [u8; 4] = header.get(at..at + 4)?.try_into().ok()?;
        match header.first()? {
            b'l' => Some(u32::from_le_bytes(bytes)),
            b'B' => Some(u32::from_be_bytes(bytes)),
            _ => None,
        }
    };
    let body = usize::try_from(number(4)?).ok()?;
    let fields = usize::try_from(number(12)?).ok()?;
    FIXED_HEADER.checked_add(fields)?.checked_next_multiple_of(8)?.checked_add(body)
}

#[derive(Debug)]
struct Reader {
    stream: Arc<UnixStream>,
    uid: u32,
}

#[async_trait]
impl ReadHalf for Reader {
    async fn recvmsg(&mut self, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
        let read = || {
            let mut nothing = RecvAncillaryBuffer::default();
            let mut slices = [IoSliceMut::new(buffer)];
            let flags = RecvFlags::CMSG_CLOEXEC;
            Ok(recvmsg(&*self.stream, &mut slices, &mut nothing, flags)?.bytes)
        };
        let length = self.stream.async_io(Interest::READABLE, read).await?;
        Ok((length, Vec::new()))
    }

    /// Answers may have descriptors.
    fn can_pass_unix_fd(&self) -> bool {
        true
    }

    async fn peer_credentials(&mut self) -> io::Result<ConnectionCredentials> {
        Ok(ConnectionCredentials::default().set_unix_user_id(self.uid))
    }
}

#[derive(Debug)]
pub(crate) struct Writer(Arc<UnixStream>);

#[async_trait]
impl WriteHalf for Writer {
    async fn sendmsg(&mut self, buffer: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
        let write = || {
            let message = SendAncillaryMessage::ScmRights(fds);
            let mut space = vec![MaybeUninit::uninit(); message.size()];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !fds.is_empty() && !control.push(message) {
                return Err(io::Error::from(io::ErrorKind::InvalidInput));
            }
            let slices = [IoSlice::new(buffer)];
            Ok(sendmsg(&*self.0, &slices, &mut control, SendFlags::NOSIGNAL)?)
        };
        self.0.async_io(Interest::WRITABLE, write).await
    }

    async fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    async fn close(&mut self) -> io::Result<()> {
        Ok(shutdown(&*self.0, Shutdown::Both)?)
    }

    fn can_pass_unix_fd(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn length_is_that_of_header_fields_and_body() {
        let header = |order: u8, body: u32, fields: u32| {
            let bytes = if order == b'l' { u32::to_le_bytes } else { u32::to_be_bytes };
            [&[order, 1, 0, 1], &bytes(body)[..], &bytes(7), &bytes(fields)].concat()
        };
        for order in [b'l', b'B'] {
            assert_eq!(announced(&header(order, 0, 0)), Some(16));
            assert_eq!(announced(&header(order, 5, 1)), Some(29), "the body begins at 24");
            assert_eq!(announced(&header(order, u32::MAX, u32::MAX)), Some((1 << 32) * 2 + 15));
        }
        assert_eq!(announced(&header(b'x', 0, 0)), None);
        assert_eq!(announced(b"l"), None);
    }
}

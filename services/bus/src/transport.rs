//! The two ends of a connection, each of which thinks of the other as taken over: the caller of a
//! service, PID 1 among them, and the service that a caller asks.
//!
//! - No message above a limit is taken: zbus makes room for what a header announces, up to 128 MiB,
//!   before anything of it has come.
//! - The handshake is short and made of lines: zbus keeps what it gets without a line end, and
//!   panics at a line feed with nothing before it.
//! - A service takes only calls, and only so many of a user are under way, those counted whose
//!   answer the user does not read: zbus starts a task for each. Calls without an answer are
//!   refused, as nothing would count them.
//! - A caller takes only answers and signals. Descriptors, which no interface has as an argument,
//!   come with answers alone; others are closed by the kernel.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{BorrowedFd, OwnedFd},
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, Shutdown, recvmsg, sendmsg, shutdown,
};
use tokio::{
    io::Interest,
    net::UnixStream,
    sync::{OwnedSemaphorePermit, Semaphore},
};
use zbus::{
    Message,
    connection::socket::{ReadHalf, Socket, Split, WriteHalf},
    fdo::ConnectionCredentials,
    message::Type,
};

/// The part of a message that says how long it is (D-Bus specification, "Message Format").
const FIXED_HEADER: usize = 16;

/// Types of messages, and the flag of a call that wants no answer (same place).
const METHOD_CALL: u8 = 1;
const METHOD_RETURN: u8 = 2;
const ERROR: u8 = 3;
const SIGNAL: u8 = 4;
const NO_REPLY_EXPECTED: u8 = 1;

/// Bytes of the longest answer that a caller takes: 65,536 flows have some 20 MiB.
const LONGEST_ANSWER: usize = 64 << 20;

/// Descriptors of an answer: one, which is a capture's.
const MOST_DESCRIPTORS: usize = 4;

/// Most bytes of a handshake; that of zbus has some hundred.
const LONGEST_HANDSHAKE: usize = 4096;

/// A stream to a service.
#[derive(Debug)]
pub(crate) struct ToService(pub(crate) UnixStream);

impl Socket for ToService {
    type ReadHalf = Bounded;
    type WriteHalf = Writer;

    fn split(self) -> Split<Bounded, Writer> {
        let stream = Arc::new(self.0);
        let uid = stream.peer_cred().map_or(u32::MAX, |peer| peer.uid());
        let reader = Reader { stream: stream.clone(), uid, descriptors: Some(Vec::new()) };
        Split::new(Bounded::new(reader, LONGEST_ANSWER, None), Writer(stream))
    }
}

/// A stream from a caller.
#[derive(Debug)]
pub(crate) struct FromCaller {
    /// The stream.
    pub(crate) stream: UnixStream,
    /// User id of the caller.
    pub(crate) uid: u32,
    /// Bytes of the longest message that is taken.
    pub(crate) longest: usize,
    /// As many calls as this user may have under way, over all of its connections.
    pub(crate) calls: Arc<Semaphore>,
}

impl Socket for FromCaller {
    type ReadHalf = Bounded;
    type WriteHalf = Answering;

    fn split(self) -> Split<Bounded, Answering> {
        let Self { stream, uid, longest, calls } = self;
        let stream = Arc::new(stream);
        let reader = Reader { stream: stream.clone(), uid, descriptors: None };
        let calls = Arc::new(Calls { limit: calls, under_way: Mutex::default() });
        Split::new(
            Bounded::new(reader, longest, Some(calls.clone())),
            Answering { writer: Writer(stream), calls },
        )
    }
}

/// The calls of one connection that have no answer yet.
#[derive(Debug)]
struct Calls {
    limit: Arc<Semaphore>,
    under_way: Mutex<Vec<OwnedSemaphorePermit>>,
}

impl Calls {
    async fn begin(&self) {
        // The semaphore is never closed.
        if let Ok(permit) = self.limit.clone().acquire_owned().await {
            self.lock().push(permit);
        }
    }

    fn answered(&self) {
        drop(self.lock().pop());
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<OwnedSemaphorePermit>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The lines before the first message (D-Bus specification, "Authentication Protocol").
#[derive(Debug, Default)]
struct Handshake {
    length: usize,
    last: u8,
}

impl Handshake {
    /// How many of the bytes that came may be handed on: those up to the end of a line. What
    /// follows `BEGIN` may be a message, and only zbus knows whether it was at the right place.
    fn next(&mut self, bytes: &[u8]) -> Result<usize, &'static str> {
        for (at, &byte) in bytes.iter().enumerate() {
            self.length += 1;
            if self.length > LONGEST_HANDSHAKE {
                return Err("it is too long");
            }
            let before = std::mem::replace(&mut self.last, byte);
            match (before, byte) {
                (b'\r', b'\n') => return Ok(at + 1),
                (_, b'\n') => return Err("a line does not end with CR LF"),
                _ => {}
            }
        }
        Ok(bytes.len())
    }
}

/// Looks at what comes before zbus does.
#[derive(Debug)]
pub(crate) struct Bounded {
    reader: Reader,
    longest: usize,
    handshake: Handshake,
    /// What came behind the line of the handshake that zbus has.
    held: Vec<u8>,
    /// Of a service; a caller has none, as it takes no calls.
    calls: Option<Arc<Calls>>,
}

impl Bounded {
    fn new(reader: Reader, longest: usize, calls: Option<Arc<Calls>>) -> Self {
        Self { reader, longest, handshake: Handshake::default(), held: Vec::new(), calls }
    }
}

#[async_trait]
impl ReadHalf for Bounded {
    async fn receive_message(
        &mut self,
        seq: u64,
        received: &mut Vec<u8>,
        received_fds: &mut Vec<OwnedFd>,
    ) -> zbus::Result<Message> {
        received.append(&mut self.held);
        let mut part = [0; FIXED_HEADER];
        while received.len() < FIXED_HEADER {
            let missing = part.get_mut(received.len()..).unwrap_or_default();
            let (length, descriptors) = self.reader.recvmsg(missing).await?;
            self.reader.keep(descriptors);
            if length == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            received.extend_from_slice(missing.get(..length).unwrap_or_default());
        }
        let length = announced(received);
        let fits = if self.calls.is_some() { is_call(received) } else { is_answer(received) };
        if !fits || length.is_none_or(|length| length > self.longest) {
            tracing::warn!(uid = self.reader.uid, length, "bus message refused");
            return Err(zbus::Error::ExcessData);
        }
        if let Some(calls) = &self.calls {
            calls.begin().await;
        }
        self.reader.receive_message(seq, received, received_fds).await
    }

    /// Reads for the handshake: messages are read by the reader itself.
    async fn recvmsg(&mut self, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
        if self.held.is_empty() {
            let mut part = [0; 512];
            let (length, _) = self.reader.recvmsg(&mut part).await?;
            self.held.extend_from_slice(part.get(..length).unwrap_or_default());
        }
        let room = self.held.get(..buffer.len()).unwrap_or(&self.held);
        let length = self.handshake.next(room).map_err(|what| {
            tracing::warn!(uid = self.reader.uid, what, "bus handshake refused");
            io::Error::new(io::ErrorKind::InvalidData, what)
        })?;
        for (place, byte) in buffer.iter_mut().zip(self.held.drain(..length)) {
            *place = byte;
        }
        Ok((length, Vec::new()))
    }

    fn can_pass_unix_fd(&self) -> bool {
        self.reader.can_pass_unix_fd()
    }

    async fn peer_credentials(&mut self) -> io::Result<ConnectionCredentials> {
        self.reader.peer_credentials().await
    }
}

/// Whether a header is that of a call that is to be answered.
fn is_call(header: &[u8]) -> bool {
    matches!(header, [_, METHOD_CALL, flags, ..] if flags & NO_REPLY_EXPECTED == 0)
}

/// Whether a header is that of something that a caller may hear.
fn is_answer(header: &[u8]) -> bool {
    matches!(header, [_, METHOD_RETURN | ERROR | SIGNAL, ..])
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
    /// Those that came with a header, for the rest of its message; none if they are not taken.
    descriptors: Option<Vec<OwnedFd>>,
}

impl Reader {
    fn keep(&mut self, descriptors: Vec<OwnedFd>) {
        if let Some(kept) = &mut self.descriptors {
            kept.extend(descriptors);
        }
    }
}

#[async_trait]
impl ReadHalf for Reader {
    async fn recvmsg(&mut self, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
        let mut descriptors = self.descriptors.as_mut().map(std::mem::take);
        let read = || {
            let mut space =
                [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
            let mut control = match descriptors {
                Some(_) => RecvAncillaryBuffer::new(&mut space),
                None => RecvAncillaryBuffer::default(),
            };
            let mut slices = [IoSliceMut::new(buffer)];
            let flags = RecvFlags::CMSG_CLOEXEC;
            let length = recvmsg(&*self.stream, &mut slices, &mut control, flags)?.bytes;
            for message in control.drain() {
                if let (RecvAncillaryMessage::ScmRights(rights), Some(all)) =
                    (message, &mut descriptors)
                {
                    all.extend(rights);
                }
            }
            Ok(length)
        };
        let length = self.stream.async_io(Interest::READABLE, read).await?;
        Ok((length, descriptors.unwrap_or_default()))
    }

    /// Answers may have descriptors.
    fn can_pass_unix_fd(&self) -> bool {
        true
    }

    async fn peer_credentials(&mut self) -> io::Result<ConnectionCredentials> {
        Ok(ConnectionCredentials::default().set_unix_user_id(self.uid))
    }
}

/// Counts answers. One that cannot be written ends its call as well.
#[derive(Debug)]
pub(crate) struct Answering {
    writer: Writer,
    calls: Arc<Calls>,
}

#[async_trait]
impl WriteHalf for Answering {
    async fn send_message(&mut self, message: &Message) -> zbus::Result<()> {
        let sent = self.writer.send_message(message).await;
        if matches!(message.message_type(), Type::MethodReturn | Type::Error) {
            self.calls.answered();
        }
        sent
    }

    async fn sendmsg(&mut self, buffer: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
        self.writer.sendmsg(buffer, fds).await
    }

    async fn flush(&mut self) -> io::Result<()> {
        self.writer.flush().await
    }

    async fn close(&mut self) -> io::Result<()> {
        self.writer.close().await
    }

    fn can_pass_unix_fd(&self) -> bool {
        self.writer.can_pass_unix_fd()
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

    #[test]
    fn services_take_calls_with_an_answer_and_callers_what_follows() {
        assert!(is_call(b"l\x01\x00\x01") && is_call(b"B\x01\x04\x01"));
        // Without an answer; an answer; a signal; not even a header.
        for header in [&b"l\x01\x01\x01"[..], b"l\x02\x00\x01", b"l\x04\x00\x01", b"l\x01"] {
            assert!(!is_call(header), "{header:?}");
        }
        for (kind, fits) in [(0, false), (1, false), (2, true), (3, true), (4, true), (5, false)] {
            assert_eq!(is_answer(&[b'l', kind, 0, 1]), fits, "{kind}");
        }
    }

    #[test]
    fn a_handshake_is_handed_on_line_by_line() {
        let mut handshake = Handshake::default();
        let mut held = b"\0AUTH EXTERNAL 30\r\nBEGIN\r\nl\x01\n".to_vec();
        let mut lines = Vec::new();
        for _ in 0..2 {
            let length = handshake.next(&held).unwrap();
            lines.push(held.drain(..length).collect::<Vec<u8>>());
        }
        assert_eq!(lines, [&b"\0AUTH EXTERNAL 30\r\n"[..], b"BEGIN\r\n"]);
        // In pieces as well.
        assert_eq!(Handshake { length: 0, last: b'\r' }.next(b"\nx"), Ok(1));
        for wrong in [&b"\n"[..], b"\0\n", b"AUTH\n"] {
            assert!(Handshake::default().next(wrong).is_err(), "{wrong:?}");
        }
        assert!(handshake.next(&[b'x'; LONGEST_HANDSHAKE]).is_err(), "too long as a whole");
    }
}

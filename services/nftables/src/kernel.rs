//! The socket to the kernel: nothing but sending and receiving.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use nix::{
    errno::Errno,
    sys::{
        socket::{
            AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv,
            send, setsockopt, socket, sockopt,
        },
        time::TimeVal,
    },
};

use crate::{
    conntrack::{self, Flow, Setting},
    netlink::{
        self, Batch, EncodeError,
        answer::{self, Answer, answers},
    },
    ruleset::{Counter, Table},
};

/// Longest datagram of answers; the kernel fills lists up to 32 KiB.
const DATAGRAM: usize = 64 * 1024;
/// Seconds to wait for the next part of an answer.
const PATIENCE_S: i64 = 10;
/// Times that a list is asked for again because it changed meanwhile.
const ATTEMPTS: u32 = 8;

/// Why the kernel did not do it.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The table cannot be written down.
    #[error("the ruleset: {0}")]
    Encode(#[from] EncodeError),
    /// The socket.
    #[error("netfilter's netlink socket: {0}")]
    Socket(#[from] io::Error),
    /// The kernel refused a transaction; nothing of it is in force.
    #[error("the kernel refuses {what} ({}); the ruleset stays as it was", io::Error::from_raw_os_error(*error))]
    Refused {
        /// What it refused.
        what: String,
        /// `errno`.
        error: i32,
    },
    /// A setting.
    #[error("/proc/sys/{path}: {error}")]
    Setting {
        /// Path below `/proc/sys`.
        path: &'static str,
        /// What the kernel says.
        error: io::Error,
    },
    /// The kernel did not confirm a transaction.
    #[error("the kernel gave no answer to the ruleset")]
    Unconfirmed,
    /// The kernel could not list something.
    #[error("the kernel could not list {what} ({})", io::Error::from_raw_os_error(*error))]
    List {
        /// What.
        what: &'static str,
        /// `errno`.
        error: i32,
    },
}

impl From<Errno> for KernelError {
    fn from(error: Errno) -> Self {
        Self::Socket(error.into())
    }
}

/// The kernel's netfilter. Needs `CAP_NET_ADMIN`.
#[derive(Debug)]
pub struct Netfilter {
    socket: OwnedFd,
}

impl Netfilter {
    /// Opens the socket.
    ///
    /// # Errors
    /// The kernel has no nfnetlink.
    pub fn open() -> Result<Self, KernelError> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkNetFilter,
        )?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        // The kernel answers at once; without an answer nobody must wait for ever.
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(PATIENCE_S, 0))?;
        Ok(Self { socket })
    }

    /// Puts `table` in the place of the one of its name. Counters stay and go on from where they
    /// are.
    ///
    /// # Errors
    /// See [`KernelError`]; the old table is in force then.
    pub fn replace(&self, mut table: Table) -> Result<(), KernelError> {
        for known in self.counters(&table.name)? {
            match table.counters.iter_mut().find(|counter| counter.name == known.name) {
                Some(counter) => *counter = known,
                // Nothing counts into it any more, but it has been counted.
                None => table.counters.push(known),
            }
        }
        self.commit(&netlink::replace(&table)?)
    }

    /// Removes the table `name`, if there is one.
    ///
    /// # Errors
    /// See [`KernelError`].
    pub fn delete(&self, name: &str) -> Result<(), KernelError> {
        self.commit(&netlink::delete(name)?)
    }

    /// Does a transaction, whole or not at all.
    ///
    /// # Errors
    /// See [`KernelError`].
    pub fn commit(&self, batch: &Batch) -> Result<(), KernelError> {
        // A batch is one datagram, and must fit the socket's buffer; beyond the system's limit
        // for that only with the capability that is needed anyway.
        setsockopt(&self.socket, sockopt::SndBufForce, &(batch.bytes.len() * 2 + DATAGRAM))?;
        self.drain();
        send(self.socket.as_raw_fd(), &batch.bytes, MsgFlags::empty())?;
        // The kernel has done it all, and queued its answers, when `send` returns.
        let mut confirmed = false;
        let mut buffer = vec![0; DATAGRAM];
        loop {
            let length = match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(length) => length,
                // So many complaints that not all found room; the first are there.
                Err(Errno::EINTR | Errno::ENOBUFS) => continue,
                Err(Errno::EAGAIN) => break,
                Err(error) => return Err(error.into()),
            };
            for answer in answers(buffer.get(..length).unwrap_or_default()) {
                if let Answer::Outcome { sequence, error } = answer {
                    if error != 0 {
                        return Err(KernelError::Refused { what: what(batch, sequence), error });
                    }
                    confirmed = true;
                }
            }
        }
        if confirmed { Ok(()) } else { Err(KernelError::Unconfirmed) }
    }

    /// The named counters of a table; none if there is no such table.
    ///
    /// # Errors
    /// See [`KernelError`].
    pub fn counters(&self, table: &str) -> Result<Vec<Counter>, KernelError> {
        let question = netlink::list_counters(table)?;
        self.list("counters", &question, answer::counter)
    }

    /// Goes through all tracked connections.
    ///
    /// # Errors
    /// See [`KernelError`].
    pub fn each_flow(&self, mut visit: impl FnMut(Flow)) -> Result<(), KernelError> {
        // A list of a million is not kept, and one that changes meanwhile is the rule.
        self.walk("connections", &conntrack::list()?, &mut |entry| {
            if let Some(flow) = conntrack::flow(entry) {
                visit(flow);
            }
        })
        .map(drop)
    }

    /// Forgets the connections that `which` says; returns how many there were.
    ///
    /// # Errors
    /// See [`KernelError`].
    pub fn forget(&self, which: impl Fn(&Flow) -> bool) -> Result<u64, KernelError> {
        let mut chosen = Vec::new();
        self.each_flow(|flow| {
            if which(&flow) {
                chosen.push(flow);
            }
        })?;
        let mut forgotten = 0;
        for flow in chosen {
            match self.order(&conntrack::delete(&flow)?)? {
                0 => forgotten += 1,
                // It ended by itself meanwhile.
                error if Errno::from_raw(error) == Errno::ENOENT => {}
                error => return Err(KernelError::List { what: "connections", error }),
            }
        }
        Ok(forgotten)
    }

    /// Sends an order and returns the number of the error, or 0.
    fn order(&self, message: &[u8]) -> Result<i32, KernelError> {
        self.drain();
        send(self.socket.as_raw_fd(), message, MsgFlags::empty())?;
        let mut buffer = vec![0; DATAGRAM];
        loop {
            let length = self.receive(&mut buffer)?;
            for answer in answers(buffer.get(..length).unwrap_or_default()) {
                if let Answer::Outcome { error, .. } = answer {
                    return Ok(error);
                }
            }
        }
    }

    fn receive(&self, buffer: &mut [u8]) -> Result<usize, KernelError> {
        loop {
            match recv(self.socket.as_raw_fd(), buffer, MsgFlags::empty()) {
                Err(Errno::EINTR) => {}
                other => return Ok(other?),
            }
        }
    }

    /// Asks for a list and reads its entries; what `read` makes nothing of is left out.
    fn list<T>(
        &self,
        what: &'static str,
        question: &[u8],
        read: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>, KernelError> {
        for _ in 0..ATTEMPTS {
            let mut list = Vec::new();
            if self.walk(what, question, &mut |entry| list.extend(read(entry)))? {
                return Ok(list);
            }
        }
        Err(KernelError::List { what, error: Errno::EAGAIN as i32 })
    }

    /// Asks for a list and shows its entries; whether it did not change meanwhile.
    fn walk(
        &self,
        what: &'static str,
        question: &[u8],
        visit: &mut dyn FnMut(&[u8]),
    ) -> Result<bool, KernelError> {
        self.drain();
        send(self.socket.as_raw_fd(), question, MsgFlags::empty())?;
        let mut buffer = vec![0; DATAGRAM];
        let mut steady = true;
        loop {
            let length = self.receive(&mut buffer)?;
            for answer in answers(buffer.get(..length).unwrap_or_default()) {
                match answer {
                    Answer::Entry { content, interrupted } => {
                        steady &= !interrupted;
                        visit(content);
                    }
                    Answer::Done { error: 0, interrupted } => return Ok(steady && !interrupted),
                    Answer::Done { error, .. } | Answer::Outcome { error, .. } => {
                        return match Errno::from_raw(error) {
                            // There is no such table.
                            Errno::ENOENT => Ok(true),
                            _ => Err(KernelError::List { what, error }),
                        };
                    }
                }
            }
        }
    }

    /// Throws away answers that an earlier failure left behind.
    fn drain(&self) {
        let mut buffer = [0; 4096];
        loop {
            match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(_) | Err(Errno::EINTR | Errno::ENOBUFS) => {}
                Err(_) => return,
            }
        }
    }
}

/// Puts a setting into force, unless it is already. Needs `CAP_NET_ADMIN`.
///
/// # Errors
/// With the path, if it cannot be written.
pub fn write_setting(setting: &Setting) -> Result<(), KernelError> {
    let path = std::path::Path::new("/proc/sys").join(setting.path);
    let value = setting.value.to_string();
    if std::fs::read_to_string(&path).is_ok_and(|now| now.trim() == value) {
        return Ok(());
    }
    match std::fs::write(&path, value) {
        Err(error) if setting.needed => Err(KernelError::Setting { path: setting.path, error }),
        Err(error) => {
            tracing::debug!(setting = setting.path, %error, "left as it is");
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

fn what(batch: &Batch, sequence: u32) -> String {
    match usize::try_from(sequence).ok().and_then(|index| batch.contents.get(index)) {
        // The kernel answers by the first message if it refuses the whole.
        Some(text) if !text.is_empty() => text.clone(),
        _ => "the ruleset as a whole".to_owned(),
    }
}

//! What the core wants done.

use std::{fmt, net::Ipv4Addr};

use portcullis_model::{MacAddress, Name};

use super::{HardwareAddress, LeaseRecord, Malformed};

/// Something for the shell to do. The order counts: what is to be saved before a reply was
/// returned before it, and must be on disk before the reply is sent (RFC 2131 section 4.3.1).
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Action {
    /// Put this lease on disk, in place of what was there for its address.
    Save(LeaseRecord),
    /// Remove what is on disk for this address.
    Forget(Ipv4Addr),
    /// Send a message.
    Send(Outgoing),
    /// Ask by ARP whether somebody uses `address`; an answer goes to `Server::in_use`.
    Probe {
        /// Interface of the subnet.
        interface: Name,
        /// Address in question.
        address: Ipv4Addr,
    },
    /// Tell those who follow the leases.
    Changed,
    /// Write to the log.
    Notice(Notice),
}

/// A message to be sent from port 67.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Outgoing {
    /// Interface to send on.
    pub interface: Name,
    /// Source address, our server identifier.
    pub source: Ipv4Addr,
    /// Where to.
    pub to: Destination,
    /// UDP payload.
    pub payload: Vec<u8>,
}

/// Where a reply goes (RFC 2131 section 4.1).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Destination {
    /// A relay agent, port 67.
    Relay(Ipv4Addr),
    /// A client that has its address, port 68.
    Unicast(Ipv4Addr),
    /// A client that does not answer ARP yet: a frame to `mac`, addressed to `address`, port 68.
    Frame {
        /// Hardware address.
        mac: MacAddress,
        /// The address that it is being given.
        address: Ipv4Addr,
    },
    /// Everybody on the link, port 68.
    Broadcast,
}

/// How much a notice matters.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Level {
    /// A person should look.
    Warn,
    /// What happens in normal operation.
    Info,
    /// Of interest to somebody who looks for an error.
    Debug,
}

/// Something for the log.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Notice {
    /// No address is left; said at most once a minute for an interface.
    Exhausted {
        /// Interface.
        interface: Name,
    },
    /// Somebody uses an address that we have not given to him.
    Conflict {
        /// Address, set aside for a while.
        address: Ipv4Addr,
        /// Who answered; none if the client found it out itself (DHCPDECLINE).
        by: Option<MacAddress>,
    },
    /// The address reserved for a client cannot be given to it.
    ReservationTaken {
        /// Reserved address.
        address: Ipv4Addr,
        /// Client that it is reserved for.
        hardware: HardwareAddress,
    },
    /// A client that wants what it cannot have was told so (DHCPNAK).
    Refused {
        /// What it wanted.
        address: Ipv4Addr,
        /// Client.
        hardware: HardwareAddress,
        /// Why not.
        reason: &'static str,
    },
    /// A lease was given to a client that did not have it.
    Bound {
        /// Address.
        address: Ipv4Addr,
        /// Client.
        hardware: HardwareAddress,
    },
    /// A datagram was not understood.
    Malformed(Malformed),
    /// A message was not for us, or there was nothing to say to it.
    Ignored(&'static str),
    /// The wall clock jumped; the stamps on disk are rewritten.
    ClockSet,
}

impl Notice {
    /// How much it matters.
    pub fn level(&self) -> Level {
        match self {
            Self::Exhausted { .. } | Self::Conflict { .. } | Self::ReservationTaken { .. } => {
                Level::Warn
            }
            Self::Bound { .. } | Self::Refused { .. } | Self::ClockSet => Level::Info,
            Self::Malformed(_) | Self::Ignored(_) => Level::Debug,
        }
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exhausted { interface } => {
                write!(f, "no address left in the pool of {interface}: new clients get no answer")
            }
            Self::Conflict { address, by: Some(mac) } => {
                write!(f, "{address} is in use by {mac} without a lease; set aside")
            }
            Self::Conflict { address, by: None } => {
                write!(f, "{address} was declined, somebody else uses it; set aside")
            }
            Self::ReservationTaken { address, hardware } => {
                write!(
                    f,
                    "{address}, reserved for {hardware}, is in use by another; it gets one of the pool"
                )
            }
            Self::Refused { address, hardware, reason } => {
                write!(f, "{hardware} cannot have {address}: {reason}")
            }
            Self::Bound { address, hardware } => write!(f, "{address} leased to {hardware}"),
            Self::Malformed(error) => write!(f, "datagram dropped: {error}"),
            Self::Ignored(reason) => write!(f, "message ignored: {reason}"),
            Self::ClockSet => f.write_str("the clock was set; end times on disk are rewritten"),
        }
    }
}

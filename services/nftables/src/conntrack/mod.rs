//! Flows as the kernel's connection tracking has them, and its settings. Pure.

mod message;
mod settings;

use std::net::SocketAddr;

use portcullis_model::Timeouts;

pub use message::{delete, flow, list};
pub use settings::{Setting, settings};

/// A tracked connection.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Flow {
    /// IP protocol.
    pub protocol: u8,
    /// Who began it; the port is the query's id for ICMP, and 0 without either.
    pub source: SocketAddr,
    /// Whom it addressed.
    pub destination: SocketAddr,
    /// The source as the other end sees it.
    pub translated_source: SocketAddr,
    /// The other end itself; differs from `destination` where that was translated.
    pub translated_destination: SocketAddr,
    /// How far it is.
    pub state: State,
    /// Sent by who began it.
    pub out: Traffic,
    /// Sent to who began it.
    pub back: Traffic,
    /// Seconds until it is forgotten if nothing more comes.
    pub expires_s: u32,
    /// The original direction as the kernel wrote it, to name the connection to it.
    tuple: Vec<u8>,
    /// The kernel's number of it.
    id: u32,
}

/// How far a connection is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum State {
    /// TCP before the handshake is complete.
    New,
    /// Nothing has come back yet.
    Unreplied,
    /// Traffic both ways.
    Established,
    /// TCP after a FIN or RST.
    Closing,
}

impl State {
    /// Its name on the bus.
    pub const fn name(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Unreplied => "unreplied",
            Self::Established => "established",
            Self::Closing => "closing",
        }
    }
}

/// Packets and bytes (layer 3).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Traffic {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// IP protocols.
const ICMP: u8 = 1;
const TCP: u8 = 6;
const ICMPV6: u8 = 58;

impl Flow {
    /// Seconds without a packet after which it is forgotten, by its state.
    pub const fn timeout_s(&self, timeouts: &Timeouts) -> u32 {
        match (self.protocol, self.state) {
            (TCP, State::Established) => timeouts.tcp_established_s,
            (TCP, _) => timeouts.tcp_transitory_s,
            (ICMP | ICMPV6, _) => timeouts.icmp_s,
            (_, State::Established) => timeouts.udp_s,
            _ => timeouts.udp_unreplied_s,
        }
    }

    /// Seconds since its last packet.
    pub const fn idle_s(&self, timeouts: &Timeouts) -> u32 {
        self.timeout_s(timeouts).saturating_sub(self.expires_s)
    }
}

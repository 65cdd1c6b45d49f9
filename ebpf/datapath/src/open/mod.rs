//! Packets of no known flow: what the policy allows opens one. A UDP datagram is then sent on at once, any
//! other packet starts over and finds its flow.
//!
//! 1. [`open4`], [`open6`]: who it is from and for, and the way there. They fill in the [`Candidate`].
//! 2. `rule`: what the policy says.
//! 3. [`create4`], [`create6`]: translation, and the flow.
//!
//! Each is a program of its own in the kernel, where a stack has 512 bytes.

mod candidate;
mod create;
mod path;
mod router;
mod rule;
mod v4;
mod v6;

use portcullis_datapath_abi::{Counter, guard::FloodClass};

use crate::{Frame, Kind, Verdict, packet::tcp};

pub(crate) use candidate::IPV6;
pub use candidate::{Candidate, CandidateTables};
pub use create::{create4, create6};
pub use path::{PATHS, Path};
pub(crate) use router::{
    dhcp_client_keys, dhcp6_client_key, is_dhcp_request, is_dhcp6_request, service_of,
};
pub use rule::rule;
pub(crate) use v4::is_group;
pub use v4::open4;
pub(crate) use v6::is_group as is_group6;
pub use v6::open6;

/// Whether a packet may be the first of a flow.
#[inline(always)]
pub(crate) fn opens(kind: Kind, tcp_flags: u8) -> Result<(), Counter> {
    match kind {
        Kind::Udp | Kind::EchoRequest | Kind::Other => Ok(()),
        Kind::Tcp => {
            let flags = tcp_flags & (tcp::SYN | tcp::ACK | tcp::RST | tcp::FIN);
            if flags == tcp::SYN { Ok(()) } else { Err(Counter::DropTcpState) }
        }
        Kind::EchoReply | Kind::IcmpError | Kind::IcmpOther | Kind::Link => Err(Counter::DropIcmp),
        Kind::Fragment => Err(Counter::DropFragment),
    }
}

/// Whether a packet is a TCP reset that acknowledges nothing: what a client answers to a SYN-ACK
/// that it did not expect.
#[inline(always)]
pub(crate) fn is_reset(kind: Kind, tcp_flags: u8) -> bool {
    let flags = tcp_flags & (tcp::SYN | tcp::ACK | tcp::RST | tcp::FIN);
    matches!(kind, Kind::Tcp) && flags == tcp::RST
}

/// Whether XDP leaves a packet to tcx by this verdict, which asks about it as if nobody had: it counts there.
#[inline(always)]
fn is_left_to_tcx(verdict: &Verdict<'_>) -> bool {
    matches!(verdict, Verdict::Kernel(_) | Verdict::Answer(_))
}

/// What a first packet counts as in the limits of floods.
#[inline(always)]
pub(crate) fn flood_class(kind: Kind) -> Option<FloodClass> {
    match kind {
        Kind::Tcp => Some(FloodClass::Syn),
        Kind::Udp => Some(FloodClass::Udp),
        Kind::EchoRequest | Kind::EchoReply | Kind::IcmpError | Kind::IcmpOther => {
            Some(FloodClass::Icmp)
        }
        Kind::Link | Kind::Other | Kind::Fragment => None,
    }
}

/// Link-layer source of a frame; zeros if it is cut short.
#[inline(always)]
pub(crate) fn link_source<F: Frame>(frame: &F) -> [u8; 6] {
    let (Some(low), Some(high)) = (frame.u16(6), frame.u32(8)) else {
        return [0; 6];
    };
    let ([a, b], [c, d, e, f]) = (low.to_ne_bytes(), high.to_ne_bytes());
    [a, b, c, d, e, f]
}

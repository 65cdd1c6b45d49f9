//! What is to happen to a packet.

use portcullis_datapath_abi::Counter;

use crate::{FlowRef, Kind};

/// A decision. The packet is unchanged until [`crate::rewrite`] carries out the edit.
#[derive(Clone, Copy, Debug)]
pub enum Verdict<'a> {
    /// On through the kernel's own stack, unmodified.
    Kernel(Counter),
    /// On through the kernel's own stack, translated.
    Translate(Counter, Edit<'a>),
    /// Out by another interface, translated, TTL decremented.
    Forward(Counter, Edit<'a>, Hop),
    /// Dropped without an answer.
    Drop(Counter),
}

/// What to change: the packet's addresses and ports, or, if it is an ICMP error, its addresses and
/// those of the packet that it quotes. Small on purpose: it lives on the stack of the kernel's
/// program, which is short.
#[derive(Clone, Copy, Debug)]
pub struct Edit<'a> {
    /// The flow, in the direction that the packet travels in.
    pub flow: FlowRef<'a>,
    /// The packet's kind.
    pub kind: Kind,
    /// The packet's TTL.
    pub ttl: u8,
    /// Protocol of the flow.
    pub protocol: u8,
    /// Length of the datagram in bytes.
    pub length: u16,
}

/// Where to send.
#[derive(Clone, Copy, Debug)]
pub struct Hop {
    /// Device.
    pub egress: u32,
    /// Address of the next hop, which the kernel is to resolve; 0: the MAC addresses cached in the
    /// flow are good.
    pub next_hop: u32,
}

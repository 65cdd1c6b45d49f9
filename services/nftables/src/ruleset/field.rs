//! What of a packet, its connection or its route is compared.

/// A field.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Field {
    /// `iifname`: the device that it came by.
    InputName,
    /// `oifname`: the device that it leaves by.
    OutputName,
    /// `meta iiftype`: kind of the device that it came by (`ARPHRD_*`).
    InputType,
    /// `meta nfproto`: IPv4 (2) or IPv6 (10).
    Family,
    /// `meta l4proto`: protocol, behind all IPv6 extension headers.
    Protocol,
    /// `ip saddr`.
    Source4,
    /// `ip daddr`.
    Destination4,
    /// `ip6 saddr`.
    Source6,
    /// `ip6 daddr`.
    Destination6,
    /// `ether saddr`.
    SourceMac,
    /// `th sport`: source port of TCP, UDP and others that have it there.
    SourcePort,
    /// `th dport`.
    DestinationPort,
    /// `icmp type`.
    IcmpType,
    /// `icmp code`.
    IcmpCode,
    /// `icmpv6 type`.
    Icmpv6Type,
    /// `icmpv6 code`.
    Icmpv6Code,
    /// `tcp flags`.
    TcpFlags,
    /// `rt type`: of IPv6's routing header; without one nothing matches.
    RoutingType,
    /// `rt seg-left`: how many addresses of the routing header are still to be visited.
    SegmentsLeft,
    /// `ct state`, bits of [`ct_state`].
    State,
    /// `ct status`, bits of [`ct_status`].
    Status,
    /// `ip6 saddr & ffff:ffff:ffff:ffff::`: the network that a host is in; only to keep account.
    SourceNetwork6,
    /// `meta pkttype`: to whom the frame was sent (`PACKET_*`).
    Cast,
    /// `ct mark`.
    Mark,
    /// `ct original ip daddr`: where the first packet was sent.
    OriginalDestination4,
}

/// Bits of `ct state`.
pub mod ct_state {
    /// Belongs to no connection and cannot begin one.
    pub const INVALID: u32 = 1;
    /// Of a connection that was answered.
    pub const ESTABLISHED: u32 = 2;
    /// ICMP error about a connection.
    pub const RELATED: u32 = 4;
    /// First packet of a connection.
    pub const NEW: u32 = 8;
    /// Not followed: neighbour discovery.
    pub const UNTRACKED: u32 = 64;
}

/// Bits of `ct status`.
pub mod ct_status {
    /// The destination was translated.
    pub const DNAT: u32 = 32;
}

/// Bits of `tcp flags`.
pub mod tcp_flag {
    /// SYN.
    pub const SYN: u8 = 2;
    /// RST.
    pub const RST: u8 = 4;
}

impl Field {
    /// As nft writes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::InputName => "iifname",
            Self::OutputName => "oifname",
            Self::InputType => "meta iiftype",
            Self::Family => "meta nfproto",
            Self::Protocol => "meta l4proto",
            Self::Source4 => "ip saddr",
            Self::Destination4 => "ip daddr",
            Self::Source6 => "ip6 saddr",
            Self::Destination6 => "ip6 daddr",
            Self::SourceMac => "ether saddr",
            Self::SourcePort => "th sport",
            Self::DestinationPort => "th dport",
            Self::IcmpType => "icmp type",
            Self::IcmpCode => "icmp code",
            Self::Icmpv6Type => "icmpv6 type",
            Self::Icmpv6Code => "icmpv6 code",
            Self::TcpFlags => "tcp flags",
            Self::RoutingType => "rt type",
            Self::SegmentsLeft => "rt seg-left",
            Self::State => "ct state",
            Self::Status => "ct status",
            Self::SourceNetwork6 => "ip6 saddr & ffff:ffff:ffff:ffff::",
            Self::Cast => "meta pkttype",
            Self::Mark => "ct mark",
            Self::OriginalDestination4 => "ct original ip daddr",
        }
    }

    /// The bits that it has, with their names in nft.
    pub const fn bits(self) -> &'static [(u32, &'static str)] {
        match self {
            Self::State => &[
                (ct_state::INVALID, "invalid"),
                (ct_state::ESTABLISHED, "established"),
                (ct_state::RELATED, "related"),
                (ct_state::NEW, "new"),
                (ct_state::UNTRACKED, "untracked"),
            ],
            Self::Status => &[(ct_status::DNAT, "dnat")],
            _ => &[],
        }
    }
}

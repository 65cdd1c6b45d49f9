//! What happened to packets, by reason.

/// One cell of a per-CPU counter.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// Bytes from the network header on.
    pub bytes: u64,
}

macro_rules! counters {
    ($($(#[$meta:meta])* $Variant:ident = $name:literal, $description:literal;)*) => {
        /// Why a packet took the way it took; index into the counters.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
        pub enum Counter {
            $(#[doc = $description] $Variant,)*
        }

        impl Counter {
            /// All, in the order of their index.
            pub const ALL: &'static [Self] = &[$(Self::$Variant,)*];

            /// Name on the bus.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$Variant => $name,)* }
            }

            /// One sentence for people.
            pub const fn description(self) -> &'static str {
                match self { $(Self::$Variant => $description,)* }
            }
        }
    };
}

counters! {
    Forwarded = "forwarded", "Packets of flows, sent on to another interface.";
    ForwardedIcmpError = "forwarded.icmp-error", "ICMP errors about a flow, sent on to its other end.";
    Service = "router.service", "Packets to a service of the router that the zone may reach.";
    RouterFlow = "router.flow", "Packets of the router's own flows, received.";
    RouterIcmpError = "router.icmp-error", "ICMP errors about the router's own flows.";
    RouterSent = "router.sent", "Packets of the router itself, sent.";
    RouterAnswers = "router.answers", "Answers of the router to packets that it dropped: ICMP errors, TCP resets.";
    FragmentHeld = "fragment.held", "Fragments that came before the first one of their datagram and were held.";
    FragmentCut = "fragment.cut", "Datagrams larger than the next link that were cut; their parts come in as fragments.";
    FragmentReleased = "fragment.released", "First fragments that others had waited for; they come in once more.";
    LinkLayer = "kernel.link-layer", "ARP, IPv6 neighbour discovery and frames that are not IP, handed to the kernel.";
    DropPolicy = "drop.policy", "No policy allows the flow, or the zone may not reach the router's service.";
    DropRateLimit = "drop.rate-limit", "The rule that lets the flow in has let in too many a second.";
    DropConnections = "drop.connections", "The source has as many flows under the rule that lets it in as it may.";
    DropInterface = "drop.interface", "The interface is not known to the firewall (yet).";
    DropMalformed = "drop.malformed", "Headers contradict themselves or are cut short.";
    DropMartian = "drop.martian", "Source or destination address that cannot be on this interface.";
    DropOptions = "drop.ip-options", "IPv4 options are not supported.";
    DropExtension = "drop.ipv6-extension", "IPv6 extension headers that are refused: routing type 0, out of order, too many or too long.";
    DropFragment = "drop.fragment", "Fragment that cannot be held until the first one of its datagram comes, or whose first one did not pass.";
    DropFragmentOverlap = "drop.fragment-overlap", "Fragment that overlaps what has passed of its datagram.";
    DropMulticast = "drop.multicast", "Multicast and broadcast that no service of the router takes.";
    DropTcpState = "drop.tcp-state", "TCP segment that belongs to no flow and does not open one.";
    DropTcpWindow = "drop.tcp-window", "TCP segment outside the window of its connection.";
    DropIcmp = "drop.icmp", "ICMP message that is neither a query nor an error about a known flow, or with a wrong checksum.";
    DropRoute = "drop.no-route", "No route to the destination, or forwarding is off.";
    DropAddress = "drop.no-address", "The interface to leave by has no address to masquerade with.";
    DropPorts = "drop.no-port", "No free port was found for the translated flow.";
    DropFull = "drop.flows-full", "The flow table is full.";
    DropBusy = "drop.flows-busy", "Another processor held this part of the flow table too long; what is sent again passes.";
    DropMoved = "drop.flow-moved", "The flow's route left its zone or address; the flow was removed.";
    DropTtl = "drop.ttl", "TTL ended on the way to a translated destination.";
    DropTooBig = "drop.too-big", "Packet larger than the next link that the kernel cannot answer for.";
    DropVlan = "drop.vlan", "A second tag behind a priority tag.";
    DropBlocked = "drop.blocklist", "Source or destination is on a blocklist.";
    DropBogon = "drop.bogon", "Source address that is not in use on the internet.";
    DropFloodSource = "drop.flood-source", "The source sends more first packets than one may.";
    DropFloodTotal = "drop.flood-total", "All sources together send more first packets than the router takes.";
    DropUnproven = "drop.syn-cookie", "SYN under attack: its source must prove first that it exists.";
    DropProof = "drop.syn-proof", "RST by which a source proved that it exists; its next SYN passes.";
    DropStage = "drop.stage", "A program of the datapath was not there, or called others without end.";
    DropLeak = "drop.leak", "The kernel wanted to forward a packet that the datapath had not.";
}

/// How many there are.
pub const COUNT: usize = Counter::ALL.len();

//! The programs by hook and stage: how the object file names them, and their places in the tables by
//! which they call each other.

/// Where a hook begins: carries packets of known flows.
pub const ENTRY: u32 = 0;
/// IPv4 packets of known flows with which there is more to do, and ICMP.
pub const FLOW4: u32 = 1;
/// The same for IPv6, and packets with extension headers.
pub const FLOW6: u32 = 2;
/// IPv4 packets of no known flow.
pub const OPEN4: u32 = 3;
/// IPv6 packets of no known flow.
pub const OPEN6: u32 = 4;
/// ICMP errors of both families.
pub const ICMP_ERROR: u32 = 5;
/// IPv4 fragments.
pub const FRAGMENT4: u32 = 6;
/// Answers of the router: ICMP errors, TCP resets.
pub const ANSWER: u32 = 7;
/// First packets of the router's own flows.
pub const DEPART: u32 = 8;
/// Dropped packets, while a capture wants them.
pub const DROPPED: u32 = 9;
/// Sources that must prove that they exist.
pub const CHALLENGE: u32 = 10;

/// IPv6 fragments.
pub const FRAGMENT6: u32 = 11;

/// What the policy says about a first packet.
pub const RULE: u32 = 12;
/// Making an IPv4 flow.
pub const CREATE4: u32 = 13;
/// Making an IPv6 flow.
pub const CREATE6: u32 = 14;

/// Datagrams that are larger than the next link and may be cut.
pub const CUT: u32 = 15;

/// IPv4 packets of known flows whose next hop must be looked up.
pub const REFRESH4: u32 = 16;
/// The same for IPv6.
pub const REFRESH6: u32 = 17;

/// Places in a table of programs.
pub const COUNT: u32 = 24;

/// A table of programs.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    /// Name of the table.
    pub table: &'static str,
    /// Programs by their place in it. The hook begins with the one at [`ENTRY`].
    pub programs: &'static [(u32, &'static str)],
}

/// tcx ingress.
pub const TCX: Family = Family {
    table: "TCX_STAGES",
    programs: &[
        (ENTRY, "tcx_ingress"),
        (FLOW4, "tcx_flow4"),
        (FLOW6, "tcx_flow6"),
        (REFRESH4, "tcx_refresh4"),
        (REFRESH6, "tcx_refresh6"),
        (OPEN4, "tcx_open4"),
        (OPEN6, "tcx_open6"),
        (RULE, "tcx_rule"),
        (CREATE4, "tcx_create4"),
        (CREATE6, "tcx_create6"),
        (ICMP_ERROR, "tcx_icmp_error"),
        (FRAGMENT4, "tcx_fragment4"),
        (FRAGMENT6, "tcx_fragment6"),
        (ANSWER, "tcx_answer"),
        (CHALLENGE, "tcx_challenge"),
        (CUT, "tcx_cut"),
        (DROPPED, "tcx_dropped"),
    ],
};

/// tcx egress.
pub const EGRESS: Family = Family {
    table: "EGRESS_STAGES",
    programs: &[
        (ENTRY, "tcx_egress"),
        (DEPART, "tcx_depart"),
        (CREATE4, "egress_create4"),
        (CREATE6, "egress_create6"),
        (DROPPED, "egress_dropped"),
    ],
};

/// XDP. A stage that it does not have is left to tcx.
pub const XDP: Family = Family {
    table: "XDP_STAGES",
    programs: &[
        (ENTRY, "xdp_ingress"),
        (FLOW4, "xdp_flow4"),
        (FLOW6, "xdp_flow6"),
        (OPEN4, "xdp_open4"),
        (OPEN6, "xdp_open6"),
        (RULE, "xdp_rule"),
        (CREATE4, "xdp_create4"),
        (CREATE6, "xdp_create6"),
        (CHALLENGE, "xdp_challenge"),
        (DROPPED, "xdp_dropped"),
    ],
};

/// Programs that copy packets before tcx decides: ingress, egress. They stand in no table.
pub const TCX_CAPTURE: [&str; 2] = ["tcx_capture_ingress", "tcx_capture_egress"];
/// The program that takes the place of XDP's first one while packets are copied, and goes on to it.
pub const XDP_CAPTURE: &str = "xdp_capture";

//! Settings of the connection tracking (Documentation/networking/nf_conntrack-sysctl.rst).

use portcullis_model::firewall::Firewall;

/// A setting of the kernel.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Setting {
    /// Path below `/proc/sys`.
    pub path: &'static str,
    /// Value.
    pub value: u32,
    /// Whether filtering is wrong without it. What is not need not exist in every kernel, or is of
    /// the whole machine and so not ours in a network namespace.
    pub needed: bool,
}

/// The settings that a configuration asks for.
pub fn settings(firewall: &Firewall) -> Vec<Setting> {
    let timeouts = &firewall.timeouts;
    let wanted = [
        // Where the kernel has it, frames between ports of a bridge would be filtered as if they
        // were routed, and translated ones would pass by the router.
        ("net/bridge/bridge-nf-call-iptables", 0),
        ("net/bridge/bridge-nf-call-ip6tables", 0),
        ("net/netfilter/nf_conntrack_max", firewall.max_flows),
        // Chains of one on average when it is full.
        ("net/netfilter/nf_conntrack_buckets", firewall.max_flows),
    ];
    let needed = [
        // A connection begins with a SYN: what is in the middle belongs to none.
        ("net/netfilter/nf_conntrack_tcp_loose", 0),
        ("net/netfilter/nf_conntrack_tcp_be_liberal", 0),
        ("net/netfilter/nf_conntrack_acct", 1),
        ("net/netfilter/nf_conntrack_tcp_timeout_established", timeouts.tcp_established_s),
        ("net/netfilter/nf_conntrack_tcp_timeout_syn_sent", timeouts.tcp_transitory_s),
        ("net/netfilter/nf_conntrack_tcp_timeout_syn_recv", timeouts.tcp_transitory_s),
        ("net/netfilter/nf_conntrack_tcp_timeout_fin_wait", timeouts.tcp_transitory_s),
        ("net/netfilter/nf_conntrack_tcp_timeout_close_wait", timeouts.tcp_transitory_s),
        ("net/netfilter/nf_conntrack_tcp_timeout_last_ack", timeouts.tcp_transitory_s),
        ("net/netfilter/nf_conntrack_tcp_timeout_time_wait", timeouts.tcp_transitory_s),
        ("net/netfilter/nf_conntrack_udp_timeout", timeouts.udp_unreplied_s),
        ("net/netfilter/nf_conntrack_udp_timeout_stream", timeouts.udp_s),
        ("net/netfilter/nf_conntrack_icmp_timeout", timeouts.icmp_s),
        ("net/netfilter/nf_conntrack_icmpv6_timeout", timeouts.icmp_s),
        ("net/netfilter/nf_conntrack_generic_timeout", timeouts.udp_s),
        ("net/netfilter/nf_conntrack_frag6_timeout", timeouts.fragment_s),
        ("net/ipv4/ipfrag_time", timeouts.fragment_s),
    ];
    let setting = |needed| move |(path, value)| Setting { path, value, needed };
    wanted.into_iter().map(setting(false)).chain(needed.into_iter().map(setting(true))).collect()
}

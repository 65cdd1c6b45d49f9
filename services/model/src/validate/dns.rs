//! `dns`: the local domain, upstreams, cache.

use std::{collections::BTreeSet, net::IpAddr};

use super::{Problems, addresses::unusable_ip};
use crate::{Document, HostName};

/// 253 (RFC 1035 section 2.3.4, as text) less the longest label before it and a dot.
const DOMAIN_LENGTH: usize = 253 - 64;

pub(super) fn check(document: &Document, problems: &mut Problems) {
    domain(&document.dns.domain, problems);
    upstreams(document, problems);
    problems.range("dns.cache_entries", document.dns.cache_entries, 0..=1_000_000, "answers");
}

fn domain(domain: &str, problems: &mut Problems) {
    let path = "dns.domain";
    let label = |label: &str| label.parse::<HostName>().is_ok();
    if !domain.split('.').all(label) || domain.len() > DOMAIN_LENGTH {
        problems.add(
            path,
            format!(
                "`{domain}` is not a domain: allowed are labels of 1 to 63 of a-z, 0-9 and -, with dots between, at most {DOMAIN_LENGTH} characters, as in lan or home.example.org"
            ),
        );
        return;
    }
    let reserved = match domain.rsplit('.').next().unwrap_or_default() {
        top if top.eq_ignore_ascii_case("local") => "multicast DNS (RFC 6762)",
        top if top.eq_ignore_ascii_case("localhost") => "the host itself (RFC 6761)",
        top if top.eq_ignore_ascii_case("arpa") && !domain.eq_ignore_ascii_case("home.arpa") => {
            "the DNS itself (RFC 3172); only home.arpa is for local names (RFC 8375)"
        }
        top if top.bytes().all(|b| b.is_ascii_digit()) => "addresses: the last label is a number",
        _ => return,
    };
    problems.add(path, format!("`{domain}` is reserved for {reserved}; lan is a good choice"));
}

fn upstreams(document: &Document, problems: &mut Problems) {
    let own: BTreeSet<IpAddr> = document
        .interfaces
        .values()
        .flat_map(|interface| {
            let ipv4 = interface.ipv4.fixed_addresses().iter().map(|net| IpAddr::V4(net.addr()));
            let ipv6 = interface.ipv6.fixed_addresses().iter().map(|net| IpAddr::V6(net.addr()));
            ipv4.chain(ipv6)
        })
        .collect();
    let mut seen = BTreeSet::new();
    for (index, upstream) in document.dns.upstreams.iter().enumerate() {
        let path = format!("dns.upstreams[{index}]");
        let ip = upstream.0.ip();
        if let Some(why) = unusable_ip(ip) {
            problems.add(&path, format!("{ip} {why}; the address of a DNS server is needed"));
        }
        if own.contains(&ip) {
            problems.add(&path, format!("{ip} is the router's own address; it would ask itself"));
        }
        if upstream.0.port() == 0 {
            problems.add(&path, "port 0 is not allowed: 1 to 65535");
        }
        if !seen.insert(upstream) {
            problems.add(&path, format!("{upstream} is listed twice"));
        }
    }
}

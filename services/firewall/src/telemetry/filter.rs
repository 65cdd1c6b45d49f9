//! What a caller wants to capture, as what packets are compared with.

use std::collections::BTreeMap;

use ipnet::{IpNet, Ipv6Net};
use portcullis_bus::firewall::CaptureRequest;
use portcullis_datapath_abi::{
    Counter,
    capture::{ANY_PROTOCOL, ANY_REASON, ANY_ZONE, CaptureFilter, DROPPED_ONLY, MAX_SNAP},
};
use portcullis_model::firewall::Protocol;

use crate::listing::net;

/// Longest capture in seconds.
const MAX_SECONDS: u32 = 86_400;
/// Thinnest sample.
const MAX_SAMPLE: u32 = 1_000_000;
/// Length of ::ffff:0:0/96, under which IPv4 stands.
const MAPPED_BITS: u8 = 96;

/// Why a request is not accepted: the field, what is wrong, what is allowed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{field}: {message}")]
pub struct FilterError {
    field: &'static str,
    message: String,
}

fn wrong(field: &'static str, message: impl Into<String>) -> FilterError {
    FilterError { field, message: message.into() }
}

/// The filter for the packet path; zones are named by id.
///
/// # Errors
/// If a field names what there is not.
pub fn capture(
    request: &CaptureRequest,
    zones: &BTreeMap<u8, String>,
) -> Result<CaptureFilter, FilterError> {
    let (host, mask) = match host(&request.host)? {
        None => ([0; 4], [0; 4]),
        Some(network) => (words(network.network().octets()), words(network.netmask().octets())),
    };
    let reason = match request.reason.as_str() {
        "" => ANY_REASON,
        name => drop_reason(name)?,
    };
    if request.seconds > MAX_SECONDS {
        return Err(wrong("seconds", format!("{} is more than {MAX_SECONDS}", request.seconds)));
    }
    if request.snap > MAX_SNAP {
        return Err(wrong("snap", format!("{} is more than {MAX_SNAP} bytes", request.snap)));
    }
    if request.sample > MAX_SAMPLE {
        return Err(wrong("sample", format!("{} is more than {MAX_SAMPLE}", request.sample)));
    }
    Ok(CaptureFilter {
        host,
        mask,
        sample: u32::MAX / request.sample.max(1),
        snap: if request.snap == 0 { MAX_SNAP } else { request.snap },
        port: request.port.to_be(),
        reason,
        protocol: protocol(&request.protocol)?.unwrap_or(ANY_PROTOCOL),
        zone: zone(&request.zone, zones)?.unwrap_or(ANY_ZONE),
        flags: if request.dropped_only || reason != ANY_REASON { DROPPED_ONLY } else { 0 },
        ..CaptureFilter::ALL
    })
}

/// An address or prefix; IPv4 under ::ffff:0:0/96.
fn host(text: &str) -> Result<Option<Ipv6Net>, FilterError> {
    if text.is_empty() {
        return Ok(None);
    }
    let network = net(text)
        .ok_or_else(|| wrong("host", format!("`{text}` is neither an address nor a prefix")))?;
    let mapped = match network {
        IpNet::V6(network) => Ok(network),
        IpNet::V4(network) => {
            Ipv6Net::new(network.addr().to_ipv6_mapped(), network.prefix_len() + MAPPED_BITS)
        }
    };
    mapped.map(Some).map_err(|error| wrong("host", error.to_string()))
}

fn protocol(text: &str) -> Result<Option<u8>, FilterError> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse::<Protocol>()
        .map(|protocol| Some(protocol.0))
        .map_err(|error| wrong("protocol", error.to_string()))
}

fn zone(name: &str, zones: &BTreeMap<u8, String>) -> Result<Option<u8>, FilterError> {
    if name.is_empty() {
        return Ok(None);
    }
    match zones.iter().find(|(_, known)| *known == name) {
        Some((id, _)) => Ok(Some(*id)),
        None => {
            let known: Vec<_> =
                zones.values().map(String::as_str).filter(|name| !name.is_empty()).collect();
            Err(wrong("zone", format!("there is no `{name}`: {}", known.join(", "))))
        }
    }
}

fn drop_reason(name: &str) -> Result<u16, FilterError> {
    let known = || Counter::ALL.iter().filter(|counter| counter.name().starts_with("drop."));
    known()
        .find(|counter| counter.name() == name)
        // Below the number of counters.
        .map(|counter| *counter as u16)
        .ok_or_else(|| {
            let names: Vec<_> = known().map(|counter| counter.name()).collect();
            wrong("reason", format!("there is no `{name}`: {}", names.join(", ")))
        })
}

fn words(octets: [u8; 16]) -> [u32; 4] {
    let (chunks, _) = octets.as_chunks();
    let mut words = [0; 4];
    for (to, from) in words.iter_mut().zip(chunks) {
        *to = u32::from_ne_bytes(*from);
    }
    words
}

#[cfg(test)]
mod tests {
    use portcullis_datapath_abi::flow::TCP;

    use super::*;

    fn zones() -> BTreeMap<u8, String> {
        BTreeMap::from([(0, "router".into()), (1, "lan".into()), (2, "wan".into())])
    }

    #[test]
    fn requests_become_filters() {
        assert_eq!(
            capture(&CaptureRequest::default(), &zones()),
            Ok(CaptureFilter::ALL),
            "nothing asked, everything copied"
        );
        let request = CaptureRequest {
            host: "10.1.0.0/16".into(),
            port: 443,
            protocol: "tcp".into(),
            zone: "wan".into(),
            reason: "drop.policy".into(),
            sample: 4,
            snap: 96,
            ..CaptureRequest::default()
        };
        let filter = capture(&request, &zones()).unwrap();
        let mapped = 0xffff_u32.to_be();
        assert_eq!(filter.host, [0, 0, mapped, u32::from_ne_bytes([10, 1, 0, 0])]);
        assert_eq!(
            filter.mask,
            [u32::MAX, u32::MAX, u32::MAX, u32::from_ne_bytes([255, 255, 0, 0])]
        );
        assert_eq!((filter.port, filter.protocol, filter.zone), (443_u16.to_be(), TCP, 2));
        assert_eq!(filter.reason, Counter::DropPolicy as u16);
        assert_eq!((filter.flags, filter.sample, filter.snap), (DROPPED_ONLY, u32::MAX / 4, 96));
        let six = CaptureRequest { host: "2001:db8::1".into(), ..CaptureRequest::default() };
        assert_eq!(capture(&six, &zones()).unwrap().mask, [u32::MAX; 4]);
    }

    #[test]
    fn what_is_not_there_is_named_with_what_is() {
        let refused =
            |request: CaptureRequest| capture(&request, &zones()).unwrap_err().to_string();
        let request = CaptureRequest::default;
        assert_eq!(
            refused(CaptureRequest { zone: "dmz".into(), ..request() }),
            "zone: there is no `dmz`: router, lan, wan"
        );
        assert_eq!(
            refused(CaptureRequest { host: "10.0.0".into(), ..request() }),
            "host: `10.0.0` is neither an address nor a prefix"
        );
        assert!(
            refused(CaptureRequest { reason: "forwarded".into(), ..request() })
                .starts_with("reason: there is no `forwarded`: drop.policy, ")
        );
        assert!(
            refused(CaptureRequest { protocol: "sctp".into(), ..request() })
                .starts_with("protocol: `sctp` is not a protocol")
        );
        assert_eq!(
            refused(CaptureRequest { snap: 10_000, ..request() }),
            "snap: 10000 is more than 9216 bytes"
        );
    }
}

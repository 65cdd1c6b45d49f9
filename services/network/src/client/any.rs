//! The way of a received frame through all parsers, whoever it is for: for fuzzing, where no
//! transaction number or hardware address shall bar the way.

use portcullis_model::MacAddress;

use super::{
    frame::{self, Received},
    lease::SHORTEST_LEASE_S,
    message::{self, Reply},
};

/// Reads `bytes` as a frame, and as a bare DHCP message, as the client to which they are
/// addressed would; the answer found, if any.
///
/// # Errors
/// The promise of [`super::lease::Grant`] that an accepted answer breaks: a bug.
pub fn read_any(bytes: &[u8]) -> Result<Option<Reply>, String> {
    let destination = mac(bytes, 0).unwrap_or(MacAddress([0xff; 6]));
    let payload = match frame::parse(bytes, destination) {
        Some(Received::Dhcp(payload)) => payload,
        Some(Received::Arp(_)) => return Ok(None),
        None => bytes,
    };
    let xid = payload.get(4..8).and_then(|xid| xid.try_into().ok()).map(u32::from_be_bytes);
    let (Some(xid), Some(client)) = (xid, mac(payload, 28)) else { return Ok(None) };
    let reply = message::parse(payload, xid, client);
    if let Some(Reply::Offer(grant) | Reply::Ack(grant)) = &reply {
        let ordered = 0 < grant.renewal_s
            && grant.renewal_s < grant.rebinding_s
            && grant.rebinding_s < grant.lease_s
            && SHORTEST_LEASE_S <= grant.lease_s;
        let unicast = !grant.address.addr().is_multicast() && !grant.address.addr().is_loopback();
        let mtu = grant.mtu.is_none_or(|mtu| mtu >= 576);
        let domain = grant.domain.as_ref().is_none_or(|d| d.is_ascii() && d.len() <= 253);
        if !(ordered && unicast && mtu && domain) {
            return Err(format!("{grant:?}"));
        }
    }
    Ok(reply)
}

fn mac(bytes: &[u8], at: usize) -> Option<MacAddress> {
    bytes.get(at..)?.first_chunk().copied().map(MacAddress)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;

    /// Frames of dnsmasq and udhcpd as captured, and what fuzzing found.
    #[test]
    fn the_corpus_is_read() {
        let folder =
            concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fuzz/corpus/dhcp_client_frame");
        let mut answers = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let reply = read_any(&std::fs::read(&path).unwrap());
            let reply = reply.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            answers += usize::from(reply.is_some());
        }
        assert!(answers >= 6, "{answers} answers: offers, ACKs and NAKs of real servers are there");
    }
}

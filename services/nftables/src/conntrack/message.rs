//! Messages of ctnetlink (linux/netfilter/nfnetlink_conntrack.h).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP};

use super::{Flow, ICMP, ICMPV6, State, TCP, Traffic};
use crate::netlink::{
    EncodeError,
    answer::{attributes, long, number},
    plain_message,
};

/// `NFNL_SUBSYS_CTNETLINK` with `IPCTNL_MSG_CT_GET`, `_DELETE`.
const GET: u16 = 1 << 8 | 1;
const DELETE: u16 = 1 << 8 | 2;
/// `AF_UNSPEC`, `AF_INET`, `AF_INET6`.
const ANY: u8 = 0;
const INET: u8 = 2;
const INET6: u8 = 10;
/// `CTA_TUPLE_ORIG`, `CTA_ID`.
const ORIGINAL: u16 = 1;
const ID: u16 = 12;
/// `IPS_SEEN_REPLY`.
const SEEN_REPLY: u32 = 2;

/// The question for all connections.
///
/// # Errors
/// See [`EncodeError`].
pub fn list() -> Result<Vec<u8>, EncodeError> {
    plain_message(GET, NLM_F_DUMP, ANY, |_| {})
}

/// The order to forget a connection.
///
/// # Errors
/// See [`EncodeError`].
pub fn delete(flow: &Flow) -> Result<Vec<u8>, EncodeError> {
    let family = if flow.source.is_ipv4() { INET } else { INET6 };
    plain_message(DELETE, NLM_F_ACK, family, |writer| {
        writer.nested(ORIGINAL, |writer| writer.raw(&flow.tuple));
        writer.number(ID, flow.id);
    })
}

/// Reads an entry of the list.
pub fn flow(entry: &[u8]) -> Option<Flow> {
    let (mut original, mut reply) = (None, None);
    let mut tuple = Vec::new();
    let (mut status, mut expires_s, mut id) = (0, 0, 0);
    let mut tcp_state = None;
    let (mut out, mut back) = (Traffic::default(), Traffic::default());
    for (kind, value) in attributes(entry) {
        match kind {
            ORIGINAL => {
                original = Some(direction(value)?);
                tuple = value.to_vec();
            }
            // CTA_TUPLE_REPLY, _STATUS, _PROTOINFO, _TIMEOUT, _COUNTERS_ORIG, _COUNTERS_REPLY.
            2 => reply = Some(direction(value)?),
            3 => status = number(value)?,
            4 => tcp_state = tcp_state_of(value),
            7 => expires_s = number(value)?,
            9 => out = traffic(value),
            10 => back = traffic(value),
            ID => id = number(value)?,
            _ => {}
        }
    }
    let (original, reply) = (original?, reply?);
    let replied = status & SEEN_REPLY != 0;
    Some(Flow {
        protocol: original.protocol,
        source: original.source,
        destination: original.destination,
        translated_source: reply.destination,
        translated_destination: reply.source,
        state: state(original.protocol, tcp_state, replied),
        out,
        back,
        expires_s,
        tuple,
        id,
    })
}

/// `TCP_CONNTRACK_*`.
const fn state(protocol: u8, tcp_state: Option<u8>, replied: bool) -> State {
    match (protocol, tcp_state) {
        (TCP, Some(3)) => State::Established,
        (TCP, Some(4..=8)) => State::Closing,
        (TCP, _) => State::New,
        _ if replied => State::Established,
        _ => State::Unreplied,
    }
}

/// Ends of one direction.
struct Direction {
    protocol: u8,
    source: SocketAddr,
    destination: SocketAddr,
}

fn direction(tuple: &[u8]) -> Option<Direction> {
    let (mut source, mut destination) = (None, None);
    let mut protocol = None;
    let (mut source_port, mut destination_port, mut query) = (0, 0, 0);
    for (kind, value) in attributes(tuple) {
        match kind {
            // CTA_TUPLE_IP with CTA_IP_V4_SRC, _V4_DST, _V6_SRC, _V6_DST.
            1 => {
                for (kind, value) in attributes(value) {
                    match kind {
                        1 => source = Some(ipv4(value)?),
                        2 => destination = Some(ipv4(value)?),
                        3 => source = Some(ipv6(value)?),
                        4 => destination = Some(ipv6(value)?),
                        _ => {}
                    }
                }
            }
            // CTA_TUPLE_PROTO with CTA_PROTO_NUM, _SRC_PORT, _DST_PORT, _ICMP_ID, _ICMPV6_ID.
            2 => {
                for (kind, value) in attributes(value) {
                    match kind {
                        1 => protocol = Some(*value.first()?),
                        2 => source_port = short(value)?,
                        3 => destination_port = short(value)?,
                        4 | 7 => query = short(value)?,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    let protocol = protocol?;
    if matches!(protocol, ICMP | ICMPV6) {
        (source_port, destination_port) = (query, query);
    }
    Some(Direction {
        protocol,
        source: SocketAddr::new(source?, source_port),
        destination: SocketAddr::new(destination?, destination_port),
    })
}

/// `CTA_PROTOINFO_TCP` with `CTA_PROTOINFO_TCP_STATE`.
fn tcp_state_of(information: &[u8]) -> Option<u8> {
    let (_, tcp) = attributes(information).find(|(kind, _)| *kind == 1)?;
    let (_, state) = attributes(tcp).find(|(kind, _)| *kind == 1)?;
    state.first().copied()
}

/// `CTA_COUNTERS_PACKETS`, `CTA_COUNTERS_BYTES`.
fn traffic(counters: &[u8]) -> Traffic {
    let mut traffic = Traffic::default();
    for (kind, value) in attributes(counters) {
        match kind {
            1 => traffic.packets = long(value).unwrap_or(0),
            2 => traffic.bytes = long(value).unwrap_or(0),
            _ => {}
        }
    }
    traffic
}

fn short(value: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(value.get(..2)?.try_into().ok()?))
}

fn ipv4(value: &[u8]) -> Option<IpAddr> {
    let octets: [u8; 4] = value.get(..4)?.try_into().ok()?;
    Some(Ipv4Addr::from(octets).into())
}

fn ipv6(value: &[u8]) -> Option<IpAddr> {
    let octets: [u8; 16] = value.get(..16)?.try_into().ok()?;
    Some(Ipv6Addr::from(octets).into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn nothing_that_comes_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = flow(&bytes);
        }
    }

    /// What Linux 6.18 lists of a masqueraded connection: 192.168.77.100:40000 to
    /// 198.51.100.10:7, by way of 198.51.100.2.
    const MASQUERADED: &str = "340001801400018008000100c0a84d6408000200c633640a1c000280050001000600\
        0000060002009c4000000600030000070000340002801400018008000100c633640a08000200c63364021c0002\
        8005000100060000000600020000070000060003009c400000080003000000019e080008000000000008000c00\
        878e0c1508000b00000000010800070000001d0e300004802c0001800500010003000000050002000a00000005\
        0003000a000000060004002300000006000500230000001c0009800c0001000000000000000003\
        0c00020000000000000000d61c000a800c00010000000000000000020c0002000000000000000070";

    #[test]
    fn an_entry_of_the_kernel_is_read() {
        let entry = hex::decode(MASQUERADED).unwrap();
        let flow = flow(&entry).unwrap();
        let ends =
            [flow.source, flow.destination, flow.translated_source, flow.translated_destination]
                .map(|end| end.to_string());
        assert_eq!(
            ends,
            ["192.168.77.100:40000", "198.51.100.10:7", "198.51.100.2:40000", "198.51.100.10:7"]
        );
        assert_eq!((flow.protocol, flow.state, flow.expires_s), (TCP, State::Established, 7438));
        assert_eq!(flow.out, Traffic { packets: 3, bytes: 214 });
        assert_eq!(flow.back, Traffic { packets: 2, bytes: 112 });
        // The order to forget it names it by the same bytes.
        let order = delete(&flow).unwrap();
        let tuple = entry.get(4..0x34).unwrap();
        assert!(order.windows(tuple.len()).any(|part| part == tuple));
    }

    #[test]
    fn states_of_tcp_are_told_apart() {
        assert_eq!(state(TCP, Some(1), false), State::New);
        assert_eq!(state(TCP, Some(3), true), State::Established);
        assert_eq!(state(TCP, Some(7), true), State::Closing);
        assert_eq!(state(17, None, false), State::Unreplied);
        assert_eq!(state(ICMP, None, true), State::Established);
    }
}

//! The host inside that a packet to an external address is for.

use portcullis_datapath_abi::{
    Config, FlowKey,
    flow::{ENDPOINT_INDEPENDENT_FILTER, EntryKind, ICMP, TCP, UDP},
    nat::{
        External, ExternalKey, FROM_SOURCES, ForwardKey, ForwardSourceKey, HAIRPIN, HAS_FORWARDS,
        HAS_STATIC, INWARD, LOG, NO_FORWARD, StaticKey, bank, forward_index,
    },
    policy::ROUTER,
};

use super::{Inbound, Inside, NatTables, mapping};

/// Finds out whether a packet of no flow is for a host inside: by a port forward, else by a 1:1
/// translation, else by a mapping.
#[inline(always)]
pub fn inbound<T: NatTables>(tables: &T, config: &Config, key: &FlowKey) -> Inbound {
    let wanted = ExternalKey { address: key.destination, bank: bank(config.bank) };
    let Some(external) = tables.external(&wanted) else {
        return Inbound::Direct;
    };
    if external.flags & HAS_FORWARDS != 0
        && matches!(key.protocol, TCP | UDP)
        && let Some(inside) = forwarded(tables, config, key, &external)
    {
        return Inbound::Inside(inside);
    }
    if external.flags & HAS_STATIC != 0 {
        let inward = StaticKey {
            address: key.destination,
            bank: bank(config.bank) as u8,
            zone: external.zone,
            direction: INWARD,
            reserved: 0,
        };
        if let Some(host) = tables.static_nat(&inward) {
            // It opens nothing: rules and policies decide.
            let flags = Inside::PASSES_BACK;
            return Inbound::Inside(Inside::new(&external, host, key.destination_port, flags));
        }
    }
    mapped(tables, config, key, &external)
}

#[inline(always)]
fn forwarded<T: NatTables>(
    tables: &T,
    config: &Config,
    key: &FlowKey,
    external: &External,
) -> Option<Inside> {
    let bank_in_force = bank(config.bank);
    let bank = bank_in_force as u8;
    let list = tables.forwards(&ForwardKey {
        bank,
        protocol: key.protocol,
        reserved: 0,
        address: key.destination,
        port: key.destination_port,
        tail: 0,
    })?;
    for number in list.0 {
        if number == NO_FORWARD {
            break;
        }
        let Some(forward) = tables.forward(forward_index(bank_in_force, number)) else {
            break;
        };
        let from_its_zone = key.zone == forward.zone;
        if !from_its_zone && forward.flags & HAIRPIN == 0 {
            continue;
        }
        if forward.flags & FROM_SOURCES != 0
            && !tables.is_forward_source(&ForwardSourceKey {
                bank,
                reserved: 0,
                number,
                source: key.source,
            })
        {
            continue;
        }
        let port = u16::from_be(key.destination_port)
            .wrapping_sub(forward.first_port)
            .wrapping_add(forward.to_port);
        let mut flags = if from_its_zone { Inside::PASSES } else { Inside::PASSES_BACK };
        if forward.flags & LOG != 0 {
            flags |= Inside::LOG;
        }
        return Some(Inside::new(external, forward.to, port.to_be(), flags));
    }
    None
}

/// By the mapping of a host inside, for those whom its filter lets in (RFC 4787 REQ-8): who was
/// written to from there has a flow already, so it is anybody or nobody. Hosts of the same zone are
/// let in too (RFC 4787 REQ-9), they could reach the host directly.
#[inline(always)]
fn mapped<T: NatTables>(
    tables: &T,
    config: &Config,
    key: &FlowKey,
    external: &External,
) -> Inbound {
    // Mappings of queries are for the answers only, which belong to flows.
    if key.protocol == ICMP {
        return Inbound::ToRouter;
    }
    let outside = FlowKey {
        source: 0,
        destination: key.destination,
        source_port: 0,
        destination_port: key.destination_port,
        protocol: key.protocol,
        zone: external.zone,
        reserved: 0,
    };
    let Some(mapping) = mapping::find(tables, config, EntryKind::External, &outside) else {
        return Inbound::ToRouter;
    };
    if mapping.zone() == ROUTER {
        return Inbound::ToRouter;
    }
    let open = mapping.flags() & ENDPOINT_INDEPENDENT_FILTER != 0;
    if !open && key.zone != mapping.zone() {
        return Inbound::ToRouter;
    }
    let mut flags = Inside::PASSES_BACK;
    if key.zone == external.zone {
        flags |= Inside::PASSES;
    }
    let (host, port) = (mapping.internal(), mapping.internal_port());
    Inbound::Inside(Inside::new(external, host, port, flags))
}

//! The source of a flow on its way out.

use portcullis_datapath_abi::{
    Config, Counter, FlowKey, Interface,
    flow::NO_MAPPING,
    nat::{ExternalKey, OF_INTERFACE, OUTWARD, PoolBlockKey, PoolKey, StaticKey, bank},
    policy::{MASQUERADE, ROUTER, SOURCE_POOLS, STATIC_NAT},
};
use portcullis_flow_table::hash16;

use super::{Exit, NatTables, Source, mapping};

/// The source that the flow of `key` has behind `exit`; only the source of `key` counts, its zone and
/// protocol. With `full_cone` anybody outside may send to it as long as its mapping lives.
///
/// The router's own flows take their ports in the same space as everybody else's.
///
/// # Errors
/// There is no address to take, no free port, or no room.
#[inline(always)]
pub fn outbound<T: NatTables>(
    tables: &T,
    config: &Config,
    key: &FlowKey,
    exit: &Exit,
    full_cone: bool,
) -> Result<Source, Counter> {
    let as_it_is = Source { address: key.source, port: key.source_port, mapping: NO_MAPPING };
    let external = if key.zone == ROUTER {
        own_address(tables, config, key.source, exit)
    } else {
        if exit.flags & STATIC_NAT != 0 {
            let key = StaticKey {
                address: key.source,
                bank: bank(config.bank) as u8,
                zone: exit.zone,
                direction: OUTWARD,
                reserved: 0,
            };
            if let Some(address) = tables.static_nat(&key) {
                return Ok(Source { address, ..as_it_is });
            }
        }
        pooled(tables, config, key.source, exit)
    };
    let external = match external {
        Some(address) => address,
        None if exit.flags & MASQUERADE != 0 => exit.address,
        None => return Ok(as_it_is),
    };
    if external == 0 {
        return Err(Counter::DropAddress);
    }
    let extra = u32::from(exit.zone) | if full_cone { mapping::FULL_CONE } else { 0 };
    let mapping = mapping::acquire(tables, config, key, external, extra)?;
    Ok(Source { address: external, port: mapping.external_port(), mapping: mapping.number() })
}

/// Whether a flow may go on with its translated source `address` by `egress`, an interface of the zone
/// that it went to before. It then is another interface's address, or one of the zone (1:1, pool), or,
/// of a flow that goes back into its own zone, of another zone.
#[inline(always)]
pub fn keeps_source<T: NatTables>(
    tables: &T,
    config: &Config,
    address: u32,
    egress: &Interface,
) -> bool {
    let Some(external) = tables.external(&ExternalKey { bank: bank(config.bank), address }) else {
        return false;
    };
    if external.zone != egress.zone {
        return true;
    }
    external.flags & OF_INTERFACE == 0 || external.masquerade == egress.nat_address
}

/// An external address that the router itself uses stays.
#[inline(always)]
fn own_address<T: NatTables>(
    tables: &T,
    config: &Config,
    address: u32,
    exit: &Exit,
) -> Option<u32> {
    let external = tables.external(&ExternalKey { address, bank: bank(config.bank) })?;
    if external.zone == exit.zone { Some(address) } else { None }
}

/// The address of a pool that a source has: always the same one for as long as the pool does not
/// change (RFC 4787 REQ-2, "paired"), whatever the protocol.
#[inline(always)]
fn pooled<T: NatTables>(tables: &T, config: &Config, source: u32, exit: &Exit) -> Option<u32> {
    if exit.flags & SOURCE_POOLS == 0 {
        return None;
    }
    let bank = bank(config.bank);
    let pool = tables.pool(&PoolKey { bank: bank as u8, zone: exit.zone, reserved: 0, source })?;
    if pool.count == 0 {
        return None;
    }
    let hash = hash16(config.seed, [u64::from(source), 0]).0;
    let index = pool.first + (((hash & 0xffff_ffff) * u64::from(pool.count)) >> 32) as u32;
    let block = tables.pool_block(&PoolBlockKey { bank, index: index.to_be() })?;
    Some(block.address.wrapping_add(index.wrapping_sub(block.index)).to_be())
}

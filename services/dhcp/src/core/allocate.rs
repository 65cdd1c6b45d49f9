//! Which address a client gets (RFC 2131 section 4.3.1).

use std::net::Ipv4Addr;

use super::{ClientId, HardwareAddress, Request, offers::Offers, scope::Scope, table::Table};

/// An address for a client.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Choice {
    pub(crate) address: Ipv4Addr,
    /// Whether this client was the last to have it, so that no probe is needed.
    pub(crate) known: bool,
}

/// Whether nothing but the configuration would stand against giving `address` to this client:
/// no other client has it or was offered it, and it is not set aside.
pub(crate) fn free_for(
    table: &Table,
    offers: &Offers,
    scope: &Scope,
    address: Ipv4Addr,
    client: &ClientId,
    hardware: &HardwareAddress,
) -> bool {
    // The device a reservation names may come with another client identifier, as it does when a
    // boot loader and then a system ask.
    let same_device = |other: &HardwareAddress| scope.is_reserved(address) && other == hardware;
    let unleased = table.get(address).is_none_or(|lease| {
        !lease.active()
            || lease.state == super::LeaseState::Bound
                && (lease.client == *client || same_device(&lease.hardware))
    });
    let unoffered = offers.at(address).is_none_or(|offer| {
        offer.interface == scope.interface
            && (offer.client == *client
                || scope.permits(address, hardware) && scope.is_reserved(address))
    });
    unleased && unoffered
}

/// The address for a client that asks for one: its reservation, what it was offered a moment ago,
/// what it has or had, what it asks for, one never given, the one that is idle for longest. None
/// if the pool is exhausted.
pub(crate) fn choose(
    table: &Table,
    offers: &Offers,
    scope: &mut Scope,
    request: &Request,
) -> Option<Choice> {
    let client = request.client();
    let hardware = &request.hardware;
    let free = |scope: &Scope, address| free_for(table, offers, scope, address, &client, hardware);
    let fits = |scope: &Scope, address| scope.permits(address, hardware) && free(scope, address);

    let reserved = scope.reservation(hardware).map(|r| r.address);
    let offered = offers.of(&scope.interface, &client).map(|offer| offer.address);
    let former = table.of(&scope.interface, &client);
    [reserved, offered, former, request.requested]
        .into_iter()
        .flatten()
        .find(|address| fits(scope, *address))
        .or_else(|| next_fresh(table, offers, scope))
        .or_else(|| {
            table.longest_idle().find(|address| scope.is_dynamic(*address) && free(scope, *address))
        })
        .map(|address| Choice {
            address,
            known: table.get(address).is_some_and(|lease| {
                lease.state != super::LeaseState::Declined
                    && (lease.client == client || lease.hardware == *hardware)
            }),
        })
}

/// The first address of the pool that was never offered or given; what was passed over comes back
/// by the list of idle addresses.
fn next_fresh(table: &Table, offers: &Offers, scope: &mut Scope) -> Option<Ipv4Addr> {
    if table.full() {
        return None;
    }
    let end = u32::from(scope.settings.pool.end);
    while scope.next_fresh <= end {
        let address = Ipv4Addr::from(scope.next_fresh);
        let untouched =
            table.get(address).is_none() && offers.at(address).is_none() && !table.is_idle(address);
        if scope.is_dynamic(address) && untouched {
            return Some(address);
        }
        scope.next_fresh = scope.next_fresh.checked_add(1)?;
    }
    None
}

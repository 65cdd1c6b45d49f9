//! DHCPREQUEST by the state of the client, as its fields tell it (RFC 2131 section 4.3.2):
//!
//! | state       | server id | requested | ciaddr | sent to   |
//! |-------------|-----------|-----------|--------|-----------|
//! | SELECTING   | set       | set       | zero   | broadcast |
//! | INIT-REBOOT | none      | set       | zero   | broadcast |
//! | RENEWING    | none      | none      | set    | us        |
//! | REBINDING   | none      | none      | set    | broadcast |

use std::net::Ipv4Addr;

use dhcproto::v4::MessageType;
use portcullis_model::Name;

use super::{Answer, Arrival, Server};
use crate::core::{
    Action, LeaseState, Notice, Now, Request, allocate::free_for, offers::Stage, scope::Scope,
};

/// What a request for an address gets.
enum Verdict {
    Acknowledge,
    Refuse(&'static str),
    Silence(&'static str),
}
use Verdict::{Acknowledge, Refuse, Silence};

impl Server {
    pub(super) fn request(
        &mut self,
        interface: &Name,
        request: &Request,
        arrival: &Arrival,
        now: Now,
        out: &mut Vec<Action>,
    ) {
        let Some(scope) = self.scopes.get(interface) else { return };
        let ignored = |reason| Action::Notice(Notice::Ignored(reason));
        if request.server.is_some_and(|server| server != scope.address()) {
            // The client took another server's offer; ours is void.
            self.offers.remove_of(interface, &request.client());
            out.push(ignored("DHCPREQUEST for another server"));
            return;
        }
        let held = Some(request.ciaddr).filter(|ciaddr| !ciaddr.is_unspecified());
        let address = match request.server {
            Some(_) => request.requested.or(held),
            None => held.or(request.requested),
        };
        let Some(address) = address else {
            out.push(ignored("DHCPREQUEST without an address"));
            return;
        };
        let verdict = match request.server {
            Some(_) => self.selecting(scope, request, address),
            None if held.is_some() => {
                // A relay agent sends to us what the client broadcast; renewals go past it.
                let rebinding = arrival.broadcast || request.relayed();
                self.renewing(scope, request, address, rebinding)
            }
            None => self.init_reboot(scope, request, address),
        };
        match verdict {
            Acknowledge => self.bind(interface, request, address, now, out),
            Silence(reason) => out.push(ignored(reason)),
            Refuse(reason) => self.refuse(interface, request, address, reason, out),
        }
    }

    fn selecting(&self, scope: &Scope, request: &Request, address: Ipv4Addr) -> Verdict {
        let client = request.client();
        if let Some(offer) = self.offers.of(&scope.interface, &client) {
            if matches!(offer.stage, Stage::Probing { .. }) {
                return Silence("DHCPREQUEST before the offer");
            }
            if offer.address != address {
                return Refuse("another address was offered");
            }
        } else if let Some(bound) = self.bound_to(scope, request)
            && bound != address
        {
            return Refuse("the client has another address");
        }
        // Without an offer: we were restarted since, or it ran out. What is free can be had.
        if !scope.permits(address, &request.hardware) {
            return Refuse("not an address for this client");
        }
        if !free_for(&self.table, &self.offers, scope, address, &client, &request.hardware) {
            return Refuse("another client has this address");
        }
        if self.table.full() && self.table.get(address).is_none() {
            return Refuse("the lease table is full");
        }
        Acknowledge
    }

    fn init_reboot(&self, scope: &Scope, request: &Request, address: Ipv4Addr) -> Verdict {
        if !scope.contains(address) {
            return Refuse("not an address of this subnet");
        }
        match self.table.of(&scope.interface, &request.client()) {
            // It may be another server's client.
            None => Silence("DHCPREQUEST of an unknown client"),
            Some(known) if known != address => Refuse("the client has another address"),
            Some(_) => self.prolong(scope, request, address),
        }
    }

    fn renewing(
        &self,
        scope: &Scope,
        request: &Request,
        address: Ipv4Addr,
        rebinding: bool,
    ) -> Verdict {
        if !scope.contains(address) {
            return Refuse("not an address of this subnet");
        }
        match self.table.of(&scope.interface, &request.client()) {
            None if rebinding => Silence("DHCPREQUEST of an unknown client"),
            // Sent to us, so we gave it, and the record was lost with a damaged disk.
            None => self.prolong(scope, request, address),
            Some(known) if known != address => Refuse("the client has another address"),
            Some(_) => self.prolong(scope, request, address),
        }
    }

    /// Whether a client may keep `address`.
    fn prolong(&self, scope: &Scope, request: &Request, address: Ipv4Addr) -> Verdict {
        let client = request.client();
        let free = |address| {
            free_for(&self.table, &self.offers, scope, address, &client, &request.hardware)
        };
        if !scope.permits(address, &request.hardware) {
            return Refuse("no longer an address for this client");
        }
        if let Some(reservation) = scope.reservation(&request.hardware)
            && reservation.address != address
            && free(reservation.address)
        {
            return Refuse("another address is reserved for this client");
        }
        if !free(address) {
            return Refuse("another client has this address");
        }
        if self.table.full() && self.table.get(address).is_none() {
            return Refuse("the lease table is full");
        }
        Acknowledge
    }

    /// The address that this client is bound to now.
    fn bound_to(&self, scope: &Scope, request: &Request) -> Option<Ipv4Addr> {
        let address = self.table.of(&scope.interface, &request.client())?;
        let lease = self.table.get(address)?;
        (lease.state == LeaseState::Bound).then_some(address)
    }

    fn refuse(
        &mut self,
        interface: &Name,
        request: &Request,
        address: Ipv4Addr,
        reason: &'static str,
        out: &mut Vec<Action>,
    ) {
        out.push(Action::Notice(Notice::Refused {
            address,
            hardware: request.hardware.clone(),
            reason,
        }));
        self.offers.remove_of(interface, &request.client());
        // A lease that the configuration does not permit any more ends with this refusal.
        let permitted =
            self.scopes.get(interface).is_some_and(|s| s.permits(address, &request.hardware));
        let own = self.table.get(address).is_some_and(|lease| {
            lease.state == LeaseState::Bound && lease.client == request.client()
        });
        if own && !permitted {
            self.table.remove(address);
            out.extend([Action::Forget(address), Action::Changed]);
        }
        let answer = Answer { message: Some(reason), ..Answer::default() };
        self.send(interface, request, MessageType::Nak, answer, out);
    }
}

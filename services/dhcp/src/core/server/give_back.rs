//! DHCPDECLINE and DHCPRELEASE (RFC 2131 sections 4.3.3 and 4.3.4). Neither is answered.

use std::net::Ipv4Addr;

use portcullis_model::Name;

use super::{DECLINE_MS, Server};
use crate::core::{
    Action, ClientId, HardwareAddress, LeaseState, Notice, Now, Request, table::Lease,
};

impl Server {
    /// The client found that somebody else uses the address that we gave it.
    pub(super) fn decline(
        &mut self,
        interface: &Name,
        request: &Request,
        now: Now,
        out: &mut Vec<Action>,
    ) {
        let Some(address) = self.own_address(interface, request, request.requested) else {
            out.push(Action::Notice(Notice::Ignored(
                "DHCPDECLINE of what the client does not have",
            )));
            return;
        };
        self.offers.remove(address);
        self.set_aside(interface, address, request.hardware.clone(), now, out);
        out.push(Action::Notice(Notice::Conflict { address, by: None }));
    }

    /// The client does not need its address any more; it gets it again if it comes back in time.
    pub(super) fn release(
        &mut self,
        interface: &Name,
        request: &Request,
        now: Now,
        out: &mut Vec<Action>,
    ) {
        let ciaddr = Some(request.ciaddr);
        let lease = self
            .own_address(interface, request, ciaddr)
            .and_then(|address| Some((address, self.table.get(address)?.clone())));
        let Some((address, lease)) = lease else {
            out.push(Action::Notice(Notice::Ignored(
                "DHCPRELEASE of what the client does not have",
            )));
            return;
        };
        let lease = Lease { state: LeaseState::Released, ends_ms: now.up_ms, ..lease };
        out.extend([Action::Save(lease.record(address, now)), Action::Changed]);
        self.table.put(address, lease);
    }

    /// `address` if it is bound or offered to the client and the message is for us.
    fn own_address(
        &self,
        interface: &Name,
        request: &Request,
        address: Option<Ipv4Addr>,
    ) -> Option<Ipv4Addr> {
        let (scope, address) = (self.scopes.get(interface)?, address?);
        let client = request.client();
        let for_us = request.server.is_none_or(|server| server == scope.address());
        let bound = self.table.get(address).is_some_and(|lease| {
            lease.state == LeaseState::Bound
                && lease.client == client
                && lease.interface == *interface
        });
        let offered = self
            .offers
            .at(address)
            .is_some_and(|offer| offer.client == client && offer.interface == *interface);
        (for_us && (bound || offered)).then_some(address)
    }

    /// Gives `address` to nobody for a while.
    pub(super) fn set_aside(
        &mut self,
        interface: &Name,
        address: Ipv4Addr,
        hardware: HardwareAddress,
        now: Now,
        out: &mut Vec<Action>,
    ) {
        let lease = Lease {
            interface: interface.clone(),
            client: ClientId::Hardware(hardware.clone()),
            hardware,
            hostname: None,
            state: LeaseState::Declined,
            ends_ms: now.up_ms + DECLINE_MS,
            lease_s: u32::try_from(DECLINE_MS / 1000).unwrap_or(u32::MAX),
        };
        out.extend([Action::Save(lease.record(address, now)), Action::Changed]);
        self.table.put(address, lease);
    }
}

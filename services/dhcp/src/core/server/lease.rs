//! Giving a lease, and the client's name with it.

use std::net::Ipv4Addr;

use dhcproto::v4::MessageType;
use portcullis_model::{HostName, Name};

use super::{Answer, Server};
use crate::core::{
    Action, HardwareAddress, LeaseState, Notice, Now, Request, hostname, table::Lease,
};

/// Devices of the same name that get a number; the next one goes without a name.
const MAX_SAME_NAME: u32 = 99;

impl Server {
    /// Gives or prolongs a lease; the reply comes after what must be on disk before it.
    pub(super) fn bind(
        &mut self,
        interface: &Name,
        request: &Request,
        address: Ipv4Addr,
        now: Now,
        out: &mut Vec<Action>,
    ) {
        let Some(scope) = self.scopes.get(interface) else { return };
        let client = request.client();
        let lease_s = scope.settings.lease_time_s;
        let hostname = self.name(interface, request, address, now, out);
        self.leave_former(interface, request, address, now, out);
        let lease = Lease {
            interface: interface.clone(),
            client,
            hardware: request.hardware.clone(),
            hostname: hostname.clone(),
            state: LeaseState::Bound,
            ends_ms: now.up_ms + i64::from(lease_s) * 1000,
            lease_s,
        };
        let before = self.table.get(address);
        let had = before.is_some_and(|b| b.state == LeaseState::Bound && b.client == lease.client);
        let unchanged = had && before.is_some_and(|b| b.hostname == lease.hostname);
        out.push(Action::Save(lease.record(address, now)));
        self.table.put(address, lease);
        self.offers.remove_of(interface, &request.client());
        self.offers.remove(address);
        let answer =
            Answer { address: Some(address), hostname: hostname.as_ref(), ..Answer::default() };
        self.send(interface, request, MessageType::Ack, answer, out);
        if !unchanged {
            out.push(Action::Changed);
        }
        if !had {
            let hardware = request.hardware.clone();
            out.push(Action::Notice(Notice::Bound { address, hardware }));
        }
    }

    /// A client has one address on a subnet: the one that it had before is free.
    fn leave_former(
        &mut self,
        interface: &Name,
        request: &Request,
        address: Ipv4Addr,
        now: Now,
        out: &mut Vec<Action>,
    ) {
        let Some(former) = self.table.of(interface, &request.client()).filter(|a| *a != address)
        else {
            return;
        };
        if let Some(lease) =
            self.table.get(former).filter(|l| l.state == LeaseState::Bound).cloned()
        {
            let lease = Lease { state: LeaseState::Released, ends_ms: now.up_ms, ..lease };
            out.push(Action::Save(lease.record(former, now)));
            self.table.put(former, lease);
        }
    }

    /// The name that the client goes by: that of its reservation, else the one that it asks for,
    /// with a number if another device has it; a client that does not ask keeps what it had.
    fn name(
        &mut self,
        interface: &Name,
        request: &Request,
        address: Ipv4Addr,
        now: Now,
        out: &mut Vec<Action>,
    ) -> Option<HostName> {
        let scope = self.scopes.get(interface)?;
        let reserved = scope.reservation(&request.hardware).and_then(|r| r.hostname.clone());
        if let Some(name) = reserved {
            self.take_name(&name, address, now, out);
            return Some(name);
        }
        let former = self.table.get(address).filter(|lease| lease.client == request.client());
        let name = hostname::wanted(request).or_else(|| former.and_then(|l| l.hostname.clone()))?;
        let numbered = (2..=MAX_SAME_NAME).filter_map(|number| hostname::numbered(&name, number));
        let name = std::iter::once(name.clone())
            .chain(numbered)
            .find(|name| self.name_is_free(name, address, &request.hardware))?;
        // The same device under another client identifier or on another interface.
        self.take_name(&name, address, now, out);
        Some(name)
    }

    fn name_is_free(&self, name: &HostName, address: Ipv4Addr, hardware: &HardwareAddress) -> bool {
        let reserved = self.scopes.values().any(|scope| {
            scope.settings.reservations.iter().any(|reservation| {
                reservation.hostname.as_ref() == Some(name)
                    && hardware.ethernet() != Some(reservation.mac)
            })
        });
        let holder = self.table.named(name).filter(|holder| *holder != address);
        let other = holder.and_then(|holder| self.table.get(holder));
        !reserved && other.is_none_or(|lease| lease.hardware == *hardware)
    }

    /// Takes `name` from the lease that has it, unless that is the one of `address`.
    fn take_name(&mut self, name: &HostName, address: Ipv4Addr, now: Now, out: &mut Vec<Action>) {
        let Some(holder) = self.table.named(name).filter(|holder| *holder != address) else {
            return;
        };
        if let Some(lease) = self.table.get(holder).cloned() {
            let lease = Lease { hostname: None, ..lease };
            out.extend([Action::Save(lease.record(holder, now)), Action::Changed]);
            self.table.put(holder, lease);
        }
    }

    /// Names of reservations hold at once, not only when the client renews.
    pub(super) fn rename_reserved(&mut self, now: Now, out: &mut Vec<Action>) {
        let renamed: Vec<_> = self
            .table
            .iter()
            .filter(|(_, lease)| lease.state == LeaseState::Bound)
            .filter_map(|(address, lease)| {
                let reservation =
                    self.scopes.get(&lease.interface)?.reservation(&lease.hardware)?;
                let name = reservation.hostname.clone()?;
                let other = lease.hostname.as_ref() != Some(&name);
                other.then(|| (address, Lease { hostname: Some(name), ..lease.clone() }))
            })
            .collect();
        for (address, lease) in renamed {
            if let Some(name) = &lease.hostname {
                self.take_name(name, address, now, out);
            }
            out.extend([Action::Save(lease.record(address, now)), Action::Changed]);
            self.table.put(address, lease);
        }
    }
}

//! DHCPDISCOVER: choose an address, probe it unless the client had it last, offer it
//! (RFC 2131 section 4.3.1).

use std::net::Ipv4Addr;

use dhcproto::v4::MessageType;
use portcullis_model::Name;

use super::{Answer, EXHAUSTED_PAUSE_MS, OFFER_MS, PROBE_MS, Server};
use crate::core::{
    Action, Notice, Now, Request, allocate,
    offers::{Offer, Stage},
};

/// ARP requests of one probe.
const PROBES: u8 = 2;

impl Server {
    pub(super) fn discover(
        &mut self,
        interface: &Name,
        request: Request,
        now: Now,
        out: &mut Vec<Action>,
    ) {
        let client = request.client();
        let Some(scope) = self.scopes.get_mut(interface) else { return };
        if let Some(offer) = self.offers.of(interface, &client)
            && let Stage::Probing { sent, .. } = offer.stage
            && scope.permits(offer.address, &request.hardware)
        {
            // Asked again while we probe: the answer must carry the newer transaction number.
            let stage = Stage::Probing { request: Box::new(request), sent };
            self.offers.put(Offer { stage, ..offer.clone() });
            return;
        }
        let Some(choice) = allocate::choose(&self.table, &self.offers, scope, &request) else {
            self.warn_exhausted(interface, now, out);
            return;
        };
        if let Some(reservation) = scope.reservation(&request.hardware)
            && reservation.address != choice.address
        {
            out.push(Action::Notice(Notice::ReservationTaken {
                address: reservation.address,
                hardware: request.hardware.clone(),
            }));
        }
        let offered = self.offers.of(interface, &client).is_some_and(|offer| {
            offer.address == choice.address && matches!(offer.stage, Stage::Made)
        });
        if choice.known || offered {
            self.offer(interface, choice.address, &request, now, out);
        } else if self.offers.full(interface) {
            out.push(Action::Notice(Notice::Ignored("too many offers are open")));
        } else {
            self.probe(interface, choice.address, request, 1, now, out);
        }
    }

    fn probe(
        &mut self,
        interface: &Name,
        address: Ipv4Addr,
        request: Request,
        sent: u8,
        now: Now,
        out: &mut Vec<Action>,
    ) {
        let offer = Offer {
            address,
            interface: interface.clone(),
            client: request.client(),
            stage: Stage::Probing { request: Box::new(request), sent },
            until_ms: now.up_ms + PROBE_MS / i64::from(PROBES),
        };
        self.hold(offer, now);
        out.push(Action::Probe { interface: interface.clone(), address });
    }

    /// Nobody answered in time.
    pub(super) fn go_on_probing(
        &mut self,
        interface: &Name,
        address: Ipv4Addr,
        request: Request,
        sent: u8,
        now: Now,
        out: &mut Vec<Action>,
    ) {
        if sent < PROBES {
            self.probe(interface, address, request, sent + 1, now, out);
        } else {
            self.offer(interface, address, &request, now, out);
        }
    }

    fn offer(
        &mut self,
        interface: &Name,
        address: Ipv4Addr,
        request: &Request,
        now: Now,
        out: &mut Vec<Action>,
    ) {
        let offer = Offer {
            address,
            interface: interface.clone(),
            client: request.client(),
            stage: Stage::Made,
            until_ms: now.up_ms + OFFER_MS,
        };
        self.hold(offer, now);
        let answer = Answer { address: Some(address), ..Answer::default() };
        self.send(interface, request, MessageType::Offer, answer, out);
    }

    /// Whatever becomes of the offer, its address is found again among the idle ones.
    fn hold(&mut self, offer: Offer, now: Now) {
        if self.table.get(offer.address).is_none() {
            self.table.set_idle(offer.address, now.up_ms);
        }
        self.offers.put(offer);
    }

    fn warn_exhausted(&mut self, interface: &Name, now: Now, out: &mut Vec<Action>) {
        let last = self.exhausted.get(interface);
        if last.is_none_or(|last| now.up_ms - last >= EXHAUSTED_PAUSE_MS) {
            self.exhausted.insert(interface.clone(), now.up_ms);
            out.push(Action::Notice(Notice::Exhausted { interface: interface.clone() }));
        }
    }
}

//! Addresses offered to clients, or being probed before that. Volatile and bounded.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::Ipv4Addr,
};

use portcullis_model::Name;

use super::{ClientId, Request};

/// Offers on one interface; a flood of made-up clients gets no further, and no other network feels
/// it.
const MAX_OFFERS: usize = 1024;

/// An address held for a client until it decides.
#[derive(Clone, Debug)]
pub(crate) struct Offer {
    pub(crate) address: Ipv4Addr,
    pub(crate) interface: Name,
    pub(crate) client: ClientId,
    pub(crate) stage: Stage,
    /// When the stage ends, monotonic milliseconds.
    pub(crate) until_ms: i64,
}

/// How far an offer is.
#[derive(Clone, Debug)]
pub(crate) enum Stage {
    /// Asked by ARP `sent` times; the offer is made if nobody answers.
    Probing { request: Box<Request>, sent: u8 },
    /// Made.
    Made,
}

/// All offers; one for each client of an interface, one for each address.
#[derive(Debug, Default)]
pub(crate) struct Offers {
    by_address: BTreeMap<Ipv4Addr, Offer>,
    by_client: HashMap<(Name, ClientId), Ipv4Addr>,
    ends: BTreeSet<(i64, Ipv4Addr)>,
}

impl Offers {
    pub(crate) fn full(&self, interface: &Name) -> bool {
        self.by_address.values().filter(|offer| offer.interface == *interface).count() >= MAX_OFFERS
    }

    pub(crate) fn at(&self, address: Ipv4Addr) -> Option<&Offer> {
        self.by_address.get(&address)
    }

    pub(crate) fn of(&self, interface: &Name, client: &ClientId) -> Option<&Offer> {
        let address = self.by_client.get(&(interface.clone(), client.clone()))?;
        self.by_address.get(address)
    }

    pub(crate) fn probing(&self) -> bool {
        self.by_address.values().any(|offer| matches!(offer.stage, Stage::Probing { .. }))
    }

    /// Puts an offer in place of what this client or this address had.
    pub(crate) fn put(&mut self, offer: Offer) {
        self.remove_of(&offer.interface, &offer.client);
        self.remove(offer.address);
        self.ends.insert((offer.until_ms, offer.address));
        self.by_client.insert((offer.interface.clone(), offer.client.clone()), offer.address);
        self.by_address.insert(offer.address, offer);
    }

    pub(crate) fn remove(&mut self, address: Ipv4Addr) -> Option<Offer> {
        let offer = self.by_address.remove(&address)?;
        self.ends.remove(&(offer.until_ms, address));
        self.by_client.remove(&(offer.interface.clone(), offer.client.clone()));
        Some(offer)
    }

    pub(crate) fn remove_of(&mut self, interface: &Name, client: &ClientId) -> Option<Offer> {
        let address = *self.by_client.get(&(interface.clone(), client.clone()))?;
        self.remove(address)
    }

    pub(crate) fn next_end(&self) -> Option<i64> {
        self.ends.first().map(|(until, _)| *until)
    }

    /// Takes out the next offer whose stage is over.
    pub(crate) fn take_ended(&mut self, up_ms: i64) -> Option<Offer> {
        let (until, address) = *self.ends.first()?;
        if until > up_ms { None } else { self.remove(address) }
    }

    pub(crate) fn retain(&mut self, keep: impl Fn(&Offer) -> bool) {
        let gone: Vec<_> =
            self.by_address.values().filter(|o| !keep(o)).map(|o| o.address).collect();
        for address in gone {
            self.remove(address);
        }
    }
}

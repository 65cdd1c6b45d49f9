//! Who has which address. One entry for each address, so that no address can have two holders.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::Ipv4Addr,
};

use portcullis_model::{HostName, Name};

use super::{ClientId, HardwareAddress, Now};

/// Most entries, former leases included; a pool can be larger, a site is not.
const MAX_LEASES: usize = 65_536;

/// What became of a lease.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LeaseState {
    /// The client has the address.
    Bound,
    /// It did not renew; it gets the address again if nobody else took it meanwhile.
    Expired,
    /// It gave the address back.
    Released,
    /// Somebody else uses the address; set aside until the end of the entry.
    Declined,
}

impl LeaseState {
    /// The word for it on the bus and on disk.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bound => "bound",
            Self::Expired => "expired",
            Self::Released => "released",
            Self::Declined => "declined",
        }
    }

    /// The state that `word` stands for.
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Bound, Self::Expired, Self::Released, Self::Declined]
            .into_iter()
            .find(|state| state.as_str() == word)
    }
}

/// A lease as it is kept on disk.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LeaseRecord {
    /// Leased address.
    pub address: Ipv4Addr,
    /// Interface (configuration name) that it was given on.
    pub interface: Name,
    /// Who has or had it.
    pub client: ClientId,
    /// Hardware address of the client.
    pub hardware: HardwareAddress,
    /// Its name in the local domain.
    pub hostname: Option<HostName>,
    /// What became of it.
    pub state: LeaseState,
    /// End, or for a lease that is over when it ended; seconds since the Unix epoch.
    pub ends_unix_s: u64,
    /// Length of the lease, seconds; bounds what is left of it after a restart with a wrong clock.
    pub lease_s: u32,
}

/// A lease as the core runs it.
#[derive(Clone, Debug)]
pub(crate) struct Lease {
    pub(crate) interface: Name,
    pub(crate) client: ClientId,
    pub(crate) hardware: HardwareAddress,
    pub(crate) hostname: Option<HostName>,
    pub(crate) state: LeaseState,
    /// End, or when it ended; monotonic milliseconds.
    pub(crate) ends_ms: i64,
    pub(crate) lease_s: u32,
}

impl Lease {
    /// Whether nobody else may have the address now.
    pub(crate) fn active(&self) -> bool {
        matches!(self.state, LeaseState::Bound | LeaseState::Declined)
    }

    pub(crate) fn record(&self, address: Ipv4Addr, now: Now) -> LeaseRecord {
        LeaseRecord {
            address,
            interface: self.interface.clone(),
            client: self.client.clone(),
            hardware: self.hardware.clone(),
            hostname: self.hostname.clone(),
            state: self.state,
            ends_unix_s: now.unix_s_at(self.ends_ms),
            lease_s: self.lease_s,
        }
    }

    /// A lease from disk. Whatever the clock says now, no lease lasts longer than it was given
    /// for, and none that is over began in the future.
    pub(crate) fn from_record(record: LeaseRecord, now: Now) -> (Ipv4Addr, Self) {
        let most_ms = match record.state {
            LeaseState::Bound | LeaseState::Declined => i64::from(record.lease_s) * 1000,
            LeaseState::Expired | LeaseState::Released => 0,
        };
        let lease = Self {
            interface: record.interface,
            client: record.client,
            hardware: record.hardware,
            hostname: record.hostname,
            state: record.state,
            ends_ms: now.up_ms_at(record.ends_unix_s).min(now.up_ms.saturating_add(most_ms)),
            lease_s: record.lease_s,
        };
        (record.address, lease)
    }
}

/// All leases, running and over.
#[derive(Debug, Default)]
pub(crate) struct Table {
    leases: BTreeMap<Ipv4Addr, Lease>,
    by_client: HashMap<(Name, ClientId), Ipv4Addr>,
    by_name: HashMap<HostName, Ipv4Addr>,
    /// Ends of active entries.
    ends: BTreeSet<(i64, Ipv4Addr)>,
    /// Addresses that had a holder or were offered and have no holder, the longest idle one first.
    idle: BTreeSet<(i64, Ipv4Addr)>,
    idle_since: HashMap<Ipv4Addr, i64>,
}

impl Table {
    pub(crate) fn get(&self, address: Ipv4Addr) -> Option<&Lease> {
        self.leases.get(&address)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Ipv4Addr, &Lease)> {
        self.leases.iter().map(|(address, lease)| (*address, lease))
    }

    pub(crate) fn full(&self) -> bool {
        self.leases.len().max(self.idle.len()) >= MAX_LEASES
    }

    /// The address that `client` has or had last on `interface`.
    pub(crate) fn of(&self, interface: &Name, client: &ClientId) -> Option<Ipv4Addr> {
        self.by_client.get(&(interface.clone(), client.clone())).copied()
    }

    /// The address of the running lease that goes by `name`.
    pub(crate) fn named(&self, name: &HostName) -> Option<Ipv4Addr> {
        self.by_name.get(name).copied()
    }

    /// Puts `lease` in place of what was there for its address.
    pub(crate) fn put(&mut self, address: Ipv4Addr, lease: Lease) {
        self.remove(address);
        if lease.active() {
            self.ends.insert((lease.ends_ms, address));
            if let (LeaseState::Bound, Some(name)) = (lease.state, &lease.hostname) {
                self.by_name.insert(name.clone(), address);
            }
        } else {
            self.set_idle(address, lease.ends_ms);
        }
        // The holder of a declined address is whoever uses it, not the client that found out.
        if lease.state != LeaseState::Declined {
            let key = (lease.interface.clone(), lease.client.clone());
            let newest = |lease: &Lease| (lease.active(), lease.ends_ms);
            let other = self.by_client.get(&key).and_then(|other| self.leases.get(other));
            // What was read from disk comes by address, not by age.
            if other.is_none_or(|other| newest(other) <= newest(&lease)) {
                self.by_client.insert(key, address);
            }
        }
        self.leases.insert(address, lease);
    }

    pub(crate) fn remove(&mut self, address: Ipv4Addr) -> Option<Lease> {
        if let Some(since) = self.idle_since.remove(&address) {
            self.idle.remove(&(since, address));
        }
        let lease = self.leases.remove(&address)?;
        self.ends.remove(&(lease.ends_ms, address));
        if let Some(name) = &lease.hostname
            && self.by_name.get(name) == Some(&address)
        {
            self.by_name.remove(name);
        }
        let key = (lease.interface.clone(), lease.client.clone());
        if self.by_client.get(&key) == Some(&address) {
            self.by_client.remove(&key);
        }
        Some(lease)
    }

    /// An address without a lease that is not fresh any more: it was offered at `up_ms`, or set aside
    /// until then. The first time counts.
    pub(crate) fn set_idle(&mut self, address: Ipv4Addr, up_ms: i64) {
        if self.idle_since.contains_key(&address) {
            return;
        }
        self.idle_since.insert(address, up_ms);
        self.idle.insert((up_ms, address));
    }

    /// Whether `address` is one of [`Table::longest_idle`].
    pub(crate) fn is_idle(&self, address: Ipv4Addr) -> bool {
        self.idle_since.contains_key(&address)
    }

    /// Addresses without a holder that had one or were offered, the longest idle one first.
    pub(crate) fn longest_idle(&self) -> impl Iterator<Item = Ipv4Addr> {
        self.idle.iter().map(|(_, address)| *address)
    }

    pub(crate) fn next_end(&self) -> Option<i64> {
        self.ends.first().map(|(until, _)| *until)
    }

    /// Takes out the next active entry whose time is over.
    pub(crate) fn take_ended(&mut self, up_ms: i64) -> Option<(Ipv4Addr, Lease)> {
        let (until, address) = *self.ends.first()?;
        if until > up_ms {
            return None;
        }
        self.remove(address).map(|lease| (address, lease))
    }
}

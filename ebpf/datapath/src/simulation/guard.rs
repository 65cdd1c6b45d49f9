//! The guard's maps in ordinary memory.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashMap},
    sync::atomic::AtomicU64,
};

use portcullis_datapath_abi::guard::{FLOOD_CLASSES, FloodClass, FloodKey, Guard};

use super::Simulation;
use crate::guard::{Connection, GuardTables};

/// Sources whose rates there is room for.
const SOURCES: usize = 64;

/// State of the guard.
pub struct GuardState {
    /// Settings; none: everybody is admitted.
    pub settings: Option<Guard>,
    /// Flags of single addresses.
    pub prefixes: BTreeMap<[u32; 4], u32>,
    /// The time in nanoseconds.
    pub nanoseconds: Cell<u64>,
    rates: [AtomicU64; SOURCES],
    sources: RefCell<HashMap<FloodKey, usize>>,
    totals: [AtomicU64; FLOOD_CLASSES],
    verified: RefCell<HashMap<[u32; 4], u32>>,
}

impl Default for GuardState {
    fn default() -> Self {
        Self {
            settings: None,
            prefixes: BTreeMap::new(),
            nanoseconds: Cell::new(1_000_000_000_000),
            rates: [const { AtomicU64::new(0) }; SOURCES],
            sources: RefCell::default(),
            totals: Default::default(),
            verified: RefCell::default(),
        }
    }
}

impl GuardTables for Simulation {
    fn guard(&self) -> Option<&Guard> {
        self.guard.settings.as_ref()
    }

    fn prefix_flags(&self, address: &[u32; 4]) -> u32 {
        self.guard.prefixes.get(address).copied().unwrap_or(0)
    }

    fn source_rate(&self, key: &FloodKey) -> Option<&AtomicU64> {
        let mut sources = self.guard.sources.borrow_mut();
        let next = sources.len();
        self.guard.rates.get(*sources.entry(*key).or_insert(next))
    }

    fn total_rate(&self, class: FloodClass) -> Option<&AtomicU64> {
        self.guard.totals.get(class as usize)
    }

    fn verified_until(&self, address: &[u32; 4]) -> Option<u32> {
        self.guard.verified.borrow().get(address).copied()
    }

    fn verify(&self, address: &[u32; 4], until: u32) {
        self.guard.verified.borrow_mut().insert(*address, until);
    }

    fn nanoseconds(&self) -> u64 {
        self.guard.nanoseconds.get()
    }

    fn make_cookie(&self, connection: &Connection<'_>) -> Option<u32> {
        // Any function of the connection will do here; the kernel's is a keyed hash.
        let words = connection.source.iter().chain(connection.destination);
        let ports =
            u32::from(connection.source_port) << 16 | u32::from(connection.destination_port);
        Some(words.fold(ports, |hash, word| (hash ^ word).wrapping_mul(0x9e37_79b1)))
    }

    fn check_cookie(&self, connection: &Connection<'_>, cookie: u32) -> bool {
        self.make_cookie(connection) == Some(cookie)
    }
}

//! The core's surroundings in ordinary memory: tables as maps, a routing table of one route, a
//! clock that the test sets, frames as byte vectors.

use std::{
    cell::{Cell, RefCell, UnsafeCell},
    collections::{BTreeMap, BTreeSet, HashMap},
    ptr::NonNull,
};

use portcullis_datapath_abi::{
    FlowEntry, FlowKey, FragmentKey, FragmentPorts, Interface, Zone, policy::pair_index,
};

use crate::{FlowRef, Frame, FrameMut, InsertError, Route, RouteQuery, Tables, Verdict, rewrite};

/// Tables of a router.
pub struct Simulation {
    /// Interfaces by index.
    pub interfaces: BTreeMap<u32, Interface>,
    /// Zones by id.
    pub zones: BTreeMap<u8, Zone>,
    /// Allowed pairs.
    pub allowed: BTreeSet<u32>,
    /// The router's addresses.
    pub addresses: BTreeSet<u32>,
    /// What routes are answered with, by destination network of 24 bits.
    pub routes: BTreeMap<[u8; 3], Route>,
    /// What all others are answered with.
    pub default_route: Option<Route>,
    /// Most flow entries.
    pub capacity: usize,
    /// The time in ticks.
    pub now: Cell<u32>,
    /// State of the random numbers.
    pub seed: Cell<u32>,
    // A flow entry never moves: it is boxed, and removed ones are kept until the end.
    flows: RefCell<HashMap<FlowKey, NonNull<UnsafeCell<FlowEntry>>>>,
    all: RefCell<Vec<NonNull<UnsafeCell<FlowEntry>>>>,
    fragments: RefCell<HashMap<FragmentKey, FragmentPorts>>,
}

impl Default for Simulation {
    fn default() -> Self {
        Self {
            interfaces: BTreeMap::new(),
            zones: BTreeMap::new(),
            allowed: BTreeSet::new(),
            addresses: BTreeSet::new(),
            routes: BTreeMap::new(),
            default_route: None,
            capacity: 1 << 20,
            now: Cell::new(1000),
            seed: Cell::new(1),
            flows: RefCell::default(),
            all: RefCell::default(),
            fragments: RefCell::default(),
        }
    }
}

impl Drop for Simulation {
    fn drop(&mut self) {
        for entry in self.all.get_mut().drain(..) {
            // SAFETY: made by `Box::leak` in `insert`, once in `all`, and nothing refers to it once
            // the tables are gone.
            drop(unsafe { Box::from_raw(entry.as_ptr()) });
        }
    }
}

impl Simulation {
    /// Allows new flows from one zone to another.
    pub fn allow(&mut self, from: u8, to: u8) {
        self.allowed.insert(pair_index(from, to));
    }

    /// All flow entries now.
    pub fn flows(&self) -> BTreeMap<FlowKey, FlowEntry> {
        self.flows
            .borrow()
            .iter()
            // SAFETY: entries live as long as the tables; no reference to one is held.
            .map(|(key, entry)| (*key, unsafe { *entry.as_ref().get() }))
            .collect()
    }
}

impl Tables for Simulation {
    fn generation(&self) -> u32 {
        1
    }

    fn interface(&self, index: u32) -> Option<&Interface> {
        self.interfaces.get(&index)
    }

    fn zone(&self, id: u8) -> Option<&Zone> {
        self.zones.get(&id)
    }

    fn allowed(&self, from: u8, to: u8) -> bool {
        self.allowed.contains(&pair_index(from, to))
    }

    fn is_local(&self, address: u32) -> bool {
        self.addresses.contains(&address)
    }

    fn flow(&self, key: &FlowKey) -> Option<FlowRef<'_>> {
        let flows = self.flows.borrow();
        let entry = flows.get(key)?;
        // SAFETY: the entry lives as long as the tables, and is only touched through such pointers.
        let entry = unsafe { NonNull::new(entry.as_ref().get())? };
        // SAFETY: as above.
        Some(unsafe { FlowRef::new(entry) })
    }

    fn insert(&self, key: &FlowKey, entry: &FlowEntry) -> Result<(), InsertError> {
        let mut flows = self.flows.borrow_mut();
        if flows.contains_key(key) {
            return Err(InsertError::Exists);
        }
        if flows.len() >= self.capacity {
            return Err(InsertError::Full);
        }
        let entry = NonNull::from(Box::leak(Box::new(UnsafeCell::new(*entry))));
        self.all.borrow_mut().push(entry);
        flows.insert(*key, entry);
        Ok(())
    }

    fn remove(&self, key: &FlowKey) {
        self.flows.borrow_mut().remove(key);
    }

    fn fragment(&self, key: &FragmentKey) -> Option<FragmentPorts> {
        self.fragments.borrow().get(key).copied()
    }

    fn remember_fragment(&self, key: &FragmentKey, ports: &FragmentPorts) {
        self.fragments.borrow_mut().insert(*key, *ports);
    }

    fn route(&self, query: &RouteQuery) -> Option<Route> {
        let [a, b, c, _] = query.destination.to_ne_bytes();
        self.routes.get(&[a, b, c]).copied().or(self.default_route)
    }

    fn now(&self) -> u32 {
        self.now.get()
    }

    fn random(&self) -> u32 {
        // Xorshift (Marsaglia 2003).
        let mut x = self.seed.get().max(1);
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        self.seed.set(x);
        x
    }
}

/// A frame in memory.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Bytes(pub Vec<u8>);

macro_rules! access {
    ($($get:ident, $set:ident: $Type:ty;)*) => {
        impl Frame for Bytes { $(
            fn $get(&self, offset: usize) -> Option<$Type> {
                let end = offset.checked_add(size_of::<$Type>())?;
                self.0.get(offset..end)?.try_into().ok().map(<$Type>::from_ne_bytes)
            }
        )* }
        impl FrameMut for Bytes { $(
            fn $set(&mut self, offset: usize, value: $Type) -> Option<()> {
                let end = offset.checked_add(size_of::<$Type>())?;
                self.0.get_mut(offset..end)?.copy_from_slice(&value.to_ne_bytes());
                Some(())
            }
        )* }
    };
}
access! {
    u8, set_u8: u8;
    u16, set_u16: u16;
    u32, set_u32: u32;
}

impl Bytes {
    /// Carries a verdict out as the hooks do. False if the packet must be dropped.
    pub fn carry_out(&mut self, verdict: &Verdict<'_>) -> bool {
        match verdict {
            Verdict::Kernel(_) => true,
            Verdict::Drop(_) => false,
            Verdict::Translate(_, edit) => rewrite::rewrite(self, edit, false).is_some(),
            Verdict::Forward(_, edit, hop) => {
                (hop.next_hop != 0 || rewrite::ethernet(self, edit.flow.macs()).is_some())
                    && rewrite::rewrite(self, edit, true).is_some()
            }
        }
    }
}

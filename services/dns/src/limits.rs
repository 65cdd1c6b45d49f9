//! Bounds on what clients can make the forwarder hold at a time.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

/// A number of places, of which one client gets only a part, so that one that floods does not
/// shut the others out.
#[derive(Clone, Debug)]
pub struct Limit {
    total: usize,
    each: usize,
    taken: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// A place; free again when dropped.
#[derive(Debug)]
pub struct Place {
    client: IpAddr,
    taken: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl Limit {
    /// `total` places, at most `each` for one client.
    pub fn new(total: usize, each: usize) -> Self {
        Self { total, each, taken: Arc::default() }
    }

    /// A place for `client`, if there is one.
    pub fn take(&self, client: IpAddr) -> Option<Place> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = taken.values().sum();
        let own = taken.get(&client).copied().unwrap_or(0);
        if all >= self.total || own >= self.each {
            return None;
        }
        taken.insert(client, own + 1);
        Some(Place { client, taken: self.taken.clone() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        match taken.get_mut(&self.client) {
            Some(own) if *own > 1 => *own -= 1,
            _ => drop(taken.remove(&self.client)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_gets_its_part_and_gives_it_back() {
        let (limit, a, b) =
            (Limit::new(3, 2), IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let first = limit.take(a).unwrap();
        let _second = limit.take(a).unwrap();
        assert!(limit.take(a).is_none(), "its part");
        let _third = limit.take(b).unwrap();
        assert!(limit.take(b).is_none(), "the total");
        drop(first);
        assert!(limit.take(b).is_some());
        assert_eq!(limit.taken.lock().unwrap().len(), 2);
    }
}

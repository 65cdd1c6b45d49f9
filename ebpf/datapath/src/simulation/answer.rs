//! What answers need, in ordinary memory.

use std::collections::BTreeMap;

use portcullis_flow_table::AtomicU64;

use super::{Bytes, Simulation};
use crate::{
    Answer, Arrival, L3,
    answer::{AnswerTables, Draft, Order, QUOTED4, QUOTED6, RATES, prepare},
};

/// Rates, and addresses of ours.
pub struct AnswerMaps {
    /// Address of an interface that packets out of it come from, by its index, of both families.
    pub addresses: BTreeMap<(u32, bool), [u32; 4]>,
    rates: Vec<AtomicU64>,
}

impl Default for AnswerMaps {
    fn default() -> Self {
        Self { addresses: BTreeMap::new(), rates: (0..RATES).map(|_| AtomicU64::new(0)).collect() }
    }
}

impl AnswerTables for Simulation {
    fn answer_rate(&self, index: u32) -> Option<&AtomicU64> {
        self.answers.rates.get(index as usize)
    }

    fn own_address(&self, interface: u32, ipv6: bool, address: &mut [u32; 4]) -> bool {
        match self.answers.addresses.get(&(interface, ipv6)) {
            Some(own) => *address = *own,
            None => return false,
        }
        true
    }
}

impl Simulation {
    /// The frame that goes back when a packet is dropped with this answer, as the hook makes it; none
    /// if nothing is answered. `partial`: the packet's checksum was left to the device.
    pub fn answer(
        &self,
        frame: &Bytes,
        arrival: &Arrival,
        answer: &Answer,
        partial: bool,
    ) -> Option<Bytes> {
        let mut order = Order::default();
        if !prepare(self, frame, arrival, answer.word(), &mut order) {
            return None;
        }
        let mut draft = Draft::default();
        let at = if order.ipv6 { QUOTED6 } else { QUOTED4 };
        draft.copy(0, frame.0.get(..L3)?);
        draft.copy(at, frame.0.get(L3..L3 + usize::from(order.quoted))?);
        let length = order.write(&mut draft, partial)?;
        let bytes = draft.0.iter().flat_map(|half| half.to_ne_bytes());
        Some(Bytes(bytes.take(length).collect()))
    }
}

//! How many answers are sent (RFC 1812 section 4.3.2.8, RFC 4443 section 2.4 f): so many to each
//! sender, and so many to all.

use portcullis_datapath_abi::guard::Limit;
use portcullis_flow_table::{AtomicU64, hash40};

use crate::{Tables, guard::conforms};

/// Rates that are kept: of all senders, and of senders by hash.
pub const RATES: u32 = 1024;

/// To one sender. A traceroute sends sixteen probes at once, a browser opens six connections.
const SENDER: Limit = Limit::new(50, 50);
/// To all.
const ALL: Limit = Limit::new(1000, 1000);

/// What answers need.
pub trait AnswerTables {
    /// A rate, as [`conforms`] keeps it; `None` if `index` is not below [`RATES`].
    fn answer_rate(&self, index: u32) -> Option<&AtomicU64>;
    /// Replaces a destination by our address that a packet to it out of `interface` comes from (IPv4 as
    /// ::ffff:a.b.c.d). False if there is none.
    fn own_address(&self, interface: u32, ipv6: bool, address: &mut [u32; 4]) -> bool;
}

/// Whether `sender` (IPv4 as ::ffff:a.b.c.d) may be answered once more.
#[inline(always)]
pub(super) fn admit<T: Tables>(tables: &T, sender: &[u32; 4]) -> bool {
    let [a, b, c, d] = *sender;
    let words = [u64::from(a) << 32 | u64::from(b), u64::from(c) << 32 | u64::from(d), 0, 0, 0];
    let seed = tables.config().map_or([0; 2], |config| config.seed);
    let index = 1 + (hash40(seed, words).0 >> 32) as u32 % (RATES - 1);
    let now = tables.nanoseconds();
    // The sender's first: who is refused there takes nothing from the others.
    for (index, limit) in [(index, &SENDER), (0, &ALL)] {
        let Some(rate) = tables.answer_rate(index) else {
            return false;
        };
        if !conforms(rate, now, limit) {
            return false;
        }
    }
    true
}

//! Translation of IPv4 addresses: what the first packet of a flow is turned into. All further
//! packets follow their flow.
//!
//! 1. `inbound`: the destination is an external address; a port forward, a 1:1 translation or a
//!    mapping leads inside.
//! 2. Route and policy, with the destination inside (not here).
//! 3. `outbound`: the source on the way out, by 1:1 translation, pool or masquerade. The last two
//!    make or use a [`portcullis_datapath_abi::Mapping`], which is endpoint-independent (RFC 4787
//!    REQ-1).
//!
//! A packet that goes back into the zone that it came from (hairpin) gets a new source too, that of
//! [`Inside::exit`], since the answer would else not pass the router.

mod inbound;
mod mapping;
mod outbound;

use core::ptr::NonNull;

use portcullis_datapath_abi::{
    Interface, Mapping, Zone,
    nat::{
        External, ExternalKey, Forward, ForwardKey, ForwardList, ForwardSourceKey, Pool, PoolBlock,
        PoolBlockKey, PoolKey, StaticKey,
    },
    policy::MASQUERADE,
};

use crate::flow::FlowTables;

pub use inbound::inbound;
pub use mapping::release;
pub use outbound::{keeps_source, outbound};

/// Maps of the translation.
pub trait NatTables: FlowTables {
    /// What an external address is for.
    fn external(&self, key: &ExternalKey) -> Option<External>;
    /// Port forwards of an external port.
    fn forwards(&self, key: &ForwardKey) -> Option<ForwardList>;
    /// A port forward by its place.
    fn forward(&self, index: u32) -> Option<Forward>;
    /// Whether a source may use a port forward.
    fn is_forward_source(&self, key: &ForwardSourceKey) -> bool;
    /// The other address of a 1:1 translation.
    fn static_nat(&self, key: &StaticKey) -> Option<u32>;
    /// The pool of a source.
    fn pool(&self, key: &PoolKey) -> Option<Pool>;
    /// Addresses of a pool.
    fn pool_block(&self, key: &PoolBlockKey) -> Option<PoolBlock>;
    /// Bits of 64 reserved ports; 0 beyond the table.
    fn reserved(&self, index: u32) -> u64;
    /// A mapping by its number; `None` beyond the size of the table.
    fn mapping(&self, number: u32) -> Option<NonNull<Mapping>>;
    /// A free number below `limit`, which is the caller's; `None` if the table is full.
    fn take_mapping(&self, limit: u32) -> Option<u32>;
    /// Gives back a number whose mapping was never in the index.
    fn return_mapping(&self, number: u32);
    /// A random number.
    fn chance(&self) -> u32;
}

/// Where a flow leaves to, as far as its source matters.
#[derive(Clone, Copy, Debug, Default)]
pub struct Exit {
    /// Address that masqueraded flows take; 0 if there is none.
    pub address: u32,
    /// Flags of the zone.
    pub flags: u32,
    /// Zone.
    pub zone: u8,
}

impl Exit {
    /// By an interface.
    #[inline(always)]
    pub const fn by(interface: &Interface, zone: &Zone) -> Self {
        Self { address: interface.nat_address, flags: zone.flags, zone: interface.zone }
    }
}

/// The source of a flow on its way out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Source {
    /// Address.
    pub address: u32,
    /// Port or ICMP query id.
    pub port: u16,
    /// Mapping that it is of, which counts the flow: [`release`] it if none comes of it.
    /// [`portcullis_datapath_abi::flow::NO_MAPPING`] for none.
    pub mapping: u32,
}

/// What a packet of no flow is for.
#[derive(Clone, Copy, Debug)]
pub enum Inbound {
    /// Its destination is not an external address: it means whom it names.
    Direct,
    /// Nobody inside has this external address and port: for the router itself, or nobody.
    ToRouter,
    /// For a host inside.
    Inside(Inside),
}

/// The host inside that a packet is for.
#[derive(Clone, Copy, Debug)]
pub struct Inside {
    /// Its address.
    pub destination: u32,
    /// Its port or ICMP query id.
    pub port: u16,
    /// [`Inside::PASSES`] and so on.
    pub flags: u8,
    /// Where flows that go back into their own zone get their source from.
    pub exit: Exit,
}

impl Inside {
    /// It passes where no rule decides.
    pub const PASSES: u8 = 1;
    /// It passes where no rule decides, if it goes back into the zone that it came from.
    pub const PASSES_BACK: u8 = 2;
    /// Its flow is to be logged.
    pub const LOG: u8 = 4;

    /// Whether a flow between two zones passes that no rule decides about.
    #[inline(always)]
    pub const fn passes(&self, from: u8, to: u8) -> bool {
        let back = from == to && self.flags & Self::PASSES_BACK != 0;
        back || self.flags & Self::PASSES != 0
    }

    #[inline(always)]
    fn new(external: &External, destination: u32, port: u16, flags: u8) -> Self {
        let exit = Exit {
            address: external.masquerade,
            // Whatever the zone does with flows that leave by it: this one must come back.
            flags: u32::from(external.zone_flags) | MASQUERADE,
            zone: external.zone,
        };
        Self { destination, port, flags, exit }
    }
}

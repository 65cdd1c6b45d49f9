//! What user space compiles the configuration into.

/// Zone id of the router itself.
pub const ROUTER: u8 = 0;

/// Zone ids are below this.
pub const MAX_ZONES: u32 = 32;

/// Slots of the interface table. An interface stands in slot `index % INTERFACE_SLOTS`; user space
/// refuses two that would share one.
pub const INTERFACE_SLOTS: u32 = 1024;

/// Most addresses of the router.
pub const MAX_ADDRESSES: u32 = 1024;
/// In a value of `map::ADDRESSES`, beside the index: not an address of the router, but the broadcast address
/// of a subnet that it is in.
pub const BROADCAST: u32 = 1 << 31;

/// Datagrams in fragments that are followed at the same time.
pub const MAX_FRAGMENTED: u32 = 4096;

/// Global settings, read once for each packet.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Config {
    /// Secret of the flow index, chosen when the maps are made and kept for their lifetime.
    pub seed: [u64; 2],
    /// Raised when a route or neighbour changed, never 0: cached next hops of older generations are
    /// looked up again.
    pub generation: u32,
    /// Which half of the tables is in force: bit 0 of the rules', bit 1 of the translations'
    /// ([`crate::nat::bank`]).
    pub bank: u32,
    /// Buckets of the flow index.
    pub buckets: u32,
    /// Flow records.
    pub flows: u32,
    /// Mapping records.
    pub mappings: u32,
    /// [`EVENTS`] and so on in the lower half, [`fragment_flags`] in the upper one.
    pub flags: u32,
}

/// In [`Config::flags`]: starts of flows are written to the ring of events.
pub const EVENTS: u32 = 1;
/// In [`Config::flags`]: a capture runs; dropped packets are shown to its filter.
pub const CAPTURE: u32 = 2;

/// How long fragments are waited for until the configuration says it, in ticks: 60 s.
pub const FRAGMENT_TICKS: u32 = 56;

/// The upper half of [`Config::flags`]: how long fragments of a datagram are waited for, in ticks; at most
/// 65,535.
pub const fn fragment_flags(ticks: u32) -> u32 {
    let ticks = if ticks > 0xffff { 0xffff } else { ticks };
    ticks << 16
}

/// The ticks of [`fragment_flags`].
pub const fn fragment_ticks(flags: u32) -> u32 {
    flags >> 16
}

/// No rule: the flow is the router's own, or the pair's default let it in.
pub const NO_RULE: u16 = u16::MAX;

/// An interface.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Interface {
    /// Kernel index; 0 for an empty slot.
    pub index: u32,
    /// Address that masqueraded flows take (the primary one); 0 if there is none.
    pub nat_address: u32,
    /// Hardware address.
    pub mac: [u8; 6],
    /// Zone id.
    pub zone: u8,
    /// [`XDP_TRANSMIT`].
    pub flags: u8,
}

impl Interface {
    /// Whether `destination`, the first eight bytes of a frame as they stand, begins with the hardware
    /// address.
    #[inline(always)]
    pub const fn is_addressed(&self, destination: u64) -> bool {
        const WORD: usize = core::mem::offset_of!(Interface, mac) / 8;
        const { assert!(WORD * 8 + 8 == size_of::<Self>() && align_of::<Self>() == 8) };
        // SAFETY: the last eight bytes of this value, aligned. Zone and flags are read with the address,
        // and shifted away: one load, where the compiler would make one of each byte.
        let own = unsafe { *core::ptr::from_ref(self).cast::<u64>().add(WORD) };
        (own ^ destination).to_le() << 16 == 0
    }
}

/// The device can send frames that XDP redirects to it.
pub const XDP_TRANSMIT: u8 = 1;

/// A zone.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Zone {
    /// Services of the router that it may reach: [`DHCP`] and so on.
    pub services: u32,
    /// [`MASQUERADE`].
    pub flags: u32,
    /// Its name, filled up with zeros; all zeros for an unused id. Flows carry ids, so a zone keeps
    /// its id for as long as it exists, over restarts of the service too.
    pub name: [u8; 16],
}

/// Flows that leave by this zone take the address of the interface they leave by.
pub const MASQUERADE: u32 = 1;
/// Some hosts have an external address of their own in the zone (1:1).
pub const STATIC_NAT: u32 = 2;
/// Some flows that leave by the zone take addresses of a pool.
pub const SOURCE_POOLS: u32 = 4;
// The upper half of a zone's flags is `nat::mss`.

/// UDP 67.
pub const DHCP: u32 = 1;
/// UDP and TCP 53.
pub const DNS: u32 = 2;
/// ICMP echo.
pub const PING: u32 = 4;
/// TCP 443.
pub const WEB: u32 = 8;

/// New flows between the zones are dropped.
pub const DENY: u32 = 0;
/// New flows between the zones pass.
pub const ALLOW: u32 = 1;

/// Index into the table of verdicts.
pub const fn pair_index(from: u8, to: u8) -> u32 {
    (from as u32 % MAX_ZONES) * MAX_ZONES + to as u32 % MAX_ZONES
}

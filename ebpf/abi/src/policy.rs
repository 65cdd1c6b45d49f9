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

/// Datagrams in fragments that are followed at the same time.
pub const MAX_FRAGMENTED: u32 = 4096;

/// Global settings.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Config {
    /// Raised when a route or neighbour changed, never 0: cached next hops of older generations are
    /// looked up again.
    pub generation: u32,
    /// Zero.
    pub reserved: u32,
}

/// An interface.
#[repr(C)]
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

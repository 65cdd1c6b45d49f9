//! Who has which address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// A host inside.
pub const HOST: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 100);
/// Another one.
pub const OTHER: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 101);
/// The router, inside.
pub const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 1);
/// The router, outside.
pub const WAN: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
/// Its second address there.
pub const SECOND: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 3);
/// Four addresses that the provider routes to the router.
pub const POOL: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 64);
/// The provider's router, on the access link.
pub const PROVIDER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// The provider's router, on the server's link.
pub const CORE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
/// The server.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
/// Its second address.
pub const SERVER_TOO: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 11);

/// [`HOST`] in IPv6.
pub const HOST6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x77, 0, 0, 0, 0, 0x100);
/// [`OTHER`] in IPv6.
pub const OTHER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x77, 0, 0, 0, 0, 0x101);
/// [`ROUTER`] in IPv6.
pub const ROUTER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x77, 0, 0, 0, 0, 1);
/// [`WAN`] in IPv6.
pub const WAN6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 2);
/// [`PROVIDER`] in IPv6.
pub const PROVIDER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1);
/// [`CORE`] in IPv6.
pub const CORE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 1);
/// [`SERVER`] in IPv6.
pub const SERVER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 0x10);

/// The host and the server, in both families.
pub const PAIRS: [(IpAddr, IpAddr); 2] =
    [(IpAddr::V4(HOST), IpAddr::V4(SERVER)), (IpAddr::V6(HOST6), IpAddr::V6(SERVER6))];

/// A port of [`SERVER`].
pub fn at_server(port: u16) -> SocketAddr {
    (SERVER, port).into()
}

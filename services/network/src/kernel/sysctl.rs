//! Kernel parameters of a router (`/proc/sys/net`), and their shell.

use std::{collections::BTreeMap, fs, io, path::PathBuf};

const ROOT: &str = "/proc/sys";

/// Parameters of the whole namespace and of devices to come. `ip_forward` is not among them: the
/// firewall turns it on once its filters are attached, so that nothing is forwarded unfiltered.
const GLOBAL: &[(&str, &str)] = &[
    // `all` is or-ed or max-ed with each device's own value: neutral here, exact there.
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/all/send_redirects", "0"),
    // For these the kernel wants both (and): refused for all.
    ("net/ipv4/conf/all/accept_redirects", "0"),
    ("net/ipv4/conf/all/accept_source_route", "0"),
    ("net/ipv6/conf/all/accept_redirects", "0"),
    ("net/ipv6/conf/all/accept_ra", "0"),
    // A device is closed until it is managed.
    ("net/ipv4/conf/default/rp_filter", "1"),
    ("net/ipv4/conf/default/send_redirects", "0"),
    ("net/ipv4/conf/default/accept_redirects", "0"),
    ("net/ipv4/conf/default/accept_source_route", "0"),
    ("net/ipv6/conf/default/accept_ra", "0"),
    ("net/ipv6/conf/default/accept_redirects", "0"),
];

/// Parameters of each managed device, with their IP version.
const DEVICE: &[(&str, &str, &str)] = &[
    ("ipv4", "accept_redirects", "0"),
    ("ipv4", "accept_source_route", "0"),
    // A stateful firewall must see both directions: nobody is sent around us.
    ("ipv4", "send_redirects", "0"),
    // Answer ARP only on the device that has the address, and ask with an address of the subnet
    // asked about: the LAN learns nothing of the WAN's addresses.
    ("ipv4", "arp_ignore", "1"),
    ("ipv4", "arp_announce", "2"),
    // Neighbours learn of a new hardware address, or of a cable put elsewhere, at once.
    ("ipv4", "arp_notify", "1"),
    // When the primary address goes, the next one in its subnet takes over instead of going too.
    ("ipv4", "promote_secondaries", "1"),
    ("ipv6", "accept_ra", "0"),
    ("ipv6", "accept_redirects", "0"),
];

/// What a device is to the router, by address family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Roles {
    /// For IPv4.
    pub ipv4: Role,
    /// For IPv6.
    pub ipv6: Role,
}

/// What a device is to the router.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// Hosts are there.
    #[default]
    Inside,
    /// The only way out.
    Uplink,
    /// There are other ways out.
    OneOfUplinks,
}

impl Role {
    /// Reverse path filter (RFC 3704). Strict: a source must be reached by the device that its packet
    /// came from. Loose, with several uplinks: packets may come by any of them.
    const fn rp_filter(self) -> &'static str {
        match self {
            Self::Inside | Self::Uplink => "1",
            Self::OneOfUplinks => "2",
        }
    }

    /// Whether routes by it do not count while it has no link, so that another uplink takes its
    /// place. Those to hosts inside count always, else their packets would go by the default route,
    /// to the outside.
    const fn ignore_routes_with_linkdown(self) -> &'static str {
        match self {
            Self::Inside | Self::Uplink => "0",
            Self::OneOfUplinks => "1",
        }
    }
}

/// The parameters that `devices` and the namespace shall have: path under `/proc/sys`, value.
pub fn wanted<'a>(devices: impl Iterator<Item = (&'a str, Roles)>) -> Vec<(String, String)> {
    let mut all: Vec<_> =
        GLOBAL.iter().map(|(path, value)| ((*path).to_owned(), (*value).to_owned())).collect();
    for (device, Roles { ipv4, ipv6 }) in devices {
        let mut add = |version: &str, name: &str, value: &str| {
            all.push((format!("net/{version}/conf/{device}/{name}"), value.to_owned()));
        };
        add("ipv4", "rp_filter", ipv4.rp_filter());
        for (version, role) in [("ipv4", ipv4), ("ipv6", ipv6)] {
            add(version, "ignore_routes_with_linkdown", role.ignore_routes_with_linkdown());
        }
        for (version, name, value) in DEVICE {
            add(version, name, value);
        }
    }
    all
}

/// The files under `/proc/sys/net`.
#[derive(Debug)]
pub struct Sysctls {
    /// Keeps the folder's inode in the kernel: a sandbox rule (landlock) names inodes, and the
    /// kernel makes new ones for `/proc/sys` after memory pressure.
    _pinned: fs::File,
}

impl Sysctls {
    /// Opens the folder.
    ///
    /// # Errors
    /// If `/proc/sys/net` is missing.
    pub fn open() -> io::Result<Self> {
        Ok(Self { _pinned: fs::File::open(PathBuf::from(ROOT).join("net"))? })
    }

    /// Reads the values of `paths`, without those that the kernel does not have.
    ///
    /// # Errors
    /// The path and what the kernel said.
    pub fn read<'a>(
        &self,
        paths: impl Iterator<Item = &'a str>,
    ) -> io::Result<BTreeMap<String, String>> {
        let mut values = BTreeMap::new();
        for path in paths {
            match fs::read_to_string(PathBuf::from(ROOT).join(path)) {
                Ok(text) => {
                    values.insert(path.to_owned(), text.trim().to_owned());
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(io::Error::new(error.kind(), format!("{path}: {error}"))),
            }
        }
        Ok(values)
    }

    /// Writes one value.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn write(&self, path: &str, value: &str) -> io::Result<()> {
        fs::write(PathBuf::from(ROOT).join(path), value)
    }
}

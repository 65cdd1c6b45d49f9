//! Names of network devices: `eth0`, `eth1`, ... in the order of their places on the bus.
//!
//! The kernel numbers devices in the order in which drivers find them, which differs between
//! drivers and boots; the first port of a box must be the first port every time.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// A network device of real or virtual hardware.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Nic {
    /// Its place: path of the hardware device in sysfs, then its port there.
    place: (PathBuf, u32),
    name: String,
}

/// Renames devices so that their numbers follow their places. Returns the new names that were
/// given.
///
/// # Errors
/// If a device cannot be renamed, with its name.
pub fn order(sys: &Path) -> io::Result<Vec<String>> {
    let renames = plan(&list(sys)?);
    // In two steps: the new name of one may be the old name of another.
    for (index, (old, _)) in renames.iter().enumerate() {
        rename(old, &format!("reorder{index}"))?;
    }
    for (index, (_, new)) in renames.iter().enumerate() {
        rename(&format!("reorder{index}"), new)?;
    }
    Ok(renames.into_iter().map(|(_, new)| new).collect())
}

/// (old, new) of the devices that have not the name of their place.
fn plan(nics: &[Nic]) -> Vec<(String, String)> {
    let mut sorted: Vec<&Nic> = nics.iter().collect();
    sorted.sort();
    sorted
        .iter()
        .enumerate()
        .map(|(number, nic)| (nic.name.clone(), format!("eth{number}")))
        .filter(|(old, new)| old != new)
        .collect()
}

/// Ethernet devices with hardware behind them; bridges, tunnels and loopback have none.
fn list(sys: &Path) -> io::Result<Vec<Nic>> {
    let mut nics = Vec::new();
    for entry in fs::read_dir(sys.join("class/net"))? {
        let entry = entry?;
        let read = |file: &str| fs::read_to_string(entry.path().join(file)).unwrap_or_default();
        let Ok(place) = fs::canonicalize(entry.path().join("device")) else { continue };
        // ARPHRD_ETHER; wireless devices keep names of their own.
        if read("type").trim() != "1" || entry.path().join("phy80211").exists() {
            continue;
        }
        let port = read("dev_port").trim().parse().unwrap_or(0);
        let name = entry.file_name().to_string_lossy().into_owned();
        nics.push(Nic { place: (place, port), name });
    }
    Ok(nics)
}

/// SIOCSIFNAME (netdevice(7)); the device is not up yet.
fn rename(old: &str, new: &str) -> io::Result<()> {
    let failed = |e: rustix::io::Errno| io::Error::other(format!("renaming {old} to {new}: {e}"));
    let name = |text: &str| {
        let mut field = [0; libc::IFNAMSIZ];
        // The last byte stays zero.
        for (place, byte) in field.iter_mut().take(libc::IFNAMSIZ - 1).zip(text.bytes()) {
            *place = byte.cast_signed();
        }
        field
    };
    let request = libc::ifreq {
        ifr_name: name(old),
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_newname: name(new) },
    };
    let socket = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        None,
    )?;
    const SIOCSIFNAME: rustix::ioctl::Opcode = libc::SIOCSIFNAME as rustix::ioctl::Opcode;
    let setter = {
        // SAFETY: SIOCSIFNAME reads a `struct ifreq` with both names ending in zero.
        unsafe { rustix::ioctl::Setter::<SIOCSIFNAME, libc::ifreq>::new(request) }
    };
    // SAFETY: as above.
    unsafe { rustix::ioctl::ioctl(socket, setter) }.map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nic(place: &str, port: u32, name: &str) -> Nic {
        Nic { place: (PathBuf::from(place), port), name: name.to_owned() }
    }

    #[test]
    fn numbers_follow_places() {
        let nics = [
            nic("/sys/devices/pci0000:00/0000:00:05.0/virtio2", 0, "eth0"),
            nic("/sys/devices/pci0000:00/0000:00:03.0", 0, "eth2"),
            nic("/sys/devices/pci0000:00/0000:00:04.0/virtio1", 1, "eth1"),
            nic("/sys/devices/pci0000:00/0000:00:04.0/virtio1", 0, "usb0"),
        ];
        let planned = plan(&nics);
        let expected = [("eth2", "eth0"), ("usb0", "eth1"), ("eth1", "eth2"), ("eth0", "eth3")];
        assert_eq!(planned, expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
        assert!(plan(&[nic("/a", 0, "eth0"), nic("/b", 0, "eth1")]).is_empty());
    }
}

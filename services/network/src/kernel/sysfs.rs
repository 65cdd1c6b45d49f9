//! What netlink does not tell of a device: the hardware behind it (`/sys/class/net`).

use std::{
    fs,
    path::{Path, PathBuf},
};

/// What sysfs says of one device; the empty value for a device that is gone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hardware {
    /// Path of the hardware device under `/sys/devices`, none for software devices.
    pub bus_path: Option<String>,
    /// Kernel driver.
    pub driver: String,
    /// Whether it is a wireless NIC.
    pub wireless: bool,
    /// Whether somebody set the hardware address (`NET_ADDR_SET`).
    pub mac_set: bool,
}

/// Value of `addr_assign_type` for a hardware address that was set from user space.
const NET_ADDR_SET: &str = "3";

/// Reads what is known of `device`.
pub fn hardware(device: &str) -> Hardware {
    let folder = PathBuf::from("/sys/class/net").join(device);
    let text = |name: &str| fs::read_to_string(folder.join(name)).unwrap_or_default();
    let hardware = fs::canonicalize(folder.join("device")).ok();
    let bus_path = hardware.map(|path| {
        // Ports of one card share its bus address; the port's number orders them.
        format!("{}/{:0>3}", path.display(), text("dev_port").trim())
    });
    Hardware {
        bus_path,
        driver: fs::read_link(folder.join("device/driver"))
            .ok()
            .as_deref()
            .and_then(Path::file_name)
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default(),
        wireless: folder.join("phy80211").exists(),
        mac_set: text("addr_assign_type").trim() == NET_ADDR_SET,
    }
}

//! Taps: the end of a wire whose other end is a descriptor, for QEMU or for a test that writes
//! frames itself.

use std::{
    fs::{File, OpenOptions},
    os::{fd::AsRawFd, unix::fs::OpenOptionsExt},
};

use anyhow::{Context, Result};

use crate::Namespace;

impl Namespace {
    /// Makes a tap device in this namespace and brings it up; frames written to the file arrive
    /// at the device. With `offload`, frames carry a virtio-net header, as QEMU expects
    /// (`vnet_hdr`), and may be large and without checksum; without, they are plain Ethernet.
    ///
    /// # Errors
    /// No /dev/net/tun, or the name is taken.
    pub fn tap(&self, device: &str, offload: bool) -> Result<File> {
        let file = self.enter(|| {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .custom_flags(libc::O_NONBLOCK)
                .open("/dev/net/tun")
                .context("/dev/net/tun")?;
            let flags =
                libc::IFF_TAP | libc::IFF_NO_PI | if offload { libc::IFF_VNET_HDR } else { 0 };
            // SAFETY: ifreq is plain data for which all zeros is valid.
            let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
            for (to, from) in request.ifr_name.iter_mut().zip(device.bytes().take(15)) {
                *to = from.cast_signed();
            }
            request.ifr_ifru.ifru_flags = i16::try_from(flags)?;
            // SAFETY: TUNSETIFF reads an ifreq, which lives through the call.
            let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &request) };
            if result < 0 {
                return Err(std::io::Error::last_os_error())
                    .with_context(|| format!("tap {device}"));
            }
            Ok(file)
        })?;
        self.run(&format!("ip link set {device} up"))?;
        Ok(file)
    }
}

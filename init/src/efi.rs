//! What the boot manager left in EFI variables (systemd.io/BOOT_LOADER_INTERFACE).

use std::{fs, path::Path, time::Duration};

use portcullis_bootstate::Fingerprint;

/// Where efivarfs is mounted.
pub const EFIVARS: &str = "/sys/firmware/efi/efivars";

/// Vendor of the interface's variables.
const LOADER: &str = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";

/// Vendor of what the interface has no variable for; also in `init/bootloader/src/efi/variables.rs`.
const OWN: &str = "e323186e-189f-4310-8963-809f9ff07763";

/// The boot state of the disk that was booted, as the boot manager left it there.
pub fn boot_state() -> Option<Fingerprint> {
    let bytes = fs::read(Path::new(EFIVARS).join(format!("PortcullisBootState-{OWN}"))).ok()?;
    decode_boot_state(&bytes)
}

/// Four bytes of attributes, then the fingerprint.
fn decode_boot_state(bytes: &[u8]) -> Option<Fingerprint> {
    bytes.get(4..)?.try_into().ok().map(Fingerprint)
}

/// Text of the loader's variable `name`, if it was set.
pub fn loader_variable(name: &str) -> Option<String> {
    decode(&fs::read(Path::new(EFIVARS).join(format!("{name}-{LOADER}"))).ok()?)
}

/// A loader's time stamp: time since power-on, as the boot manager measured it.
pub fn loader_time(name: &str) -> Option<Duration> {
    loader_variable(name)?.trim().parse().ok().map(Duration::from_micros)
}

/// Four bytes of attributes, then UTF-16 with a final zero.
fn decode(bytes: &[u8]) -> Option<String> {
    let units: Vec<u16> = bytes
        .get(4..)?
        .chunks_exact(2)
        .filter_map(|pair| Some(u16::from_le_bytes(pair.try_into().ok()?)))
        .take_while(|&unit| unit != 0)
        .collect();
    String::from_utf16(&units).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_utf_16_after_their_attributes() {
        assert_eq!(decode(b"\x06\0\0\0s\0l\0-\0a\0\0\0x\0").as_deref(), Some("sl-a"));
        assert_eq!(decode(b"\x06\0\0\0").as_deref(), Some(""));
        assert_eq!(decode(b"\x06\0"), None);
    }

    #[test]
    fn a_boot_state_is_32_bytes_after_its_attributes() {
        let variable = [[6, 0, 0, 0].as_slice(), &[7; 32]].concat();
        assert_eq!(decode_boot_state(&variable), Some(Fingerprint([7; 32])));
        assert_eq!(decode_boot_state(&variable[..35]), None);
        assert_eq!(decode_boot_state(&[]), None);
    }
}

//! Variables that tell the system who started it, when and from where. Volatile, readable at run
//! time. Those of the Boot Loader Interface (systemd.io/BOOT_LOADER_INTERFACE) are text in UTF-16
//! with a final zero.
use alloc::vec::Vec;
use portcullis_bootstate::Fingerprint;
use uefi::runtime::{self, VariableAttributes, VariableVendor};
use uefi::{CStr16, cstr16, guid};

/// The vendor of the interface.
const VENDOR: VariableVendor = VariableVendor(guid!("4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"));

/// The vendor of what the interface has no variable for; also in `init/src/efi.rs`.
const OWN_VENDOR: VariableVendor = VariableVendor(guid!("e323186e-189f-4310-8963-809f9ff07763"));

/// A variable of the interface that we set.
#[derive(Clone, Copy)]
pub enum Variable {
    /// Time at which the boot manager began, in microseconds since power-on.
    TimeInit,
    /// Time at which the UKI was started, in microseconds since power-on.
    TimeExec,
    /// Name and version of the boot manager.
    Info,
    /// The slot that was started: `slot-a` or `slot-b`.
    EntrySelected,
    /// Unique id of the EFI system partition we were loaded from, so the disk we booted from.
    DevicePartUuid,
}

impl Variable {
    const fn name(self) -> &'static CStr16 {
        match self {
            Self::TimeInit => cstr16!("LoaderTimeInitUSec"),
            Self::TimeExec => cstr16!("LoaderTimeExecUSec"),
            Self::Info => cstr16!("LoaderInfo"),
            Self::EntrySelected => cstr16!("LoaderEntrySelected"),
            Self::DevicePartUuid => cstr16!("LoaderDevicePartUUID"),
        }
    }

    /// Sets the variable. They are information; firmware that refuses them boots all the same.
    pub fn set(self, text: &str) {
        let data: Vec<u8> = text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
        set(self.name(), &VENDOR, &data);
    }
}

/// Sets or, without a value, removes the variable with the fingerprint of the boot state.
pub fn set_boot_state(fingerprint: Option<Fingerprint>) {
    let data = fingerprint.map_or_else(Vec::new, |fingerprint| fingerprint.0.to_vec());
    set(cstr16!("PortcullisBootState"), &OWN_VENDOR, &data);
}

fn set(name: &CStr16, vendor: &VariableVendor, data: &[u8]) {
    let attributes = VariableAttributes::BOOTSERVICE_ACCESS | VariableAttributes::RUNTIME_ACCESS;
    let _ = runtime::set_variable(name, vendor, attributes, data);
}

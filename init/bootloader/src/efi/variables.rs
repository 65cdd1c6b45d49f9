//! Variables of the Boot Loader Interface (systemd.io/BOOT_LOADER_INTERFACE): they tell the system
//! who started it and when. Volatile, readable at run time, text in UTF-16 with a final zero.
use alloc::vec::Vec;
use uefi::runtime::{self, VariableAttributes, VariableVendor};
use uefi::{CStr16, cstr16, guid};

/// The vendor of the interface.
const VENDOR: VariableVendor = VariableVendor(guid!("4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"));

/// A variable that we set.
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
        let attributes =
            VariableAttributes::BOOTSERVICE_ACCESS | VariableAttributes::RUNTIME_ACCESS;
        let _ = runtime::set_variable(self.name(), &VENDOR, attributes, &data);
    }
}

//! Stands in for a UKI in the tests of the boot manager: a UEFI program that shows what it was told
//! and then, by its mode, powers off, resets or comes back.
#![cfg_attr(target_os = "uefi", no_main)]
#![cfg_attr(target_os = "uefi", no_std)]

/// The tests find this text in the program and change its last letter: `o` powers off, `x` resets
/// as a crash does, `r` comes back as a kernel does that cannot be started.
#[cfg(target_os = "uefi")]
static MODE: [u8; 22] = *b"portcullis-test-mode=o";

#[cfg(target_os = "uefi")]
extern crate alloc;

#[cfg(target_os = "uefi")]
mod program {
    use super::MODE;
    use alloc::string::String;
    use core::fmt::Write as _;
    use uefi::prelude::*;
    use uefi::proto::loaded_image::LoadedImage;
    use uefi::runtime::{self, ResetType, VariableVendor};
    use uefi::{CStr16, cstr16, guid, system};

    const VENDOR: VariableVendor = VariableVendor(guid!("4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"));
    const OWN_VENDOR: VariableVendor =
        VariableVendor(guid!("e323186e-189f-4310-8963-809f9ff07763"));

    #[entry]
    fn main() -> Status {
        let mut text = String::from("test kernel:");
        let names = [
            cstr16!("LoaderEntrySelected"),
            cstr16!("LoaderInfo"),
            cstr16!("LoaderTimeInitUSec"),
            cstr16!("LoaderTimeExecUSec"),
            cstr16!("LoaderDevicePartUUID"),
        ];
        for name in names {
            let _ = write!(text, " {name}={};", variable(name));
        }
        let _ = write!(text, " PortcullisBootState=");
        match runtime::get_variable_boxed(cstr16!("PortcullisBootState"), &OWN_VENDOR) {
            Ok((data, _)) => data.iter().for_each(|byte| {
                let _ = write!(text, "{byte:02x}");
            }),
            Err(error) => {
                let _ = write!(text, "{:?}", error.status());
            }
        }
        let _ = write!(text, ";");
        let device = boot::open_protocol_exclusive::<LoadedImage>(boot::image_handle())
            .map(|image| if image.device().is_some() { "some" } else { "none" });
        let _ = write!(text, " device={};", device.unwrap_or("unknown"));
        let _ = system::with_stdout(|console| writeln!(console, "{text}"));
        // SAFETY: a valid reference; volatile, so that the compiler does not know the mode.
        match unsafe { core::ptr::read_volatile(&raw const MODE) } {
            [.., b'r'] => Status::LOAD_ERROR,
            [.., b'x'] => runtime::reset(ResetType::COLD, Status::ABORTED, None),
            _ => runtime::reset(ResetType::SHUTDOWN, Status::SUCCESS, None),
        }
    }

    /// The text of a variable, or why it cannot be read.
    fn variable(name: &CStr16) -> String {
        match runtime::get_variable_boxed(name, &VENDOR) {
            Ok((data, _)) => {
                let (units, _) = data.as_chunks::<2>();
                let units = units
                    .iter()
                    .map(|unit| u16::from_le_bytes(*unit))
                    .take_while(|unit| *unit != 0);
                char::decode_utf16(units).map(|char| char.unwrap_or('?')).collect()
            }
            Err(error) => alloc::format!("{:?}", error.status()),
        }
    }

    #[panic_handler]
    fn panicked(info: &core::panic::PanicInfo<'_>) -> ! {
        let _ = system::with_stdout(|console| writeln!(console, "test kernel failed: {info}"));
        runtime::reset(ResetType::SHUTDOWN, Status::ABORTED, None)
    }
}

#[cfg(not(target_os = "uefi"))]
fn main() {}

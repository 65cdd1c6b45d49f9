//! Programs that are started from memory.
use alloc::vec::Vec;
use core::mem;
use uefi::boot::{LoadImageSource, MemoryType};
use uefi::prelude::*;
use uefi::proto::device_path::build::{DevicePathBuilder, hardware};
use uefi::{Result, boot};

/// A program loaded by the firmware; unloaded when dropped before it was started.
pub struct Image(Handle);

impl Image {
    /// Loads a PE program from memory. With Secure Boot the firmware checks its signature here.
    ///
    /// The program gets a device path that says "from memory" and no device: the stub of the UKI
    /// then takes nothing from the unsigned EFI system partition.
    pub fn load(program: &[u8]) -> Result<Self> {
        let start = program.as_ptr() as u64;
        let mut buffer = Vec::new();
        let path = DevicePathBuilder::with_vec(&mut buffer)
            .push(&hardware::MemoryMapped {
                memory_type: MemoryType::LOADER_DATA,
                start_address: start,
                end_address: start + program.len() as u64,
            })
            .and_then(DevicePathBuilder::finalize)
            .map_err(|_| Status::BAD_BUFFER_SIZE)?;
        let source = LoadImageSource::FromBuffer { buffer: program, file_path: Some(path) };
        boot::load_image(boot::image_handle(), source).map(Self)
    }

    /// Starts the program; the answer is the status it came back with.
    pub fn start(self) -> Status {
        let handle = self.0;
        // The firmware unloads a program that comes back.
        mem::forget(self);
        boot::start_image(handle).status()
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        // What cannot be unloaded only takes memory.
        let _ = boot::unload_image(self.0);
    }
}

//! The disk the boot manager was loaded from, by its Block I/O protocol (UEFI 2.10, section 13.9).
use portcullis_bootloader::disk::{Disk, DiskError};
use uefi::boot::{OpenProtocolAttributes, OpenProtocolParams, ScopedProtocol};
use uefi::prelude::*;
use uefi::proto::device_path::build::DevicePathBuilder;
use uefi::proto::device_path::media::{HardDrive, PartitionSignature};
use uefi::proto::device_path::{DevicePath, DevicePathNodeEnum};
use uefi::proto::loaded_image::LoadedImage;
use uefi::proto::media::block::BlockIO;
use uefi::{Guid, Result};

/// The whole disk, not the partition.
pub struct BootDisk {
    block_io: ScopedProtocol<BlockIO>,
    partition_id: Option<Guid>,
}

impl BootDisk {
    /// Finds the disk: the device path of our partition up to its `HD()` node.
    pub fn find() -> Result<Self> {
        let loaded = boot::open_protocol_exclusive::<LoadedImage>(boot::image_handle())?;
        let partition = loaded.device().ok_or(Status::NOT_FOUND)?;
        let path = boot::open_protocol_exclusive::<DevicePath>(partition)?;
        let mut buffer = alloc::vec::Vec::new();
        let mut whole_disk = DevicePathBuilder::with_vec(&mut buffer);
        let mut partition_id = None;
        for node in path.node_iter() {
            if let Ok(DevicePathNodeEnum::MediaHardDrive(node)) = node.as_enum() {
                partition_id = id_of(node);
                break;
            }
            whole_disk = whole_disk.push(&node).map_err(|_| Status::BAD_BUFFER_SIZE)?;
        }
        let whole_disk = whole_disk.finalize().map_err(|_| Status::BAD_BUFFER_SIZE)?;
        let handle = boot::locate_device_path::<BlockIO>(&mut &*whole_disk)?;
        let params = OpenProtocolParams { handle, agent: boot::image_handle(), controller: None };
        // SAFETY: not exclusive, because that would take the disk away from the driver of its
        // partitions, one of which we run from. Nobody else uses the disk while we run: there is one
        // processor thread, and drivers only run when called.
        let block_io =
            unsafe { boot::open_protocol::<BlockIO>(params, OpenProtocolAttributes::GetProtocol)? };
        Ok(Self { block_io, partition_id })
    }

    /// Unique id of the EFI system partition we run from.
    pub const fn partition_id(&self) -> Option<Guid> {
        self.partition_id
    }
}

fn id_of(node: &HardDrive) -> Option<Guid> {
    match node.partition_signature() {
        PartitionSignature::Guid(id) => Some(id),
        _ => None,
    }
}

impl Disk for BootDisk {
    fn block_size(&self) -> u32 {
        self.block_io.media().block_size()
    }

    fn blocks(&self) -> u64 {
        self.block_io.media().last_block().saturating_add(1)
    }

    fn read(&mut self, first: u64, buffer: &mut [u8]) -> core::result::Result<(), DiskError> {
        let media = self.block_io.media().media_id();
        self.block_io.read_blocks(media, first, buffer).map_err(|error| DiskError::Device {
            doing: "read",
            block: first,
            status: super::code(error.status()),
        })
    }

    fn write(&mut self, first: u64, data: &[u8]) -> core::result::Result<(), DiskError> {
        let media = self.block_io.media().media_id();
        self.block_io
            .write_blocks(media, first, data)
            .and_then(|()| self.block_io.flush_blocks())
            .map_err(|error| DiskError::Device {
                doing: "write",
                block: first,
                status: super::code(error.status()),
            })
    }
}

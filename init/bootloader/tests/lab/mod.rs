//! A small Portcullis disk for the tests: partition table, boot state and slots.
// Each test program uses its own part of this.
#![allow(dead_code)]

use gpt::disk::LogicalBlockSize;
use gpt::mbr::ProtectiveMBR;
use gpt::{GptConfig, partition_types};
use portcullis_bootstate::{BootState, Loaded, RECORD_SIZE, Slot, SlotState, decode_pair, disk};
use portcullis_bundle::{Architecture, PublicKey, SigningKey, blob, verity};
use std::collections::BTreeMap;
use std::io::Cursor;
use std::ops::Range;
use uuid::Uuid;

pub const MIB: usize = 1 << 20;

/// The key that the boot managers under test trust.
pub fn trusted_key() -> SigningKey {
    SigningKey::from_bytes(&[0x42; 32])
}

pub fn trusted_public_key() -> PublicKey {
    trusted_key().verifying_key().to_bytes()
}

/// A slot blob whose root file system is a few blocks that no boot manager looks at.
pub fn blob(version: &str, uki: &[u8], key: &SigningKey) -> Vec<u8> {
    let root = [0x5a; 5 * 4096];
    let tree = verity::build(&root[..], &[7; 32]).unwrap();
    let architecture = Architecture::X86_64;
    let meta = blob::Meta { version: version.parse().unwrap(), min_version: None, architecture };
    let mut out = Vec::new();
    blob::write(&root, &tree, uki, &meta, key, &mut out).unwrap();
    out
}

/// A whole disk in memory.
pub struct DiskImage {
    pub bytes: Vec<u8>,
    partitions: BTreeMap<String, Range<usize>>,
}

impl DiskImage {
    /// `esp` is the content of the EFI system partition; everything else is empty.
    pub fn new(esp: &[u8]) -> Self {
        Self::with_state_named("state", esp)
    }

    /// The same, with another name for the partition of the boot state.
    pub fn with_state_named(state: &str, esp: &[u8]) -> Self {
        let sizes = [("esp", esp.len()), (state, MIB), ("slot-a", 4 * MIB), ("slot-b", 4 * MIB)];
        let total = sizes.iter().map(|(_, size)| size).sum::<usize>() + 3 * MIB;
        let mut bytes = vec![0; total];
        let blocks = u32::try_from(total / 512).unwrap() - 1;
        ProtectiveMBR::with_lb_size(blocks).overwrite_lba0(&mut Cursor::new(&mut bytes)).unwrap();
        let mut table = GptConfig::new()
            .writable(true)
            .logical_block_size(LogicalBlockSize::Lb512)
            .create_from_device(Cursor::new(&mut bytes), None)
            .unwrap();
        let mut partitions = BTreeMap::new();
        for (name, size) in sizes {
            let ours = disk::ALL.into_iter().find(|ours| ours.name == name);
            let kind = ours.map_or(partition_types::LINUX_FS, |ours| partition_types::Type {
                guid: Uuid::from_u128(ours.kind),
                os: partition_types::OperatingSystem::None,
            });
            let id = table.add_partition(name, size as u64, kind, 0, Some(2048)).unwrap();
            let partition = &table.partitions()[&id];
            let start = usize::try_from(partition.first_lba).unwrap() * 512;
            partitions.insert(name.to_owned(), start..start + size);
        }
        table.write().unwrap();
        let mut disk = Self { bytes, partitions };
        disk.partition("esp").copy_from_slice(esp);
        disk
    }

    pub fn partition(&mut self, name: &str) -> &mut [u8] {
        &mut self.bytes[self.partitions[name].clone()]
    }

    /// First block of a partition.
    pub fn block_of(&self, name: &str) -> u64 {
        self.partitions[name].start as u64 / 512
    }

    /// Writes a blob the way an update does: body at the start, trailer at the end.
    pub fn install(&mut self, slot: Slot, blob: &[u8]) {
        let (body, trailer) = blob.split_at(blob.len() - 65536);
        let partition = self.partition(slot.partition());
        partition.fill(0);
        partition[..body.len()].copy_from_slice(body);
        let end = partition.len() - trailer.len();
        partition[end..].copy_from_slice(trailer);
    }

    pub fn boot_state(&mut self) -> Loaded {
        let (first, rest) = self.partition("state").split_at(RECORD_SIZE);
        decode_pair(first, &rest[..RECORD_SIZE])
    }

    /// Writes a boot state as the system does, to the record that does not count.
    pub fn set_boot_state(&mut self, state: BootState) {
        let pending = self.boot_state().next(state);
        self.partition("state")[pending.offset..][..RECORD_SIZE].copy_from_slice(&pending.bytes);
    }
}

/// A slot that has proven itself.
pub fn confirmed(priority: u8) -> SlotState {
    SlotState { priority, tries_left: 0, confirmed: true, boot_failures: 0 }
}

/// A slot that was just installed.
pub fn on_trial(priority: u8, tries_left: u8) -> SlotState {
    SlotState { priority, tries_left, confirmed: false, boot_failures: 0 }
}

//! The partitions of the appliance's disk: names, types and sizes, in one place for the image builder, the boot
//! manager, `init` and the update client.
//!
//! The ESP has its type from the UEFI specification (5.3.3). The other types are Portcullis's own: the types of the
//! Discoverable Partitions Specification would make other systems mount or overwrite what they do not understand.

/// A partition of the disk, in the order on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Partition {
    /// Name in the GPT.
    pub name: &'static str,
    /// Type GUID, most significant byte first as GUIDs are printed.
    pub kind: u128,
    /// Size in bytes; the data partition starts with this size and grows to the end of the disk at first boot.
    pub size: u64,
}

const MIB: u64 = 1 << 20;

/// Type of both slots.
const SLOT: u128 = 0xe247fcd7_de8b_460e_9c40_99924f6f5c76;

/// FAT32 with the boot manager; written once at flashing.
pub const ESP: Partition =
    Partition { name: "esp", kind: 0xc12a7328_f81f_11d2_ba4b_00a0c93ec93b, size: 64 * MIB };
/// The boot state, see [`crate::pair`].
pub const STATE: Partition =
    Partition { name: "state", kind: 0xc7771df2_d964_4bfb_894b_9e8837282c7f, size: MIB };
/// The first slot.
pub const SLOT_A: Partition = Partition { name: "slot-a", kind: SLOT, size: 512 * MIB };
/// The second slot.
pub const SLOT_B: Partition = Partition { name: "slot-b", kind: SLOT, size: 512 * MIB };
/// ext4; made and grown at first boot.
pub const DATA: Partition =
    Partition { name: "data", kind: 0x20e0903c_8ee9_4059_909a_c7de6faaffcf, size: 64 * MIB };

/// All of them, in the order on the disk.
pub const ALL: [Partition; 5] = [ESP, STATE, SLOT_A, SLOT_B, DATA];

//! Everything that differs between processor architectures, in one place.

/// What the image builder must know about the architecture of the appliance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Architecture {
    /// Its name in Linux and Buildroot: part of the defconfig's name.
    pub name: &'static str,
    /// Rust target of the programs that run on Linux.
    pub linux_target: &'static str,
    /// Rust target of the boot manager.
    pub uefi_target: &'static str,
    /// Rust target of the datapath, which the kernel runs.
    pub bpf_target: &'static str,
    /// Debian's name of the architecture.
    pub debian: &'static str,
    /// Path that UEFI firmware starts without any boot entry (UEFI 2.10, 3.5.1.1), from the root of the ESP.
    pub removable_boot_path: &'static str,
    /// The EFI stub as installed by Debian's `systemd-boot-efi`.
    pub stub: &'static str,
    /// Machine of the stub in the COFF header (PE format, 3.3.1).
    pub pe_machine: u16,
    /// Its name in slot manifests.
    pub bundle: portcullis_bundle::Architecture,
    /// Kernel command line options that only it has.
    pub kernel_options: &'static [&'static str],
    /// Consoles of the kernel; the last one becomes `/dev/console`.
    pub consoles: &'static [&'static str],
}

/// 64-bit PCs.
pub const X86_64: Architecture = Architecture {
    name: "x86_64",
    linux_target: "x86_64-unknown-linux-gnu",
    uefi_target: "x86_64-unknown-uefi",
    bpf_target: "bpfel-unknown-none",
    debian: "amd64",
    removable_boot_path: "EFI/BOOT/BOOTX64.EFI",
    stub: "/usr/lib/systemd/boot/efi/linuxx64.efi.stub",
    pe_machine: 0x8664,
    bundle: portcullis_bundle::Architecture::X86_64,
    // No program here is old enough to need the fixed system call page.
    kernel_options: &["vsyscall=none"],
    consoles: &["tty0", "ttyS0,115200"],
};

/// 64-bit Arm machines with UEFI and ACPI. Prepared: the kernel builds, nothing has booted an image of it yet.
pub const AARCH64: Architecture = Architecture {
    name: "aarch64",
    linux_target: "aarch64-unknown-linux-gnu",
    uefi_target: "aarch64-unknown-uefi",
    bpf_target: "bpfel-unknown-none",
    debian: "arm64",
    removable_boot_path: "EFI/BOOT/BOOTAA64.EFI",
    stub: "/usr/lib/systemd/boot/efi/linuxaa64.efi.stub",
    pe_machine: 0xaa64,
    bundle: portcullis_bundle::Architecture::Aarch64,
    kernel_options: &[],
    consoles: &["tty0", "ttyAMA0,115200"],
};

/// The architecture with this name.
///
/// # Errors
/// Names those there are.
pub fn by_name(name: &str) -> Result<&'static Architecture, String> {
    [&X86_64, &AARCH64]
        .into_iter()
        .find(|architecture| architecture.name == name)
        .ok_or_else(|| format!("allowed are {} and {}", X86_64.name, AARCH64.name))
}

#[cfg(test)]
mod tests {
    use super::{AARCH64, X86_64, by_name};

    #[test]
    fn each_is_found_by_its_name() {
        assert_eq!(by_name("x86_64"), Ok(&X86_64));
        assert_eq!(by_name("aarch64"), Ok(&AARCH64));
        assert!(by_name("riscv64").unwrap_err().contains("x86_64 and aarch64"));
        for architecture in [&X86_64, &AARCH64] {
            assert_eq!(architecture.bundle.name(), architecture.name);
            assert_eq!(architecture.bundle.machine(), architecture.pe_machine);
        }
    }
}

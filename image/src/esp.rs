//! The EFI system partition: FAT32 with the boot manager where every firmware looks for it.

use crate::tool::{MCOPY, MFORMAT, MMD, Tool, Tools};
use anyhow::{Context, Result};
use portcullis_bootstate::disk::ESP;
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

const SECTOR: u64 = 512;
/// Seen as the volume's id; any constant will do.
const SERIAL: &str = "50435350";

/// Makes the file system with `boot_manager` at `path` (`EFI/BOOT/BOOTX64.EFI`) and all times set to `epoch` (seconds
/// since 1970).
///
/// # Errors
/// When mtools is missing or fails.
pub fn build(tools: &Tools, boot_manager: &[u8], path: &str, epoch: u64) -> Result<Vec<u8>> {
    let folder = tempfile::tempdir().context("cannot create a temporary folder")?;
    let image = folder.path().join("esp.img");
    File::create(&image)?.set_len(ESP.size)?;

    // One sector per cluster makes enough clusters for FAT32 on so small a volume.
    let sectors = (ESP.size / SECTOR).to_string();
    run(
        tools,
        MFORMAT,
        &image,
        epoch,
        &["-F", "-c", "1", "-T", &sectors, "-h", "64", "-s", "32", "-N", SERIAL, "-v", "ESP", "::"],
    )?;
    for (index, _) in path.match_indices('/') {
        run(
            tools,
            MMD,
            &image,
            epoch,
            &[&format!("::/{}", path.get(..index).unwrap_or_default())],
        )?;
    }
    let source = folder.path().join("boot-manager");
    fs::write(&source, boot_manager)?;
    File::options()
        .write(true)
        .open(&source)?
        .set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(epoch))?;
    let source = source.to_str().context("the temporary folder's path is not UTF-8")?;
    run(tools, MCOPY, &image, epoch, &["-m", source, &format!("::/{path}")])?;
    fs::read(&image).with_context(|| format!("cannot read {}", image.display()))
}

fn run(tools: &Tools, tool: Tool, image: &Path, epoch: u64, arguments: &[&str]) -> Result<()> {
    let mut command: Command = tools.command(tool, ["-i"]);
    command
        .arg(image)
        .args(arguments)
        .env("SOURCE_DATE_EPOCH", epoch.to_string())
        .env("MTOOLSRC", "/dev/null");
    tool.run(command)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::build;
    use crate::tool::{Tool, Tools};
    use portcullis_bootstate::disk::ESP;

    #[test]
    fn is_a_sound_fat32_with_the_boot_manager_in_it() {
        let first =
            build(&Tools::default(), b"boot manager", "EFI/BOOT/BOOTX64.EFI", 1_700_000_000)
                .unwrap();
        assert_eq!(first.len() as u64, ESP.size);
        // FAT's times count in steps of two seconds.
        std::thread::sleep(std::time::Duration::from_millis(2100));
        assert!(
            first
                == build(&Tools::default(), b"boot manager", "EFI/BOOT/BOOTX64.EFI", 1_700_000_000)
                    .unwrap()
        );

        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("esp");
        std::fs::write(&image, first).unwrap();
        let fsck = Tool { program: "/usr/sbin/fsck.vfat", package: "dosfstools" };
        fsck.run(fsck.command(["-n", image.to_str().unwrap()])).unwrap();
        let mtype = Tool { program: "mtype", package: "mtools" };
        let content = mtype
            .run(mtype.command(["-i", image.to_str().unwrap(), "::/EFI/BOOT/BOOTX64.EFI"]))
            .unwrap();
        assert_eq!(content, b"boot manager");
    }
}

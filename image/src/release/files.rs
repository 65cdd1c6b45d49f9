//! Folders and disks as single files, the same bytes for the same content.

use crate::tool::TAR;
use anyhow::{Context, Result};
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Write as _};
use std::path::Path;

/// Most of a disk image is compressed already or empty: higher levels gain nothing.
const LEVEL: i32 = 9;

/// Compresses a file with zstd.
///
/// # Errors
/// When one cannot be read or the other not be written.
pub fn compress(from: &Path, to: &Path) -> Result<()> {
    let reader = File::open(from).with_context(|| format!("cannot read {}", from.display()))?;
    let size = reader.metadata()?.len();
    let writer = File::create(to).with_context(|| format!("cannot create {}", to.display()))?;
    let mut encoder = zstd::Encoder::new(BufWriter::new(writer), LEVEL)?;
    encoder.include_checksum(true)?;
    encoder.set_pledged_src_size(Some(size))?;
    io::copy(&mut BufReader::with_capacity(1 << 20, reader), &mut encoder)?;
    encoder.finish()?.flush()?;
    Ok(())
}

/// Packs what is in a folder as tar, without owners, with all times set to `epoch` (seconds since 1970).
///
/// # Errors
/// When `tar` is missing or fails.
pub fn archive(folder: &Path, epoch: u64, to: &Path) -> Result<()> {
    let mut command = TAR.command(["--create", "--format=ustar", "--sort=name", "--numeric-owner"]);
    command.args(["--owner=0", "--group=0", "--mode=u=rwX,go=rX"]).arg(format!("--mtime=@{epoch}"));
    command.arg("--file").arg(to).arg("--directory").arg(folder).arg(".");
    TAR.run(command)?;
    Ok(())
}

/// [`archive`], compressed.
///
/// # Errors
/// As [`archive`] and [`compress`].
pub fn pack(folder: &Path, epoch: u64, to: &Path) -> Result<()> {
    let plain = tempfile::NamedTempFile::new().context("cannot create a temporary file")?;
    archive(folder, epoch, plain.path())?;
    compress(plain.path(), to)
}

#[cfg(test)]
mod tests {
    use super::pack;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn the_same_files_give_the_same_archive() {
        let folder = tempfile::tempdir().unwrap();
        let make = |name: &str, order: [&str; 2]| {
            let content = folder.path().join(name);
            fs::create_dir(&content).unwrap();
            for file in order {
                fs::write(content.join(file), file.repeat(1000)).unwrap();
            }
            let mode = if name == "one" { 0o600 } else { 0o644 };
            fs::set_permissions(content.join("a"), fs::Permissions::from_mode(mode)).unwrap();
            let packed = folder.path().join(format!("{name}.tar.zst"));
            pack(&content, 1_700_000_000, &packed).unwrap();
            fs::read(packed).unwrap()
        };
        let one = make("one", ["a", "b"]);
        std::thread::sleep(std::time::Duration::from_millis(1100));
        assert_eq!(one, make("two", ["b", "a"]));
        let tar = zstd::decode_all(one.as_slice()).unwrap();
        assert!(tar.windows(5).any(|window| window == b"ustar"));
    }
}

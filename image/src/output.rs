//! Output files appear whole or not at all.

use anyhow::{Context, Result};
use std::fs;
use std::path::Path;
use tempfile::NamedTempFile;

/// Writes `bytes` to `path` by way of a temporary file beside it.
///
/// # Errors
/// When the folder cannot be written; names the path.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    write_with(path, |file| {
        fs::write(file, bytes)?;
        Ok(())
    })
}

/// Lets `fill` write a temporary file, and moves it to `path` when that went well.
///
/// # Errors
/// Those of `fill`, and when the folder cannot be written; names the path.
pub fn write_with(path: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let folder =
        path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder)
        .with_context(|| format!("cannot create the folder {}", folder.display()))?;
    let temporary = NamedTempFile::new_in(folder)
        .with_context(|| format!("cannot create a file in {}", folder.display()))?
        .into_temp_path();
    fill(&temporary).with_context(|| format!("cannot write {}", path.display()))?;
    make_readable(&temporary)?;
    temporary.persist(path).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(())
}

/// A temporary file is private; what is built from public sources need not be.
fn make_readable(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, fs::Permissions::from_mode(0o644))
        .with_context(|| format!("cannot set the mode of {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::{write, write_with};
    use std::fs;

    #[test]
    fn a_failed_write_leaves_the_old_file_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        write(&path, b"old").unwrap();
        let error = write_with(&path, |file| {
            fs::write(file, b"half")?;
            anyhow::bail!("power cut")
        });
        assert!(format!("{:#}", error.unwrap_err()).contains("power cut"));
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}

//! Output files appear whole or not at all.

use anyhow::{Context, Result};
use std::fs;
use std::path::Path;
use std::process;

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

/// Lets `fill` write a temporary file, and moves it to `path` when that went well. Removes what builds that were
/// interrupted left of the same file.
///
/// # Errors
/// Those of `fill`, and when the folder cannot be written; names the path.
pub fn write_with(path: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let folder =
        path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder)
        .with_context(|| format!("cannot create the folder {}", folder.display()))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    remove_interrupted(folder, &name);
    let temporary = tempfile::Builder::new()
        .prefix(&format!(".{name}.{}.", process::id()))
        .tempfile_in(folder)
        .with_context(|| format!("cannot create a file in {}", folder.display()))?
        .into_temp_path();
    fill(&temporary).with_context(|| format!("cannot write {}", path.display()))?;
    make_readable(&temporary)?;
    temporary.persist(path).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(())
}

/// A temporary file's name says whose it is: `.NAME.PROCESS.SUFFIX`.
fn remove_interrupted(folder: &Path, name: &str) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let file = entry.file_name();
        let rest = file.to_str().and_then(|file| file.strip_prefix('.')?.strip_prefix(name));
        let process = rest.and_then(|rest| rest.strip_prefix('.')?.split('.').next());
        let Some(process) = process.and_then(|process| process.parse::<u32>().ok()) else {
            continue;
        };
        if !Path::new("/proc").join(process.to_string()).exists() {
            // Another build may remove it at the same time.
            let _ = fs::remove_file(entry.path());
        }
    }
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

    #[test]
    fn what_an_interrupted_build_left_goes_with_the_next_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.raw");
        let mut process = std::process::Command::new("true").spawn().unwrap();
        process.wait().unwrap();
        let place = |name: String| folder.path().join(name);
        let left = place(format!(".disk.raw.{}.a1B2c3", process.id()));
        let others = [
            place(format!(".disk.raw.{}.a1B2c3", std::process::id())),
            place(format!(".disk.{}.a1B2c3", process.id())),
            place("disk.raw.1".to_owned()),
        ];
        for file in others.iter().chain([&left]) {
            fs::write(file, b"half").unwrap();
        }
        write(&path, b"whole").unwrap();
        assert!(path.exists() && !left.exists());
        assert!(others.iter().all(|file| file.exists()), "{others:?}");
    }
}

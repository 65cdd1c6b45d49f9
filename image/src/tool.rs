//! Programs of the host that a stage runs, with the Debian package that has each.

use anyhow::{Context, Result, bail};
use std::ffi::OsStr;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A program of the host.
#[derive(Debug, Clone, Copy)]
pub struct Tool {
    /// Name looked up in `PATH`.
    pub program: &'static str,
    /// Debian package to install when it is missing.
    pub package: &'static str,
}

/// Package records and kernel download.
pub const APT_CACHE: Tool = Tool { program: "apt-cache", package: "apt" };
/// Package download with the signature check of the archive.
pub const APT_GET: Tool = Tool { program: "apt-get", package: "apt" };
/// Unpacks a package.
pub const DPKG_DEB: Tool = Tool { program: "dpkg-deb", package: "dpkg" };
/// Version of an installed package.
pub const DPKG_QUERY: Tool = Tool { program: "dpkg-query", package: "dpkg" };
/// Makes the read-only root file system.
pub const MKFS_EROFS: Tool = Tool { program: "mkfs.erofs", package: "erofs-utils" };
/// Makes the file system that data partitions start as.
pub const MKE2FS: Tool = Tool { program: "/usr/sbin/mke2fs", package: "e2fsprogs" };
/// Makes the FAT file system of the ESP.
pub const MFORMAT: Tool = Tool { program: "mformat", package: "mtools" };
/// Makes a folder in the ESP.
pub const MMD: Tool = Tool { program: "mmd", package: "mtools" };
/// Copies a file into the ESP.
pub const MCOPY: Tool = Tool { program: "mcopy", package: "mtools" };
/// Converts the disk image.
pub const QEMU_IMG: Tool = Tool { program: "qemu-img", package: "qemu-utils" };
/// Packs folders of a release.
pub const TAR: Tool = Tool { program: "tar", package: "tar" };
/// Commit of the checkout.
pub const GIT: Tool = Tool { program: "git", package: "git" };
/// Builds the Rust programs.
pub const CARGO: Tool = Tool { program: "cargo", package: "rustup" };
/// Where the archives are that static programs are linked with.
pub const CC: Tool = Tool { program: "cc", package: "gcc" };
/// Version of the compiler.
pub const RUSTC: Tool = Tool { program: "rustc", package: "rustup" };

/// Folders whose programs go before those of the host: a base may bring its own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tools {
    /// In the order in which they are looked through.
    pub folders: Vec<PathBuf>,
}

impl Tools {
    /// A command of this tool, as [`Tool::command`].
    pub fn command<S: AsRef<OsStr>>(
        &self,
        tool: Tool,
        arguments: impl IntoIterator<Item = S>,
    ) -> Command {
        let name = Path::new(tool.program).file_name().unwrap_or_default();
        let own = self.folders.iter().map(|folder| folder.join(name)).find(|path| path.exists());
        tool.command_at(own.as_deref().unwrap_or(Path::new(tool.program)), arguments)
    }
}

impl Tool {
    /// A command with these arguments, in a locale and time zone that do not depend on who builds.
    pub fn command<S: AsRef<OsStr>>(self, arguments: impl IntoIterator<Item = S>) -> Command {
        self.command_at(Path::new(self.program), arguments)
    }

    fn command_at<S: AsRef<OsStr>>(
        self,
        program: &Path,
        arguments: impl IntoIterator<Item = S>,
    ) -> Command {
        let mut command = Command::new(program);
        command.args(arguments).env("LC_ALL", "C").env("TZ", "UTC").stdin(Stdio::null());
        command
    }

    /// Runs `command` silently and gives its standard output.
    ///
    /// # Errors
    /// When the program is missing (names the package) or fails (repeats what it said).
    pub fn run(self, mut command: Command) -> Result<Vec<u8>> {
        let output = command.output().map_err(|error| self.cannot_start(error))?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        bail!(
            "{} failed with {}:\n{}{}",
            self.program,
            output.status,
            String::from_utf8_lossy(&output.stderr),
            String::from_utf8_lossy(&output.stdout)
        )
    }

    /// Like [`run`](Self::run), as text.
    ///
    /// # Errors
    /// As [`run`](Self::run), and when the output is not UTF-8.
    pub fn text(self, command: Command) -> Result<String> {
        let output = self.run(command)?;
        String::from_utf8(output)
            .with_context(|| format!("{} printed something that is not UTF-8", self.program))
    }

    /// Runs `command` with its output passed through to ours, for long work that reports its own progress.
    ///
    /// # Errors
    /// When the program is missing (names the package) or fails.
    pub fn run_visibly(self, mut command: Command) -> Result<()> {
        io::stdout().flush()?;
        let status =
            command.stdout(io::stderr()).status().map_err(|error| self.cannot_start(error))?;
        if !status.success() {
            bail!("{} failed with {status}", self.program);
        }
        Ok(())
    }

    fn cannot_start(self, error: io::Error) -> anyhow::Error {
        if error.kind() == io::ErrorKind::NotFound {
            let how = match self.package {
                "rustup" => "install Rust with rustup, https://rustup.rs".to_owned(),
                package => {
                    format!("it is in the Debian package {package}: apt-get install {package}")
                }
            };
            anyhow::anyhow!("the program {} is missing; {how}", self.program)
        } else {
            anyhow::Error::new(error).context(format!("cannot start {}", self.program))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Tool, Tools};

    #[test]
    fn a_missing_program_names_its_package() {
        let tool = Tool { program: "portcullis-no-such-program", package: "some-package" };
        let error = tool.run(tool.command(["--version"])).unwrap_err().to_string();
        assert!(error.contains("portcullis-no-such-program"), "{error}");
        assert!(error.contains("apt-get install some-package"), "{error}");
    }

    #[test]
    fn a_base_brings_its_own_tools() {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/bin/echo", folder.path().join("true")).unwrap();
        let tools = Tools { folders: vec![folder.path().to_owned()] };
        let tool = Tool { program: "/usr/bin/true", package: "coreutils" };
        assert_eq!(tool.text(tools.command(tool, ["own"])).unwrap(), "own\n");
        assert_eq!(tool.text(Tools::default().command(tool, ["own"])).unwrap(), "");
    }

    #[test]
    fn a_failing_program_is_quoted() {
        let tool = Tool { program: "sh", package: "dash" };
        let error =
            tool.run(tool.command(["-c", "echo broken >&2; exit 3"])).unwrap_err().to_string();
        assert!(error.contains("broken") && error.contains('3'), "{error}");
    }
}

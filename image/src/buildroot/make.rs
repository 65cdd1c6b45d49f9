//! Calls Buildroot's make: out of its tree, with an environment that holds only what is named here, and a log.

use super::begun::Begun;
use super::progress::Progress;
use crate::progress::note;
use crate::tool::Tool;
use anyhow::{Context, Result, bail};
use std::collections::VecDeque;
use std::env;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

const MAKE: Tool = Tool { program: "make", package: "make" };

/// What Buildroot's packages may see of the environment: who builds, where Cargo and its settings are, the network.
const ENVIRONMENT: [&str; 22] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "TERM",
    "TMPDIR",
    "XDG_CACHE_HOME",
    "CARGO_HOME",
    "RUSTUP_HOME",
    "PORTCULLIS_IMAGE_PROFILE",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "all_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "GIT_SSL_CAINFO",
];

/// Names the file that takes packages from folders of this machine.
const OVERRIDES: &str = "BR2_PACKAGE_OVERRIDE_FILE";

/// Settings of Buildroot that say where its sources are, which is a matter of the machine and not of the product.
const SETTINGS: [&str; 9] = [
    "BR2_DL_DIR",
    "BR2_PRIMARY_SITE",
    "BR2_PRIMARY_SITE_ONLY",
    "BR2_BACKUP_SITE",
    "BR2_KERNEL_MIRROR",
    "BR2_GNU_MIRROR",
    OVERRIDES,
    "BR2_JLEVEL",
    "BR2_WGET",
];

/// Lines of the log that a failure repeats.
const TAIL: usize = 20;

/// The log's name in the output folder.
pub const LOG: &str = "build.log";

/// How Buildroot is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Make {
    /// Buildroot itself; nothing is written there.
    pub source: PathBuf,
    /// Our external tree.
    pub external: PathBuf,
    /// Where everything is built.
    pub output: PathBuf,
    /// Name of the configuration.
    pub defconfig: String,
    /// Its version, as the compiler will name it.
    pub version: String,
    /// Where downloads are kept, if `BR2_DL_DIR` does not say it.
    pub downloads: PathBuf,
}

impl Make {
    /// Configures, and makes `targets`. What is built already is not built again.
    ///
    /// # Errors
    /// Names the package that failed, its step, and the log.
    pub fn run(&self, targets: &[String]) -> Result<()> {
        fs::create_dir_all(&self.output)
            .with_context(|| format!("cannot create {}", self.output.display()))?;
        let log_path = self.output.join(LOG);
        let mut log = File::create(&log_path)
            .with_context(|| format!("cannot create {}", log_path.display()))?;
        if let Some(stale) = self.stale()? {
            note(&format!(
                "{stale}; packages that are built stay as they are: to be sure, remove it"
            ));
        }
        note(&format!("Buildroot in {}, log in {}", self.output.display(), log_path.display()));
        self.logged(std::slice::from_ref(&self.defconfig), &mut log)?;
        let progress = self.logged(targets, &mut log)?;
        if progress.current().is_some() {
            note(&format!("Buildroot's packages by time:\n{}", progress.table().trim_end()));
        }
        Ok(())
    }

    /// Why finished packages in the output folder may be others than would be built now, if they may.
    ///
    /// # Errors
    /// When files of the checkout or the folder cannot be read.
    pub fn stale(&self) -> Result<Option<String>> {
        let overrides = setting(OVERRIDES).map(PathBuf::from);
        Begun::now(&self.external, &self.defconfig, &self.version, overrides.as_deref())?
            .stale(&self.output)
    }

    /// What Buildroot says about its packages as JSON, of the configured output.
    ///
    /// # Errors
    /// When make fails.
    pub fn show_info(&self) -> Result<Vec<u8>> {
        let mut command = self.command()?;
        command.args(["--silent", "show-info"]);
        MAKE.run(command)
    }

    /// Whether packages come from folders of this machine instead of their pinned archives.
    pub fn is_overridden() -> bool {
        setting(OVERRIDES).is_some()
    }

    fn command(&self) -> Result<Command> {
        let mut command = MAKE.command(["--no-print-directory", "-C"]);
        command.arg(&self.source);
        command.arg(assignment("O", &self.output)).arg(assignment("BR2_EXTERNAL", &self.external));
        // A checkout with its tag and one without would name it differently, and the kernel repeats the compiler's name.
        command.arg(assignment("BR2_VERSION_FULL", Path::new(&self.version)));
        command.env_clear();
        for name in ENVIRONMENT {
            if let Some(value) = env::var_os(name) {
                command.env(name, value);
            }
        }
        command.env("BR2_DL_DIR", &self.downloads);
        for name in SETTINGS {
            if let Some(value) = setting(name) {
                // The environment for scripts, the command line because the configuration would win otherwise.
                command.env(name, &value).arg(assignment(name, Path::new(&value)));
            }
        }
        // A tree from Git and one from an archive would give it different times.
        command.env("SOURCE_DATE_EPOCH", epoch(&self.source)?);
        command.env("LC_ALL", "C").env("TZ", "UTC");
        if rustix::process::geteuid().is_root() {
            // Configure scripts of some host tools refuse root without it.
            command.env("FORCE_UNSAFE_CONFIGURE", "1");
        }
        Ok(command)
    }

    /// Runs make once with all of its output in the log.
    fn logged(&self, targets: &[String], log: &mut File) -> Result<Progress> {
        let (reader, writer) = io::pipe()?;
        let mut command = self.command()?;
        command.args(targets).stdout(writer.try_clone()?).stderr(writer);
        let mut child = command.spawn().context("cannot start make")?;
        // It holds the writing ends: without this the output would never end.
        drop(command);

        let started = Instant::now();
        let mut progress = Progress::default();
        let mut tail = VecDeque::new();
        let mut reader = BufReader::new(reader);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line)? > 0 {
            log.write_all(&line)?;
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            line.clear();
            if let Some(shown) = progress.line(&text, started.elapsed()) {
                note(&shown);
            }
            tail.push_back(text);
            if tail.len() > TAIL {
                tail.pop_front();
            }
        }
        let status = child.wait()?;
        if let Some(shown) = progress.end(started.elapsed()) {
            note(&shown);
        }
        if !status.success() {
            let place = match progress.current() {
                Some(step) if step.package.is_empty() => format!("at \"{}\"", step.step),
                Some(step) => format!("in package {} at \"{}\"", step.package, step.step),
                None => format!("before the first package (make {})", targets.join(" ")),
            };
            bail!(
                "Buildroot failed {place}; all it said is in {}, at the end:\n{}",
                self.output.join(LOG).display(),
                Vec::from(tail).join("\n")
            );
        }
        Ok(progress)
    }
}

fn assignment(name: &str, value: &Path) -> std::ffi::OsString {
    let mut text = std::ffi::OsString::from(format!("{name}="));
    text.push(value);
    text
}

/// An empty variable is none.
fn setting(name: &str) -> Option<std::ffi::OsString> {
    env::var_os(name).filter(|value| !value.is_empty())
}

/// The time of this version of Buildroot, as its Makefile says.
fn epoch(source: &Path) -> Result<String> {
    let path = source.join("Makefile");
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    text.lines()
        .find_map(|line| Some(line.strip_prefix("BR2_VERSION_EPOCH = ")?.trim().to_owned()))
        .with_context(|| format!("{} has no BR2_VERSION_EPOCH", path.display()))
}

#[cfg(test)]
mod tests {
    use super::{LOG, Make};
    use std::fs;
    use std::path::Path;

    /// Something that is called like Buildroot and says what it was given.
    fn pretend(folder: &Path) -> Make {
        let source = folder.join("source");
        let external = folder.join("external");
        fs::create_dir_all(&source).unwrap();
        fs::create_dir_all(external.join("configs")).unwrap();
        fs::create_dir_all(external.join("board/portcullis/patches")).unwrap();
        fs::write(external.join("external.mk"), "").unwrap();
        fs::write(external.join("configs/portcullis_x86_64_defconfig"), "BR2_x86_64=y\n").unwrap();
        fs::write(
            source.join("Makefile"),
            "BR2_VERSION_EPOCH = 1784143900\n\
             all:\n\
             \t@echo \">>> host-m4 1.4.20 Building\"\n\
             \t@echo \"epoch $$SOURCE_DATE_EPOCH, flags $$CFLAGS, output $(O), external $(BR2_EXTERNAL), $(BR2_VERSION_FULL)\"\n\
             broken: all\n\
             \t@echo \">>> linux 6.12.107 Building\"\n\
             \t@echo \"bpf.c: error: no such thing\" >&2; exit 1\n\
             show-info:\n\
             \t@echo '{}'\n\
             %_defconfig:\n\
             \t@echo configured $@\n",
        )
        .unwrap();
        Make {
            source,
            external,
            output: folder.join("output"),
            defconfig: "portcullis_x86_64_defconfig".into(),
            version: "2026.05.1".into(),
            downloads: folder.join("downloads"),
        }
    }

    #[test]
    fn builds_out_of_tree_with_its_own_environment_and_a_log() {
        let folder = tempfile::tempdir().unwrap();
        let make = pretend(folder.path());
        make.run(&[]).unwrap();
        let log = fs::read_to_string(make.output.join(LOG)).unwrap();
        assert!(log.contains("configured portcullis_x86_64_defconfig"), "{log}");
        let (output, external) = (make.output.display(), make.external.display());
        let expected =
            format!("epoch 1784143900, flags , output {output}, external {external}, 2026.05.1\n");
        assert!(log.contains(&expected), "{log}");
        assert_eq!(make.show_info().unwrap(), b"{}\n");
        assert_eq!(fs::read_dir(&make.source).unwrap().count(), 1, "it wrote into its tree");
    }

    #[test]
    fn a_failure_names_package_step_and_log() {
        let folder = tempfile::tempdir().unwrap();
        let make = pretend(folder.path());
        let error = make.run(&["broken".into()]).unwrap_err().to_string();
        assert!(error.contains("failed in package linux 6.12.107 at \"Building\""), "{error}");
        assert!(error.contains(&make.output.join(LOG).display().to_string()), "{error}");
        assert!(error.contains("bpf.c: error: no such thing"), "{error}");
        let error = make.run(&["nothing-like-that".into()]).unwrap_err().to_string();
        assert!(error.contains("before the first package (make nothing-like-that)"), "{error}");
    }
}

//! Builds our programs with Cargo, or takes them from the cache when nothing they are built from has changed.

use crate::architecture::Architecture;
use crate::cache::Cache;
use crate::digest::Digest;
use crate::progress::note;
use crate::tool::{CARGO, RUSTC};
use crate::{key, sources};
use anyhow::{Context, Result, bail};
use cargo_metadata::Metadata;
use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A program of the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// The multi-call binary: every service, stage two of init, `pctl`.
    Portcullis,
    /// Stage one of init, for the initrd.
    StageOne,
    /// The boot manager, for UEFI.
    BootManager,
}

impl Program {
    /// The package of the workspace that it is in.
    pub fn package(self) -> &'static str {
        match self {
            Self::Portcullis => "portcullis",
            Self::StageOne => "portcullis-init",
            Self::BootManager => "portcullis-bootloader",
        }
    }

    /// Name of the binary in that package.
    pub fn binary(self) -> &'static str {
        match self {
            Self::Portcullis => "portcullis",
            Self::StageOne => "portcullis-stage-one",
            Self::BootManager => "portcullis-bootloader",
        }
    }
}

/// How to build.
#[derive(Debug)]
pub struct Compiler<'a> {
    /// Top folder of the checkout.
    pub checkout: &'a Path,
    /// The workspace as Cargo sees it.
    pub metadata: &'a Metadata,
    /// The processor to build for.
    pub architecture: &'static Architecture,
    /// Cargo profile of the programs that run on Linux.
    pub profile: &'a str,
    /// Public keys that the boot manager trusts.
    pub trusted: &'a [[u8; 32]],
    /// Where finished programs are kept.
    pub cache: &'a Cache,
}

impl Compiler<'_> {
    /// The finished program.
    ///
    /// # Errors
    /// When Cargo is missing or the build fails; the compiler's messages go to standard error.
    pub fn program(&self, program: Program) -> Result<Vec<u8>> {
        let path = self.program_path(program)?;
        fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
    }

    /// Where the finished program is in the cache.
    ///
    /// # Errors
    /// As [`program`](Self::program).
    pub fn program_path(&self, program: Program) -> Result<PathBuf> {
        let key = self.key(program)?;
        let mut built = false;
        let path = self.cache.get_or_make("programs", key, |file| {
            built = true;
            self.build(program, file)
        })?;
        if built && self.key(program)? != key {
            note(&format!(
                "{}: its sources changed while it was compiled, so it is not kept in the cache",
                program.binary()
            ));
            self.cache.forget("programs", key)?;
        }
        Ok(path)
    }

    fn key(&self, program: Program) -> Result<Digest> {
        let settings = [
            "1".to_owned(),
            program.binary().to_owned(),
            self.target(program).to_owned(),
            self.profile(program).to_owned(),
            self.slot_keys(program),
            fixed_flags(program).join(" "),
        ];
        sources::digest(self.checkout, self.metadata, program.package(), &settings)
    }

    fn build(&self, program: Program, file: &Path) -> Result<()> {
        note(&format!(
            "{}: not in the cache, building it ({})",
            program.binary(),
            self.profile(program)
        ));
        let target = self.target(program);
        let mut command = CARGO.command([
            "build",
            "--locked",
            "--package",
            program.package(),
            "--bin",
            program.binary(),
        ]);
        command
            .args(["--target", target, "--profile", self.profile(program)])
            .current_dir(self.checkout);
        command.arg("--config").arg(self.rust_flags(program)?);
        for (name, _) in env::vars_os() {
            if name.to_str().is_some_and(changes_programs) {
                command.env_remove(name);
            }
        }
        command.env("SOURCE_DATE_EPOCH", "0");
        self.map_paths_in_c(&mut command)?;

        let keys = tempfile::NamedTempFile::new().context("cannot create a temporary file")?;
        if program == Program::BootManager {
            fs::write(keys.path(), self.slot_keys(program))?;
            command.env("PORTCULLIS_SLOT_KEYS", keys.path());
            // The pinned toolchain has no standard library for UEFI; building it is an unstable option of Cargo.
            command.args(["-Z", "build-std=core,alloc,compiler_builtins"]);
            command
                .args(["-Z", "build-std-features=compiler-builtins-mem"])
                .env("RUSTC_BOOTSTRAP", "1");
        }
        CARGO.run_visibly(command)?;

        let built = self.output_path(program);
        fs::copy(&built, file).with_context(|| format!("cannot read {}", built.display()))?;
        Ok(())
    }

    fn target(&self, program: Program) -> &'static str {
        match program {
            Program::Portcullis | Program::StageOne => self.architecture.linux_target,
            Program::BootManager => self.architecture.uefi_target,
        }
    }

    /// The boot manager has a profile of its own.
    fn profile(&self, program: Program) -> &str {
        match program {
            Program::Portcullis | Program::StageOne => self.profile,
            Program::BootManager => "efi",
        }
    }

    fn slot_keys(&self, program: Program) -> String {
        match program {
            Program::BootManager => key::public_lines(self.trusted),
            Program::Portcullis | Program::StageOne => String::new(),
        }
    }

    fn output_path(&self, program: Program) -> PathBuf {
        let name = match program {
            Program::BootManager => format!("{}.efi", program.binary()),
            Program::Portcullis | Program::StageOne => program.binary().to_owned(),
        };
        let folder = match self.profile(program) {
            "dev" => "debug",
            profile => profile,
        };
        self.metadata
            .target_directory
            .as_std_path()
            .join(self.target(program))
            .join(folder)
            .join(name)
    }

    /// Flags for the target alone (build scripts run on the host), as a line of Cargo configuration: static linking,
    /// and no path of the machine that builds.
    fn rust_flags(&self, program: Program) -> Result<String> {
        let mut flags: Vec<String> = fixed_flags(program).iter().map(|&flag| flag.into()).collect();
        for (from, to) in self.path_map()? {
            flags.push(format!("--remap-path-prefix={from}={to}"));
        }
        let flags: Vec<String> = flags.iter().map(|flag| format!("{flag:?}")).collect();
        Ok(format!("target.{}.rustflags=[{}]", self.target(program), flags.join(",")))
    }

    /// The same for the C code in some of the crates.
    fn map_paths_in_c(&self, command: &mut Command) -> Result<()> {
        let map: Vec<String> = self
            .path_map()?
            .into_iter()
            .map(|(from, to)| format!("-ffile-prefix-map={from}={to}"))
            .collect();
        command.env(
            format!("CFLAGS_{}", self.architecture.linux_target.replace('-', "_")),
            map.join(" "),
        );
        Ok(())
    }

    /// Folders of this machine and what they are called in the programs. The last match counts.
    fn path_map(&self) -> Result<Vec<(String, &'static str)>> {
        let mut command = RUSTC.command(["--print", "sysroot"]);
        command.current_dir(self.checkout);
        let sysroot = RUSTC.text(command)?;
        let pairs = [
            (sources::cargo_home()?.into_os_string(), "/cargo"),
            (OsString::from(sysroot.trim()), "/rust"),
            (self.checkout.as_os_str().to_owned(), "/portcullis"),
            (self.metadata.target_directory.as_os_str().to_owned(), "/portcullis/target"),
        ];
        pairs
            .into_iter()
            .map(|(from, to)| match from.into_string() {
                Ok(from) if !from.contains(' ') => Ok((from, to)),
                Ok(from) => bail!("the folder {from:?} has a space in its path, which C compilers' flags cannot name"),
                Err(from) => bail!("the folder {} has a path that is not UTF-8", from.display()),
            })
            .collect()
    }
}

/// Whether an environment variable of the person who builds would change the program: the key of its cache entry knows
/// nothing of it, and flags would replace ours.
fn changes_programs(name: &str) -> bool {
    let of_cargo = [
        "RUSTC",
        "RUSTC_BOOTSTRAP",
        "RUSTFLAGS",
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_BUILD_RUSTC",
        "CARGO_BUILD_RUSTFLAGS",
        "CARGO_BUILD_TARGET",
    ]
    .contains(&name);
    // Of one target, as in CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_LINKER; CARGO_TARGET_DIR is only a place.
    let of_target = name.starts_with("CARGO_TARGET_") && !name.ends_with("_DIR");
    // Those of the crate `cc`: CFLAGS, TARGET_CFLAGS, CFLAGS_x86_64_unknown_linux_gnu, ...
    let plain = name.strip_prefix("TARGET_").or(name.strip_prefix("HOST_")).unwrap_or(name);
    let of_c = ["CC", "CXX", "AR", "RANLIB", "CFLAGS", "CXXFLAGS", "ARFLAGS"].iter().any(|tool| {
        plain.strip_prefix(tool).is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
    });
    of_cargo || of_target || of_c || name.starts_with("CARGO_PROFILE_")
}

/// The compiler flags that are the same on every machine.
fn fixed_flags(program: Program) -> &'static [&'static str] {
    match program {
        Program::Portcullis | Program::StageOne => &[
            "-Ctarget-feature=+crt-static",
            // A static program cannot look the function up at run time and would poll /dev/random,
            // for ever on a machine whose processor has no random numbers: only the system call
            // makes the kernel gather some.
            "--cfg=getrandom_backend=\"linux_getrandom\"",
        ],
        Program::BootManager => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::changes_programs;

    #[test]
    fn nothing_in_the_environment_changes_a_program() {
        for name in [
            "RUSTFLAGS",
            "RUSTC_BOOTSTRAP",
            "CARGO_PROFILE_RELEASE_LTO",
            "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS",
            "CC",
            "TARGET_CFLAGS",
            "CFLAGS_x86_64-unknown-linux-gnu",
        ] {
            assert!(changes_programs(name), "{name}");
        }
        for name in [
            "PATH",
            "HOME",
            "CARGO_HOME",
            "CARGO_TARGET_DIR",
            "CARGO_NET_OFFLINE",
            "CCACHE_DIR",
            "ARCH",
        ] {
            assert!(!changes_programs(name), "{name}");
        }
    }
}

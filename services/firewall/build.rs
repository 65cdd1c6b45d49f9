//! Builds `ebpf/datapath` for the kernel's virtual machine and hands the object file to the crate.
//!
//! Not by `aya-build`: that one insists on debug information, whose paths would make the image
//! differ between machines; the datapath needs neither it nor BTF.

#![allow(clippy::print_stdout, reason = "this is how a build script talks to cargo")]

use std::{
    env,
    error::Error,
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

use sha2::{Digest, Sha256};

const PACKAGE: &str = "portcullis-datapath";
const TARGET: &str = "bpfel-unknown-none";
const LINKER: &str = "bpf-linker";

fn main() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(variable("CARGO_MANIFEST_DIR")?).join("../..").canonicalize()?;
    for path in ["ebpf", "rust-toolchain.toml"] {
        println!("cargo:rerun-if-changed={}", root.join(path).display());
    }
    for name in ["BPF_LINKER", "XDG_CACHE_HOME", "RUSTUP_TOOLCHAIN"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    let linker = find_linker()?;
    let out = PathBuf::from(variable("OUT_DIR")?);
    let target_dir = out.join("target");
    build(&root, &linker, &target_dir)?;
    let built = target_dir.join(TARGET).join("release").join(PACKAGE);
    let object = std::fs::read(&built).map_err(|error| format!("{}: {error}", built.display()))?;
    std::fs::write(out.join("datapath.o"), &object)?;
    // By this the service knows programs of its own build again.
    let digest = Sha256::digest(&object);
    let hex: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    println!("cargo:rustc-env=DATAPATH_BUILD={hex}");
    Ok(())
}

fn build(root: &Path, linker: &Path, target_dir: &Path) -> Result<(), Box<dyn Error>> {
    let flags: Vec<OsString> = [
        // The third instruction set has 32-bit arithmetic and jumps (kernel 5.1).
        "-Ctarget-cpu=v3".into(),
        "-Cdebuginfo=0".into(),
        concat_os("-Clinker=", linker),
        concat_os("--remap-path-prefix=", &root.join("=portcullis")),
    ]
    .into();
    let mut command = Command::new(variable("CARGO")?);
    command
        .current_dir(root)
        .args(["build", "--release", "--bins", "--package", PACKAGE, "--target", TARGET])
        .args(["-Z", "build-std=core", "--target-dir"])
        .arg(target_dir)
        // `build-std` is not stable; this one build may use it on the stable compiler.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join(&OsString::from("\x1f")))
        // The profile of the whole image is for a CPU, not for this one.
        // For speed, and for the stack: inlined code shares one.
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "3")
        .env("CARGO_PROFILE_RELEASE_LTO", "false")
        .env("CARGO_PROFILE_RELEASE_PANIC", "abort")
        .env("CARGO_PROFILE_RELEASE_STRIP", "none")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
        // Those of the outer build are for the host.
        .env_remove("RUSTC")
        .env_remove("RUSTC_WRAPPER")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env_remove("CARGO_BUILD_TARGET");
    // This cargo is a wrapper around the toolchain's; a nested one finds the compiler by itself.
    let output = command.output().map_err(|error| format!("cargo: {error}"))?;
    if !output.status.success() {
        return Err(format!(
            "building {PACKAGE} for {TARGET} failed ({}).\n\
             It needs the library sources in the sysroot (rustup component add rust-src).\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        )
        .into());
    }
    Ok(())
}

/// `$BPF_LINKER`, or the one that `make setup` built into the cache, or the one on the PATH.
fn find_linker() -> Result<PathBuf, Box<dyn Error>> {
    if let Some(path) = env::var_os("BPF_LINKER") {
        let path = PathBuf::from(path);
        return if path.is_file() {
            Ok(path)
        } else {
            Err(format!("BPF_LINKER={} is not a file", path.display()).into())
        };
    }
    let cache = env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")));
    let cached = cache.map(|cache| cache.join("portcullis/bin"));
    let path = env::var_os("PATH").unwrap_or_default();
    cached
        .into_iter()
        .chain(env::split_paths(&path))
        .map(|folder| folder.join(LINKER))
        .find(|candidate| candidate.is_file())
        .ok_or_else(|| {
            format!("{LINKER} is neither in the cache nor on the PATH: run `make setup`").into()
        })
}

fn variable(name: &str) -> Result<OsString, Box<dyn Error>> {
    env::var_os(name).ok_or_else(|| format!("{name} is not set by cargo").into())
}

fn concat_os(flag: &str, path: &Path) -> OsString {
    let mut text = OsString::from(flag);
    text.push(path);
    text
}

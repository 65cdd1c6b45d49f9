//! The same inputs give the same image, byte for byte.

use std::{path::Path, process::Command};

use anyhow::{Result, ensure};
use portcullis_netns::execute;

use crate::scene::Scene;

/// Assembled again in another folder, from the binaries in the cache.
pub fn assembled_twice(scene: &mut Scene) -> Result<()> {
    let again = scene.folder().join("again");
    build(Path::new("."), &scene.base, &again, &[])?;
    same(scene.image.parent().unwrap_or(Path::new(".")), &again)
}

/// Everything compiled again, in another checkout and with an empty cache; with base `buildroot`
/// that includes the compilers and the kernel.
pub fn from_nothing(scene: &mut Scene) -> Result<()> {
    let checkout = scene.folder().join("checkout");
    execute(Command::new("git").args(["clone", "-q", "--no-local", "."]).arg(&checkout))?;
    let again = scene.folder().join("again");
    let cache = scene.folder().join("cache");
    // The signing key and the tools are inputs, not results: only what is built is built again.
    std::fs::create_dir_all(cache.join("portcullis"))?;
    let own = std::env::var_os("XDG_CACHE_HOME")
        .map(std::path::PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache")))
        .unwrap_or_default()
        .join("portcullis");
    // With base `buildroot` its tree and the downloads are inputs as well.
    for input in ["keys", "bin", "tools", "buildroot", "downloads"] {
        let target = own.join(input);
        if target.exists() {
            std::os::unix::fs::symlink(target, cache.join("portcullis").join(input))?;
        }
    }
    // Of Buildroot nothing that is built already may be taken.
    let output = checkout.join("target/buildroot");
    let environment = [("XDG_CACHE_HOME", cache.as_path()), ("BUILDROOT_OUTPUT", &output)];
    build(&checkout, &scene.base, &again, &environment)?;
    same(scene.image.parent().unwrap_or(Path::new(".")), &again)
}

fn build(checkout: &Path, base: &str, out: &Path, environment: &[(&str, &Path)]) -> Result<()> {
    let mut command = builder(checkout);
    command.args(["build", "--base", base, "--out"]).arg(out);
    execute(command.envs(environment.iter().copied()))?;
    Ok(())
}

/// The image builder of a checkout.
pub fn builder(checkout: &Path) -> Command {
    let mut command = Command::new("cargo");
    command.current_dir(checkout).args([
        "run",
        "--quiet",
        "--locked",
        "--package",
        "portcullis-image",
        "--",
    ]);
    command
}

/// Fails with the first byte in which two image folders differ.
pub fn same(one: &Path, other: &Path) -> Result<()> {
    for name in ["portcullis.slot", "portcullis.raw"] {
        let [a, b] = [one.join(name), other.join(name)];
        let equal = Command::new("cmp").arg(&a).arg(&b).output()?;
        ensure!(equal.status.success(), "{}", String::from_utf8_lossy(&equal.stdout).trim());
    }
    Ok(())
}

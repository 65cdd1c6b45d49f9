//! What a program is built from, as one digest: the key of its cache entry.

use crate::architecture::Architecture;
use crate::digest::Digest;
use crate::linked;
use crate::tool::{CARGO, CC, RUSTC, Tool};
use anyhow::{Context, Result};
use cargo_metadata::{Metadata, Package, PackageId};
use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs;
use std::path::{Path, PathBuf};

/// Files at the top of the checkout that every build depends on.
const COMMON: [&str; 3] = ["Cargo.toml", "Cargo.lock", "rust-toolchain.toml"];
/// The datapath is compiled by a build script, so Cargo's graph does not show that the firewall depends on it.
const EMBEDDED: &str = "ebpf";

/// The workspace as Cargo sees it for `target`.
///
/// # Errors
/// When Cargo is missing or the workspace is broken.
pub fn metadata(checkout: &Path, target: &str) -> Result<Metadata> {
    let mut command =
        CARGO.command(["metadata", "--format-version=1", "--locked", "--filter-platform", target]);
    command.current_dir(checkout);
    let text = CARGO.text(command)?;
    cargo_metadata::MetadataCommand::parse(text).context("cannot read what cargo metadata printed")
}

/// Which edges of the dependency graph to follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Follow {
    /// What ends up in the program.
    Linked,
    /// Also what runs while it is built: build scripts and procedural macros.
    Built,
}

/// A package of the workspace and all it depends on, sorted by name and version.
///
/// # Errors
/// When the workspace has no such package.
pub fn closure<'a>(metadata: &'a Metadata, root: &str, follow: Follow) -> Result<Vec<&'a Package>> {
    let packages: BTreeMap<&PackageId, &Package> =
        metadata.packages.iter().map(|package| (&package.id, package)).collect();
    let graph = metadata.resolve.as_ref().context("cargo metadata gave no dependency graph")?;
    let nodes: BTreeMap<&PackageId, &cargo_metadata::Node> =
        graph.nodes.iter().map(|node| (&node.id, node)).collect();
    let root = metadata
        .workspace_packages()
        .into_iter()
        .find(|package| package.name.as_str() == root)
        .with_context(|| format!("the workspace has no package {root}"))?;

    let mut seen = BTreeSet::from([&root.id]);
    let mut open = vec![&root.id];
    let mut found = Vec::new();
    while let Some(id) = open.pop() {
        let package =
            packages.get(id).with_context(|| format!("cargo metadata has no package {id}"))?;
        found.push(*package);
        let node =
            nodes.get(id).with_context(|| format!("the dependency graph has no package {id}"))?;
        for dependency in &node.deps {
            let wanted = dependency.dep_kinds.iter().any(|kind| match kind.kind {
                cargo_metadata::DependencyKind::Normal => true,
                cargo_metadata::DependencyKind::Build => follow == Follow::Built,
                _ => false,
            });
            let target = packages.get(&dependency.pkg);
            let macros = target
                .is_some_and(|package| package.targets.iter().any(|target| target.is_proc_macro()));
            if wanted && (follow == Follow::Built || !macros) && seen.insert(&dependency.pkg) {
                open.push(&dependency.pkg);
            }
        }
    }
    found.sort_by(|a, b| (&a.name, &a.version).cmp(&(&b.name, &b.version)));
    Ok(found)
}

/// The packages that end up in the image, in whichever program, sorted by name and version.
///
/// # Errors
/// When the workspace is broken or lacks one of the programs.
pub fn shipped(checkout: &Path, architecture: &Architecture) -> Result<Vec<Package>> {
    let programs = [
        (architecture.linux_target, &["portcullis", "portcullis-init"][..]),
        (architecture.uefi_target, &["portcullis-bootloader"]),
        (architecture.bpf_target, &["portcullis-datapath"]),
    ];
    let mut packages = BTreeMap::new();
    for (target, roots) in programs {
        let metadata = metadata(checkout, target)?;
        for root in roots {
            for package in closure(&metadata, root, Follow::Linked)? {
                let key = (package.name.to_string(), package.version.clone());
                packages.entry(key).or_insert_with(|| package.clone());
            }
        }
    }
    Ok(packages.into_values().collect())
}

/// The digest of everything that `package` is built from: its sources and those of the workspace's packages it needs,
/// the lock file (which pins all others by hash), the compilers, the C library, and `settings`.
///
/// # Errors
/// When a source file cannot be read or the compiler is missing.
pub fn digest(
    checkout: &Path,
    metadata: &Metadata,
    package: &str,
    settings: &[String],
) -> Result<Digest> {
    let mut parts: Vec<Vec<u8>> =
        settings.iter().map(|setting| setting.clone().into_bytes()).collect();
    let mut compiler = RUSTC.command(["--version", "--verbose"]);
    // rustup picks the toolchain that the checkout pins.
    compiler.current_dir(checkout);
    parts.push(RUSTC.run(compiler)?);
    parts.push(version_of(CC));
    parts.push(linked::c_library()?.0.to_vec());
    parts.push(version_of(Tool { program: "bpf-linker", package: "rustup" }));
    for name in COMMON {
        parts.push(name.as_bytes().to_vec());
        parts.push(fs::read(checkout.join(name)).unwrap_or_default());
    }
    parts.extend(cargo_settings(checkout, &cargo_home()?));
    let mut folders: BTreeSet<_> = closure(metadata, package, Follow::Built)?
        .into_iter()
        .filter(|package| package.source.is_none())
        .filter_map(|package| package.manifest_path.as_std_path().parent())
        .collect();
    let embedded = checkout.join(EMBEDDED);
    folders.insert(&embedded);
    for folder in folders {
        add_folder(checkout, folder, &mut parts)?;
    }
    Ok(Digest::of_parts(parts.iter().map(Vec::as_slice)))
}

/// The folder of Cargo's own files of this user.
///
/// # Errors
/// When nothing says where it is.
pub fn cargo_home() -> Result<PathBuf> {
    env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")))
        .context("neither CARGO_HOME nor HOME is set")
}

/// What Cargo's configuration files say, those above the checkout and the user's own included: they may change profiles,
/// the linker and flags.
fn cargo_settings(checkout: &Path, home: &Path) -> Vec<Vec<u8>> {
    let above = checkout.ancestors().map(|folder| folder.join(".cargo"));
    // The user's own are above a checkout in the home folder, and count once.
    let folders: BTreeSet<PathBuf> = above.chain([home.to_owned()]).collect();
    let files =
        folders.iter().flat_map(|folder| ["config", "config.toml"].map(|name| folder.join(name)));
    files.filter_map(|file| fs::read(file).ok()).collect()
}

/// A tool that only some builds need: the build itself complains when it is missing.
fn version_of(tool: Tool) -> Vec<u8> {
    tool.run(tool.command(["--version"])).unwrap_or_default()
}

/// Adds paths and contents of all files below `folder`, sorted. Build output and hidden files are no sources.
fn add_folder(checkout: &Path, folder: &Path, parts: &mut Vec<Vec<u8>>) -> Result<()> {
    let mut entries = fs::read_dir(folder)
        .and_then(Iterator::collect::<std::io::Result<Vec<_>>>)
        .with_context(|| format!("cannot read {}", folder.display()))?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name = entry.file_name();
        let path = entry.path();
        if name == "target" || name == "node_modules" || name.as_encoded_bytes().starts_with(b".") {
            continue;
        }
        if entry.file_type()?.is_dir() {
            add_folder(checkout, &path, parts)?;
        } else {
            let relative = path.strip_prefix(checkout).unwrap_or(&path);
            parts.push(relative.as_os_str().as_encoded_bytes().to_vec());
            parts.push(fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Follow, cargo_settings, closure, metadata};
    use crate::architecture::X86_64;
    use std::fs;
    use std::path::Path;

    #[test]
    fn settings_of_cargo_above_the_checkout_and_of_the_user_count() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().join("home/.cargo");
        let checkout = folder.path().join("home/src/portcullis");
        let settings = || cargo_settings(&checkout, &home);
        let before = settings();
        for (place, text) in [
            (checkout.join(".cargo"), "[profile.release]\nlto = false"),
            (folder.path().join("home/src/.cargo"), "[build]\nrustflags = ['-g']"),
            (home.clone(), "[target.x86_64-unknown-linux-gnu]\nlinker = 'other'"),
        ] {
            let known = settings();
            fs::create_dir_all(&place).unwrap();
            fs::write(place.join("config.toml"), text).unwrap();
            assert!(settings().len() == known.len() + 1 && settings() != known, "{place:?}");
        }
        assert_eq!(settings().len(), before.len() + 3);
    }

    #[test]
    fn the_closure_holds_what_is_linked_and_nothing_of_the_tests() {
        let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let metadata = metadata(checkout, X86_64.linux_target).unwrap();
        let names = |follow| -> Vec<String> {
            let packages = closure(&metadata, "portcullis-image", follow).unwrap();
            packages.into_iter().map(|package| package.name.to_string()).collect()
        };
        let linked = names(Follow::Linked);
        for name in ["portcullis-image", "portcullis-bundle", "sha2"] {
            assert!(linked.iter().any(|linked| linked == name), "{name} is missing");
        }
        for name in ["proptest", "serde_derive", "cc"] {
            assert!(!linked.iter().any(|linked| linked == name), "{name} is not linked");
        }
        assert!(names(Follow::Built).iter().any(|name| name == "cc"));
        assert!(closure(&metadata, "no-such-package", Follow::Linked).is_err());
    }
}

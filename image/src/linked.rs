//! What the Rust programs are linked with besides crates: the C library, the compilers' run-time support, Rust's
//! standard library. All of it is in the one static program, so it belongs into the bill of materials.

use crate::architecture::Architecture;
use crate::base::Origin;
use crate::debian;
use crate::digest::Digest;
use crate::tool::{CC, RUSTC};
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// Archives of the C compiler that a static program is linked with, and their licences.
const ARCHIVES: [(&str, &str, &str); 2] = [
    ("libc.a", "LGPL-2.1-or-later", "C library, linked statically"),
    (
        "libgcc_eh.a",
        "GPL-3.0-or-later WITH GCC-exception-3.1",
        "support of the C compiler, linked statically",
    ),
];

/// Where these parts come from.
///
/// # Errors
/// When one is missing or belongs to no installed package.
pub fn origins(checkout: &Path, architecture: &Architecture) -> Result<Vec<Origin>> {
    let mut origins = Vec::new();
    for (name, license, role) in ARCHIVES {
        let file = archive(name)?;
        origins.push(debian::origin(architecture, &debian::owner(&file)?, &file, license, role)?);
    }
    origins.push(standard_library(checkout, architecture)?);
    Ok(origins)
}

/// The digest of the C library: a program must be linked anew when it has changed.
///
/// # Errors
/// When there is none.
pub fn c_library() -> Result<Digest> {
    let path = archive("libc.a")?;
    Ok(Digest::of(&fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?))
}

/// Where the C compiler finds an archive.
fn archive(name: &str) -> Result<PathBuf> {
    let path = CC.text(CC.command([format!("--print-file-name={name}")]))?;
    PathBuf::from(path.trim()).canonicalize().with_context(|| {
        format!("the C compiler has no {name}; static linking needs the Debian package libc6-dev")
    })
}

fn standard_library(checkout: &Path, architecture: &Architecture) -> Result<Origin> {
    let say = |argument: &str| {
        let mut command = RUSTC.command(argument.split(' '));
        command.current_dir(checkout);
        RUSTC.text(command)
    };
    let version = say("--version")?;
    let version = version.split(' ').nth(1).context("rustc --version gave no version")?.to_owned();
    let folder = PathBuf::from(say("--print sysroot")?.trim())
        .join("lib/rustlib")
        .join(architecture.linux_target)
        .join("lib");
    let mut entries =
        fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let file = entries
        .find_map(|entry| {
            let name = entry.ok()?.file_name().into_string().ok()?;
            (name.starts_with("libstd-") && name.ends_with(".rlib")).then(|| folder.join(name))
        })
        .with_context(|| format!("no standard library in {}", folder.display()))?;
    Ok(Origin {
        name: "rust-std".to_owned(),
        purl: format!("pkg:generic/rust-std@{version}"),
        version,
        license: "MIT OR Apache-2.0".to_owned(),
        sha256: Digest::of(&fs::read(&file)?).to_string(),
        role: "standard library, linked statically".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::origins;
    use crate::architecture::X86_64;
    use std::path::Path;

    #[test]
    fn names_the_packages_of_the_host_that_end_up_in_the_program() {
        let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let origins = origins(checkout, &X86_64).unwrap();
        let names: Vec<&str> = origins.iter().map(|origin| origin.name.as_str()).collect();
        assert!(names.contains(&"libc6-dev") && names.contains(&"rust-std"), "{names:?}");
        assert!(names.iter().any(|name| name.starts_with("libgcc-")), "{names:?}");
        assert!(
            origins.iter().all(|origin| origin.sha256.len() == 64 && !origin.version.is_empty())
        );
    }
}

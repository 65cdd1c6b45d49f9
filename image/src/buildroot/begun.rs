//! What an output folder was begun with. Buildroot never builds a finished package again because its version, options,
//! patches or override folder have changed: only somebody who knows what it was built from can tell that it is stale.

use crate::digest::Digest;
use crate::output;
use anyhow::{Context, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::Path;

/// The record's name in the output folder: lines of `SHA-256  NAME`.
const RECORD: &str = "portcullis-begun";
/// The folder where Buildroot builds: it is there as soon as anything was built.
const BUILD: &str = "build";
/// Patches of packages, below the external tree. The kernel's fragments are not among what is recorded: Buildroot looks
/// at their times by itself.
const PATCHES: &str = "board/portcullis/patches";

/// Everything that decides what packages are built, by name, with its digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Begun(BTreeMap<String, String>);

impl Begun {
    /// What a build would be begun with now: `buildroot` names the version, `overrides` is the file of the machine.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn now(
        external: &Path,
        defconfig: &str,
        buildroot: &str,
        overrides: Option<&Path>,
    ) -> Result<Self> {
        let mut parts = BTreeMap::new();
        parts
            .insert(format!("Buildroot {buildroot}"), Digest::of(buildroot.as_bytes()).to_string());
        let mut file = |name: &str, path: &Path| -> Result<()> {
            let bytes =
                fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
            parts.insert(name.to_owned(), Digest::of(&bytes).to_string());
            Ok(())
        };
        let defconfig = format!("configs/{defconfig}");
        file(&defconfig, &external.join(&defconfig))?;
        file("external.mk", &external.join("external.mk"))?;
        for name in patches(&external.join(PATCHES))? {
            let name = format!("{PATCHES}/{name}");
            file(&name, &external.join(&name))?;
        }
        if let Some(path) = overrides {
            file("BR2_PACKAGE_OVERRIDE_FILE", path)?;
        }
        Ok(Self(parts))
    }

    /// Why packages in `output` may be others than would be built now: nothing, if they are not. A folder in which
    /// nothing was built yet gets its record.
    ///
    /// # Errors
    /// When the record cannot be read or written.
    pub fn stale(&self, output: &Path) -> Result<Option<String>> {
        let path = output.join(RECORD);
        let begun = match fs::read_to_string(&path) {
            Ok(text) => parse(&text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if output.join(BUILD).exists() {
                    return Ok(Some(format!(
                        "nobody knows what {} was begun with",
                        output.display()
                    )));
                }
                output::write(&path, self.text().as_bytes())?;
                return Ok(None);
            }
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
        };
        let names: BTreeSet<_> = self.0.keys().chain(begun.keys()).collect();
        let other: Vec<_> = names
            .into_iter()
            .filter(|&name| self.0.get(name) != begun.get(name))
            .map(String::as_str)
            .collect();
        Ok((!other.is_empty()).then(|| {
            format!("{} was begun with another state of: {}", output.display(), other.join(", "))
        }))
    }

    fn text(&self) -> String {
        self.0.iter().map(|(name, digest)| format!("{digest}  {name}\n")).collect()
    }
}

fn parse(text: &str) -> BTreeMap<String, String> {
    text.lines()
        .filter_map(|line| line.split_once("  "))
        .map(|(digest, name)| (name.to_owned(), digest.to_owned()))
        .collect()
}

/// Names of all patches below `folder`, which has a folder for each package. Hashes of licences lie there, too, and
/// change nothing that is built.
fn patches(folder: &Path) -> Result<Vec<String>> {
    let failed = || format!("cannot read {}", folder.display());
    let mut names = Vec::new();
    for package in fs::read_dir(folder).with_context(failed)? {
        let package = package.with_context(failed)?;
        for file in fs::read_dir(package.path()).with_context(failed)? {
            let file = file.with_context(failed)?;
            let name = file.file_name().to_string_lossy().into_owned();
            if name.ends_with(".patch") {
                names.push(format!("{}/{name}", package.file_name().to_string_lossy()));
            }
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::{Begun, PATCHES, RECORD};
    use std::fs;
    use std::path::Path;

    const DEFCONFIG: &str = "portcullis_x86_64_defconfig";

    fn external(folder: &Path) {
        fs::create_dir_all(folder.join("configs")).unwrap();
        fs::create_dir_all(folder.join(PATCHES).join("linux")).unwrap();
        fs::write(folder.join("configs").join(DEFCONFIG), "BR2_x86_64=y\n").unwrap();
        fs::write(folder.join("external.mk"), "include x\n").unwrap();
        fs::write(folder.join(PATCHES).join("linux/0001-x.patch"), "+1\n").unwrap();
        fs::write(folder.join(PATCHES).join("linux/linux.hash"), "sha256\n").unwrap();
    }

    #[test]
    fn whatever_decides_what_is_built_makes_a_folder_stale() {
        let folder = tempfile::tempdir().unwrap();
        let (tree, output) = (folder.path().join("tree"), folder.path().join("output"));
        external(&tree);
        let local = folder.path().join("local.mk");
        fs::write(&local, "M4_OVERRIDE_SRCDIR = /m4\n").unwrap();
        let stale = |version: &str, overrides: Option<&Path>| {
            Begun::now(&tree, DEFCONFIG, version, overrides).unwrap().stale(&output).unwrap()
        };
        assert_eq!(stale("2026.05.1", None), None);
        fs::create_dir(output.join("build")).unwrap();
        assert_eq!(stale("2026.05.1", None), None);

        let told = |stale: Option<String>, name: &str| {
            let stale = stale.unwrap();
            assert!(stale.contains(name) && stale.contains("output"), "{stale}");
        };
        told(stale("2026.08", None), "Buildroot 2026.05.1, Buildroot 2026.08");
        told(stale("2026.05.1", Some(&local)), "of: BR2_PACKAGE_OVERRIDE_FILE");
        for name in [
            format!("configs/{DEFCONFIG}"),
            "external.mk".into(),
            format!("{PATCHES}/linux/0001-x.patch"),
        ] {
            let before = fs::read(tree.join(&name)).unwrap();
            fs::write(tree.join(&name), "other\n").unwrap();
            told(stale("2026.05.1", None), &format!("of: {name}"));
            fs::write(tree.join(&name), before).unwrap();
        }
        fs::write(tree.join(PATCHES).join("linux/0002-y.patch"), "+2\n").unwrap();
        told(stale("2026.05.1", None), "0002-y.patch");
        fs::remove_file(tree.join(PATCHES).join("linux/0002-y.patch")).unwrap();
        fs::write(tree.join(PATCHES).join("linux/linux.hash"), "other\n").unwrap();
        assert_eq!(stale("2026.05.1", None), None);
    }

    #[test]
    fn a_folder_that_somebody_else_filled_is_not_taken_for_ours() {
        let folder = tempfile::tempdir().unwrap();
        external(folder.path());
        let begun = Begun::now(folder.path(), DEFCONFIG, "2026.05.1", None).unwrap();
        let output = folder.path().join("output");
        fs::create_dir_all(output.join("build")).unwrap();
        assert!(begun.stale(&output).unwrap().unwrap().contains("nobody knows"));
        assert!(!output.join(RECORD).exists());
    }

    #[test]
    fn the_checkout_has_all_of_them() {
        let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let begun = Begun::now(&checkout.join("buildroot"), DEFCONFIG, "x", None).unwrap();
        assert!(begun.text().contains(&format!("{PATCHES}/linux/0001-")), "{}", begun.text());
    }
}

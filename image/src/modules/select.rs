//! Picks the wanted modules out of a kernel's module folder and follows their dependencies.

use super::info::{self, Info};
use super::list::Wanted;
use super::{Module, canonical_name};
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// The modules of a kernel, by name.
pub struct Library {
    folder: PathBuf,
    files: BTreeMap<String, String>,
    /// Name and path of what is part of the kernel itself.
    built_in: BTreeMap<String, String>,
}

impl Library {
    /// Lists the modules below `folder` (`/lib/modules/RELEASE`) and those that are built into the kernel.
    ///
    /// # Errors
    /// When the folder cannot be read or has no `modules.builtin`.
    pub fn open(folder: &Path) -> Result<Self> {
        let builtin_path = folder.join("modules.builtin");
        let built_in = fs::read_to_string(&builtin_path)
            .with_context(|| format!("cannot read {}", builtin_path.display()))?
            .lines()
            .map(|path| (name_of_path(path), path.to_owned()))
            .collect();
        let mut files = BTreeMap::new();
        // A kernel with everything built in has no folder of modules.
        let mut folders = Vec::from_iter(Some(folder.join("kernel")).filter(|top| top.exists()));
        while let Some(next) = folders.pop() {
            for entry in
                fs::read_dir(&next).with_context(|| format!("cannot read {}", next.display()))?
            {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    folders.push(entry.path());
                    continue;
                }
                let path = entry.path();
                let relative =
                    path.strip_prefix(folder)?.to_str().context("a module's path is not UTF-8")?;
                if relative.ends_with(".ko") || relative.ends_with(".ko.xz") {
                    files.insert(name_of_path(relative), relative.to_owned());
                }
            }
        }
        Ok(Self { folder: folder.to_owned(), files, built_in })
    }

    /// The wanted modules and all that they need, sorted by name.
    ///
    /// A dependency is a hard one (`depends`) or a soft one to be loaded before, if the kernel has it as a module.
    /// What a module of the initrd needs is in the initrd as well.
    ///
    /// # Errors
    /// When a module that is not optional is neither there nor built in, or a file is not a module.
    pub fn select(&self, wanted: &[Wanted]) -> Result<Vec<Module>> {
        let mut chosen: BTreeMap<String, Module> = BTreeMap::new();
        for wanted in wanted {
            if !self.files.contains_key(&wanted.name) {
                if self.built_in.contains_key(&wanted.name) || wanted.optional {
                    continue;
                }
                bail!(
                    "the kernel has no module {}, which modules.list wants; mark it with \"?\" if that is as it should be",
                    wanted.name
                );
            }
            self.add(&mut chosen, &wanted.name, wanted.boot)?;
        }
        Ok(chosen.into_values().collect())
    }

    /// The wanted ones that are part of the kernel itself, as paths of `modules.builtin`, sorted.
    pub fn built_in(&self, wanted: &[Wanted]) -> Vec<String> {
        let mut paths: Vec<String> =
            wanted.iter().filter_map(|wanted| self.built_in.get(&wanted.name).cloned()).collect();
        paths.sort();
        paths
    }

    fn add(&self, chosen: &mut BTreeMap<String, Module>, name: &str, boot: bool) -> Result<()> {
        let info = match chosen.get_mut(name) {
            Some(module) if module.boot || !boot => return Ok(()),
            Some(module) => {
                module.boot = true;
                module.info.clone()
            }
            None => {
                let module = self.load(name, boot)?;
                let info = module.info.clone();
                chosen.insert(name.to_owned(), module);
                info
            }
        };
        for dependency in self.dependencies(name, &info)? {
            self.add(chosen, &dependency, boot)?;
        }
        Ok(())
    }

    fn dependencies(&self, name: &str, info: &Info) -> Result<Vec<String>> {
        for dependency in &info.depends {
            if !self.files.contains_key(dependency) && !self.built_in.contains_key(dependency) {
                bail!("module {name} needs {dependency}, which the kernel package does not have");
            }
        }
        let soft = info.soft_before();
        Ok(info
            .depends
            .iter()
            .chain(&soft)
            .filter(|name| self.files.contains_key(*name))
            .cloned()
            .collect())
    }

    fn load(&self, name: &str, boot: bool) -> Result<Module> {
        let relative =
            self.files.get(name).with_context(|| format!("the kernel has no module {name}"))?;
        let file = self.folder.join(relative);
        let stored = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let (path, bytes) = match relative.strip_suffix(".xz") {
            Some(path) => (
                path,
                unpack_xz(&stored)
                    .with_context(|| format!("cannot decompress {}", file.display()))?,
            ),
            None => (relative.as_str(), stored),
        };
        let info = info::parse(&bytes)
            .with_context(|| format!("{} is not a kernel module", file.display()))?;
        Ok(Module { name: name.to_owned(), path: path.to_owned(), info, bytes, boot })
    }
}

fn unpack_xz(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut unpacked = Vec::new();
    liblzma::read::XzDecoder::new(bytes).read_to_end(&mut unpacked)?;
    Ok(unpacked)
}

/// `kernel/drivers/net/virtio-net.ko.xz` is the module `virtio_net`.
fn name_of_path(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    canonical_name(file.split(".ko").next().unwrap_or(file))
}

#[cfg(test)]
mod tests {
    use super::{Library, name_of_path};
    use crate::modules::list;
    use std::fs;

    #[test]
    fn names_modules_by_their_files() {
        assert_eq!(name_of_path("kernel/drivers/md/dm-verity.ko.xz"), "dm_verity");
        assert_eq!(name_of_path("kernel/net/8021q/8021q.ko"), "8021q");
    }

    #[test]
    fn a_kernel_with_everything_built_in_needs_no_files() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Library::open(folder.path()).is_err(), "nothing says what is built in");
        let table =
            "kernel/net/bridge/bridge.ko\nkernel/drivers/md/dm-mod.ko\nkernel/lib/other.ko\n";
        fs::write(folder.path().join("modules.builtin"), table).unwrap();
        let library = Library::open(folder.path()).unwrap();
        let wanted = list::parse("root bridge\nboot dm_mod\nboot crc32c_intel?\n").unwrap();
        assert_eq!(library.select(&wanted).unwrap(), []);
        assert_eq!(
            library.built_in(&wanted),
            ["kernel/drivers/md/dm-mod.ko", "kernel/net/bridge/bridge.ko"]
        );
        let missing = list::parse("root tun\n").unwrap();
        let error = library.select(&missing).unwrap_err().to_string();
        assert!(error.contains("no module tun"), "{error}");
    }
}

//! Kernel and initial file system of the guest.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{BufWriter, Write as _},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use cpio::newc::{Builder, ModeFileType, trailer};
use portcullis_image::{architecture::X86_64, base::debian, cache::Cache, modules::Module};
use portcullis_netns::execute;

/// Where tools are looked for.
const PATH: [&str; 4] = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// Folder of the modules in the guest, `NUMBER-NAME` in the order in which they are loaded.
pub const MODULE_FOLDER: &str = "/modules";

/// Writes kernel and initial file system into a folder; returns their paths.
pub fn pack(folder: &Path, modules: &str, tools: &[&str]) -> Result<(PathBuf, PathBuf)> {
    let base = debian::load(&X86_64, &Cache::of_user()?, modules)?;
    let kernel = folder.join("kernel");
    fs::write(&kernel, &base.kernel)?;
    let init = folder.join("init");
    execute(Command::new("strip").arg("-o").arg(&init).arg(std::env::current_exe()?))?;

    let initrd = folder.join("initrd");
    let mut archive = Archive::new(File::create(&initrd)?);
    archive.file("init", &fs::read(&init)?)?;
    let mut programs = vec![init];
    for tool in tools {
        programs.push(find(tool)?);
    }
    let mut needed = BTreeSet::new();
    for program in &programs {
        needed.extend(libraries(program)?);
    }
    for path in programs.iter().skip(1).chain(&needed) {
        let name = path.to_str().context("path")?.trim_start_matches('/');
        archive.file(name, &fs::read(path).with_context(|| path.display().to_string())?)?;
    }
    for (number, module) in in_order(&base.modules).iter().enumerate() {
        let name = format!("{}/{number:03}-{}", MODULE_FOLDER.trim_start_matches('/'), module.name);
        archive.file(&name, &module.bytes)?;
    }
    for name in ["dev", "proc", "sys", "run", "tmp"] {
        archive.folder(name)?;
    }
    archive.finish()?;
    Ok((kernel, initrd))
}

fn find(tool: &str) -> Result<PathBuf> {
    let candidates = PATH.iter().map(|folder| Path::new(folder).join(tool));
    candidates
        .into_iter()
        .find(|path| path.is_file())
        .with_context(|| format!("no {tool} in {PATH:?}; make setup"))
}

/// Shared libraries that a program needs, as the dynamic linker finds them here.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = execute(Command::new("ldd").arg(program))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let paths =
        text.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    Ok(paths.map(PathBuf::from).collect())
}

/// Modules after those that they depend on.
fn in_order(modules: &[Module]) -> Vec<&Module> {
    fn add<'a>(module: &'a Module, all: &'a [Module], order: &mut Vec<&'a Module>) {
        if order.iter().any(|done| done.name == module.name) {
            return;
        }
        for name in module.info.depends.iter().chain(&module.info.soft_before()) {
            if let Some(needed) = all.iter().find(|other| other.name == *name) {
                add(needed, all, order);
            }
        }
        order.push(module);
    }
    let mut order = Vec::new();
    for module in modules {
        add(module, modules, &mut order);
    }
    order
}

/// A cpio archive as the kernel unpacks it, with the folders that its files need.
struct Archive {
    file: BufWriter<File>,
    folders: BTreeSet<String>,
    entries: u32,
}

impl Archive {
    fn new(file: File) -> Self {
        Self { file: BufWriter::new(file), folders: BTreeSet::new(), entries: 0 }
    }

    fn folder(&mut self, name: &str) -> Result<()> {
        if self.folders.insert(name.to_owned()) {
            if let Some((parent, _)) = name.rsplit_once('/') {
                self.folder(parent)?;
            }
            self.entry(name, ModeFileType::Directory, &[])?;
        }
        Ok(())
    }

    fn file(&mut self, name: &str, content: &[u8]) -> Result<()> {
        if let Some((parent, _)) = name.rsplit_once('/') {
            self.folder(parent)?;
        }
        self.entry(name, ModeFileType::Regular, content)
    }

    fn entry(&mut self, name: &str, kind: ModeFileType, content: &[u8]) -> Result<()> {
        self.entries += 1;
        let entry = Builder::new(name).ino(self.entries).uid(0).gid(0).mode(0o755);
        let length =
            u32::try_from(content.len()).with_context(|| format!("{name} is too large"))?;
        let mut writer = entry.set_mode_file_type(kind).write(&mut self.file, length);
        writer.write_all(content)?;
        writer.finish()?;
        Ok(())
    }

    fn finish(mut self) -> Result<()> {
        trailer(&mut self.file)?;
        self.file.flush()?;
        Ok(())
    }
}

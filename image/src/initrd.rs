//! The initrd: stage one as `/init`, the modules it may need, and nothing else.

use crate::base::Base;
use crate::modules;
use crate::tree::{Node, Tree};
use anyhow::{Context, Result};
use cpio::newc::{Builder, ModeFileType, trailer};
use std::io::Write as _;

/// Level 19 of 22: the higher ones ask the kernel for larger windows and gain nothing on a few megabytes.
const ZSTD_LEVEL: i32 = 19;

/// Lays out the initrd.
///
/// # Errors
/// When a module has a path that cannot be.
pub fn layout(stage_one: Vec<u8>, base: &Base) -> Result<Tree> {
    let mut tree = Tree::new();
    tree.program("init", stage_one)?;
    for mount_point in ["dev", "proc", "sys"] {
        tree.directory(mount_point)?;
    }
    let boot = base.modules.iter().filter(|module| module.boot);
    modules::install(&mut tree, &base.release, boot, &base.built_in)?;
    Ok(tree)
}

/// Packs a tree as the kernel unpacks it: cpio in the "newc" form, compressed with zstd.
///
/// # Errors
/// When a file is larger than cpio can hold (4 GiB).
pub fn pack(tree: &Tree) -> Result<Vec<u8>> {
    let mut archive = Vec::new();
    for (number, (path, node)) in (1..).zip(tree.iter()) {
        let entry = Builder::new(path).ino(number).uid(0).gid(0).mtime(0);
        let (entry, content) = match node {
            Node::Directory => {
                (entry.nlink(2).mode(0o755).set_mode_file_type(ModeFileType::Directory), &[][..])
            }
            Node::File { mode, bytes } => (
                entry.nlink(1).mode(*mode).set_mode_file_type(ModeFileType::Regular),
                bytes.as_slice(),
            ),
            Node::Link(target) => (
                entry.nlink(1).mode(0o777).set_mode_file_type(ModeFileType::Symlink),
                target.as_bytes(),
            ),
        };
        let length = u32::try_from(content.len())
            .with_context(|| format!("{path} is too large for an initrd"))?;
        let mut writer = entry.write(&mut archive, length);
        writer.write_all(content)?;
        writer.finish()?;
    }
    trailer(&mut archive)?;
    zstd::encode_all(archive.as_slice(), ZSTD_LEVEL).context("cannot compress the initrd")
}

#[cfg(test)]
mod tests {
    use super::{layout, pack};
    use crate::base::Base;
    use crate::modules::{Module, info::Info};
    use std::io::Read as _;

    #[test]
    fn another_reader_finds_stage_one_and_only_the_boot_modules() {
        let module = |name: &str, boot| Module {
            name: name.to_owned(),
            path: format!("kernel/{name}.ko"),
            info: Info::default(),
            bytes: name.as_bytes().to_vec(),
            boot,
        };
        let base = Base {
            release: "6.12".into(),
            modules: vec![module("erofs", true), module("tun", false)],
            built_in: vec!["kernel/drivers/md/dm-mod.ko".into()],
            ..Base::default()
        };
        let tree = layout(b"stage one".to_vec(), &base).unwrap();
        let archive = zstd::decode_all(pack(&tree).unwrap().as_slice()).unwrap();

        let mut names = Vec::new();
        let mut rest = archive.as_slice();
        loop {
            let mut reader = cpio::newc::Reader::new(rest).unwrap();
            if reader.entry().is_trailer() {
                break;
            }
            let name = reader.entry().name().to_owned();
            let mode = reader.entry().mode();
            let mut content = Vec::new();
            reader.read_to_end(&mut content).unwrap();
            if name == "init" {
                assert_eq!((mode, content.as_slice()), (0o100_755, &b"stage one"[..]));
            }
            if name.ends_with("modules.builtin") {
                assert_eq!(content, b"kernel/drivers/md/dm-mod.ko\n");
            }
            names.push(name);
            rest = reader.finish().unwrap();
        }
        assert!(names.contains(&"usr/lib/modules/6.12/kernel/erofs.ko".to_owned()), "{names:?}");
        assert!(names.contains(&"usr/lib/modules/6.12/modules.dep".to_owned()), "{names:?}");
        assert!(names.contains(&"usr/lib/modules/6.12/modules.builtin".to_owned()), "{names:?}");
        assert!(!names.iter().any(|name| name.contains("tun")), "{names:?}");
    }
}

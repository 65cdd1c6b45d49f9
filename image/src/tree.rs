//! A file tree in memory: what goes into the initrd and the root file system, in one order and without owners or times.

use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

/// Paths relative to the root (`usr/bin/portcullis`) and what is there, sorted by path, so that a folder comes before
/// what is in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree(BTreeMap<String, Node>);

/// What a path is. Everything belongs to root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// A folder of mode 0755.
    Directory,
    /// A file with its permission bits.
    File {
        /// Permission bits.
        mode: u32,
        /// Content.
        bytes: Vec<u8>,
    },
    /// A symbolic link to this target.
    Link(String),
}

impl Tree {
    /// An empty tree.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a folder and those above it.
    ///
    /// # Errors
    /// When a path is not relative and plain, or is there already as something else.
    pub fn directory(&mut self, path: &str) -> Result<()> {
        self.insert(path, Node::Directory)
    }

    /// Adds a file that everybody may read, and the folders above it.
    ///
    /// # Errors
    /// As [`directory`](Self::directory).
    pub fn file(&mut self, path: &str, bytes: Vec<u8>) -> Result<()> {
        self.insert(path, Node::File { mode: 0o644, bytes })
    }

    /// Adds a program, and the folders above it.
    ///
    /// # Errors
    /// As [`directory`](Self::directory).
    pub fn program(&mut self, path: &str, bytes: Vec<u8>) -> Result<()> {
        self.insert(path, Node::File { mode: 0o755, bytes })
    }

    /// Adds a symbolic link, and the folders above it.
    ///
    /// # Errors
    /// As [`directory`](Self::directory).
    pub fn link(&mut self, path: &str, target: &str) -> Result<()> {
        self.insert(path, Node::Link(target.to_owned()))
    }

    /// Everything in the tree, folders before what is in them.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.0.iter().map(|(path, node)| (path.as_str(), node))
    }

    /// Bytes of all files whose path starts with `prefix`.
    pub fn bytes_under(&self, prefix: &str) -> u64 {
        self.iter()
            .filter(|(path, _)| path.starts_with(prefix))
            .map(|(_, node)| match node {
                Node::File { bytes, .. } => bytes.len() as u64,
                Node::Directory | Node::Link(_) => 0,
            })
            .sum()
    }

    /// Writes the tree below `folder`, which must exist and becomes its root: a folder like all others, whatever the
    /// umask of who builds.
    ///
    /// # Errors
    /// When a file cannot be written; names the path.
    pub fn write_to(&self, folder: &Path) -> Result<()> {
        fs::set_permissions(folder, PermissionsExt::from_mode(0o755))
            .with_context(|| format!("cannot set the mode of {}", folder.display()))?;
        for (path, node) in self.iter() {
            let target = folder.join(path);
            let written = match node {
                Node::Directory => fs::create_dir(&target)
                    .and_then(|()| fs::set_permissions(&target, PermissionsExt::from_mode(0o755))),
                Node::File { mode, bytes } => fs::write(&target, bytes)
                    .and_then(|()| fs::set_permissions(&target, PermissionsExt::from_mode(*mode))),
                Node::Link(to) => symlink(to, &target),
            };
            written.with_context(|| format!("cannot write {}", target.display()))?;
        }
        Ok(())
    }

    fn insert(&mut self, path: &str, node: Node) -> Result<()> {
        if path.is_empty() || path.split('/').any(|part| matches!(part, "" | "." | "..")) {
            bail!("{path:?} is not a plain relative path");
        }
        for (index, _) in path.match_indices('/') {
            let above = path.get(..index).unwrap_or_default();
            match self.0.entry(above.to_owned()).or_insert(Node::Directory) {
                Node::Directory => {}
                Node::File { .. } | Node::Link(_) => {
                    bail!("{path} is below {above}, which is not a folder")
                }
            }
        }
        match self.0.insert(path.to_owned(), node.clone()) {
            Some(old) if old != node => bail!("{path} is in the tree twice with different content"),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Tree;

    #[test]
    fn folders_come_before_their_files() {
        let mut tree = Tree::new();
        tree.program("usr/bin/portcullis", vec![1]).unwrap();
        tree.link("init", "usr/bin/portcullis").unwrap();
        let paths: Vec<&str> = tree.iter().map(|(path, _)| path).collect();
        assert_eq!(paths, ["init", "usr", "usr/bin", "usr/bin/portcullis"]);
    }

    #[test]
    fn paths_cannot_leave_the_tree_or_clash() {
        let mut tree = Tree::new();
        for bad in ["", "/etc", "a/../b", "a//b", "./a"] {
            assert!(tree.directory(bad).is_err(), "{bad}");
        }
        tree.file("a", vec![1]).unwrap();
        assert!(tree.file("a", vec![2]).is_err());
        assert!(tree.file("a/b", vec![2]).is_err());
    }

    #[test]
    fn writes_files_with_their_modes() {
        use std::os::unix::fs::PermissionsExt;
        let mut tree = Tree::new();
        tree.program("bin/tool", b"x".to_vec()).unwrap();
        tree.link("bin/alias", "tool").unwrap();
        let folder = tempfile::tempdir().unwrap();
        // As with the umask 077; the root of a system is not private.
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o700)).unwrap();
        tree.write_to(folder.path()).unwrap();
        let mode = folder.path().join("bin/tool").metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o755);
        assert_eq!(folder.path().metadata().unwrap().permissions().mode() & 0o7777, 0o755);
        assert_eq!(std::fs::read(folder.path().join("bin/alias")).unwrap(), b"x");
        assert_eq!(tree.bytes_under("bin/"), 1);
    }
}

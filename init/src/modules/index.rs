//! The tables of a module folder: `modules.dep`, `modules.alias`, `modules.softdep`,
//! `modules.builtin`.

use std::collections::{BTreeMap, BTreeSet};

use super::pattern::matches;

/// The name that the kernel knows a module by: `-` and `_` are the same to it.
pub fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

/// Name of the module in a file: `kernel/drivers/net/virtio-net.ko.xz` is `virtio-net`.
pub(super) fn name_of(path: &str) -> &str {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split('.').next().unwrap_or(file)
}

#[derive(Debug, Default)]
struct Module {
    path: String,
    /// Paths of all that it needs, in loading order.
    needs: Vec<String>,
    /// Modules or aliases to load before it, if they are there.
    before: Vec<String>,
}

/// Which modules there are, what they drive and what they need.
#[derive(Debug, Default)]
pub struct Index {
    modules: BTreeMap<String, Module>,
    /// (pattern, module), in the table's order.
    aliases: Vec<(String, String)>,
    /// What is part of the kernel itself.
    built_in: BTreeSet<String>,
}

impl Index {
    /// Reads the tables; lines that are not understood are left out.
    pub fn parse(dep: &str, alias: &str, softdep: &str) -> Self {
        let mut index = Self::default();
        for line in dep.lines() {
            let Some((path, needs)) = line.split_once(':') else { continue };
            let module = Module {
                path: path.trim().to_owned(),
                // The table has the nearest first, in the order of unloading.
                needs: needs.split_whitespace().rev().map(str::to_owned).collect(),
                before: Vec::new(),
            };
            index.modules.insert(canonical(name_of(path)), module);
        }
        for line in alias.lines() {
            let mut words = line.split_whitespace();
            if let (Some("alias"), Some(pattern), Some(name)) =
                (words.next(), words.next(), words.next())
            {
                index.aliases.push((pattern.to_owned(), canonical(name)));
            }
        }
        for line in softdep.lines() {
            let mut words = line.split_whitespace();
            if let (Some("softdep"), Some(name)) = (words.next(), words.next())
                && let Some(module) = index.modules.get_mut(&canonical(name))
            {
                let before = words.skip_while(|w| *w != "pre:").skip(1);
                module.before.extend(before.take_while(|w| *w != "post:").map(str::to_owned));
            }
        }
        index
    }

    /// Adds `modules.builtin`: one path a line, as if the kernel's parts were files too.
    pub fn with_built_in(mut self, table: &str) -> Self {
        self.built_in = table.lines().map(|path| canonical(name_of(path.trim()))).collect();
        self
    }

    /// Whether this is the name of a part of the kernel. Not every part shows in /sys/module.
    pub fn is_built_in(&self, name: &str) -> bool {
        self.built_in.contains(&canonical(name))
    }

    /// Files to load for the module or alias `name`, in order; empty if there is none.
    pub fn resolve(&self, name: &str) -> Vec<String> {
        let mut order = Vec::new();
        self.collect(name, &mut BTreeSet::new(), &mut order);
        order
    }

    /// Files to load for a device's alias, in order.
    pub fn matching(&self, alias: &str) -> Vec<String> {
        let mut order = Vec::new();
        let mut seen = BTreeSet::new();
        for (pattern, name) in &self.aliases {
            if matches(pattern, alias) {
                self.collect(name, &mut seen, &mut order);
            }
        }
        order
    }

    fn collect(&self, name: &str, seen: &mut BTreeSet<String>, order: &mut Vec<String>) {
        let name = canonical(name);
        if !seen.insert(name.clone()) {
            return;
        }
        let Some(module) = self.modules.get(&name) else {
            for (_, target) in self.aliases.iter().filter(|(alias, _)| canonical(alias) == name) {
                self.collect(target, seen, order);
            }
            return;
        };
        for other in &module.before {
            self.collect(other, seen, order);
        }
        for path in &module.needs {
            // What a module needs may have wishes of its own.
            self.collect(name_of(path), seen, order);
        }
        if !order.contains(&module.path) {
            order.push(module.path.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index() -> Index {
        Index::parse(
            "k/ext4.ko.xz: k/jbd2.ko.xz k/mbcache.ko.xz k/crc16.ko.xz\n\
             k/jbd2.ko.xz:\nk/mbcache.ko.xz:\nk/crc16.ko.xz:\n\
             k/crc32c-intel.ko.xz:\nk/crc32c_generic.ko.xz:\nk/virtio-net.ko: k/net_failover.ko\n\
             k/net_failover.ko: \n",
            "# comment\nalias crc32c crc32c_intel\nalias crc32c crc32c_generic\n\
             alias virtio:d00000001v* virtio_net\nalias fs-ext4 ext4\n",
            "softdep ext4 pre: crc32c\nsoftdep jbd2 post: nothing\n",
        )
    }

    #[test]
    fn what_a_module_needs_comes_before_it_and_once() {
        assert_eq!(
            index().resolve("fs-ext4"),
            [
                "k/crc32c-intel.ko.xz",
                "k/crc32c_generic.ko.xz",
                "k/crc16.ko.xz",
                "k/mbcache.ko.xz",
                "k/jbd2.ko.xz",
                "k/ext4.ko.xz"
            ]
        );
    }

    #[test]
    fn devices_find_their_drivers_whatever_the_dashes() {
        let expected = ["k/net_failover.ko", "k/virtio-net.ko"];
        assert_eq!(index().matching("virtio:d00000001v00001AF4"), expected);
        assert_eq!(index().resolve("virtio_net"), expected);
        assert!(index().matching("virtio:d00000002v00001AF4").is_empty());
        assert!(index().resolve("nothing").is_empty());
    }

    #[test]
    fn what_is_built_in_is_known_by_name() {
        let index =
            index().with_built_in("kernel/fs/erofs/erofs.ko\nkernel/drivers/md/dm-mod.ko\n");
        assert!(index.is_built_in("erofs") && index.is_built_in("dm_mod"));
        assert!(!index.is_built_in("ext4") && index.resolve("erofs").is_empty());
    }

    #[test]
    fn circles_end() {
        let index = Index::parse("a.ko: b.ko\nb.ko: a.ko\n", "", "softdep a pre: b\n");
        assert_eq!(index.resolve("a"), ["b.ko", "a.ko"]);
    }
}

//! What the image weighs, by component, against its bounds.

use crate::assemble::Assembly;
use crate::base::Base;
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;

const MIB: u64 = 1 << 20;
/// The slot blob, in bytes.
const BLOB_BOUND: u64 = 48 * MIB;
/// The multi-call binary, in bytes.
const PROGRAM_BOUND: u64 = 16 * MIB;

/// One line of the report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Component {
    /// What it is; `a/b` is a part of `a`.
    pub name: String,
    /// Size in bytes. Parts of a compressed whole are given as they are before compression.
    pub bytes: u64,
    /// What it may weigh at most, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bound: Option<u64>,
}

/// The size report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Version of the image.
    pub version: String,
    /// Where its kernel comes from: `debian`, `buildroot`.
    pub base: String,
    /// Its components; the first is the slot blob.
    pub components: Vec<Component>,
}

impl Report {
    /// Weighs an image.
    pub fn of(
        version: &str,
        base_name: &str,
        base: &Base,
        assembly: &Assembly,
        boot_manager: &[u8],
    ) -> Self {
        let manifest = &assembly.slot.summary.manifest;
        let (root, initrd) = (&assembly.root_tree, &assembly.initrd_tree);
        let rows = [
            ("slot", assembly.slot.summary.size, Some(BLOB_BOUND)),
            ("slot/root", manifest.root.size, None),
            ("slot/root/usr/bin/portcullis", root.bytes_under("usr/bin/"), Some(PROGRAM_BOUND)),
            ("slot/root/usr/lib/modules", root.bytes_under("usr/lib/modules/"), None),
            ("slot/root/usr/lib/portcullis", root.bytes_under("usr/lib/portcullis/"), None),
            ("slot/tree", manifest.tree.size, None),
            ("slot/uki", manifest.uki.size, None),
            ("slot/uki/stub", base.stub.len() as u64, None),
            ("slot/uki/kernel", base.kernel.len() as u64, None),
            ("slot/uki/initrd", assembly.initrd.len() as u64, None),
            ("slot/uki/initrd/init", initrd.bytes_under("init"), None),
            ("slot/uki/initrd/usr/lib/modules", initrd.bytes_under("usr/lib/modules/"), None),
            ("boot-manager", boot_manager.len() as u64, None),
        ];
        let component = |(name, bytes, bound): (&str, u64, _)| Component {
            name: name.to_owned(),
            bytes,
            bound,
        };
        Self {
            version: version.to_owned(),
            base: base_name.to_owned(),
            components: rows.into_iter().map(component).collect(),
        }
    }

    /// The components that are heavier than they may be.
    pub fn too_heavy(&self) -> Vec<&Component> {
        self.components
            .iter()
            .filter(|component| component.bound.is_some_and(|bound| component.bytes > bound))
            .collect()
    }

    /// The report as a table for people.
    pub fn table(&self) -> String {
        let mut table = format!(
            "Portcullis {} on {}\n{:<36} {:>12} {:>9}  bound\n",
            self.version, self.base, "component", "bytes", "MiB"
        );
        for Component { name, bytes, bound } in &self.components {
            let bound = bound.map_or_else(String::new, |bound| format!("{} MiB", bound / MIB));
            let line =
                format!("{name:<36} {bytes:>12} {:>9.2}  {bound}", *bytes as f64 / MIB as f64);
            let _ = writeln!(table, "{}", line.trim_end());
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::{Component, Report};

    #[test]
    fn names_what_is_too_heavy() {
        let component =
            |name: &str, bytes, bound| Component { name: name.to_owned(), bytes, bound };
        let report = Report {
            version: "1".into(),
            base: "debian".into(),
            components: vec![
                component("slot", 11, Some(10)),
                component("a", 10, Some(10)),
                component("b", 99, None),
            ],
        };
        let names: Vec<&str> =
            report.too_heavy().into_iter().map(|component| component.name.as_str()).collect();
        assert_eq!(names, ["slot"]);
        assert!(report.table().contains("slot"));
    }
}

//! The read-only root file system: one program with its names, the kernel's modules, the file
//! system that a new data partition starts as, and mount points.

use crate::base::Base;
use crate::modules;
use crate::tree::Tree;
use anyhow::Result;

/// Where something is mounted once stage two runs.
const MOUNT_POINTS: [&str; 6] = ["data", "dev", "proc", "run", "sys", "tmp"];

/// Lays out the root file system. The service manifests are part of the program.
///
/// # Errors
/// When a module has a path that cannot be.
pub fn layout(
    program: Vec<u8>,
    data_template: Vec<u8>,
    base: &Base,
    version: &str,
) -> Result<Tree> {
    let mut tree = Tree::new();
    tree.program("usr/bin/portcullis", program)?;
    tree.link("usr/bin/pctl", "portcullis")?;
    tree.link("sbin/init", "../usr/bin/portcullis")?;
    tree.file("usr/lib/os-release", os_release(version).into_bytes())?;
    tree.link("etc/os-release", "../usr/lib/os-release")?;
    tree.file("usr/lib/portcullis/data.ext4", data_template)?;
    modules::install(&mut tree, &base.release, base.modules.iter(), &base.built_in)?;
    for mount_point in MOUNT_POINTS {
        tree.directory(mount_point)?;
    }
    Ok(tree)
}

/// The version file of os-release(5), also the `.osrel` section of the UKI.
pub fn os_release(version: &str) -> String {
    format!(
        "NAME=Portcullis\nID=portcullis\nPRETTY_NAME=\"Portcullis {version}\"\nVERSION_ID={version}\n\
         IMAGE_ID=portcullis\nIMAGE_VERSION={version}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::layout;
    use crate::base::Base;
    use crate::tree::Node;

    #[test]
    fn holds_one_program_and_no_shell() {
        let base = Base { release: "6.12".into(), ..Base::default() };
        let tree = layout(b"program".to_vec(), b"ext4".to_vec(), &base, "1.2.3").unwrap();
        let programs: Vec<&str> = tree
            .iter()
            .filter(|(_, node)| matches!(node, Node::File { mode, .. } if mode & 0o111 != 0))
            .map(|(path, _)| path)
            .collect();
        assert_eq!(programs, ["usr/bin/portcullis"]);
        let links: Vec<_> = tree.iter().filter(|(_, node)| matches!(node, Node::Link(_))).collect();
        assert_eq!(
            links,
            [
                ("etc/os-release", &Node::Link("../usr/lib/os-release".into())),
                ("sbin/init", &Node::Link("../usr/bin/portcullis".into())),
                ("usr/bin/pctl", &Node::Link("portcullis".into()))
            ]
        );
    }
}

//! What is merged for an architecture: the fragments that its Buildroot defconfig names, in that order.

use crate::fragment::{self, Fragment};
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Folder of the fragments in our Buildroot tree.
const FOLDER: &str = "board/portcullis/linux";
/// The line of the first fragment, up to its name.
const FIRST: &str =
    "BR2_LINUX_KERNEL_CUSTOM_CONFIG_FILE=\"$(BR2_EXTERNAL_PORTCULLIS_PATH)/board/portcullis/linux/";
/// The line of the others, up to their names, which have blanks between.
const OTHERS: &str = "BR2_LINUX_KERNEL_CONFIG_FRAGMENT_FILES=\"$(addprefix \
    $(BR2_EXTERNAL_PORTCULLIS_PATH)/board/portcullis/linux/,$(addsuffix .config,";

/// An architecture that we have a kernel configuration for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Architecture {
    /// Its name in Buildroot and in our file names.
    pub name: &'static str,
    /// Its name in the kernel's makefiles (`ARCH`).
    pub kernel: &'static str,
    /// Prefix of its compiler on a machine of another kind (`CROSS_COMPILE`); its answers decide about options.
    pub cross_compile: &'static str,
    /// Debian package of that compiler.
    pub package: &'static str,
}

/// 64-bit PCs.
pub const X86_64: Architecture = Architecture {
    name: "x86_64",
    kernel: "x86_64",
    cross_compile: "x86_64-linux-gnu-",
    package: "gcc-x86-64-linux-gnu",
};
/// 64-bit Arm.
pub const AARCH64: Architecture = Architecture {
    name: "aarch64",
    kernel: "arm64",
    cross_compile: "aarch64-linux-gnu-",
    package: "gcc-aarch64-linux-gnu",
};
/// All of them.
pub const ARCHITECTURES: [&Architecture; 2] = [&X86_64, &AARCH64];

/// The fragments of one architecture.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The architecture.
    pub architecture: &'static Architecture,
    /// In the order of merging. Each option stands in one of them only.
    pub fragments: Vec<Fragment>,
    /// The last fragment: what would be on by default. Written by the command `off`.
    pub off: Fragment,
    /// Its file.
    pub off_path: PathBuf,
}

impl Plan {
    /// Reads the fragments for `architecture` from `buildroot`, our Buildroot tree.
    ///
    /// # Errors
    /// When the defconfig or a fragment cannot be read, a fragment has problems, or two decide the same option.
    pub fn read(buildroot: &Path, architecture: &'static Architecture) -> Result<Self> {
        let path = buildroot.join(format!("configs/portcullis_{}_defconfig", architecture.name));
        let defconfig =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let files = files(&defconfig).with_context(|| path.display().to_string())?;
        let mut fragments = Vec::new();
        for file in &files {
            fragments.push(read_fragment(&buildroot.join(FOLDER).join(file))?);
        }
        let off = fragments.pop().context("the defconfig names no fragment")?;
        let off_name = format!("off-{}.config", architecture.name);
        ensure!(
            off.name == off_name,
            "{}: the last fragment is {} and must be {off_name}",
            path.display(),
            off.name
        );
        unique(fragments.iter().chain([&off]))?;
        let off_path = buildroot.join(FOLDER).join(off_name);
        Ok(Self { architecture, fragments, off, off_path })
    }

    /// All fragments but the last as one text.
    pub fn wanted(&self) -> String {
        text(&self.fragments)
    }

    /// All fragments as one text, which is what Buildroot starts from.
    pub fn merged(&self) -> String {
        let mut merged = self.wanted();
        merged.push_str(&text(std::slice::from_ref(&self.off)));
        merged
    }
}

/// The fragment files that a defconfig names.
fn files(defconfig: &str) -> Result<Vec<String>> {
    let names = |start: &str, end: &str| {
        let mut lines = defconfig.lines();
        lines
            .find_map(|line| line.strip_prefix(start)?.strip_suffix(end))
            .with_context(|| format!("there is no line {start}...{end}"))
    };
    let first = names(FIRST, ".config\"")?;
    let others = names(OTHERS, "))\"")?;
    let names = first.split_whitespace().chain(others.split_whitespace());
    Ok(names.map(|name| format!("{name}.config")).collect())
}

fn read_fragment(path: &Path) -> Result<Fragment> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    fragment::parse(&name, &text).map_err(|problems| {
        let lines: Vec<String> = problems
            .iter()
            .map(|problem| format!("{}:{}: {}", path.display(), problem.line, problem.message))
            .collect();
        anyhow::anyhow!("{}", lines.join("\n"))
    })
}

/// An option that two fragments decide would be decided by their order, which nobody sees.
fn unique<'a>(fragments: impl Iterator<Item = &'a Fragment>) -> Result<()> {
    let mut seen: BTreeMap<&str, &str> = BTreeMap::new();
    for fragment in fragments {
        for wanted in &fragment.options {
            if let Some(first) = seen.insert(&wanted.setting.option, &fragment.name) {
                bail!(
                    "{}:{}: {} stands in {first} already",
                    fragment.name,
                    wanted.line,
                    wanted.setting.option
                );
            }
        }
    }
    Ok(())
}

fn text(fragments: &[Fragment]) -> String {
    let settings = fragments.iter().flat_map(|it| &it.options).map(|it| &it.setting);
    settings
        .map(|setting| match setting.value.as_str() {
            "n" => format!("# CONFIG_{} is not set\n", setting.option),
            value => format!("CONFIG_{}={value}\n", setting.option),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{AARCH64, Plan, X86_64, files};
    use std::fs;

    const DEFCONFIG: &str = "BR2_x86_64=y\n\
        BR2_LINUX_KERNEL_CUSTOM_CONFIG_FILE=\"$(BR2_EXTERNAL_PORTCULLIS_PATH)/board/portcullis/linux/base.config\"\n\
        BR2_LINUX_KERNEL_CONFIG_FRAGMENT_FILES=\"$(addprefix \
        $(BR2_EXTERNAL_PORTCULLIS_PATH)/board/portcullis/linux/,$(addsuffix .config,net off-x86_64))\"\n";

    fn tree(net: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("configs/portcullis_x86_64_defconfig", DEFCONFIG);
        write("board/portcullis/linux/base.config", "# Why.\nCONFIG_A=y\n# CONFIG_B is not set\n");
        write("board/portcullis/linux/net.config", net);
        write("board/portcullis/linux/off-x86_64.config", "# Defaults.\n# CONFIG_OFF is not set\n");
        folder
    }

    #[test]
    fn the_defconfig_says_which_fragments_and_in_which_order() {
        let expected = ["base.config", "net.config", "off-x86_64.config"];
        assert_eq!(files(DEFCONFIG).unwrap(), expected);
        assert!(files("BR2_x86_64=y\n").is_err());

        let plan = Plan::read(tree("# Why.\nCONFIG_NET=y\n").path(), &X86_64).unwrap();
        let wanted = "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_NET=y\n";
        assert_eq!(plan.wanted(), wanted);
        assert_eq!(plan.merged(), format!("{wanted}# CONFIG_OFF is not set\n"));
    }

    #[test]
    fn an_option_is_decided_in_one_place() {
        let error = Plan::read(tree("# Why.\nCONFIG_B=y\n").path(), &X86_64).unwrap_err();
        assert_eq!(error.to_string(), "net.config:2: B stands in base.config already");
    }

    #[test]
    fn a_missing_defconfig_is_named() {
        let error = Plan::read(tree("").path(), &AARCH64).unwrap_err().to_string();
        assert!(error.contains("portcullis_aarch64_defconfig"), "{error}");
    }
}

//! What a kernel module says about itself, in its `.modinfo` section: `key=value` strings with a zero byte after each.

use super::canonical_name;
use object::{Object as _, ObjectSection as _};

/// The parts of `.modinfo` that loading by hardware needs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Info {
    /// Names of the modules whose symbols it uses.
    pub depends: Vec<String>,
    /// Patterns of hardware and services it drives: `pci:v00001AF4d*`, `fs-erofs`.
    pub aliases: Vec<String>,
    /// What else to load before or after it: `pre: realtek`.
    pub softdeps: Vec<String>,
    /// Licence as declared to the kernel.
    pub license: Option<String>,
    /// Kernel release it was built for, the first word of `vermagic`.
    pub release: Option<String>,
}

/// A file that is not a kernel module.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InfoError {
    /// Not an ELF object.
    #[error("not an ELF object: {0}")]
    Elf(#[from] object::Error),
    /// No `.modinfo` section.
    #[error("no .modinfo section")]
    NoSection,
}

/// Reads the `.modinfo` section of an uncompressed module.
///
/// # Errors
/// When the bytes are not an ELF object with such a section.
pub fn parse(module: &[u8]) -> Result<Info, InfoError> {
    let elf = object::File::parse(module)?;
    let section = elf.section_by_name(".modinfo").ok_or(InfoError::NoSection)?;
    Ok(parse_section(section.data()?))
}

/// Reads the content of a `.modinfo` section. Keys it does not know are passed over.
pub fn parse_section(section: &[u8]) -> Info {
    let mut info = Info::default();
    for entry in section.split(|byte| *byte == 0) {
        let Ok(entry) = std::str::from_utf8(entry) else { continue };
        let Some((key, value)) = entry.split_once('=') else { continue };
        match key {
            "depends" => {
                info.depends
                    .extend(value.split(',').filter(|name| !name.is_empty()).map(canonical_name));
            }
            "alias" => info.aliases.push(value.to_owned()),
            "softdep" => info.softdeps.push(value.to_owned()),
            "license" => info.license = Some(value.to_owned()),
            "vermagic" => info.release = value.split(' ').next().map(str::to_owned),
            _ => {}
        }
    }
    info
}

impl Info {
    /// Names to load before this module (`pre:` of its soft dependencies), as modules or aliases.
    pub fn soft_before(&self) -> Vec<String> {
        let mut names = Vec::new();
        for softdep in &self.softdeps {
            let mut before = false;
            for word in softdep.split_whitespace() {
                match word {
                    "pre:" => before = true,
                    "post:" => before = false,
                    name if before => names.push(canonical_name(name)),
                    _ => {}
                }
            }
        }
        names
    }
}

#[cfg(test)]
mod tests {
    use super::{InfoError, parse, parse_section};
    use proptest::prelude::*;

    #[test]
    fn reads_what_loading_needs() {
        let info = parse_section(
            b"license=GPL\0softdep=pre: realtek post: other\0alias=pci:v000010ECd00008168sv*\0\0depends=libphy,mdio-devres\0\
              vermagic=6.12.117+deb12-amd64 SMP preempt mod_unload modversions \0",
        );
        assert_eq!(info.depends, ["libphy", "mdio_devres"]);
        assert_eq!(info.aliases, ["pci:v000010ECd00008168sv*"]);
        assert_eq!(info.soft_before(), ["realtek"]);
        assert_eq!(info.license.as_deref(), Some("GPL"));
        assert_eq!(info.release.as_deref(), Some("6.12.117+deb12-amd64"));
    }

    #[test]
    fn says_what_is_no_module() {
        assert!(matches!(parse(b"#!/bin/sh"), Err(InfoError::Elf(_))));
        let own = std::fs::read("/proc/self/exe").unwrap();
        assert_eq!(parse(&own), Err(InfoError::NoSection));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes: Vec<u8>) {
            let _ = parse(&bytes);
            let _ = parse_section(&bytes).soft_before();
        }
    }
}

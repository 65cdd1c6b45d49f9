//! `modules.list`: which modules the image has, and which of them the initrd.

use super::canonical_name;

/// One line of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Name with underscores.
    pub name: String,
    /// In the initrd too.
    pub boot: bool,
    /// Some kernel has it neither as a module nor built in.
    pub optional: bool,
}

/// A line that is none of the list's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "modules.list, line {line}: {text:?} is not \"boot NAME\" or \"root NAME\" (with \"?\" after an optional name)"
)]
pub struct ListError {
    line: usize,
    text: String,
}

/// Reads the list.
///
/// # Errors
/// Names the first line that is neither empty, a comment nor `boot NAME` or `root NAME`.
pub fn parse(text: &str) -> Result<Vec<Wanted>, ListError> {
    let mut wanted = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        let error = || ListError { line: index + 1, text: line.to_owned() };
        let (place, name) = line.split_once(' ').ok_or_else(error)?;
        let boot = match place {
            "boot" => true,
            "root" => false,
            _ => return Err(error()),
        };
        let name = name.trim();
        let (name, optional) = name.strip_suffix('?').map_or((name, false), |name| (name, true));
        if name.is_empty()
            || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
        {
            return Err(error());
        }
        wanted.push(Wanted { name: canonical_name(name), boot, optional });
    }
    Ok(wanted)
}

#[cfg(test)]
mod tests {
    use super::{Wanted, parse};

    #[test]
    fn reads_places_optional_names_and_comments() {
        let wanted = parse("# all\n\nboot dm-verity # hash tree\nroot crc32c_intel?\n").unwrap();
        assert_eq!(
            wanted,
            [
                Wanted { name: "dm_verity".into(), boot: true, optional: false },
                Wanted { name: "crc32c_intel".into(), boot: false, optional: true },
            ]
        );
    }

    #[test]
    fn names_the_bad_line() {
        for bad in ["nvme", "disk nvme", "boot ", "boot a/b", "boot a b", "root ?"] {
            let error = parse(&format!("root tun\n{bad}\n")).unwrap_err().to_string();
            assert!(error.contains("line 2"), "{bad}: {error}");
        }
    }

    #[test]
    fn the_shipped_list_is_valid_and_has_no_duplicates() {
        let wanted = parse(include_str!("../../modules.list")).unwrap();
        let names: std::collections::BTreeSet<&str> =
            wanted.iter().map(|wanted| wanted.name.as_str()).collect();
        assert_eq!(names.len(), wanted.len());
        assert!(wanted.iter().any(|wanted| wanted.boot && wanted.name == "dm_verity"));
    }
}

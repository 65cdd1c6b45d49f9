//! A kernel configuration as Kconfig writes it.

use std::collections::BTreeMap;

/// A line of a configuration or fragment that says something about an option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Name without `CONFIG_`.
    pub option: String,
    /// `y`, `m`, `n`, a number or a quoted text.
    pub value: String,
}

/// Reads one line; `None` if it is a comment or empty.
///
/// # Errors
/// With the line, if it is none of `CONFIG_X=value`, `# CONFIG_X is not set`, a comment or empty.
pub fn parse_line(line: &str) -> Result<Option<Setting>, String> {
    let line = line.trim_end();
    if let Some(comment) = line.strip_prefix('#') {
        let unset = comment.strip_prefix(" CONFIG_").and_then(|it| it.strip_suffix(" is not set"));
        return Ok(unset
            .map(|option| Setting { option: option.to_owned(), value: "n".to_owned() })
            .filter(|setting| is_name(&setting.option)));
    }
    if line.is_empty() {
        return Ok(None);
    }
    match line.strip_prefix("CONFIG_").and_then(|rest| rest.split_once('=')) {
        Some((option, value)) if is_name(option) && !value.is_empty() => {
            Ok(Some(Setting { option: option.to_owned(), value: value.to_owned() }))
        }
        _ => Err(line.to_owned()),
    }
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// All options of a `.config`; those that it does not name are `n`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    values: BTreeMap<String, String>,
}

impl Config {
    /// Reads a `.config`. Lines that are not understood say nothing.
    pub fn parse(text: &str) -> Self {
        let settings = text.lines().filter_map(|line| parse_line(line).ok().flatten());
        Self { values: settings.map(|it| (it.option, it.value)).collect() }
    }

    /// The value of an option.
    pub fn get(&self, option: &str) -> &str {
        self.values.get(option).map_or("n", String::as_str)
    }

    /// Number of options that are built in.
    pub fn built_in(&self) -> usize {
        self.values.values().filter(|value| *value == "y").count()
    }

    /// Options on which two configurations differ, with both values.
    pub fn differences<'a>(&'a self, other: &'a Self) -> Vec<(&'a str, &'a str, &'a str)> {
        let mut names: Vec<&str> =
            self.values.keys().chain(other.values.keys()).map(String::as_str).collect();
        names.sort_unstable();
        names.dedup();
        names
            .into_iter()
            .map(|name| (name, self.get(name), other.get(name)))
            .filter(|(_, mine, theirs)| mine != theirs)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{Config, Setting, parse_line};
    use proptest::prelude::*;

    #[test]
    fn reads_the_forms_that_kconfig_writes() {
        let setting = |option: &str, value: &str| {
            Ok(Some(Setting { option: option.to_owned(), value: value.to_owned() }))
        };
        assert_eq!(parse_line("CONFIG_NET=y"), setting("NET", "y"));
        assert_eq!(parse_line("CONFIG_LSM=\"a,b\""), setting("LSM", "\"a,b\""));
        assert_eq!(parse_line("# CONFIG_MODULES is not set"), setting("MODULES", "n"));
        assert_eq!(parse_line("# A reason"), Ok(None));
        assert_eq!(parse_line("# CONFIG_X is not set by us"), Ok(None));
        assert_eq!(parse_line(""), Ok(None));
    }

    #[test]
    fn what_is_neither_option_nor_comment_is_an_error() {
        for line in ["NET=y", "CONFIG_NET", "CONFIG_=y", "CONFIG_NET=", "CONFIG_NET =y"] {
            assert_eq!(parse_line(line), Err(line.to_owned()));
        }
    }

    #[test]
    fn differences_count_missing_as_no() {
        let one = Config::parse("CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_N=3\n");
        let two = Config::parse("CONFIG_A=y\nCONFIG_C=y\nCONFIG_N=4\n");
        assert_eq!(one.differences(&two), [("C", "n", "y"), ("N", "3", "4")]);
        assert_eq!((one.built_in(), two.built_in()), (1, 2));
    }

    proptest! {
        #[test]
        fn any_line_is_read_without_panic(line in ".{0,60}") {
            if let Ok(Some(setting)) = parse_line(&line) {
                prop_assert!(line.contains(&setting.option));
            }
        }
    }
}

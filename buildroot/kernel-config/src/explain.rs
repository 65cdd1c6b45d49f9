//! Why Kconfig dropped an option: where it is defined and what it depends on.

use crate::config::Config;
use std::fs;
use std::path::{Path, PathBuf};

/// Where an option is defined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    /// The file, below the top of the sources.
    pub file: PathBuf,
    /// Line of the file, from 1.
    pub line: usize,
    /// Whether somebody may be asked about it: it has a prompt.
    pub prompt: bool,
    /// What must be set for it to be there: its own `depends on`, and that of the menus and ifs around it in this file.
    pub depends: Vec<String>,
}

/// All definitions of `option` in a kernel's Kconfig files.
pub fn definitions(tree: &Path, option: &str) -> Vec<Definition> {
    let mut found = Vec::new();
    let mut folders = vec![tree.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            let path = entry.path();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(path);
            } else if entry.file_name().to_string_lossy().starts_with("Kconfig")
                && let Ok(text) = fs::read_to_string(&path)
            {
                let file = path.strip_prefix(tree).unwrap_or(&path);
                found.extend(in_file(file, &text, option));
            }
        }
    }
    found.sort_by(|a, b| a.file.cmp(&b.file));
    found
}

/// The definitions in one file.
fn in_file(file: &Path, text: &str, option: &str) -> Vec<Definition> {
    let mut found: Vec<Definition> = Vec::new();
    // Conditions of the menus and ifs that are open.
    let mut around: Vec<Vec<String>> = Vec::new();
    let mut place = Place::Elsewhere;
    let lines = joined(text);
    for (number, line) in &lines {
        // Texts of help are indented and may begin with any word: structure begins at the margin.
        let inner = line.starts_with([' ', '\t']);
        let line = line.trim();
        let (word, rest) = line.split_once([' ', '\t']).unwrap_or((line, ""));
        let rest = rest.trim();
        match word {
            "help" => place = Place::Elsewhere,
            "depends" | "visible" if inner => {
                let condition = rest.trim_start_matches("on ").trim_start_matches("if ").to_owned();
                match (place, found.last_mut(), around.last_mut()) {
                    (Place::Option, Some(definition), _) => definition.depends.push(condition),
                    (Place::Menu, _, Some(menu)) => menu.push(condition),
                    _ => {}
                }
            }
            "bool" | "tristate" | "string" | "int" | "hex" | "prompt" if inner => {
                if let (Place::Option, Some(definition)) = (place, found.last_mut()) {
                    definition.prompt |= rest.starts_with('"');
                }
            }
            _ if inner => {}
            "config" | "menuconfig" if rest == option => {
                found.push(Definition {
                    file: file.to_owned(),
                    line: *number,
                    prompt: false,
                    depends: around.concat(),
                });
                place = Place::Option;
            }
            "config" | "menuconfig" | "comment" | "source" => place = Place::Elsewhere,
            "if" => {
                around.push(vec![rest.to_owned()]);
                place = Place::Elsewhere;
            }
            "menu" | "choice" => {
                around.push(Vec::new());
                place = Place::Menu;
            }
            "endif" | "endmenu" | "endchoice" => {
                around.pop();
                place = Place::Elsewhere;
            }
            _ => {}
        }
    }
    found
}

#[derive(Debug, Clone, Copy)]
enum Place {
    Option,
    Menu,
    Elsewhere,
}

/// Lines with their numbers, without comments; those that end in a backslash go on.
fn joined(text: &str) -> Vec<(usize, String)> {
    let mut lines: Vec<(usize, String)> = Vec::new();
    let mut goes_on = false;
    for (index, line) in text.lines().enumerate() {
        let part = line.split('#').next().unwrap_or(line).trim_end();
        let (part, more) =
            part.strip_suffix('\\').map_or((part, false), |it| (it.trim_end(), true));
        match lines.last_mut() {
            Some((_, last)) if goes_on => {
                last.push(' ');
                last.push_str(part.trim_start());
            }
            _ => lines.push((index.saturating_add(1), part.to_owned())),
        }
        goes_on = more;
    }
    lines
}

/// One sentence for a person: where the option is, and what the configuration says about all that it depends on.
pub fn why(tree: &Path, option: &str, config: &Config) -> String {
    let definitions = definitions(tree, option);
    if definitions.is_empty() {
        return "this kernel has no such option".to_owned();
    }
    let sentences: Vec<String> = definitions
        .iter()
        .map(|it| {
            let place = format!("{}:{}", it.file.display(), it.line);
            if !it.prompt {
                return format!("{place} gives it no prompt: others select it");
            }
            if it.depends.is_empty() {
                return format!("{place} names no dependency");
            }
            let depends: Vec<String> =
                it.depends.iter().map(|condition| with_values(condition, config)).collect();
            format!("{place} depends on {}", depends.join(" && "))
        })
        .collect();
    sentences.join("; ")
}

/// `A && !B` becomes `A(y) && !B(n)`.
fn with_values(condition: &str, config: &Config) -> String {
    let mut text = String::new();
    let mut name = String::new();
    let flush = |name: &mut String, text: &mut String| {
        text.push_str(name);
        let is_option = name.starts_with(|c: char| c.is_ascii_uppercase() || c.is_ascii_digit());
        if is_option && name.parse::<u64>().is_err() {
            text.push_str(&format!("({})", config.get(name)));
        }
        name.clear();
    };
    for character in condition.chars() {
        if character.is_ascii_alphanumeric() || character == '_' {
            name.push(character);
        } else {
            flush(&mut name, &mut text);
            text.push(character);
        }
    }
    flush(&mut name, &mut text);
    text
}

#[cfg(test)]
mod tests {
    use super::{in_file, why, with_values};
    use crate::config::Config;
    use std::fs;
    use std::path::Path;

    const TEXT: &str = "menu \"Cards\"\n\tdepends on NET && \\\n\t\tPCI\n\nif VENDOR\n\n\
        config CARD\n\ttristate \"A card\"\n\tdepends on MDIO || !MDIO\n\tselect PHY\n\thelp\n\t  depends on luck\n\n\
        config OTHER\n\tbool\n\tdepends on FOO\n\nendif\nendmenu\n\nconfig LATE\n\tbool \"Late\"\n";

    #[test]
    fn a_definition_has_its_own_conditions_and_those_around_it() {
        let found = in_file(Path::new("Kconfig"), TEXT, "CARD");
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].line, found[0].prompt), (7, true));
        assert_eq!(found[0].depends, ["NET && PCI", "VENDOR", "MDIO || !MDIO"]);
        let found = in_file(Path::new("Kconfig"), TEXT, "OTHER");
        assert_eq!((found[0].prompt, found[0].depends.last().unwrap().as_str()), (false, "FOO"));
        assert!(in_file(Path::new("Kconfig"), TEXT, "LATE")[0].depends.is_empty());
    }

    #[test]
    fn the_reason_has_the_values_of_what_is_missing() {
        let tree = tempfile::tempdir().unwrap();
        fs::write(tree.path().join("Kconfig"), TEXT).unwrap();
        let config = Config::parse("CONFIG_NET=y\n");
        let text = why(tree.path(), "CARD", &config);
        assert!(text.starts_with("Kconfig:7 depends on NET(y) && PCI(n) && VENDOR(n)"), "{text}");
        assert_eq!(why(tree.path(), "NOTHING", &config), "this kernel has no such option");
        assert!(why(tree.path(), "OTHER", &config).contains("no prompt"));
    }

    #[test]
    fn only_names_of_options_get_values() {
        let config = Config::parse("CONFIG_A=y\nCONFIG_64BIT=y\n");
        assert_eq!(
            with_values("A && (64BIT || GCC_VERSION >= 120100)", &config),
            "A(y) && (64BIT(y) || GCC_VERSION(n) >= 120100)"
        );
    }
}

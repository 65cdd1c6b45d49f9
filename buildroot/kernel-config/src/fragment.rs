//! A fragment: options in groups, a reason above each group.

use crate::config::{Setting, parse_line};

/// A fragment of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fragment {
    /// Name of the file.
    pub name: String,
    /// Its options, in its order.
    pub options: Vec<Wanted>,
}

/// An option that a fragment decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The option and its value.
    pub setting: Setting,
    /// Line of the file, from 1.
    pub line: usize,
}

/// Something that is wrong in a fragment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Line of the file, from 1.
    pub line: usize,
    /// What is wrong, and what is allowed.
    pub message: String,
}

/// Reads a fragment. A group is what stands between empty lines; its reason is the comment that it begins with. The
/// first group may have the comment at the head of the file instead.
///
/// # Errors
/// All problems: lines that are not understood, groups without a reason, options that stand there twice.
pub fn parse(name: &str, text: &str) -> Result<Fragment, Vec<Problem>> {
    let mut problems = Vec::new();
    let mut options: Vec<Wanted> = Vec::new();
    let mut reason = false;
    let mut head = false;
    for (index, line) in text.lines().enumerate() {
        let number = index.saturating_add(1);
        let problem = |message: String| Problem { line: number, message };
        match parse_line(line) {
            Ok(Some(setting)) => {
                if !(reason || head && options.is_empty()) {
                    problems.push(problem(format!(
                        "{} has no reason: begin its group with a comment",
                        setting.option
                    )));
                }
                // One message for each group is enough.
                reason = true;
                if let Some(first) = options.iter().find(|it| it.setting.option == setting.option) {
                    problems.push(problem(format!(
                        "{} stands in line {} already",
                        setting.option, first.line
                    )));
                }
                options.push(Wanted { setting, line: number });
            }
            Ok(None) if line.trim().is_empty() => {
                head |= reason && options.is_empty();
                reason = false;
            }
            Ok(None) => reason = true,
            Err(line) => problems.push(problem(format!(
                "{line:?} is not understood; allowed are CONFIG_NAME=value, `# CONFIG_NAME is not set`, comments and \
                 empty lines"
            ))),
        }
    }
    if problems.is_empty() {
        Ok(Fragment { name: name.to_owned(), options })
    } else {
        Err(problems)
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn groups_with_reasons_are_taken() {
        let text = "# About the file.\n\nCONFIG_A=y\nCONFIG_B=3\n\n# Why.\n# CONFIG_C is not set\n";
        let fragment = parse("x", text).unwrap();
        let read: Vec<_> = fragment
            .options
            .iter()
            .map(|it| (it.setting.option.as_str(), it.setting.value.as_str(), it.line))
            .collect();
        assert_eq!(read, [("A", "y", 3), ("B", "3", 4), ("C", "n", 7)]);
    }

    #[test]
    fn every_problem_is_named_with_its_line() {
        let text =
            "CONFIG_A=y\nCONFIG_B=y\n\nCONFIG_C=y\n# Late.\n\n# Why.\nCONFIG_A=n\nCONFIG D=y\n";
        let problems = parse("x", text).unwrap_err();
        let lines: Vec<_> = problems.iter().map(|it| it.line).collect();
        assert_eq!(lines, [1, 4, 8, 9], "{problems:?}");
    }

    #[test]
    fn the_head_of_a_file_is_the_reason_of_its_first_group_only() {
        let problems = parse("x", "# Head.\n\nCONFIG_A=y\n\nCONFIG_B=y\n").unwrap_err();
        assert_eq!(problems.len(), 1);
        assert!(problems[0].message.starts_with("B has no reason"), "{problems:?}");
    }
}

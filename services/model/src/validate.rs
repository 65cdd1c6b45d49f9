//! Finds everything that is wrong with a document, not only the first thing.

use std::fmt;

use crate::{Document, VERSION};

/// One thing that is wrong.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Problem {
    /// Dotted path of the field: `dhcp.lan.pool.start`.
    pub path: String,
    /// What is wrong and what is allowed.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

/// All problems of `document`; none means that every part can be applied.
pub fn validate(document: &Document) -> Vec<Problem> {
    let mut problems = Vec::new();
    if document.version != VERSION {
        problems.push(Problem {
            path: "version".to_owned(),
            message: format!(
                "{} is not known; this release reads version {VERSION}",
                document.version
            ),
        });
    }
    problems
}

//! Finds everything that is wrong with a document, not only the first thing.
//!
//! One file per table of the document; each takes the document, because most rules are about how
//! tables fit together, and adds what it finds. [`crate::Document::parse`] has checked the form of
//! every single value before.

mod addresses;
mod dhcp;
mod dns;
mod firewall;
mod interfaces;
#[cfg(test)]
mod tests;

use std::fmt;

use crate::{Document, VERSION};

/// One thing that is wrong.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Problem {
    /// Dotted path of the field: `dhcp.lan.pool.start`, `interfaces.lan.ports[1]`.
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
    let mut problems = Problems(Vec::new());
    if document.version != VERSION {
        problems.add(
            "version",
            format!("{} is not known; this release reads version {VERSION}", document.version),
        );
    }
    interfaces::check(document, &mut problems);
    dhcp::check(document, &mut problems);
    dns::check(document, &mut problems);
    firewall::check(document, &mut problems);
    problems.0
}

/// What was found so far.
struct Problems(Vec<Problem>);

impl Problems {
    fn add(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.0.push(Problem { path: path.into(), message: message.into() });
    }

    /// `value` must lie in `range`.
    fn range<T: PartialOrd + fmt::Display>(
        &mut self,
        path: impl Into<String>,
        value: T,
        range: std::ops::RangeInclusive<T>,
        unit: &str,
    ) {
        if !range.contains(&value) {
            let (least, most) = (range.start(), range.end());
            self.add(path, format!("{value} is not allowed: {least} to {most} {unit}"));
        }
    }
}

/// Names for a message: `lan, wan`.
fn list<'a, T: fmt::Display + 'a>(names: impl IntoIterator<Item = &'a T>) -> String {
    let names: Vec<_> = names.into_iter().map(ToString::to_string).collect();
    if names.is_empty() { "none is configured".to_owned() } else { names.join(", ") }
}

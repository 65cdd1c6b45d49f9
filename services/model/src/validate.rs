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
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

/// Problems that are told at most, with one more that says how many are not. One wrong name can be in
/// thousands of places, and the answer goes into messages, the journal and the status.
pub const MOST_PROBLEMS: usize = 100;

/// All problems of `document`, up to [`MOST_PROBLEMS`]; none means that every part can be applied.
pub fn validate(document: &Document) -> Vec<Problem> {
    let mut problems = Problems::default();
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
    problems.told()
}

/// What was found so far.
#[derive(Default)]
struct Problems {
    found: Vec<Problem>,
    /// Those beyond [`MOST_PROBLEMS`].
    more: usize,
}

impl Problems {
    fn add(&mut self, path: impl Into<String>, message: impl Into<String>) {
        if self.found.len() < MOST_PROBLEMS {
            self.found.push(Problem { path: path.into(), message: shortened(message.into()) });
        } else {
            self.more += 1;
        }
    }

    fn told(mut self) -> Vec<Problem> {
        if self.more > 0 {
            let message = format!("{} more problems are not listed", self.more);
            self.found.push(Problem { path: String::new(), message });
        }
        self.found
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

/// Names that a message lists; of more it says how many.
const LISTED: usize = 16;

/// Names for a message: `lan, wan`.
fn list<'a, T: fmt::Display + 'a>(
    names: impl IntoIterator<Item = &'a T, IntoIter: ExactSizeIterator>,
) -> String {
    let names = names.into_iter();
    let more = names.len().saturating_sub(LISTED);
    let mut names: Vec<_> = names.take(LISTED).map(ToString::to_string).collect();
    match (names.is_empty(), more) {
        (true, _) => return "none is configured".to_owned(),
        (false, 0) => {}
        (false, more) => names.push(format!("and {more} more")),
    }
    names.join(", ")
}

/// Characters of a message, and those that are kept of a longer one at its begin and its end.
const MESSAGE: usize = 600;
const KEPT: usize = 290;

/// A message that quotes a value may be as long as the document: what it says of the value is at its
/// ends.
pub(crate) fn shortened(message: String) -> String {
    if message.len() <= MESSAGE {
        return message;
    }
    let begin = message.floor_char_boundary(KEPT);
    let end = message.ceil_char_boundary(message.len() - KEPT);
    match (message.get(..begin), message.get(end..)) {
        (Some(begin), Some(end)) => format!("{begin} ... {end}"),
        _ => message,
    }
}

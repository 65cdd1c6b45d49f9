//! From text to document, with everything that is wrong with its form.
//!
//! A reader by serde stops at the first error. [`Document::read`] takes out what that is about and
//! reads again, so that who made three mistakes learns of three.

use std::fmt;

use serde_path_to_error::{Path, Segment};
use toml::{
    Spanned,
    de::{DeArray, DeTable, DeValue, Deserializer},
};

use crate::{Document, VERSION, validate::shortened};

/// Errors of form that are told at most.
const MOST_ERRORS: usize = 20;
/// Bytes that are read again for further errors, all times together: of a long document fewer are told,
/// so that the answer comes in a second or two.
const READ_AGAIN: usize = 32 * 1024 * 1024;

/// Why a text is not a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    /// Dotted path of the field, as far as known: `interfaces.lan.ports[0]`; empty otherwise.
    pub path: String,
    /// Line and column, both counted from 1, as far as known.
    pub position: Option<(usize, usize)>,
    /// What is wrong and what is allowed, without the position.
    pub message: String,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((line, column)) = self.position {
            write!(f, "line {line}, column {column}: ")?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for ParseError {}

impl ParseError {
    fn syntax(text: &str, error: &toml::de::Error) -> Self {
        let mut message = error.message().trim_end().to_owned();
        let at = error.span();
        if message == "duplicate key"
            && let Some(key) = at.clone().and_then(|at| text.get(at))
        {
            message.push_str(&format!(" `{key}`"));
        }
        let position = at.map(|at| position(text, at.start));
        Self { path: String::new(), position, message: shortened(message) }
    }

    /// An error at `place` of the document, if it is known.
    fn of_form(
        text: &str,
        path: String,
        place: Option<&Spanned<DeValue<'_>>>,
        error: &toml::de::Error,
    ) -> Self {
        // What is read by way of another type has the place of the list or table around it.
        let start = match (error.span(), place.map(Spanned::span)) {
            (Some(error), Some(place)) if error.contains(&place.start) => Some(place.start),
            (error, _) => error.map(|span| span.start),
        };
        let value = place.and_then(|place| place.get_ref().as_str());
        Self {
            path: shortened(path),
            position: start.map(|start| position(text, start)),
            message: shortened(plain(error.message(), value)),
        }
    }
}

impl Document {
    /// Longest document that is read, in bytes. With all defaults written out, one of 10,000 rules
    /// and 100,000 prefixes has 5 MiB.
    pub const MAX_BYTES: usize = 8 * 1024 * 1024;

    /// Reads TOML. Only the form is checked here; see [`crate::validate::validate`].
    ///
    /// # Errors
    /// The first of: a syntax error, an unknown field, a value of the wrong form, or that the
    /// document is of another version if that is why it cannot be read.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        read(text, 1).map_err(|errors| {
            errors.into_iter().next().unwrap_or_else(|| ParseError {
                path: String::new(),
                position: None,
                message: "this is no document".to_owned(),
            })
        })
    }

    /// As [`Self::parse`].
    ///
    /// # Errors
    /// All errors of form, at least one and not without end, in the order of the text; of syntax only
    /// the first, since what comes after it may mean anything.
    pub fn read(text: &str) -> Result<Self, Vec<ParseError>> {
        read(text, MOST_ERRORS).map_err(|mut errors| {
            errors.sort_by_key(|error| error.position);
            errors
        })
    }
}

/// The document, or up to `most` errors, at least one.
fn read(text: &str, most: usize) -> Result<Document, Vec<ParseError>> {
    let root = DeTable::parse(text).map_err(|error| vec![ParseError::syntax(text, &error)])?;
    let version = other_version(text, root.get_ref());
    serde_path_to_error::deserialize(Deserializer::from(root)).map_err(|first| match version {
        Some(version) => vec![version],
        None => {
            let mut errors = errors(text, most);
            if errors.is_empty() {
                let path = first.path().to_string();
                errors.push(ParseError::of_form(text, path, None, first.inner()));
            }
            errors
        }
    })
}

/// That the document is of a version that this release does not read, and then may have any form.
fn other_version(text: &str, root: &DeTable<'_>) -> Option<ParseError> {
    let version = root.get("version")?;
    let written = version.get_ref().as_integer()?;
    let number = u64::from_str_radix(written.as_str(), written.radix()).ok()?;
    (number != u64::from(VERSION)).then(|| ParseError {
        path: "version".to_owned(),
        position: Some(position(text, version.span().start)),
        message: format!("{number} is not known; this release reads version {VERSION}"),
    })
}

/// What is wrong with the form, up to `most` errors.
fn errors(text: &str, most: usize) -> Vec<ParseError> {
    let mut errors = Vec::new();
    let Ok(root) = DeTable::parse(text) else { return errors };
    let span = root.span();
    let whole = DeValue::Table(root.into_inner());
    let mut rest = whole.clone();
    // Paths of what was taken out: that it is missing then is no error of the author.
    let mut taken: Vec<String> = Vec::new();
    let times = (READ_AGAIN / text.len().max(1)).clamp(1, 2 * MOST_ERRORS);
    for _ in 0..times {
        let DeValue::Table(table) = rest.clone() else { break };
        let reader = Deserializer::from(Spanned::new(span.clone(), table));
        let Err(error) = serde_path_to_error::deserialize::<_, Document>(reader) else { break };
        let (path, place) = place(&whole, &rest, error.path());
        let follows = taken.iter().any(|taken| {
            let field = taken.strip_prefix(path.as_str()).unwrap_or_default();
            error.inner().message().trim_end()
                == format!("missing field `{}`", field.trim_start_matches('.'))
        });
        if !follows {
            errors.push(ParseError::of_form(text, path.clone(), place, error.inner()));
        }
        if errors.len() == most || !take_out(&mut rest, error.path()) {
            break;
        }
        taken.push(path);
    }
    errors
}

/// The path in the whole document, since what was taken out of a list moved what comes after it; and
/// what is there.
fn place<'a, 'i>(
    whole: &'a DeValue<'i>,
    rest: &DeValue<'i>,
    path: &Path,
) -> (String, Option<&'a Spanned<DeValue<'i>>>) {
    let mut text = String::new();
    let mut places = Some((whole, rest));
    let mut found = None;
    for segment in path {
        let next = match segment {
            Segment::Seq { index } => {
                let pair = places.and_then(|(whole, rest)| {
                    let item = rest.as_array()?.get(*index)?;
                    let mut originals = whole.as_array()?.iter().enumerate();
                    let (at, original) = originals.find(|(_, one)| one.span() == item.span())?;
                    Some((at, original, item))
                });
                let at = pair.map_or(*index, |(at, ..)| at);
                text.push_str(&format!("[{at}]"));
                pair.map(|(_, original, item)| (original, item))
            }
            Segment::Map { key } | Segment::Enum { variant: key } => {
                if !text.is_empty() {
                    text.push('.');
                }
                text.push_str(key);
                places.and_then(|(whole, rest)| {
                    Some((
                        whole.as_table()?.get(key.as_str())?,
                        rest.as_table()?.get(key.as_str())?,
                    ))
                })
            }
            Segment::Unknown => None,
        };
        found = next.map(|(original, _)| original);
        places = next.map(|(original, item)| (original.get_ref(), item.get_ref()));
    }
    (text, found)
}

/// Takes out what is at the end of the path, as far as the path goes into the document; false if that
/// is the document itself.
fn take_out(value: &mut DeValue<'_>, path: &Path) -> bool {
    let segments: Vec<&Segment> = path.iter().collect();
    take_out_of(value, &segments)
}

fn take_out_of(value: &mut DeValue<'_>, path: &[&Segment]) -> bool {
    match (value, path) {
        (DeValue::Table(table), [Segment::Map { key }, deeper @ ..]) => {
            let Some(inner) = table.get_mut(key.as_str()) else { return false };
            take_out_of(inner.get_mut(), deeper) || table.remove(key.as_str()).is_some()
        }
        (DeValue::Array(list), [Segment::Seq { index }, deeper @ ..]) => {
            let Some(inner) = list.get_mut(*index) else { return false };
            if !take_out_of(inner.get_mut(), deeper) {
                let items = std::mem::replace(list, DeArray::new()).into_iter().enumerate();
                *list = items.filter(|(at, _)| at != index).map(|(_, item)| item).collect();
            }
            true
        }
        _ => false,
    }
}

/// Line and column of a byte, both counted from 1.
fn position(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (line, before.get(start..).unwrap_or_default().chars().count() + 1)
}

/// What serde expects, in the words of who writes a document.
const PLAIN: [(&str, &str); 6] = [
    ("expected u8", "expected a whole number from 0 to 255"),
    ("expected u16", "expected a whole number from 0 to 65535"),
    ("expected u32", "expected a whole number from 0 to 4294967295"),
    ("expected a boolean", "expected true or false"),
    ("expected a sequence", "expected a list"),
    ("expected a map", "expected a table"),
];

/// The same for the forms of addresses, which say neither what is there nor what is allowed.
const ADDRESSES: [(&str, &str); 3] = [
    ("invalid IPv4 address syntax", "an IPv4 address: allowed are those as 192.168.77.5"),
    ("invalid IPv6 address syntax", "an IPv6 address: allowed are those as 2001:db8:77::5"),
    (
        "invalid IP address syntax",
        "an address with the length of its prefix: allowed are those as 192.168.77.1/24 or 2001:db8:77::1/64",
    ),
];

fn plain(message: &str, value: Option<&str>) -> String {
    let message = message
        .trim_end()
        .replace("invalid type: sequence", "invalid type: list")
        .replace("invalid type: map", "invalid type: table");
    if let Some((_, form)) = ADDRESSES.iter().find(|(theirs, _)| *theirs == message) {
        return match value {
            Some(value) => format!("`{value}` is not {form}"),
            None => format!("one of its values is not {form}"),
        };
    }
    if let Some((begin, ours)) =
        PLAIN.iter().find_map(|(theirs, ours)| Some((message.strip_suffix(theirs)?, ours)))
    {
        return format!("{begin}{ours}");
    }
    // The names of types are ours alone.
    for kind in ["expected struct ", "expected internally tagged enum "] {
        if let Some((begin, name)) = message.split_once(kind)
            && name.bytes().all(|b| b.is_ascii_alphanumeric())
        {
            return format!("{begin}expected a table");
        }
    }
    message
}

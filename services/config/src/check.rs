//! From text to a document that can be applied, or everything that is wrong with it.

use portcullis_bus::config::Problem;
use portcullis_model::{Document, validate::validate};

/// Longest document that is read, in bytes.
pub const MAX_DOCUMENT_BYTES: usize = 1024 * 1024;

/// Reads and validates `text`.
///
/// # Errors
/// All problems: one if the text cannot be read as a document, else all that validation finds.
pub fn check(text: &str) -> Result<Document, Vec<Problem>> {
    if text.len() > MAX_DOCUMENT_BYTES {
        let message = format!(
            "the document has {} bytes; at most {MAX_DOCUMENT_BYTES} are allowed",
            text.len()
        );
        return Err(vec![Problem { path: String::new(), message }]);
    }
    let document = Document::parse(text).map_err(|error| {
        let message = match error.position {
            Some((line, column)) => format!("{} (line {line}, column {column})", error.message),
            None => error.message,
        };
        vec![Problem { path: error.path, message }]
    })?;
    let problems: Vec<_> = validate(&document)
        .into_iter()
        .map(|problem| Problem { path: problem.path, message: problem.message })
        .collect();
    if problems.is_empty() { Ok(document) } else { Err(problems) }
}

/// The problems in one line for a log or a status.
pub fn summary(problems: &[Problem]) -> String {
    let one = |problem: &Problem| match problem.path.as_str() {
        "" => problem.message.clone(),
        path => format!("{path}: {}", problem.message),
    };
    problems.iter().map(one).collect::<Vec<_>>().join("; ")
}

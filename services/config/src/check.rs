//! From text to a document that can be applied, or everything that is wrong with it.

use portcullis_bus::config::Problem;
use portcullis_model::{Document, ParseError, validate::validate};

/// Reads and validates `text`.
///
/// # Errors
/// All problems: of form if the text cannot be read as a document, else all that validation finds.
pub fn check(text: &str) -> Result<Document, Vec<Problem>> {
    if text.len() > Document::MAX_BYTES {
        let message = format!(
            "the document has {} bytes; at most {} are allowed",
            text.len(),
            Document::MAX_BYTES
        );
        return Err(vec![Problem { path: String::new(), message }]);
    }
    let of_form = |error: ParseError| {
        let message = match error.position {
            Some((line, column)) => format!("{} (line {line}, column {column})", error.message),
            None => error.message,
        };
        Problem { path: error.path, message }
    };
    let document = Document::read(text)
        .map_err(|errors| errors.into_iter().map(of_form).collect::<Vec<_>>())?;
    let problems: Vec<_> = validate(&document)
        .into_iter()
        .map(|problem| Problem { path: problem.path, message: problem.message })
        .collect();
    if problems.is_empty() { Ok(document) } else { Err(problems) }
}

/// Problems in a [`summary`].
const SUMMARY: usize = 10;

/// The problems in one line for a log or a status; of many the first.
pub fn summary(problems: &[Problem]) -> String {
    let one = |problem: &Problem| match problem.path.as_str() {
        "" => problem.message.clone(),
        path => format!("{path}: {}", problem.message),
    };
    let mut told: Vec<_> = problems.iter().take(SUMMARY).map(one).collect();
    if let Some(more @ 1..) = problems.len().checked_sub(SUMMARY) {
        told.push(format!("and {more} more"));
    }
    told.join("; ")
}

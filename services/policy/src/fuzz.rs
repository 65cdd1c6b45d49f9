//! What the fuzzer and the replay of its corpus do with a text.

use portcullis_model::Document;

use crate::{Format, Mode, Question, import::import as read};

/// Reads a text as rules in every way, and as a packet.
pub fn import(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let document = Document::default();
    for format in [Format::Yaml, Format::Json] {
        for mode in [Mode::Replace, Mode::Merge] {
            let _ = read(text, format, mode, &document);
        }
    }
    if let Ok(question) = text.parse::<Question>() {
        let again = question.to_string().parse::<Question>();
        assert!(again.as_ref() == Ok(&question), "{question} is read as {again:?}");
    }
}

#![no_main]
//! Any text is either a document, whose validation ends with a list, or an error with a message.
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(document) = portcullis_model::Document::read(text) {
        let _ = portcullis_model::validate::validate(&document);
        let again = document.to_toml().expect("a document can be written");
        assert_eq!(portcullis_model::Document::parse(&again).as_ref(), Ok(&document));
    }
});

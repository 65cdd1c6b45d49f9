//! Replays the fuzzing corpus.
#[cfg(test)]
#[path = "fuzz/slot_manifest.rs"]
mod slot_manifest;

#[test]
fn the_corpus_holds() {
    let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fuzz/corpus/slot_manifest");
    let files: Vec<_> =
        std::fs::read_dir(&corpus).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(files.len() >= 4, "{} files in {}", files.len(), corpus.display());
    for file in files {
        slot_manifest::run(&std::fs::read(file).unwrap());
    }
}

//! Replays the fuzzing corpus.
#[cfg(test)]
#[path = "fuzz/boot_state.rs"]
mod boot_state;

#[test]
fn the_corpus_holds() {
    let corpus =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/corpus/boot_state");
    let files: Vec<_> =
        std::fs::read_dir(&corpus).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(files.len() >= 4, "{} files in {}", files.len(), corpus.display());
    for file in files {
        boot_state::run(&std::fs::read(file).unwrap());
    }
}

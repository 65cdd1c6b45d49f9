//! What fuzzing found, or started from, in every test run.

#[test]
fn fuzz_corpus() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fuzz/corpus/datapath_core");
    let mut count = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let input = std::fs::read(&path).unwrap();
        println!("{}", path.display());
        portcullis_datapath::fuzz::run(&input);
        count += 1;
    }
    assert!(count >= 8, "the corpus is missing: {count} files in {folder}");
}

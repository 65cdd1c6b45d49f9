//! What fuzzing found, or started from, in every test run.

use portcullis_datapath::fuzz;

#[test]
fn fuzz_corpus() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fuzz/corpus/datapath_core");
    let mut count = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let input = std::fs::read(&path).unwrap();
        println!("{}", path.display());
        fuzz::run(&input);
        count += 1;
    }
    assert!(count >= 300, "the corpus is missing: {count} files in {folder}");
}

/// Bad packets, each with what is bad about it: `regression/NAME.hex`, first line the description,
/// then the frames as the fuzz target reads them.
#[test]
fn fuzz_regression() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/core/regression");
    let mut count = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let (description, hex) = text.split_once('\n').unwrap();
        assert!(description.starts_with("# "), "{}: first line says what is bad", path.display());
        let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
        let input: Vec<u8> = digits
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect();
        println!("{}: {description}", path.display());
        fuzz::run(&input);
        count += 1;
    }
    assert!(count >= 14, "{count} files in {folder}");
}

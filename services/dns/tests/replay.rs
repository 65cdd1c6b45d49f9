//! Replays the fuzzing corpus through the request path and the answer path.

use std::{fs, net::Ipv4Addr, path::Path};

#[test]
fn the_corpus_goes_through_both_paths() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/corpus/dns_request");
    let (mut replies, mut answers) = (0, 0);
    let mut files = 0;
    for entry in fs::read_dir(&corpus).expect("the corpus is part of the repository") {
        let bytes = fs::read(entry.unwrap().path()).unwrap();
        replies += usize::from(portcullis_dns::exercise(&bytes, Ipv4Addr::new(192, 168, 77, 9)));
        answers += usize::from(portcullis_dns::exercise_answer(&bytes));
        files += 1;
    }
    assert!(files >= 10, "only {files} files in {}", corpus.display());
    assert!(replies > 0, "no file of the corpus got a reply");
    assert!(answers >= 8, "only {answers} files of the corpus are answers");
}

//! Every input of the corpus, without a fuzzer.
#![forbid(unsafe_code)]

use std::path::Path;

#[test]
fn nothing_in_the_corpus_breaks_anything() {
    for target in oxen_fuzz::TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("corpus")
            .join(target.name);
        let mut count = 0;
        for file in std::fs::read_dir(&folder).expect("every target has a corpus") {
            let file = file.unwrap().path();
            let bytes = std::fs::read(&file).unwrap();
            if let Err(text) = oxen_fuzz::run(target, &bytes, false) {
                panic!("{}: {text}", file.display());
            }
            count += 1;
        }
        assert!(count > 5, "{} has a corpus of {count}", target.name);
    }
}

//! What the fuzz targets have found and begun with, gone through without them.

use doorbell_tests::fuzz::{TARGETS, corpus};

#[test]
fn every_corpus_passes() {
    for (target, body) in TARGETS {
        let files = corpus(target);
        assert!(!files.is_empty(), "{target} has a corpus");
        for (path, bytes) in files {
            println!("{}", path.display());
            body(&bytes);
            // Cut short anywhere, as a fuzzer would.
            (0..bytes.len().min(64)).for_each(|end| body(&bytes[..end]));
        }
    }
}

//! What the fuzz targets have found and begun with, gone through without them, and a few hundred random inputs.
//!
//! `DOORBELL_SEED` begins elsewhere; `DOORBELL_INPUTS` makes it longer than 150 inputs for each target.

use std::sync::{Mutex, MutexGuard, PoisonError};

use doorbell_tests::fuzz::{TARGETS, corpus};
use doorbell_tests::model::Random;

/// Bodies that count descriptors want to be alone.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Shows the input that breaks something, for the corpus.
struct Shown<'a>(&'a [u8]);

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{:02x?}", self.0);
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "sockets, and hours")]
fn every_corpus_passes() {
    let _alone = alone();
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

#[test]
#[cfg_attr(miri, ignore = "sockets, and hours")]
fn random_inputs_pass() {
    let _alone = alone();
    let inputs = std::env::var("DOORBELL_INPUTS").ok().and_then(|text| text.parse().ok());
    for (target, body) in TARGETS {
        println!("{target}");
        let mut random = Random::from_env();
        for _ in 0..inputs.unwrap_or(150) {
            let mut bytes = vec![0; random.below(400) as usize];
            random.fill(&mut bytes);
            let shown = Shown(&bytes);
            body(&bytes);
            drop(shown);
        }
    }
}

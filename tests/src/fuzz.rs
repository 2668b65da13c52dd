//! The bodies of the fuzz targets, and their corpora, which a plain test goes through as well (tests/tests/fuzz.rs).
//!
//! Each takes any bytes at all, and panics where something does not hold that must.

pub mod pdu;
pub mod storm;

use std::fs;
use std::path::PathBuf;

/// A target: its name and what it does.
pub type Target = (&'static str, fn(&[u8]));

/// All of them; `tests/fuzz/Cargo.toml` has the same.
pub const TARGETS: &[Target] = &[("pdu", pdu::body), ("storm", storm::body)];

/// The corpus of a target, in the order of the names of its files.
///
/// # Panics
/// If it cannot be read.
#[must_use]
pub fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut files: Vec<PathBuf> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.expect("an entry").path())
        .collect();
    files.sort();
    files.into_iter().map(|path| (path.clone(), fs::read(&path).expect("a file"))).collect()
}

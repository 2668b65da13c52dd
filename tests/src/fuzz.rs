//! The bodies of the fuzz targets, and their corpora, which a plain test goes through as well (tests/tests/fuzz.rs).
//!
//! Each takes any bytes at all, and panics where something does not hold that must.

pub mod commands;
pub mod completions;
pub mod host;
pub mod pages;
pub mod pdu;
pub mod port;
pub mod registers;
mod scene;
pub mod storm;
pub mod vfio_user_client;
pub mod vfio_user_server;

use std::fs;
use std::path::PathBuf;

/// A target: its name and what it does.
pub type Target = (&'static str, fn(&[u8]));

/// All of them; `tests/fuzz/Cargo.toml` has the same.
pub const TARGETS: &[Target] = &[
    ("pdu", pdu::body),
    ("port", port::body),
    ("host", host::body),
    ("commands", commands::body),
    ("completions", completions::body),
    ("registers", registers::body),
    ("pages", pages::body),
    ("vfio_user_server", vfio_user_server::body),
    ("vfio_user_client", vfio_user_client::body),
    ("storm", storm::body),
];

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

/// File descriptors that this process has open.
pub(crate) fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").expect("descriptors").count()
}

/// Input of a fuzzer, from which bodies take what they need; behind its end there are zeroes.
pub(crate) struct Input<'a>(pub(crate) &'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or(0)
    }

    fn half(&mut self) -> u16 {
        u16::from(self.byte()) | u16::from(self.byte()) << 8
    }

    /// So many bytes, or those that are left.
    fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (these, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        these
    }
}

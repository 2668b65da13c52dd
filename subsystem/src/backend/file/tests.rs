//! Files: creation, holes, alignment, errors.

use std::os::unix::fs::MetadataExt;

use super::*;

/// A path of its own for a test, removed when dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let dir = std::env::var_os("CARGO_TARGET_TMPDIR").map(PathBuf::from);
        let dir = dir.unwrap_or_else(std::env::temp_dir);
        Self(dir.join(format!("doorbell-{name}-{}", std::process::id())))
    }

    fn config(&self, size: Option<u64>, direct: bool) -> FileConfig {
        FileConfig { path: self.0.clone(), size, direct }
    }

    fn open(&self, size: u64, direct: bool) -> FileBackend {
        FileBackend::open(&self.config(Some(size), direct)).expect("open")
    }

    fn allocated(&self) -> u64 {
        std::fs::metadata(&self.0).expect("metadata").blocks() * 512
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Bytes that begin at a multiple of 4096, and as many behind them.
struct Aligned(Vec<u8>, usize);

impl Aligned {
    fn new(len: usize, byte: u8) -> Self {
        let bytes = vec![byte; len + 4096];
        let start = bytes.as_ptr().align_offset(4096);
        Self(bytes, start)
    }

    fn part(&mut self, offset: usize, len: usize) -> &mut [u8] {
        &mut self.0[self.1 + offset..self.1 + offset + len]
    }
}

const SIZE: u64 = 8 << 20;

#[test]
#[cfg_attr(miri, ignore = "files")]
fn created_grown_and_refused() {
    let scratch = Scratch::new("created");
    let missing = FileBackend::open(&scratch.config(None, true)).expect_err("missing");
    assert!(matches!(missing, FileError::Missing { .. }), "{missing}");
    assert_eq!(scratch.open(SIZE, true).len(), SIZE);
    assert!(scratch.allocated() < SIZE, "created as a hole");
    assert_eq!(scratch.open(2 * SIZE, true).len(), 2 * SIZE);
    assert_eq!(FileBackend::open(&scratch.config(None, true)).expect("open").len(), 2 * SIZE);
    let error = FileBackend::open(&scratch.config(Some(SIZE), true)).expect_err("smaller");
    assert!(error.to_string().contains("leave size= out"), "{error}");
    let error =
        FileBackend::open(&FileConfig { path: "/dev/zero".into(), size: None, direct: true });
    assert!(matches!(error, Err(FileError::Kind { .. })));
    let error = FileBackend::open(&FileConfig { path: "/".into(), size: None, direct: true });
    assert!(matches!(error, Err(FileError::Refused { .. })));
}

#[test]
#[cfg_attr(miri, ignore = "files")]
fn transfers_of_every_alignment() {
    for direct in [true, false] {
        let scratch = Scratch::new(if direct { "direct" } else { "buffered" });
        let file = scratch.open(SIZE, direct);
        println!("direct I/O asked for {direct}, had {}", file.is_direct());
        let mut from = Aligned::new(64 << 10, 0);
        for (at, byte) in from.0.iter_mut().enumerate() {
            *byte = (at % 241) as u8;
        }
        let mut to = Aligned::new(64 << 10, 0xff);
        for (memory, offset, len) in [
            (0, 0, 4096),
            (0, 4096, 65536),
            (4, 8192, 4096),
            (0, 512, 512),
            (512, 3 * 512, 8192),
            (60, 0, 512),
        ] {
            let piece = HostBytes::of(from.part(memory, len.min(60000)));
            let len = piece.len() as u64;
            file.write(offset, &[piece]).expect("write");
            let (front, back) =
                to.part(4096 - memory % 512, len as usize).split_at_mut(len as usize / 2);
            let pieces = [HostBytes::of(front), HostBytes::of(back)];
            file.read(offset, &pieces).expect("read");
            assert_eq!(to.part(4096 - memory % 512, len as usize), from.part(memory, len as usize));
        }
        file.flush().expect("flush");
    }
}

#[test]
#[cfg_attr(miri, ignore = "files")]
fn many_pieces() {
    let scratch = Scratch::new("pieces");
    let file = scratch.open(SIZE, false);
    let mut parts: Vec<Vec<u8>> =
        (0..300u32).map(|at| vec![at as u8; 1 + at as usize % 7]).collect();
    let whole = parts.concat();
    let pieces: Vec<_> = parts.iter_mut().map(|part| HostBytes::of(part)).collect();
    file.write(1000, &pieces).expect("write");
    let mut back = vec![0; whole.len()];
    file.read(1000, &[HostBytes::of(&mut back)]).expect("read");
    assert_eq!(back, whole);
}

#[test]
#[cfg_attr(miri, ignore = "files")]
fn discards_become_holes() {
    let scratch = Scratch::new("holes");
    let file = scratch.open(SIZE, true);
    let mut data = Aligned::new(1 << 20, 5);
    for offset in (0..SIZE).step_by(1 << 20) {
        file.write(offset, &[HostBytes::of(data.part(0, 1 << 20))]).expect("write");
    }
    file.flush().expect("flush");
    let full = scratch.allocated();
    assert!(full >= SIZE);
    file.deallocate(1 << 20, 4 << 20).expect("deallocate");
    if !file.properties().zeroes {
        println!("no holes here: not checked");
        return;
    }
    assert!(scratch.allocated() <= full - (3 << 20), "{} of {full}", scratch.allocated());
    file.zero(6 << 20, 1 << 20, true).expect("zero");
    assert!(scratch.allocated() <= full - (4 << 20));
    file.zero(7 << 20, 4096, false).expect("zero");
    let mut back = Aligned::new(4096, 1);
    for (offset, byte) in
        [(0, 5), (1 << 20, 0), (5 << 20, 5), (6 << 20, 0), (7 << 20, 0), ((7 << 20) + 4096, 5)]
    {
        file.read(offset, &[HostBytes::of(back.part(0, 4096))]).expect("read");
        assert_eq!(back.part(0, 4096), [byte; 4096], "{offset:#x}");
    }
}

#[test]
#[cfg_attr(miri, ignore = "files")]
fn zeroes_without_help_from_the_file_system() {
    let scratch = Scratch::new("zeroes");
    let file = scratch.open(SIZE, false);
    file.write(0, &[HostBytes::of(&mut vec![9; 300 << 10])]).expect("write");
    file.write_zeroes(512, 200 << 10).expect("zeroes");
    let mut back = vec![1; 300 << 10];
    file.read(0, &[HostBytes::of(&mut back)]).expect("read");
    assert!(back[..512].iter().all(|byte| *byte == 9));
    assert!(back[512..512 + (200 << 10)].iter().all(|byte| *byte == 0));
    assert!(back[512 + (200 << 10)..].iter().all(|byte| *byte == 9));
}

#[test]
#[cfg_attr(miri, ignore = "files")]
fn a_file_cut_short_is_an_error() {
    for direct in [true, false] {
        let scratch = Scratch::new(if direct { "cut-direct" } else { "cut" });
        let file = scratch.open(SIZE, direct);
        File::options().write(true).open(&scratch.0).expect("file").set_len(4096).expect("cut");
        let mut data = Aligned::new(8192, 1);
        let pieces = [HostBytes::of(data.part(0, 8192))];
        assert_eq!(file.read(0, &pieces), Err(MediaError::Unreadable));
        assert_eq!(file.read(1 << 20, &pieces), Err(MediaError::Unreadable));
    }
}

#[test]
fn errors_of_the_kernel_become_media_errors() {
    let error = io::Error::from_raw_os_error;
    assert_eq!(media(Way::Read, &error(libc::EIO)), MediaError::Unreadable);
    assert_eq!(media(Way::Write, &error(libc::EIO)), MediaError::Unwritable);
    assert_eq!(media(Way::Write, &error(libc::ENOSPC)), MediaError::Full);
    assert_eq!(media(Way::Write, &error(libc::EDQUOT)), MediaError::Full);
    assert_eq!(media(Way::Read, &error(libc::EFAULT)), MediaError::Host);
    assert_eq!(media(Way::Write, &io::ErrorKind::UnexpectedEof.into()), MediaError::Unwritable);
}

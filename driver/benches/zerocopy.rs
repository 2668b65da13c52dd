//! Whether MSG_ZEROCOPY pays for what the driver sends: data of writes, over loopback, with it and without.
//!
//! `cargo bench -p doorbell --bench zerocopy [-- ADDRESS]`. One thread sends, another reads; with an ADDRESS something else does
//! that drops what it gets (`nc -lk 9 >/dev/null` on another machine). A buffer is used again once the kernel says
//! that it is done with it, as a driver has to. Printed are bytes a second, and how many of the notices say that the kernel
//! has copied after all, which it always does within one machine.

#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]
#![expect(unsafe_code, reason = "the notices of MSG_ZEROCOPY have no safe interface")]

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

const SLICE: Duration = Duration::from_millis(200);
const SLICES: usize = 10;
const SIZES: [usize; 4] = [4 << 10, 16 << 10, 128 << 10, 1 << 20];
/// Buffers in turn: as many as writes are in flight.
const BUFFERS: usize = 16;

struct Sender {
    socket: TcpStream,
    buffers: Vec<Vec<u8>>,
    /// Calls made and calls that the kernel is done with.
    sent: u64,
    done: u64,
    copied: u64,
}

impl Sender {
    fn new(address: &str, zero_copy: bool) -> Self {
        let socket = TcpStream::connect(address).unwrap();
        socket.set_nodelay(true).unwrap();
        let one: libc::c_int = i32::from(zero_copy);
        // SAFETY: the value is an integer that lives for the call, of the size that is given.
        let set = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_ZEROCOPY,
                (&raw const one).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
        assert_eq!(set, 0, "no MSG_ZEROCOPY: {}", std::io::Error::last_os_error());
        let buffers = (0..BUFFERS).map(|at| vec![at as u8; SIZES[SIZES.len() - 1]]).collect();
        Self { socket, buffers, sent: 0, done: 0, copied: 0 }
    }

    /// Sends all of a buffer.
    fn send(&mut self, size: usize, flags: libc::c_int) {
        let buffer = &self.buffers[(self.sent % BUFFERS as u64) as usize];
        let mut rest = &buffer[..size];
        while !rest.is_empty() {
            // SAFETY: the range is initialized and stays as it is until the kernel says that it is done (`wait`).
            let count = unsafe {
                libc::send(
                    self.socket.as_raw_fd(),
                    rest.as_ptr().cast(),
                    rest.len(),
                    flags | libc::MSG_NOSIGNAL,
                )
            };
            assert!(count > 0, "{}", std::io::Error::last_os_error());
            rest = &rest[count as usize..];
            self.sent += u64::from(flags != 0);
        }
    }

    /// Takes notices until fewer than `most` calls are not done with.
    fn wait(&mut self, most: u64) {
        while self.sent - self.done >= most {
            let mut control = [0_u64; 16];
            // SAFETY: all zeroes is a valid header.
            let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
            message.msg_control = control.as_mut_ptr().cast();
            message.msg_controllen = size_of_val(&control);
            // SAFETY: the header names `control` and its size, and nothing else.
            let result = unsafe {
                libc::recvmsg(
                    self.socket.as_raw_fd(),
                    &raw mut message,
                    libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT,
                )
            };
            if result < 0 {
                std::thread::yield_now();
                continue;
            }
            // SAFETY: the kernel has filled `control`; the first message in it, if any, lies within.
            let header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
            assert!(!header.is_null(), "a notice without a range");
            // SAFETY: the only messages of this queue are extended errors, which are this long.
            let notice: libc::sock_extended_err =
                unsafe { std::ptr::read_unaligned(libc::CMSG_DATA(header).cast()) };
            let calls = u64::from(notice.ee_data.wrapping_sub(notice.ee_info)) + 1;
            self.done += calls;
            self.copied += if notice.ee_code == 0 { 0 } else { calls };
        }
    }

    /// Bytes a second.
    fn slice(&mut self, size: usize, zero_copy: bool) -> f64 {
        let flags = if zero_copy { libc::MSG_ZEROCOPY } else { 0 };
        let (start, mut bytes) = (Instant::now(), 0);
        while start.elapsed() < SLICE {
            self.send(size, flags);
            bytes += size;
            if zero_copy {
                self.wait(BUFFERS as u64);
            }
        }
        let rate = bytes as f64 / start.elapsed().as_secs_f64();
        self.wait(1);
        rate
    }
}

/// Something that reads all that it gets; where it is.
fn sink() -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            std::thread::spawn(move || {
                let (mut socket, mut bytes) = (socket.unwrap(), vec![0; 256 << 10]);
                while socket.read(&mut bytes).unwrap_or(0) > 0 {}
            });
        }
    });
    address
}

fn main() {
    let given = std::env::args().skip(1).find(|argument| !argument.starts_with("--"));
    let address = given.unwrap_or_else(sink);
    println!("Sent to {address}, the best of {SLICES} slices of {SLICE:?}.\n");
    println!("{:<12}{:>12}{:>16}{:>8}{:>10}", "each", "copied", "MSG_ZEROCOPY", "ratio", "copied");
    for size in SIZES {
        let (mut plain, mut zero) = (Sender::new(&address, false), Sender::new(&address, true));
        let (mut with, mut without) = (0f64, 0f64);
        for _ in 0..SLICES {
            without = without.max(plain.slice(size, false));
            with = with.max(zero.slice(size, true));
        }
        println!(
            "{:<12}{:>7.2} GB/s{:>11.2} GB/s{:>8.2}{:>9.0}%",
            format!("{} KiB", size >> 10),
            without / 1e9,
            with / 1e9,
            with / without,
            100.0 * zero.copied as f64 / zero.done.max(1) as f64,
        );
    }
}

//! A port on a thread of its own, and how it is ended.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use rustix::event::{EventfdFlags, eventfd};

/// Stops the ports that run with it, from another thread or from a signal handler's pipe.
#[derive(Debug)]
pub struct Stop {
    asked: AtomicBool,
    wake: OwnedFd,
}

impl Stop {
    /// Not asked yet.
    ///
    /// # Errors
    /// Where the process has no file descriptor left.
    pub fn new() -> io::Result<Arc<Self>> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Arc::new(Self { asked: AtomicBool::new(false), wake }))
    }

    /// Asks every port that runs with this to return.
    pub fn stop(&self) {
        self.asked.store(true, Ordering::Release);
        // Nobody reads it, so that it stays readable for all.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    /// Readable from when that was asked.
    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// Whether that has been asked.
    pub fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Acquire)
    }
}

/// A port on its thread. Dropping it stops and joins the thread.
#[derive(Debug)]
pub struct Running {
    stop: Arc<Stop>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Running {
    /// Has `serve` run on a thread of this name.
    pub(super) fn start(
        name: &str,
        serve: impl FnOnce(&Arc<Stop>) -> io::Result<()> + Send + 'static,
    ) -> io::Result<Self> {
        let stop = Stop::new()?;
        let theirs = stop.clone();
        let thread = thread::Builder::new().name(name.into()).spawn(move || serve(&theirs))?;
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Stops the port and waits for its thread.
    ///
    /// # Errors
    /// What the port ended with.
    pub fn stop(mut self) -> io::Result<()> {
        self.join()
    }

    /// Whether the thread has ended, by itself or because it was told to.
    pub fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    fn join(&mut self) -> io::Result<()> {
        self.stop.stop();
        match self.thread.take().map(JoinHandle::join) {
            None => Ok(()),
            Some(Ok(result)) => result,
            Some(Err(_)) => Err(io::Error::other("the port's thread panicked")),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.join();
    }
}

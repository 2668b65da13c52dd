//! The in-process port: a host in the same process, on any thread.
//!
//! Owns the controller, and the thread that polls it where there is one: it spins while there is work, then yields,
//! then sleeps in growing steps, so that an idle controller costs next to nothing. Doorbells wake nobody; a call on the
//! handle does. Without a thread the caller takes the steps, one at a time, on a clock of its own.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::controller::{Controller, ControllerConfig};
use crate::doorbells::DoorbellPage;
use crate::fault::Plan;
use crate::memory::MapError;
use crate::subsystem::Subsystem;

/// Rounds between two looks at the clock.
const CLOCK_EVERY: u32 = 64;
/// Idle rounds spent spinning, about 3 us: longer than a host takes to answer a completion, and short enough where host
/// and controller have to share a processor.
const SPINS: u32 = 100;
/// Idle rounds after that that give the processor to whoever wants it.
const YIELDS: u32 = 1_000;
/// The first sleep; each is twice as long as the one before, up to [`SHORT`].
const FIRST: Duration = Duration::from_micros(10);
/// From here on sleeps grow slowly: a pause of some milliseconds costs its host a millisecond at most.
const SHORT: Duration = Duration::from_millis(1);
/// What they grow by.
const CREEP: Duration = Duration::from_micros(20);
/// The longest sleep, after about 400 ms: waking costs up to 35 us in a virtual machine.
const LONGEST: Duration = Duration::from_millis(4);

/// A controller in this process.
pub struct InProcess {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    doorbells: Arc<DoorbellPage>,
    subsystem: Arc<Subsystem>,
    config: ControllerConfig,
}

struct Shared {
    controller: Mutex<Controller>,
    /// Callers that want the controller; its thread lets go of it for them.
    waiting: AtomicUsize,
    /// Calls so far: each one ends an idle spell.
    calls: AtomicUsize,
    stop: AtomicBool,
}

impl InProcess {
    /// Gives the controller a thread of its own, which ends when the handle is dropped.
    ///
    /// # Errors
    /// What the system said where no thread could be started.
    pub fn spawn(controller: Controller) -> io::Result<Self> {
        let mut port = Self::stepped(controller);
        let shared = Arc::clone(&port.shared);
        let thread = thread::Builder::new()
            .name("doorbell-subsystem".into())
            .spawn(move || serve(&shared))?;
        port.thread = Some(thread);
        Ok(port)
    }

    /// A controller that does nothing until [`InProcess::step`] is called.
    pub fn stepped(controller: Controller) -> Self {
        Self {
            doorbells: Arc::clone(controller.doorbells()),
            subsystem: Arc::clone(controller.subsystem()),
            config: *controller.config(),
            shared: Arc::new(Shared {
                controller: Mutex::new(controller),
                waiting: AtomicUsize::new(0),
                calls: AtomicUsize::new(0),
                stop: AtomicBool::new(false),
            }),
            thread: None,
        }
    }

    /// One round at the time `now`, for a controller without a thread. Returns the commands taken.
    pub fn step(&self, now: Duration) -> usize {
        self.with(|controller| controller.poll(now)).unwrap_or(0)
    }

    /// Reads a register; all-ones if the controller is gone.
    pub fn read(&self, offset: u64, width: usize) -> u64 {
        let gone = if width == 8 { u64::MAX } else { u64::from(u32::MAX) };
        self.with(|controller| controller.read(offset, width)).unwrap_or(gone)
    }

    /// Writes a register or a doorbell.
    pub fn write(&self, offset: u64, width: usize, value: u64) {
        // A controller that is gone ignores it.
        let _ = self.with(|controller| controller.write(offset, width, value));
    }

    /// The doorbells, from BAR0 offset 1000h on.
    pub fn doorbells(&self) -> &Arc<DoorbellPage> {
        &self.doorbells
    }

    /// The subsystem.
    pub fn subsystem(&self) -> &Arc<Subsystem> {
        &self.subsystem
    }

    /// The controller's settings.
    pub fn config(&self) -> &ControllerConfig {
        &self.config
    }

    /// As [`Controller::unmap`].
    ///
    /// # Errors
    /// [`MapError`]; nothing is unmapped then.
    pub fn unmap(&self, iova: u64, len: usize) -> Result<(), MapError> {
        self.with(|controller| controller.unmap(iova, len)).unwrap_or(Err(MapError::Gone))
    }

    /// Function level reset.
    pub fn reset(&self) {
        let _ = self.with(Controller::reset);
    }

    /// As [`Controller::is_running`]; false if the controller is gone.
    pub fn is_running(&self) -> bool {
        self.with(|controller| controller.is_running()).unwrap_or(false)
    }

    /// As [`Controller::set_faults`].
    pub fn set_faults(&self, plan: Option<Plan>) {
        // A controller that is gone needs none.
        let _ = self.with(|controller| controller.set_faults(plan));
    }

    /// As [`Controller::set_interrupt`].
    ///
    /// # Errors
    /// Where there is no such vector, or the controller is gone.
    pub fn set_interrupt(&self, vector: u16, eventfd: Option<OwnedFd>) -> io::Result<()> {
        self.with(|controller| controller.set_interrupt(vector, eventfd))
            .unwrap_or_else(|| Err(io::Error::other("the controller is gone")))
    }

    /// Calls `f` with the controller; `None` if its thread has panicked.
    pub(crate) fn with<R>(&self, f: impl FnOnce(&mut Controller) -> R) -> Option<R> {
        let shared = &*self.shared;
        shared.waiting.fetch_add(1, Ordering::SeqCst);
        let controller = shared.controller.lock();
        shared.waiting.fetch_sub(1, Ordering::SeqCst);
        let result = controller.ok().map(|mut controller| f(&mut controller));
        shared.calls.fetch_add(1, Ordering::SeqCst);
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
        result
    }
}

impl Drop for InProcess {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A thread that panicked has said so already.
            let _ = thread.join();
        }
    }
}

impl std::fmt::Debug for InProcess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InProcess")
            .field("subsystem", &self.subsystem)
            .field("thread", &self.thread.is_some())
            .finish_non_exhaustive()
    }
}

/// Polls until told to stop.
fn serve(shared: &Shared) {
    let start = Instant::now();
    let mut calls = 0;
    let mut idle = Idle::default();
    while !shared.stop.load(Ordering::Relaxed) {
        {
            let mut controller = lock(shared);
            turn(shared, &mut controller, start, &mut idle);
        }
        while shared.waiting.load(Ordering::SeqCst) != 0 {
            thread::yield_now();
        }
        let now = shared.calls.load(Ordering::SeqCst);
        if now != calls {
            calls = now;
            idle = Idle::default();
        }
        idle.pause();
    }
}

/// Polls until someone else wants the controller or there is nothing to do.
fn turn(shared: &Shared, controller: &mut Controller, start: Instant, idle: &mut Idle) {
    loop {
        let now = start.elapsed();
        for _ in 0..CLOCK_EVERY {
            if controller.poll(now) != 0 {
                *idle = Idle::default();
            } else if idle.tired() {
                return;
            } else {
                std::hint::spin_loop();
            }
            if shared.waiting.load(Ordering::Relaxed) != 0 {
                return;
            }
        }
        if shared.stop.load(Ordering::Relaxed) {
            return;
        }
    }
}

fn lock(shared: &Shared) -> MutexGuard<'_, Controller> {
    shared.controller.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How long there has been nothing to do, and what that calls for.
#[derive(Default)]
struct Idle {
    rounds: u32,
    sleep: Duration,
}

impl Idle {
    /// Whether it is time to do something else than spin.
    #[inline]
    fn tired(&mut self) -> bool {
        self.rounds = self.rounds.saturating_add(1);
        self.rounds > SPINS
    }

    fn pause(&mut self) {
        if self.rounds <= SPINS {
            return;
        }
        if self.rounds <= SPINS + YIELDS {
            thread::yield_now();
            return;
        }
        let step = if self.sleep < SHORT { self.sleep.max(FIRST) } else { CREEP };
        self.sleep = (self.sleep + step).min(LONGEST);
        thread::park_timeout(self.sleep);
    }
}

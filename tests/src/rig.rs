//! Doors: the same subsystem behind different devices, opened alike.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use doorbell::address::EmbeddedOptions;
use doorbell::clock::{Clock, SystemClock};
use doorbell::device::embedded::{self, Embedded, SteppedClock};
use doorbell::{Address, Config, Controller};
use doorbell_subsystem::fabrics::{Limits, Target};
use doorbell_subsystem::port::tcp::{BindError, Server};
use doorbell_subsystem::port::{Running, vfio_user};
use doorbell_subsystem::{ControllerConfig, NamespaceSpec, Subsystem};

/// How a controller is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// In this process, on the caller's thread.
    Stepped,
    /// The same, with doorbells in memory.
    SteppedShadows,
    /// In this process, on a thread of its own.
    Threaded,
    /// The same, with doorbells in memory.
    ThreadedShadows,
    /// A server over vfio-user.
    VfioUser,
    /// A server over TCP, on the loopback; with digests, or without.
    Tcp {
        /// Digests of headers and of data.
        digests: bool,
    },
}

/// The system's clock, and what must live as long as somebody waits on it.
struct Serving<T> {
    clock: SystemClock,
    _server: T,
}

impl<T: Send + Sync> Clock for Serving<T> {
    fn now(&self) -> Duration {
        self.clock.now()
    }

    fn pause(&self, round: u32, longest: Duration) {
        self.clock.pause(round, longest);
    }
}

/// An attached controller and whatever serves it.
pub struct Rig {
    /// The controller.
    pub controller: Controller,
    clock: Arc<dyn Clock>,
}

impl Rig {
    /// Opens a controller whose namespaces are as an `embedded:` address with `options` says.
    ///
    /// # Panics
    /// If that fails.
    #[must_use]
    pub fn open(door: Door, options: &str) -> Self {
        let address: Address = format!("embedded:{options}").parse().expect("options");
        let Address::Embedded(embedded_options) = &address else {
            unreachable!("an embedded address")
        };
        let mut config = Config::default();
        config.shadow_doorbells = matches!(door, Door::SteppedShadows | Door::ThreadedShadows);
        match door {
            Door::Stepped | Door::SteppedShadows => {
                let device = Arc::new(Embedded::stepped(embedded_options).expect("a subsystem"));
                let clock: Arc<dyn Clock> = Arc::new(SteppedClock::new(device.clone()));
                let controller = Controller::attach_device(device, config, clock.clone());
                Self { controller: controller.expect("a controller"), clock }
            }
            Door::Threaded | Door::ThreadedShadows => {
                let controller = Controller::attach(&address, config);
                Self {
                    controller: controller.expect("a controller"),
                    clock: Arc::new(SystemClock::new()),
                }
            }
            Door::VfioUser => {
                let directory = Scratch::new();
                let path = directory.join("socket");
                let (_, controller) = embedded::build(embedded_options).expect("a subsystem");
                let server = vfio_user::Server::bind(&path, controller).expect("a socket");
                let running = server.spawn().expect("a thread");
                let clock: Arc<dyn Clock> =
                    Arc::new(Serving { clock: SystemClock::new(), _server: (running, directory) });
                let address = Address::VfioUser(path);
                let controller = Controller::attach(&address, config);
                Self { controller: controller.expect("a controller"), clock }
            }
            Door::Tcp { digests } => {
                let port = Port::start(embedded_options);
                let words = if digests { ",hdgst,ddgst" } else { "" };
                let address = format!("{}{words}", port.address()).parse().expect("an address");
                let controller = Controller::attach(&address, config);
                let clock: Arc<dyn Clock> =
                    Arc::new(Serving { clock: SystemClock::new(), _server: port });
                Self { controller: controller.expect("a controller"), clock }
            }
        }
    }

    /// Lets the device work while the test waits for it.
    pub fn pause(&self, round: &mut u32) {
        self.clock.pause(*round, Duration::from_millis(1));
        *round = round.saturating_add(1);
    }

    /// Drops the rig's handle of the controller; what is returned keeps the device going.
    #[must_use]
    pub fn forget_controller(self) -> Arc<dyn Clock> {
        self.clock
    }

    /// Shuts the controller down.
    ///
    /// # Panics
    /// If that fails, or something still uses it.
    pub fn close(self) {
        self.controller.shutdown().expect("shut down");
    }
}

/// A port over TCP on the loopback, on a thread of its own.
pub struct Port {
    /// What it serves.
    pub target: Arc<Target>,
    /// Where.
    pub socket: SocketAddr,
    running: Running,
}

/// The subsystem behind each [`Port`].
pub const NQN: &str = "nqn.2014-08.org.example:rig";

impl Port {
    /// Serves namespaces in memory, as `options` say.
    ///
    /// # Panics
    /// If that fails.
    #[must_use]
    pub fn start(options: &EmbeddedOptions) -> Self {
        let config = ControllerConfig::default();
        let mdts = options.mdts.map(|mdts| (mdts >> 12).max(1).ilog2() as u8);
        let limits = Limits {
            io_queues: options.queues.unwrap_or(config.max_io_queues),
            mdts: mdts.unwrap_or(config.mdts),
            ..Limits::default()
        };
        let builder =
            (0..options.namespaces.max(1)).fold(Subsystem::builder().nqn(NQN), |builder, _| {
                let spec = NamespaceSpec::memory(options.size_or_default(), options.block);
                builder.namespace(spec.open().expect("memory"))
            });
        Self::serve(builder.build(), limits, (Ipv4Addr::LOCALHOST, 0).into())
    }

    /// Serves `subsystem` at `address`.
    ///
    /// # Panics
    /// If that fails.
    #[must_use]
    pub fn serve(subsystem: Arc<Subsystem>, limits: Limits, address: SocketAddr) -> Self {
        Self::again(Target::new(subsystem, limits).expect("an NQN"), address)
    }

    /// Serves `target` at `address`.
    ///
    /// # Panics
    /// If that fails.
    #[must_use]
    pub fn again(target: Arc<Target>, address: SocketAddr) -> Self {
        // Where a port has just ended, the process that another thread is about to start may hold its socket, until it is
        // another program.
        let deadline = Instant::now() + Duration::from_secs(20);
        let server = loop {
            match Server::bind(Arc::clone(&target), &[address], 1) {
                Err(BindError { source, .. })
                    if source.kind() == ErrorKind::AddrInUse && Instant::now() < deadline =>
                {
                    thread::yield_now();
                }
                other => break other.expect("a socket"),
            }
        };
        let socket = server.addresses()[0];
        Self { target, socket, running: server.spawn().expect("a thread") }
    }

    /// Its address, as the driver takes it.
    #[must_use]
    pub fn address(&self) -> String {
        format!("tcp://{}/{}", self.socket, self.target.subsystem().nqn())
    }

    /// Ends it; another may take its place.
    ///
    /// # Panics
    /// If it ended otherwise.
    #[must_use]
    pub fn end(self) -> (Arc<Target>, SocketAddr) {
        self.running.stop().expect("serves until the end");
        (self.target, self.socket)
    }
}

/// Runs `test` on a thread of its own, and fails if it takes longer than `longest`: no test may hang.
///
/// # Panics
/// If the test panics or takes too long.
pub fn within(longest: Duration, test: impl FnOnce() + Send + 'static) {
    let (done, waits) = mpsc::channel();
    let runner = thread::spawn(move || {
        test();
        let _ = done.send(());
    });
    match waits.recv_timeout(longest) {
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("still running after {longest:?}"),
        _ => {
            if let Err(panic) = runner.join() {
                std::panic::resume_unwind(panic);
            }
        }
    }
}

/// A directory of its own for a test, removed at the end.
pub struct Scratch(PathBuf);

impl Scratch {
    /// A new directory.
    ///
    /// # Panics
    /// If it cannot be made.
    #[must_use]
    pub fn new() -> Self {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("doorbell-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a directory");
        Self(path)
    }

    /// A path in it.
    #[must_use]
    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

//! A storm: a device whose faults, and a caller whose calls, are read off a string of bytes.
//!
//! Whatever the bytes are, every command ends exactly once and with its buffer, all waits end, and all memory is back at
//! the end, unless the device could not be stopped. Used by a plain test, with seeds, and by a fuzz target.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use doorbell::clock::Clock;
use doorbell::device::embedded::Embedded;
use doorbell::{Config, Controller, Io, Namespace, Queue, QueueConfig};
use doorbell_spec::command::Sqe;
use doorbell_spec::register::offset;
use doorbell_spec::status::Status;
use doorbell_subsystem::fault::{Commands, Plan, Rule};
use doorbell_subsystem::{
    Controller as Emulated, ControllerConfig, DoorbellMemory, InProcess, NamespaceSpec, Subsystem,
};

/// Virtual time that a storm may take, the calm at its end included.
const LONGEST: Duration = Duration::from_secs(40_000);

/// Bytes to decide by; zeros once they are used up.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    fn below(&mut self, bound: u8) -> u8 {
        self.byte() % bound
    }

    fn word(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    fn long(&mut self) -> u64 {
        // Mostly few bits, now and then all of them.
        match self.below(4) {
            0 => u64::MAX,
            1 => u64::from(self.byte()),
            2 => 1 << self.below(64),
            _ => u64::from_le_bytes(std::array::from_fn(|_| self.byte())),
        }
    }

    fn commands(&mut self) -> Commands {
        let commands = match self.below(3) {
            0 => Commands::any_io(),
            1 => Commands::any_admin(),
            _ => Commands::any(),
        };
        if self.below(3) == 0 { commands.selector(self.below(0x20)) } else { commands }
    }

    fn time(&mut self) -> Duration {
        Duration::from_micros(u64::from(self.word()) * 10)
    }

    fn rule(&mut self) -> Rule {
        let rule = match self.below(8) {
            0 | 1 => self.at_command(),
            2..=4 => self.at_completion(),
            5 => {
                let (at, bits, count) = (self.word(), self.byte(), self.below(8));
                Rule::reply(self.commands(), move |page| {
                    let at = usize::from(at) % page.len().max(1);
                    for byte in page.iter_mut().skip(at).take(usize::from(count) + 1) {
                        *byte ^= bits;
                    }
                })
            }
            6 => self.at_read(),
            _ => self.at_write(),
        };
        // Most faults pass: what comes after them is of interest as well.
        let rule = rule.after(u64::from(self.below(40)));
        match self.below(4) {
            0 => rule,
            1 => rule.probability(0.3).times(20),
            _ => rule.times(1 + u64::from(self.below(3))),
        }
    }

    fn at_command(&mut self) -> Rule {
        let at = Rule::command(self.commands());
        match self.below(8) {
            0 | 1 => at.lose(),
            2 => at.hang(),
            3 | 4 => at.answer(Status::from_bits(self.word()), self.long()),
            5 => at.corrupt(usize::from(self.word()), vec![self.byte(), 0xff]),
            6 => at.fatal(),
            _ if self.below(4) == 0 => at.vanish(),
            _ => at.short(usize::from(self.word())),
        }
    }

    fn at_completion(&mut self) -> Rule {
        let at = Rule::completion(self.commands());
        match self.below(16) {
            0 => at.lose(),
            1 | 2 => at.delay(self.time()),
            3 => at.duplicate(),
            4 => at.reorder(),
            5 => at.wrong_phase(),
            6 => at.half_written(),
            7 => at.flood(),
            8 => at.rewritten(),
            9 => at.status(Status::from_bits(self.word())),
            10 => at.cid(self.word()),
            11 => at.flip_cid(1 << self.below(16)),
            12 => at.sqid(self.word() % 4),
            13 => at.sqhd(self.word() % 80),
            14 => at.result(self.long()),
            _ => at.fatal(),
        }
    }

    fn at_read(&mut self) -> Rule {
        const REGISTERS: [u64; 4] = [offset::CAP, offset::VS, offset::CC, offset::CSTS];
        let register = REGISTERS[usize::from(self.below(4))];
        let at = Rule::read(register);
        match self.below(6) {
            0 => at.all_ones(),
            1 => at.value(self.long()),
            2 => at.set_bits(self.long()),
            3 => at.clear_bits(self.long()),
            4 => at.fatal(),
            _ => at.vanish(),
        }
    }

    fn at_write(&mut self) -> Rule {
        let at = Rule::write(offset::CC).having(1, u32::from(self.below(2)));
        match self.below(4) {
            0 => at.lose(),
            1 | 2 => at.delay(self.time()),
            _ => at.fatal(),
        }
    }
}

/// Steps the device whenever the driver waits, and moves the faster the longer it waits.
pub(super) struct Weather {
    device: Arc<Embedded>,
    now: Mutex<Duration>,
}

impl Weather {
    pub(super) fn new(device: Arc<Embedded>) -> Self {
        Self { device, now: Mutex::default() }
    }
}

impl Clock for Weather {
    fn now(&self) -> Duration {
        *self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pause(&self, round: u32, longest: Duration) {
        let pass = longest.min(Duration::from_millis(1)) * (1 << (round / 256).min(14));
        *self.now.lock().unwrap_or_else(PoisonError::into_inner) += pass;
        self.device.port().step(self.now());
    }
}

/// What was sent and has not come back.
#[derive(Default)]
pub(super) struct Open(BTreeMap<u64, bool>, u64);

impl Open {
    pub(super) fn submit(&mut self, queue: &mut Queue, io: Io) {
        let tag = self.1;
        let buffer = io.command().opcode() != 0;
        if queue.stage(io.tag(tag)).is_ok() {
            self.0.insert(tag, buffer);
            self.1 += 1;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn poll(&mut self, queue: &mut Queue) {
        queue.poll(|done| {
            let buffer = self
                .0
                .remove(&done.tag)
                .unwrap_or_else(|| panic!("{done:?} was not sent, or ended before"));
            assert_eq!(done.buffer.is_some(), buffer, "{done:?}");
        });
    }

    /// Lets time pass until everything has ended, which it does.
    pub(super) fn settle(&mut self, queue: &mut Queue, clock: &dyn Clock) {
        let start = clock.now();
        let mut round = 0;
        while !self.0.is_empty() {
            self.poll(queue);
            clock.pause(round, Duration::from_micros(100));
            round += 1;
            let waited = clock.now() - start;
            assert!(
                waited < Duration::from_secs(120),
                "{:?} never ended; {:?}",
                self.0,
                queue.counters()
            );
        }
    }
}

struct Scene {
    device: Arc<Embedded>,
    clock: Arc<Weather>,
    config: Config,
}

impl Scene {
    fn new() -> Self {
        let spec: NamespaceSpec = "memory:1MiB".parse().expect("a namespace");
        let subsystem = Subsystem::builder().namespace(spec.open().expect("memory")).build();
        let settings = ControllerConfig {
            max_io_queues: 2,
            vectors: 3,
            doorbells: DoorbellMemory::Heap,
            ..ControllerConfig::default()
        };
        let emulated = Emulated::new(subsystem, settings).expect("a controller");
        let device = Arc::new(Embedded::over("embedded:".into(), InProcess::stepped(emulated)));
        let clock = Arc::new(Weather::new(device.clone()));
        let mut config = Config::default();
        config.io_queues = 2;
        config.admin_timeout = Duration::from_millis(500);
        Self { device, clock, config }
    }

    fn attach(&self) -> Option<Controller> {
        Controller::attach_device(self.device.clone(), self.config.clone(), self.clock.clone()).ok()
    }

    fn queue(&self, controller: &Controller, depth: u8) -> Option<Queue> {
        let mut config = QueueConfig::with_depth(u16::from(depth) + 1);
        config.timeout = Duration::from_millis(50);
        config.max_transfer = 8192;
        controller.queue(config).ok()
    }

    /// Calls of all kinds, one for each byte or two.
    fn act(&self, bytes: &mut Bytes<'_>, controller: &Controller, namespace: &Namespace) {
        let Some(mut queue) = self.queue(controller, bytes.below(8)) else { return };
        let mut open = Open::default();
        while !bytes.0.is_empty() {
            let lba = u64::from(bytes.byte());
            let size = namespace.block_size() as usize;
            let blocks = 1 + usize::from(bytes.byte() % 24);
            let what = bytes.below(16);
            match what {
                0..=6 => {
                    let Ok(buffer) = controller.buffer((size * blocks).min(1 << 20)) else {
                        continue;
                    };
                    let io = if what < 4 {
                        namespace.read(lba, buffer)
                    } else {
                        namespace.write(lba, buffer)
                    };
                    open.submit(&mut queue, io);
                }
                7 => open.submit(&mut queue, namespace.flush()),
                8 => {
                    let Ok(buffer) = controller.buffer(4096) else { continue };
                    open.submit(&mut queue, Io::raw(Sqe::new(0xc2).with_nsid(1), Some(buffer)));
                }
                9 | 10 => open.poll(&mut queue),
                11 => {
                    let Ok(buffer) = controller.buffer(size) else { continue };
                    drop(queue.run(namespace.read(lba, buffer)));
                }
                12 => drop(controller.identify_namespace(1)),
                13 if bytes.below(4) == 0 => drop(controller.reset()),
                13 => {
                    controller.poll(|_| {});
                }
                14 if bytes.below(4) == 0 => {
                    // Nothing of it is lost by that, and nothing comes twice.
                    drop(queue);
                    open = Open::default();
                    let Some(another) = self.queue(controller, 3) else { return };
                    queue = another;
                }
                _ => drop(controller.error_log()),
            }
            queue.ring();
            self.clock.pause(0, Duration::from_micros(100));
        }
        // The calm after it: whatever is out comes back.
        self.device.port().set_faults(None);
        open.settle(&mut queue, &*self.clock);
    }
}

/// Lets a storm pass that goes by `bytes`.
///
/// # Panics
/// If anything does not hold that must always hold.
pub fn body(bytes: &[u8]) {
    let mut bytes = Bytes(bytes);
    let scene = Scene::new();
    let rules = 1 + bytes.below(6);
    let plan = Plan::new(u64::from(bytes.byte()));
    let plan = (0..rules).fold(plan, |plan, _| plan.rule(bytes.rule()));
    scene.device.port().set_faults(Some(plan));
    if let Some(controller) = scene.attach() {
        let memory = controller.memory().clone();
        if let Ok(namespace) = controller.namespace(1) {
            scene.act(&mut bytes, &controller, &namespace);
        }
        drop(controller);
        let stats = memory.stats();
        assert!(stats.in_use == 0 || stats.leaked > 0, "{stats:?}");
    }
    assert!(scene.clock.now() < LONGEST, "{:?}", scene.clock.now());
}

//! What targets about the driver have in common: the driver over a device in this process, in virtual time, watched.

use std::sync::Arc;
use std::time::Duration;

use doorbell::clock::Clock;
use doorbell::device::embedded::Embedded;
use doorbell::{AttachError, Config, Controller, Queue, QueueConfig};
use doorbell_subsystem::fault::Plan;
use doorbell_subsystem::{
    Controller as Emulated, ControllerConfig, DoorbellMemory, InProcess, NamespaceSpec, Subsystem,
};

use super::storm::Weather;
use crate::watched::Watched;

/// Virtual time that an input may take: a controller gets two minutes each time it is enabled (`Config::ready_limit`), three
/// times for each of some resets.
pub(super) const LONGEST: Duration = Duration::from_secs(86_400);

/// A device, and what drives it.
pub(super) struct Scene {
    device: Arc<Embedded>,
    pub(super) watched: Arc<Watched>,
    pub(super) clock: Arc<Weather>,
}

impl Scene {
    /// A device with two namespaces.
    pub(super) fn new() -> Self {
        let mut builder = Subsystem::builder();
        for spec in ["memory:256KiB", "memory:64KiB,block=4096"] {
            let spec: NamespaceSpec = spec.parse().expect("a namespace");
            builder = builder.namespace(spec.open().expect("memory"));
        }
        let settings = ControllerConfig {
            max_io_queues: 2,
            vectors: 3,
            doorbells: DoorbellMemory::Heap,
            ..ControllerConfig::default()
        };
        let emulated = Emulated::new(builder.build(), settings).expect("a controller");
        let device = Arc::new(Embedded::over("embedded:".into(), InProcess::stepped(emulated)));
        let watched = Arc::new(Watched::new(device.clone()));
        let clock = Arc::new(Weather::new(device.clone()));
        Self { device, watched, clock }
    }

    /// Misbehaves from now on, or no more.
    pub(super) fn set(&self, plan: Option<Plan>) {
        self.device.port().set_faults(plan);
    }

    /// A driver. Where there is none, the error says whose, and all memory was taken back from a controller at rest.
    pub(super) fn attach(&self) -> Option<Controller> {
        let mut config = Config::default();
        config.io_queues = 2;
        config.admin_timeout = Duration::from_millis(500);
        // Rings move when the controller is reset, and at no other time.
        config.recovery.recreate_queue = false;
        match Controller::attach_device(self.watched.clone(), config, self.clock.clone()) {
            Ok(controller) => Some(controller),
            Err(error) => {
                self.said(&error);
                None
            }
        }
    }

    fn said(&self, error: &AttachError) {
        let text = error.to_string();
        assert!(text.contains("embedded:"), "no address in {text:?}");
        assert!(
            self.watched.torn() == 0,
            "memory was unmapped under an enabled controller: {text}"
        );
    }

    /// A small queue.
    pub(super) fn queue(controller: &Controller, depth: u16) -> Option<Queue> {
        let mut config = QueueConfig::with_depth(depth);
        config.timeout = Duration::from_millis(50);
        config.max_transfer = 8192;
        controller.queue(config).ok()
    }

    /// Ends it. Memory is back, unless a controller that could not be stopped may still reach it.
    pub(super) fn close(&self, controller: Controller) {
        let memory = controller.memory().clone();
        drop(controller);
        let stats = memory.stats();
        assert!(stats.in_use == 0 || stats.leaked > 0, "{stats:?}");
        drop(memory);
        assert!(self.watched.torn() == 0, "memory was unmapped under an enabled controller");
        assert!(self.clock.now() < LONGEST, "{:?}", self.clock.now());
    }
}

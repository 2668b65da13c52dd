//! The way back to a controller after its association was lost: one attempt, of which nobody waits for anything.
//!
//! The same order as at bring-up, with one command at a time on the new admin queue: Connect, CAP, CC.EN=1, CSTS.RDY=1,
//! Identify, the number of queues, and what the controller had been told before. A controller that answers, and is not
//! the one that it was, ends the matter.

use std::sync::{Arc, Weak};
use std::time::Duration;

use doorbell_spec::admin as commands;
use doorbell_spec::fabrics::command::{property_get, property_set};
use doorbell_spec::fabrics::connect::CNTLID_DYNAMIC;
use doorbell_spec::identify::{Cns, Csi, IdentifyController};
use doorbell_spec::register::{Csts, offset};
use zerocopy::{FromBytes, IntoBytes};

use super::{AttachError, Limits};
use crate::clock::{Clock, Deadline};
use crate::controller::bringup::Capabilities;
use crate::controller::setup::{host_behavior, queues_granted, queues_wanted};
use crate::controller::{Controller, event};
use crate::error::CommandError;
use crate::memory::DmaMemory;
use crate::queue::{Done, Io, Queue};
use crate::transport::tcp::attempt::{Attempt, next_turn};
use crate::transport::tcp::target::{Shape, Target};
use crate::transport::tcp::{LinkError, Socket, Tcp, TcpError};
use crate::transport::{Any, Violation};

/// A controller as it was, and what it is to be told again.
pub(super) struct Known {
    pub(super) target: Target,
    pub(super) kato: Duration,
    pub(super) identity: IdentifyController,
    pub(super) capabilities: Capabilities,
    pub(super) limits: Limits,
    pub(super) admin_timeout: Duration,
    pub(super) memory: Arc<DmaMemory>,
    pub(super) clock: Arc<dyn Clock>,
}

/// The admin queue of a new association with it.
pub(super) struct Back {
    pub(super) admin: Queue,
    pub(super) cntlid: u16,
    pub(super) socket: Weak<Socket>,
}

/// Why an attempt failed, and whether the next one would as well.
pub(super) type Failed = (LinkError, bool);

/// What the failure of one step means.
pub(super) fn judge(error: &AttachError) -> Failed {
    match error {
        AttachError::Tcp(TcpError::Link { source, .. }) => (*source, *source == LinkError::Digests),
        AttachError::Tcp(TcpError::Refused { status, .. }) => {
            (LinkError::Refused { status: *status }, status.dnr())
        }
        AttachError::Tcp(TcpError::Socket { source, .. }) => {
            (LinkError::Socket { errno: source.raw_os_error().unwrap_or(0) }, false)
        }
        _ => (LinkError::NotUp, false),
    }
}

/// An attempt to make a new association.
pub(super) fn attempt(known: Known) -> Attempt<Result<Back, Failed>> {
    Box::pin(known.come_back())
}

impl Known {
    async fn come_back(self) -> Result<Back, Failed> {
        let timeout = self.admin_timeout;
        let shape = Shape::admin(Controller::ADMIN_DEPTH, Controller::ADMIN_TRANSFER, timeout);
        let connecting = self.target.connect(&shape, CNTLID_DYNAMIC, self.kato, &*self.clock);
        let (link, connected) = connecting.await.map_err(|error| judge(&error.into()))?;
        let socket = Arc::downgrade(link.socket());
        let transport = Tcp::new(link, shape, self.clock.clone(), None, 0);
        let mut admin = Queue::new(Any::Tcp(Box::new(transport)), 0, self.clock.clone(), timeout);
        admin.limit_transfer(self.limits.max_transfer);

        let cap = self.property(&mut admin, offset::CAP, 8).await?;
        if cap != u64::from(self.capabilities.cap) {
            return Err((LinkError::Changed, true));
        }
        self.enable(&mut admin).await?;
        self.check(&mut admin).await?;
        self.tell(&mut admin).await?;
        Ok(Back { admin, cntlid: connected.cntlid(), socket })
    }

    /// INIT-5 to INIT-10. The controller of a new association is disabled.
    async fn enable(&self, admin: &mut Queue) -> Result<(), Failed> {
        let cc = self.capabilities.configuration().with_en(true);
        let set = property_set(offset::CC as u32, 4, u32::from(cc).into());
        self.ask(admin, "Property Set (CC.EN=1)", Io::internal(set)).await?;
        let deadline = Deadline::after(&*self.clock, self.capabilities.timeout());
        loop {
            let late = deadline.passed(&*self.clock);
            let csts = Csts::from(self.property(admin, offset::CSTS, 4).await? as u32);
            if csts.rdy() {
                return Ok(());
            }
            if late || csts.cfs() {
                return Err((LinkError::NotUp, false));
            }
        }
    }

    /// Queues, namespaces and buffers rest on what the controller said of itself before.
    async fn check(&self, admin: &mut Queue) -> Result<(), Failed> {
        let buffer = self.memory.allocate(size_of::<IdentifyController>());
        let mut buffer = buffer.map_err(|_| (LinkError::NotUp, false))?;
        buffer.fill(0);
        let identify = commands::identify(Cns::CONTROLLER, 0, 0, Csi::NVM);
        let done = self.ask(admin, "Identify", Io::raw(identify, Some(buffer))).await?;
        let bytes = done.buffer.as_deref().unwrap_or_default();
        let Ok((identity, _)) = IdentifyController::read_from_prefix(bytes) else {
            return Err((LinkError::Changed, true));
        };
        let max_transfer = identity.max_transfer(self.capabilities.cap.mpsmin());
        let carries = |bytes: u64| bytes >= self.limits.max_transfer as u64;
        let same = identity.serial() == self.identity.serial()
            && identity.model() == self.identity.model()
            && identity.subnqn == self.identity.subnqn
            && identity.max_in_capsule() == self.identity.max_in_capsule()
            && identity.ctratt().tbkas() == self.identity.ctratt().tbkas()
            && max_transfer.is_none_or(carries);
        if same { Ok(()) } else { Err((LinkError::Changed, true)) }
    }

    /// What a controller forgets with its association.
    async fn tell(&self, admin: &mut Queue) -> Result<(), Failed> {
        // Where the controller refuses what is offered, it does without.
        let what = "Set Features (Asynchronous Event Configuration)";
        self.offer(admin, what, event::configuration(&self.identity)).await?;
        let wanted = self.limits.max_io_queues;
        if wanted != 0 {
            let queues = Io::internal(queues_wanted(wanted));
            let done = self.ask(admin, "Set Features (Number of Queues)", queues).await?;
            if queues_granted(done.result, wanted) < wanted {
                return Err((LinkError::Changed, true));
            }
        }
        if let Some((command, behavior)) = host_behavior(&self.identity)
            && let Ok(mut buffer) = self.memory.allocate(size_of_val(&behavior))
        {
            buffer.copy_from_slice(behavior.as_bytes());
            let what = "Set Features (Host Behavior Support)";
            self.offer(admin, what, Io::raw(command, Some(buffer))).await?;
        }
        admin.submit(event::request()).map_err(|_| (LinkError::NotUp, false))
    }

    async fn property(&self, admin: &mut Queue, at: u64, size: u8) -> Result<u64, Failed> {
        let get = Io::internal(property_get(at as u32, size));
        self.ask(admin, "Property Get", get).await.map(|done| done.result)
    }

    /// As [`ask`](Self::ask), of what the controller may refuse.
    async fn offer(&self, admin: &mut Queue, what: &'static str, io: Io) -> Result<(), Failed> {
        match self.exchange(admin, what, io).await? {
            Ok(_) | Err(CommandError::Status { .. }) => Ok(()),
            Err(_) => Err((LinkError::NotUp, false)),
        }
    }

    /// Sends one command on the admin queue, which has no other, and looks for its answer at each turn.
    async fn ask(&self, admin: &mut Queue, what: &'static str, io: Io) -> Result<Done, Failed> {
        self.exchange(admin, what, io).await?.map_err(|_| (LinkError::NotUp, false))
    }

    async fn exchange(
        &self,
        admin: &mut Queue,
        what: &'static str,
        io: Io,
    ) -> Result<Result<Done, CommandError>, Failed> {
        let after = self.target.timeout;
        let deadline = Deadline::after(&*self.clock, after);
        if let Err(rejected) = admin.submit(io) {
            return Ok(Err(rejected.into()));
        }
        loop {
            let mut answer = None;
            admin.poll(|done| answer = Some(done));
            match (answer, admin.failure()) {
                // The link's own story is the better one.
                (_, Some(Violation::Lost(error))) => return Err((error, false)),
                (Some(done), _) => return Ok(done.ok()),
                (None, Some(_)) => return Err((LinkError::NotUp, false)),
                (None, None) if deadline.passed(&*self.clock) => {
                    return Err((LinkError::TimedOut { what, after }, false));
                }
                (None, None) => next_turn().await,
            }
        }
    }
}

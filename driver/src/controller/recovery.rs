//! Recovery of a controller on this machine: what is done about commands that do not complete, and resets under load.
//!
//! ```text
//!   overdue -> Abort -> delete and create the queue -> controller reset -> function level reset -> given up
//!   violation, CSTS.CFS, admin command without an answer ---^                       all-ones --------^
//! ```
//! Each step is tried once for a command, within its own deadline, on the thread that noticed; resets without an end are
//! ended by a budget. After a reset each queue gets new rings under its old identifier, when the thread that owns it polls:
//! first everything that was in flight ends, then the queue is created again, and the new rings take the place of the old.
//! The old ones go back to their pool only then, when the controller has long been disabled (RST-2). Not before the
//! owner comes, because a doorbell that it still rings for the old rings would be taken for one of the new.

mod config;
mod state;

use std::sync::MutexGuard;

use doorbell_spec::admin as commands;
use doorbell_spec::identify::{Cns, Csi, IdentifyNamespace};
use doorbell_spec::register;

pub use self::config::{RecoveryConfig, RecoveryCounters, ResetError};
pub(super) use self::state::Recovery;
use self::state::{Mark, Pair};
use super::admin::fetch;
use super::bringup::{AdminRings, BringUpError, Registers};
use super::setup::set_up;
use super::{Controller, Event, Function, Inner, Link, QueueOwner, lock};
use crate::device::Device;
use crate::error::{AttachError, CommandError, QueueError};
use crate::queue::Io;
use crate::quirk::Quirks;
use crate::transport::pcie::{Layout, Pcie};
use crate::transport::tcp::LinkError;
use crate::transport::{Any, CloseError, Trouble};

/// There will be no rings for the queue any more.
pub(crate) struct Gone;

/// Why a queue pair was not created.
pub(super) struct Refusal {
    error: QueueError,
    /// Rings that the controller may have taken all the same; kept until it is reset.
    dangling: Option<Box<Pcie>>,
}

impl From<QueueError> for Refusal {
    fn from(error: QueueError) -> Self {
        Self { error, dangling: None }
    }
}

impl Controller {
    /// Resets the controller under whatever load there is.
    ///
    /// Queues and namespaces stay what they are. Commands in flight end with [`Outcome::Indeterminate`] as soon as their
    /// queue is polled, unless they had completed before, and I/O goes on from there.
    ///
    /// # Errors
    /// [`ResetError`]: the controller has been given up then, and every queue fails.
    ///
    /// [`Outcome::Indeterminate`]: crate::Outcome::Indeterminate
    pub fn reset(&self) -> Result<(), ResetError> {
        let mut ended = lock(&self.inner.ended);
        self.inner.reset_or_end(&mut ended)
    }

    /// What recovery has done so far.
    #[must_use]
    pub fn recovery(&self) -> RecoveryCounters {
        *lock(&self.inner.recovery.counters)
    }
}

impl Inner {
    pub(super) fn is_remote(&self) -> bool {
        matches!(self.link, Link::Tcp(_))
    }

    /// What an admin command brought; one without an answer has the controller reset (CQ-12).
    pub(super) fn with_admin<T>(
        &self,
        act: impl FnOnce(&mut crate::Queue) -> Result<T, CommandError>,
    ) -> Result<T, CommandError> {
        let epoch = self.recovery.epoch();
        let result = {
            let mut admin = lock(&self.admin);
            let result = act(&mut admin);
            self.recovery.took(admin.steps());
            result
        };
        if let Err(error) = &result {
            self.unanswered(epoch, error);
        }
        result
    }

    /// Resets the controller if `error` says that it did not answer, so that nothing that it may still do late can
    /// reach memory that is given back now.
    fn unanswered(&self, epoch: u64, error: &CommandError) {
        if matches!(error, CommandError::TimedOut { .. } | CommandError::QueueFailed(_))
            && !self.is_remote()
        {
            self.recovery.count(|counters| &mut counters.fatal);
            self.reset_after(epoch);
        }
    }

    /// Resets the controller unless that has happened since `epoch`; ends it where it may not be reset.
    fn reset_after(&self, epoch: u64) {
        self.reset_within(&mut lock(&self.ended), epoch);
    }

    fn reset_within(&self, ended: &mut MutexGuard<'_, bool>, epoch: u64) {
        if **ended || self.recovery.epoch() != epoch {
            return;
        }
        let allowed = self.recovery.policy.automatic && self.recovery.affords(self.clock.now());
        // Where it fails it ends.
        let _reset = if allowed {
            self.reset_or_end(ended)
        } else {
            self.end_now(ended);
            Ok(())
        };
    }

    pub(super) fn reset_or_end(&self, ended: &mut MutexGuard<'_, bool>) -> Result<(), ResetError> {
        let address = || self.address.clone();
        if **ended {
            return Err(ResetError::Ended { address: address() });
        }
        let Link::Device(function) = &self.link else {
            return Err(ResetError::Remote { address: address() });
        };
        self.recovery.count(|counters| &mut counters.resets);
        let mut attempt = 1;
        loop {
            match self.reset_once(function) {
                Ok(()) => return Ok(()),
                // What is not there does not come back by being asked again; nor does what has changed.
                Err(ResetError::BringUp(error @ BringUpError::Absent { .. })) => {
                    self.end_now(ended);
                    return Err(error.into());
                }
                Err(ResetError::BringUp(_) | ResetError::SetUp(_))
                    if attempt < self.recovery.policy.attempts =>
                {
                    attempt += 1;
                }
                Err(error) => {
                    self.end_now(ended);
                    return Err(error);
                }
            }
        }
    }

    /// Gives the controller up: afterwards it reaches no memory, or none of it is used again.
    pub(super) fn end_now(&self, ended: &mut MutexGuard<'_, bool>) -> bool {
        if std::mem::replace(&mut **ended, true) {
            return true;
        }
        let disabled = self.with_registers(|registers| registers.disable(&self.capabilities));
        let disabled = self.is_harmless(&disabled);
        if !disabled {
            self.memory.withdraw();
        }
        self.recovery.count(|counters| &mut counters.given_up);
        // Where it is not disabled, its memory has been withdrawn from use for good.
        self.recovery.end();
        self.gate.open();
        if let Link::Device(Function { device, .. }) = &self.link {
            // Others can have it at once, and a removal need not wait for the caller. One that cannot goes with its
            // last handle.
            let _best_effort = device.give_back();
        }
        if !self.is_remote() {
            lock(&self.admin).give_up();
        }
        disabled
    }

    /// RST-1, RST-2: disables the controller, by a function level reset if it has to be.
    fn stop(&self, device: &dyn Device) -> Result<(), BringUpError> {
        let registers = Registers {
            properties: device,
            address: &self.address,
            device: None,
            clock: &*self.clock,
        };
        match registers.disable(&self.capabilities) {
            Err(BringUpError::TimedOut { .. } | BringUpError::Fatal { .. })
                if self.recovery.policy.function_reset && device.info().resettable =>
            {
                self.recovery.count(|counters| &mut counters.function_resets);
                device.reset()?;
                registers.delay(&self.capabilities, Quirks::DELAY_AFTER_RESET);
                registers.disable(&self.capabilities)
            }
            other => other,
        }
    }

    fn reset_once(&self, function: &Function) -> Result<(), ResetError> {
        self.stop(&*function.device)?;
        self.recovery.deleted();
        // Whatever is created from here on is created under the new count.
        let set_up_error = |source| ResetError::SetUp(source);
        let layout = self.admin_layout();
        let rings = self.allocate(layout, function);
        let rings = rings.map_err(|error| set_up_error(error.into()))?;
        let admin_rings = AdminRings {
            asq: (rings.sq_iova(), layout.sq_size),
            acq: (rings.cq_iova(), layout.cq_size),
        };
        {
            let mut admin = lock(&self.admin);
            admin.replace(Any::Pcie(rings));
            self.drain_events(&mut admin);
            let enabled = self.with_registers(|registers| {
                registers.enable(&self.capabilities, Some(admin_rings))
            });
            enabled?;
            let wanted = self.limits.max_io_queues;
            let (identity, limits) =
                set_up(&mut admin, &self.memory, &self.capabilities, wanted, &self.address)
                    .map_err(set_up_error)?;
            admin.limit_transfer(limits.max_transfer);
            self.introduce(function, &mut admin, &identity).map_err(set_up_error)?;
            let same = identity.serial() == self.identity.serial()
                && identity.model() == self.identity.model()
                && identity.subnqn == self.identity.subnqn;
            let enough = limits.max_transfer >= self.limits.max_transfer
                && limits.max_io_queues >= self.limits.max_io_queues;
            if !same || !enough {
                let what = if same { "it carries less than before" } else { "it is another drive" };
                return Err(self.changed(what.into()));
            }
            self.check_namespaces(&mut admin)?;
            lock(&self.events).restart(Event::Reset);
            // What was to be activated is not any more.
            self.gate.open();
        }
        Ok(())
    }

    fn changed(&self, what: String) -> ResetError {
        ResetError::Changed { address: self.address.clone(), what }
    }

    /// Of a namespace that is used: whether it still is what it was, and how many blocks it had.
    pub(super) fn was(&self, nsid: u32, identify: &IdentifyNamespace) -> Option<(bool, u64)> {
        let (mark, blocks) = *lock(&self.recovery.namespaces).get(&nsid)?;
        Some((self.is_same(identify, &mark), blocks))
    }

    /// The controller has not done in time what it should have.
    pub(super) fn is_at_fault(&self, epoch: u64) {
        self.recovery.count(|counters| &mut counters.fatal);
        self.reset_after(epoch);
    }

    /// The controller says that it cannot go on.
    pub(super) fn has_broken(&self, epoch: u64) {
        let policy = &self.recovery.policy;
        if !policy.automatic || !policy.internal_error {
            return;
        }
        self.recovery.count(|counters| &mut counters.internal_errors);
        match &self.link {
            Link::Device(_) => self.reset_after(epoch),
            Link::Tcp(_) => self.disown(LinkError::InternalError),
        }
    }

    fn is_same(&self, identify: &IdentifyNamespace, mark: &Mark) -> bool {
        let now = Mark::of(identify);
        let nameless = self.capabilities.quirks.has(Quirks::BOGUS_IDS);
        let format = |mark: &Mark| (mark.block_size, mark.metadata);
        if nameless { format(&now) == format(mark) } else { now == *mark }
    }

    /// PIT-47: the namespaces that are used are those that they were.
    fn check_namespaces(&self, admin: &mut crate::Queue) -> Result<(), ResetError> {
        let used = lock(&self.recovery.namespaces).clone();
        for (nsid, (mark, _)) in used {
            let identify = commands::identify(Cns::NAMESPACE, nsid, 0, Csi::NVM);
            let identify: Result<Box<IdentifyNamespace>, _> = fetch(admin, &self.memory, identify);
            match identify {
                // One that has gone fails its commands by itself.
                Ok(identify) if identify.is_absent() || self.is_same(&identify, &mark) => {}
                Err(CommandError::Status { .. }) => {}
                Ok(_) => return Err(self.changed(format!("namespace {nsid} is another one"))),
                Err(source) => {
                    let address = self.address.clone();
                    let what = "Identify Namespace";
                    return Err(ResetError::SetUp(AttachError::Command { address, what, source }));
                }
            }
        }
        Ok(())
    }

    pub(super) fn admin_layout(&self) -> Layout {
        Layout::plan(
            0,
            Controller::ADMIN_DEPTH,
            register::Aqa::MAX_ENTRIES,
            Controller::ADMIN_TRANSFER,
            self.capabilities.page_shift,
            self.capabilities.cap.dstrd(),
        )
    }

    fn allocate(
        &self,
        layout: Layout,
        function: &Function,
    ) -> Result<Pcie, crate::transport::pcie::PcieError> {
        // DB-2: the admin queue's doorbells are registers.
        let shadows = lock(&function.shadows).clone().filter(|_| layout.qid != 0);
        let mut rings =
            Pcie::allocate(layout, &self.memory, &function.doorbells, shadows.as_ref())?;
        rings.leased(self.recovery.lease());
        Ok(rings)
    }

    /// INIT-13: a queue pair on the device. Nothing of it is on the device after an error, unless that says
    /// [`Refusal::dangling`].
    pub(super) fn create(&self, layout: Layout, function: &Function) -> Result<Pcie, Refusal> {
        let qid = layout.qid;
        let rings = self.allocate(layout, function).map_err(QueueError::from)?;
        let refused = |what, source| {
            let address = self.address.clone();
            QueueError::Refused { address, what, qid, source }
        };
        // A creation that was not answered may come to life yet.
        let answered = |error: &CommandError| matches!(error, CommandError::Status { .. });
        let size_z = |entries: u32| (entries - 1) as u16;
        // The completion queue first; deleted again if the submission queue fails.
        let create =
            commands::create_io_cq(qid, size_z(layout.cq_size), None).with_prp(rings.cq_iova(), 0);
        if let Err(source) = self.internal(create) {
            let dangling = (!answered(&source)).then(|| Box::new(rings));
            return Err(Refusal {
                error: refused("create the completion queue", source),
                dangling,
            });
        }
        let create = commands::create_io_sq(qid, size_z(layout.sq_size), qid, 0)
            .with_prp(rings.sq_iova(), 0);
        if let Err(source) = self.internal(create) {
            let gone = answered(&source) && self.internal(commands::delete_io_cq(qid)).is_ok();
            let dangling = (!gone).then(|| Box::new(rings));
            return Err(Refusal {
                error: refused("create the submission queue", source),
                dangling,
            });
        }
        Ok(rings)
    }

    /// The same for a caller: the controller is reset where it may still have something of a queue that was not created.
    pub(super) fn create_for_caller(
        &self,
        layout: Layout,
        function: &Function,
    ) -> Result<Pcie, QueueError> {
        // Waits for a reset or a format that is under way, and keeps others waiting.
        let mut ended = lock(&self.ended);
        let epoch = self.recovery.epoch();
        let created = self.create(layout, function).map_err(|Refusal { error, dangling }| {
            if dangling.is_some() {
                self.recovery.count(|counters| &mut counters.fatal);
                self.reset_within(&mut ended, epoch);
            }
            // Only now: the controller touches them no more.
            drop(dangling);
            error
        })?;
        self.recovery.opened(layout);
        Ok(created)
    }

    /// The next step for a command that is overdue; true if its queue has been deleted.
    fn climb(&self, qid: u16, epoch: u64, cid: u16) -> bool {
        let policy = &self.recovery.policy;
        self.recovery.count(|counters| &mut counters.overdue);
        if !self.is_sound() {
            self.recovery.count(|counters| &mut counters.fatal);
            self.reset_after(epoch);
            return false;
        }
        let first =
            lock(&self.recovery.pairs).get_mut(&qid).is_some_and(|pair| pair.aborted.insert(cid));
        if first && policy.abort {
            self.recovery.count(|counters| &mut counters.aborts);
            match self.with_admin(|admin| admin.run(Io::internal(commands::abort(qid, cid)))) {
                Ok(done) if done.result & 1 == 0 => {
                    self.recovery.count(|counters| &mut counters.aborted);
                }
                // It may complete by itself: there is one more time-out for that.
                _ => {}
            }
            return false;
        }
        if policy.recreate_queue && self.delete_overdue(qid, epoch) {
            return true;
        }
        self.reset_after(epoch);
        false
    }

    /// Whether CSTS says that the controller works.
    pub(super) fn is_sound(&self) -> bool {
        self.with_registers(|registers| registers.status())
            .is_ok_and(|csts| csts.rdy() && !csts.cfs())
    }

    /// Deletes a queue pair, which is created again when it is claimed; false where the controller has to be reset.
    fn delete_overdue(&self, qid: u16, epoch: u64) -> bool {
        let ended = lock(&self.ended);
        if *ended || self.recovery.epoch() != epoch {
            return false;
        }
        let deleted = self
            .internal(commands::delete_io_sq(qid))
            .and_then(|_| self.internal(commands::delete_io_cq(qid)));
        if deleted.is_err() {
            return false;
        }
        self.recovery.count(|counters| &mut counters.recreations);
        if let Some(pair) = lock(&self.recovery.pairs).get_mut(&qid) {
            pair.present = false;
            pair.aborted.clear();
        }
        true
    }
}

impl QueueOwner for Inner {
    fn rescue(&self, qid: u16, epoch: u64, trouble: Trouble) -> bool {
        if trouble == Trouble::Paused {
            self.look_at_activation();
            return false;
        }
        if !self.recovery.policy.automatic {
            return false;
        }
        match trouble {
            Trouble::None | Trouble::Paused => {}
            Trouble::Stalled if self.is_sound() => {}
            Trouble::Stalled => {
                self.recovery.count(|counters| &mut counters.fatal);
                self.reset_after(epoch);
            }
            Trouble::Violated => {
                self.recovery.count(|counters| &mut counters.violations);
                self.reset_after(epoch);
            }
            Trouble::Overdue { cid } => return self.climb(qid, epoch, cid),
        }
        false
    }

    fn claim(&self, qid: u16) -> Result<Option<Box<Pcie>>, Gone> {
        if self.recovery.is_over() {
            return Err(Gone);
        }
        let Link::Device(function) = &self.link else { return Err(Gone) };
        // A reset is under way: later.
        let Ok(mut ended) = self.ended.try_lock() else { return Ok(None) };
        let layout = match lock(&self.recovery.pairs).get(&qid) {
            Some(Pair { present: false, layout, .. }) if !*ended => *layout,
            _ => return Err(Gone),
        };
        match self.create(layout, function) {
            Ok(rings) => {
                if let Some(pair) = lock(&self.recovery.pairs).get_mut(&qid) {
                    pair.present = true;
                }
                Ok(Some(Box::new(rings)))
            }
            Err(Refusal { dangling, .. }) => {
                if dangling.is_none() {
                    return Err(Gone);
                }
                // The next attempt is after another reset; what the controller may have goes with that.
                if !self.recovery.affords(self.clock.now()) {
                    self.end_now(&mut ended);
                    return Err(Gone);
                }
                self.reset_or_end(&mut ended).map(|()| None).map_err(|_| Gone)
            }
        }
    }

    fn delete(&self, qid: u16) -> Result<(), CloseError> {
        // Held throughout: no reset comes between, and creates the queue again.
        let mut ended = lock(&self.ended);
        let pair = lock(&self.recovery.pairs).remove(&qid);
        if *ended {
            return Ok(());
        }
        if pair.as_ref().is_some_and(|pair| !pair.present) {
            lock(&self.queue_ids).insert(qid);
            return Ok(());
        }
        // A controller that is gone or has failed answers no command; its registers say so first.
        let sound = self.is_sound();
        // CQ-11: submission queue first. What it had in flight completes or is aborted before this does.
        let deleted = sound
            && self
                .internal(commands::delete_io_sq(qid))
                .and_then(|_| self.internal(commands::delete_io_cq(qid)))
                .is_ok();
        // A reset ends what deletion did not, and does not create it again.
        let allowed = self.recovery.policy.automatic && self.recovery.affords(self.clock.now());
        if deleted || allowed && self.reset_or_end(&mut ended).is_ok() {
            lock(&self.queue_ids).insert(qid);
            return Ok(());
        }
        match self.end_now(&mut ended) {
            true => Ok(()),
            false => {
                let what = "the controller could not be stopped".to_owned();
                Err(CloseError { queue: qid, what })
            }
        }
    }
}

//! The end of an association, once it is lost: its queues read what the target had answered, its connections are cut, and
//! a controller that can still be reached is asked to stop, so that it carries out nothing more of what it was sent.
//!
//! A queue belongs to its thread, and only that can read its connection. So whoever finds the association lost cuts
//! nothing of the others' yet: each of them notices at its next look, sends nothing more, reads what has come, and ends
//! its connection by itself. Those that nobody polls are cut after a moment. Only from there on nothing of the
//! association can reach the target, and only from there counts the time until it is quiet.

use std::time::Duration;

use doorbell_spec::fabrics::command::{property_get, property_set};
use doorbell_spec::register::{Csts, offset};

use super::{Fabric, STOP_TAG, STOPPED_TAG, State};
use crate::controller::{Inner, Link, lock};
use crate::queue::{Io, Queue};
use crate::transport::tcp::LinkError;

/// How long queues that nobody polls keep what has come for them: many times as long as one that is polled takes to look.
const GRACE: Duration = Duration::from_millis(50);

/// How far a lost association has come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stopping {
    /// Its queues read what has come for them; those that have not by then are cut. `ask`: the admin queue may work still,
    /// so the controller can be asked to stop.
    Parting { until: Duration, ask: bool },
    /// CC.EN=0 is on its way, or CSTS asked for.
    Asked,
    /// CSTS is to be asked for.
    Look,
}

impl State {
    /// Whether it is time for an attempt to make a new association.
    pub(super) fn is_due(&self, now: Duration) -> bool {
        !matches!(self.stopping, Some(Stopping::Parting { .. })) && self.association.is_due(now)
    }

    /// The controller is not asked to stop any more: it has, or it will not say so.
    pub(super) fn stop_ends(&mut self) {
        if self.stopping.take().is_some() {
            self.end_admin();
        }
    }

    fn end_admin(&mut self) {
        if let Some(socket) = std::mem::take(&mut self.admin).upgrade() {
            socket.abort();
        }
    }

    /// The next thing to do, while the controller is asked to stop.
    fn look_again(&mut self) {
        if self.stopping == Some(Stopping::Asked) {
            self.stopping = Some(Stopping::Look);
        }
    }
}

impl Fabric {
    /// The association `epoch` has been lost with one of its connections. `ask`: not with that of the admin queue.
    pub(super) fn lost(&self, epoch: u64, error: LinkError, now: Duration, ask: bool) {
        let state = &mut *lock(&self.state);
        if state.association.lost(epoch, error, now) {
            state.stopping = Some(Stopping::Parting { until: now.saturating_add(GRACE), ask });
        }
    }

    /// CC.EN=0 has been answered.
    pub(in crate::controller) fn stopping(&self, success: bool) {
        let state = &mut *lock(&self.state);
        match success {
            true => state.look_again(),
            false => state.stop_ends(),
        }
    }

    /// CSTS has been read, or could not be.
    pub(in crate::controller) fn stopped(&self, csts: Option<Csts>, now: Duration) {
        let state = &mut *lock(&self.state);
        match csts {
            Some(csts) if csts.rdy() => state.look_again(),
            Some(_) if state.stopping.is_some() => {
                // It has confirmed that nothing of the old association will be carried out.
                state.association.is_quiet(now);
                state.stop_ends();
            }
            _ => state.stop_ends(),
        }
    }
}

impl Inner {
    /// Gives the association up, though all of its connections stand; it is made anew.
    pub(in crate::controller) fn disown(&self, error: LinkError) {
        if let Link::Tcp(fabric) = &self.link {
            let epoch = lock(&fabric.state).association.epoch();
            fabric.lost(epoch, error, self.clock.now(), true);
        }
    }

    /// Cuts what is left of a lost association, once its queues have read what had come or have had the time. The admin
    /// queue, if nobody else uses it now, is kept until the controller has stopped.
    pub(super) fn part(&self, fabric: &Fabric, admin: Option<&mut Queue>) {
        let now = self.clock.now();
        let state = &mut *lock(&fabric.state);
        let Some(Stopping::Parting { until, ask }) = state.stopping else { return };
        state.sockets.retain(|socket| socket.strong_count() > 0);
        if !state.sockets.is_empty() && now < until {
            return;
        }
        // Nothing that the kernel holds of any queue may reach the target from here on.
        for socket in state.sockets.drain(..).filter_map(|socket| socket.upgrade()) {
            socket.abort();
        }
        state.association.is_cut(now);
        let cc = u32::from(self.capabilities.configuration());
        let stop = Io::internal(property_set(offset::CC as u32, 4, cc.into())).tag(STOP_TAG);
        let send = |admin: &mut Queue| admin.failure().is_none() && admin.submit(stop).is_ok();
        let asked = ask && admin.is_some_and(send);
        state.stopping = asked.then_some(Stopping::Asked);
        if !asked {
            state.end_admin();
        }
    }

    /// Looks whether the controller of a lost association has stopped.
    pub(super) fn see_it_stop(&self, fabric: &Fabric, admin: &mut Queue) {
        let is_asked =
            |state: &State| matches!(state.stopping, Some(Stopping::Asked | Stopping::Look));
        if !is_asked(&lock(&fabric.state)) {
            return;
        }
        self.take_events(admin);
        let state = &mut *lock(&fabric.state);
        if state.stopping == Some(Stopping::Look) {
            let csts = Io::internal(property_get(offset::CSTS as u32, 4)).tag(STOPPED_TAG);
            state.stopping = admin.submit(csts).is_ok().then_some(Stopping::Asked);
        }
        if admin.failure().is_some() || state.stopping.is_none() {
            state.stopping.get_or_insert(Stopping::Asked);
            state.stop_ends();
        }
    }
}

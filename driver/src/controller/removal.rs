//! Removal: notices of whoever provides the device, and giving the device back while handles and queues are still held.

use std::os::fd::{AsFd, OwnedFd};

use doorbell_spec::admin as commands;
use rustix::event::{EventfdFlags, eventfd};

use super::bringup::BringUpError;
use super::event::{Event, Events};
use super::{Controller, Function, Inner, Link, ShutdownError, lock};
use crate::device::{Device, DeviceError, Interrupt};

/// The notices that a device gives. None over a network.
#[derive(Default)]
pub(super) struct Notices {
    removal: Option<OwnedFd>,
    bus_error: Option<OwnedFd>,
    /// The controller detaches itself when it is asked to.
    obey: bool,
}

impl Notices {
    pub(super) fn of(device: &dyn Device, obey: bool) -> Self {
        // Not every device has them, nor has every kernel.
        let notice = |interrupt| {
            let ours = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).ok()?;
            let theirs = ours.try_clone().ok()?;
            device.interrupt(interrupt, Some(theirs)).ok().map(|()| ours)
        };
        let (removal, bus_error) = (notice(Interrupt::Removal), notice(Interrupt::BusError));
        Self { removal, bus_error, obey }
    }

    /// Keeps what has been notified since the last call; true if the controller is to be detached.
    pub(super) fn take(&self, events: &mut Events) -> bool {
        if raised(self.bus_error.as_ref()) {
            events.keep(Event::BusError);
        }
        let asked = raised(self.removal.as_ref());
        if asked {
            events.keep(Event::RemovalAsked);
        }
        asked && self.obey
    }
}

/// Never blocks: the descriptor does not.
fn raised(notice: Option<&OwnedFd>) -> bool {
    notice.is_some_and(|notice| rustix::io::read(notice.as_fd(), &mut [0; 8]).is_ok())
}

impl Controller {
    /// Gives the device back now, although queues and handles of this controller are still held: what to do about
    /// [`Event::RemovalAsked`].
    ///
    /// A drive that is still there is shut down as on [`shutdown`](Self::shutdown): its queues are deleted, and it writes
    /// back what it holds. Commands in flight that it had not completed by then end with
    /// [`Outcome::Indeterminate`](crate::Outcome::Indeterminate) when their queues are polled, each exactly once, and
    /// [`Queue::failure`](crate::Queue::failure) says [`Violation::Ended`](crate::transport::Violation::Ended). Other
    /// threads may go on using their queues meanwhile. Over VFIO the device's files are closed when this returns, and
    /// the drive, or its successor, can be attached again by the same process; an embedded or vfio-user device goes with
    /// the last handle.
    ///
    /// Returns at once where that has happened before, or the controller has been given up.
    ///
    /// # Errors
    /// [`ShutdownError::Failed`]: the drive did not obey, or the device could not be given back. Queues have ended all
    /// the same.
    pub fn detach(&self) -> Result<(), ShutdownError> {
        let inner = &*self.inner;
        let Link::Device(Function { device, .. }) = &inner.link else { return inner.shut_down() };
        let mut ended = lock(&inner.ended);
        if std::mem::replace(&mut *ended, true) {
            return Ok(());
        }
        // Nothing new from here on; what is in flight ends with its queue.
        inner.gate.close();
        inner.delete_submission_queues();
        let stopped = inner.stop_for_good();
        inner.recovery.end();
        inner.gate.open();
        lock(&inner.admin).give_up();
        match device.give_back() {
            // One that cannot goes with its last handle.
            Ok(()) | Err(DeviceError::Unusable { .. }) => {}
            Err(error) => return Err(BringUpError::from(error).into()),
        }
        match stopped {
            // There is nobody to be shut down.
            Ok(()) | Err(ShutdownError::Failed(BringUpError::Absent { .. })) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl Inner {
    /// RST-5: a shutdown begins with the deletion of the queues. What they hold completes, or never does.
    fn delete_submission_queues(&self) {
        if !self.is_sound() {
            return;
        }
        for qid in self.recovery.present() {
            // CC.EN=0 ends them as well. The completion queue stays until then: its owner may take what it holds.
            if self.internal(commands::delete_io_sq(qid)).is_err() {
                return;
            }
        }
    }

    /// Whether the controller reaches no memory any more, after an attempt to disable it that ended as `disabled` says.
    pub(super) fn is_harmless(&self, disabled: &Result<(), BringUpError>) -> bool {
        let given_back = || match &self.link {
            Link::Device(Function { device, .. }) => device.give_back().is_ok(),
            Link::Tcp(_) => false,
        };
        match disabled {
            Ok(()) => true,
            // A reset of what is not there takes a minute of the kernel's patience.
            Err(BringUpError::Absent { .. }) => given_back() || self.function_reset(),
            Err(_) => self.function_reset() || given_back(),
        }
    }
}

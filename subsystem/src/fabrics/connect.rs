//! Connect: how a connection becomes a queue, and every way in which it does not.

use std::sync::Arc;
use std::time::Duration;

use doorbell_spec::command::Sqe;
use doorbell_spec::fabrics::DISCOVERY_NQN;
use doorbell_spec::fabrics::command::{ConnectCdw10, ConnectCdw11, connect_offset};
use doorbell_spec::fabrics::connect::{CNTLID_DYNAMIC, ConnectData, ConnectInvalid, data_offset};
use doorbell_spec::status::Status;

use super::association::{Association, Host, OpenError, Published};
use super::{Share, Target};
use crate::controller::core::{Core, Kind};

/// A queue that a Connect made.
pub(crate) struct Connected {
    pub(crate) association: Arc<Association>,
    pub(crate) qid: u16,
    /// Entries of the queue.
    pub(crate) entries: u32,
    pub(crate) flow_control: bool,
    /// Of an I/O queue: where it makes its counters visible.
    pub(crate) published: Option<Arc<Published>>,
}

/// Why a Connect failed: its status, and DW0 of its completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) status: Status,
    pub(crate) dw0: u32,
}

impl From<Status> for Refused {
    fn from(status: Status) -> Self {
        Self { status: status.with_dnr(), dw0: 0 }
    }
}

fn invalid(what: ConnectInvalid) -> Refused {
    Refused { status: Status::FABRICS_CONNECT_INVALID.with_dnr(), dw0: what.into_bits() }
}

fn in_command(offset: u16) -> Refused {
    invalid(ConnectInvalid::command(offset))
}

fn in_data(offset: u16) -> Refused {
    invalid(ConnectInvalid::data(offset))
}

/// Not now: the host may try again.
fn busy() -> Refused {
    Refused { status: Status::FABRICS_CONTROLLER_BUSY, dw0: 0 }
}

impl Target {
    /// Carries out a Connect for a connection that takes up to `memory` bytes.
    pub(crate) fn connect(
        self: &Arc<Self>,
        sqe: &Sqe,
        data: &ConnectData,
        share: &mut Share,
        memory: u64,
        now: Duration,
    ) -> Result<Connected, Refused> {
        let queue = ConnectCdw10::from_bits(sqe.cdw10);
        let options = ConnectCdw11::from_bits(sqe.cdw11);
        if queue.recfmt() != 0 {
            return Err(Status::FABRICS_INCOMPATIBLE_FORMAT.into());
        }
        let subnqn = data.subnqn().map_err(|_| in_data(data_offset::SUBNQN))?;
        let discovery = subnqn == DISCOVERY_NQN;
        if !discovery && subnqn != self.subsystem().nqn() {
            return Err(in_data(data_offset::SUBNQN));
        }
        let nqn = data.hostnqn().map_err(|_| in_data(data_offset::HOSTNQN))?;
        if data.hostid == [0; 16] {
            return Err(in_data(data_offset::HOSTID));
        }
        if !discovery && !self.is_allowed(nqn) {
            let dw0 = ConnectInvalid::data(data_offset::HOSTNQN).into_bits();
            return Err(Refused { status: Status::FABRICS_INVALID_HOST.with_dnr(), dw0 });
        }
        let entries = u32::from(options.sqsize_z()) + 1;
        if entries < 2 || options.sqsize_z() > self.controller().mqes_z {
            return Err(in_command(connect_offset::SQSIZE));
        }
        let host = Host { nqn: nqn.to_owned(), id: data.hostid };
        let cntlid = data.cntlid.get();
        let (association, published) = match queue.qid() {
            0 => (self.admin_queue(host, cntlid, sqe.cdw12, discovery, share, memory, now)?, None),
            qid if discovery => {
                let _ = qid;
                return Err(in_command(connect_offset::QID));
            }
            qid => {
                let (association, published) = self.io_queue(&host, cntlid, qid, share, memory)?;
                (association, Some(published))
            }
        };
        let flow_control = !options.no_flow_control();
        Ok(Connected { association, qid: queue.qid(), entries, flow_control, published })
    }

    #[expect(clippy::too_many_arguments, reason = "the parameters of a Connect")]
    fn admin_queue(
        &self,
        host: Host,
        cntlid: u16,
        kato: u32,
        discovery: bool,
        share: &mut Share,
        memory: u64,
        now: Duration,
    ) -> Result<Arc<Association>, Refused> {
        // The dynamic controller model: the subsystem picks, and makes, the controller.
        if cntlid != CNTLID_DYNAMIC {
            return Err(in_data(data_offset::CNTLID));
        }
        if !share.charge(&host.nqn, memory) {
            return Err(busy());
        }
        let (subsystem, kind) = if discovery {
            (&self.discovery, Kind::Discovery)
        } else {
            (&self.subsystem, Kind::Fabrics { in_capsule: self.limits.in_capsule })
        };
        let make = || {
            let core = Core::new(Arc::clone(subsystem), self.controller(), kind)?;
            Ok(Association::new(core, host, kato, self.generation(), now))
        };
        self.associate(make).ok_or_else(busy)
    }

    fn io_queue(
        &self,
        host: &Host,
        cntlid: u16,
        qid: u16,
        share: &mut Share,
        memory: u64,
    ) -> Result<(Arc<Association>, Arc<Published>), Refused> {
        let association = self.association(cntlid).ok_or_else(|| in_data(data_offset::CNTLID))?;
        if association.host().nqn != host.nqn {
            return Err(in_data(data_offset::HOSTNQN));
        }
        if association.host().id != host.id {
            return Err(in_data(data_offset::HOSTID));
        }
        if association.epoch() == 0 {
            return Err(Status::COMMAND_SEQUENCE_ERROR.into());
        }
        if !share.charge(&host.nqn, memory) {
            return Err(busy());
        }
        let published = association.open_queue(qid).map_err(|error| match error {
            OpenError::Identifier => in_command(connect_offset::QID),
            // It may be about to end: its connection can be closed, and another thread yet to hear of it.
            OpenError::Taken => Refused { status: Status::COMMAND_SEQUENCE_ERROR, dw0: 0 },
        })?;
        Ok((association, published))
    }
}

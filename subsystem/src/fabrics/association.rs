//! An association: one host's controller, from its admin Connect on.
//!
//! Owns the controller's core and properties behind a lock that admin commands take. What reads and writes need of it
//! (is it over, is it enabled, does every write have to be durable) stands beside the lock, in plain loads.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use doorbell_spec::admin::{AbortCdw10, AdminOpcode, AsyncEvent, LogCdw10};
use doorbell_spec::command::Sqe;
use doorbell_spec::fabrics::command::{Property, property_size};
use doorbell_spec::log::Lid;
use doorbell_spec::register::{Cc, Csts, offset};
use doorbell_spec::status::Status;

use super::{Target, discovery, lock};
use crate::controller::core::{Core, Kind, Outcome, Transfer};
use crate::controller::identify::KAS;
use crate::controller::io_command::Counters;
use crate::controller::registers::Registers;

/// Time after which a discovery controller without a keep alive timer ends where its host says nothing.
const DISCOVERY_SILENCE: Duration = Duration::from_secs(120);

/// Who connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Host {
    pub(crate) nqn: String,
    pub(crate) id: [u8; 16],
}

/// One host's controller.
pub(crate) struct Association {
    cntlid: u16,
    kind: Kind,
    host: Host,
    /// Keep Alive Timeout of the Connect, in milliseconds.
    connect_kato: u32,
    ended: AtomicBool,
    /// The controller has failed by a rule of a plan of faults; it takes no more commands until it is reset.
    failed: AtomicBool,
    /// Counts enablings; 0 while the controller is not ready.
    epoch: AtomicU32,
    write_through: AtomicBool,
    kato: AtomicU32,
    /// When a command last came, in milliseconds.
    heard: AtomicU64,
    admin: Mutex<Admin>,
}

struct Admin {
    core: Core,
    registers: Registers,
    epochs: u32,
    /// I/O queues by identifier; what each has counted.
    queues: Vec<Option<Arc<Published>>>,
    /// What queues that are gone have counted.
    gone: Counters,
    /// GENCTR that the host has been told of.
    genctr: u64,
}

/// What others see of an I/O queue; its connection alone writes it.
#[derive(Debug, Default)]
pub(crate) struct Published {
    counters: [AtomicU64; 5],
    /// Commands are being carried out.
    busy: AtomicBool,
    /// Aborts of its commands that it has not answered.
    aborts: Mutex<Vec<Arc<Asked>>>,
}

/// An Abort of a command of an I/O queue, which that queue answers, whatever thread serves it.
#[derive(Debug)]
pub(crate) struct Asked {
    /// The command to abort.
    pub(crate) cid: u16,
    answer: AtomicU8,
}

impl Asked {
    const PENDING: u8 = 0;
    const ABORTED: u8 = 1;
    const GOES_ON: u8 = 2;

    /// Whether the command has ended by it.
    pub(crate) fn answer(&self, aborted: bool) {
        let answer = if aborted { Self::ABORTED } else { Self::GOES_ON };
        self.answer.store(answer, Ordering::Release);
    }

    /// The answer, once it is there.
    pub(crate) fn answered(&self) -> Option<bool> {
        let answer = self.answer.load(Ordering::Acquire);
        (answer != Self::PENDING).then_some(answer == Self::ABORTED)
    }
}

/// What becomes of an Abort.
pub(crate) enum Abort {
    /// The event request with this identifier ends.
    Event(u16),
    /// The queue of the command will say.
    Asked(Arc<Asked>),
    /// There is no such command, or none that could be ended.
    None,
}

impl Published {
    /// Says that commands are about to be carried out. Whether the association has ended is to be looked at afterwards:
    /// then either this is seen by who ends it ([`Association::quiesce`]), or its end is seen here.
    #[inline]
    pub(crate) fn begin(&self) {
        self.busy.store(true, Ordering::SeqCst);
    }

    /// Says that none are carried out any more, and shows what they have counted.
    #[inline]
    pub(crate) fn finish(&self, counters: &Counters) {
        for (to, from) in self.counters.iter().zip(counters.values()) {
            to.store(from, Ordering::Relaxed);
        }
        self.busy.store(false, Ordering::Release);
    }

    /// The Aborts to answer.
    pub(crate) fn take_aborts(&self) -> Vec<Arc<Asked>> {
        std::mem::take(&mut lock(&self.aborts))
    }

    fn load(&self) -> Counters {
        let load = |value: &AtomicU64| value.load(Ordering::Relaxed);
        Counters::from_values(self.counters.each_ref().map(load))
    }
}

impl Association {
    pub(super) fn new(mut core: Core, host: Host, kato: u32, genctr: u64, now: Duration) -> Self {
        let registers = Registers::new(core.config.mqes_z, 0, 0);
        let queues = (0..=core.config.max_io_queues).map(|_| None).collect();
        (core.features.kato, core.features.host) = (kato, host.id);
        Self {
            cntlid: core.cntlid,
            kind: core.kind,
            host,
            connect_kato: kato,
            ended: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            epoch: AtomicU32::new(0),
            write_through: AtomicBool::new(false),
            kato: AtomicU32::new(round(kato)),
            heard: AtomicU64::new(millis(now)),
            admin: Mutex::new(Admin {
                core,
                registers,
                epochs: 0,
                queues,
                gone: Counters::default(),
                genctr,
            }),
        }
    }

    pub(crate) fn cntlid(&self) -> u16 {
        self.cntlid
    }

    pub(super) fn key(&self) -> super::Key {
        (self.is_discovery(), self.cntlid)
    }

    pub(crate) fn is_discovery(&self) -> bool {
        self.kind == Kind::Discovery
    }

    pub(crate) fn hostnqn(&self) -> &str {
        &self.host.nqn
    }

    pub(super) fn host(&self) -> &Host {
        &self.host
    }

    /// From now on no connection of it does anything but close.
    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::SeqCst);
    }

    #[inline]
    pub(crate) fn is_ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }

    /// Waits until none of its queues, on whatever thread, carries out a command any more: milliseconds at most, since
    /// queues look for the end at every step. To be called after [`Association::end`]; no write of the association
    /// reaches a namespace afterwards, so that a host that comes back finds nothing changing under it.
    pub(super) fn quiesce(&self) {
        let queues = lock(&self.admin).queues.clone();
        for queue in queues.iter().flatten() {
            while queue.busy.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
        }
    }

    /// Which enabling this is; 0 while the controller is not ready. I/O queues belong to one.
    #[inline]
    pub(crate) fn epoch(&self) -> u32 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Every write is to be made durable.
    #[inline]
    pub(crate) fn write_through(&self) -> bool {
        self.write_through.load(Ordering::Relaxed)
    }

    /// A command came.
    #[inline]
    pub(crate) fn hear(&self, now: Duration) {
        self.heard.store(millis(now), Ordering::Relaxed);
    }

    /// Whether the host has been silent for too long. Every command counts (TBKAS), and a host that saw one answered may
    /// leave its next Keep Alive out, so that twice KATO may pass (PEER-5).
    pub(crate) fn is_expired(&self, now: Duration) -> bool {
        let silence = millis(now).saturating_sub(self.heard.load(Ordering::Relaxed));
        match self.kato.load(Ordering::Relaxed) {
            0 if self.is_discovery() => silence > millis(DISCOVERY_SILENCE),
            0 => false,
            kato => silence > 2 * u64::from(kato),
        }
    }

    /// The keep alive timer ran out: the controller fails, and the association is over.
    pub(crate) fn expire(&self) {
        lock(&self.admin).registers.csts.set_cfs(true);
        self.epoch.store(0, Ordering::Release);
        self.end();
    }

    /// The controller fails, by a rule of a plan of faults.
    pub(crate) fn fail(&self) {
        self.failed.store(true, Ordering::SeqCst);
        lock(&self.admin).registers.csts.set_cfs(true);
    }

    /// Whether it has failed so.
    pub(crate) fn is_failed(&self) -> bool {
        self.failed.load(Ordering::SeqCst)
    }

    /// Keeps an error for the error log.
    #[cold]
    pub(crate) fn record(&self, qid: u16, sqe: &Sqe, status: Status) -> Status {
        lock(&self.admin).core.errors.record(qid, sqe, status)
    }

    /// Takes an I/O queue's identifier.
    pub(super) fn open_queue(&self, qid: u16) -> Result<Arc<Published>, OpenError> {
        let mut admin = lock(&self.admin);
        let granted = admin.core.features.granted_submissions();
        let most = granted.min(admin.core.features.granted_completions());
        if qid == 0 || qid > most || self.is_discovery() {
            return Err(OpenError::Identifier);
        }
        let slot = admin.queues.get_mut(usize::from(qid)).ok_or(OpenError::Identifier)?;
        if slot.is_some() {
            return Err(OpenError::Taken);
        }
        let published = Arc::new(Published::default());
        *slot = Some(Arc::clone(&published));
        Ok(published)
    }

    /// Gives an I/O queue's identifier back.
    pub(crate) fn close_queue(&self, qid: u16) {
        let mut admin = lock(&self.admin);
        let slot = admin.queues.get_mut(usize::from(qid));
        if let Some(published) = slot.and_then(Option::take) {
            admin.gone.add(&published.load());
        }
    }

    /// Property Get.
    pub(crate) fn property_get(&self, sqe: &Sqe) -> Result<u64, Status> {
        let property = Property::of(sqe);
        let at = u64::from(property.offset);
        let size = property_size(at).filter(|size| property.size == Some(*size));
        let size = size.ok_or(Status::INVALID_FIELD.with_dnr())?;
        let admin = lock(&self.admin);
        let low = u64::from(admin.registers.read(at));
        Ok(if size == 8 { low | u64::from(admin.registers.read(at + 4)) << 32 } else { low })
    }

    /// Property Set: CC is the one that can be written.
    pub(crate) fn property_set(&self, sqe: &Sqe) -> Result<(), Status> {
        let property = Property::of(sqe);
        if u64::from(property.offset) != offset::CC || property.size != Some(4) {
            return Err(Status::INVALID_FIELD.with_dnr());
        }
        let cc = Cc::from_bits(property.value as u32);
        let mut admin = lock(&self.admin);
        let old = admin.registers.cc;
        admin.registers.cc = cc;
        match (old.en(), cc.en()) {
            (false, true) => self.enable(&mut admin),
            (true, false) => self.disable(&mut admin),
            _ => {}
        }
        if old.shn() == Cc::SHN_NONE && cc.shn() != Cc::SHN_NONE {
            self.epoch.store(0, Ordering::Release);
            // A drive that cannot flush has no better answer than to finish the shutdown.
            let _ = admin.core.subsystem.flush();
            admin.registers.csts.set_shst(Csts::SHST_COMPLETE);
        }
        Ok(())
    }

    fn enable(&self, admin: &mut Admin) {
        let cc = admin.registers.cc;
        let entries = cc.iosqes() == Cc::IOSQES_64 && cc.iocqes() == Cc::IOCQES_16;
        admin.registers.csts = Csts::new();
        if !admin.registers.is_acceptable() || !entries && !self.is_discovery() {
            admin.registers.csts.set_cfs(true);
            return;
        }
        admin.registers.csts.set_rdy(true);
        admin.epochs = admin.epochs.wrapping_add(1).max(1);
        self.epoch.store(admin.epochs, Ordering::Release);
    }

    /// Controller Reset: I/O queues, events and features go; the association and its admin queue stay.
    fn disable(&self, admin: &mut Admin) {
        self.epoch.store(0, Ordering::Release);
        self.failed.store(false, Ordering::SeqCst);
        admin.registers.csts = Csts::new();
        admin.core.forget();
        admin.core.features.kato = self.connect_kato;
        self.settings_changed(admin);
    }

    fn settings_changed(&self, admin: &Admin) {
        self.write_through.store(!admin.core.features.write_cache, Ordering::Relaxed);
        self.kato.store(round(admin.core.features.kato), Ordering::Relaxed);
    }

    /// Carries out an admin command that is no Fabrics command.
    pub(crate) fn admin_command(
        &self,
        target: &Target,
        local: std::net::SocketAddr,
        sqe: &Sqe,
        data: &mut dyn Transfer,
        now: Duration,
    ) -> Result<Outcome, Status> {
        let mut admin = lock(&self.admin);
        let admin = &mut *admin;
        if !admin.registers.csts.rdy() || self.epoch() == 0 {
            return Err(Status::COMMAND_SEQUENCE_ERROR.with_dnr());
        }
        if admin.core.events.holds(sqe.cid()) {
            return Err(Status::COMMAND_ID_CONFLICT.with_dnr());
        }
        if sqe.cdw0.fuse() != 0 {
            return Err(Status::INVALID_FIELD.with_dnr());
        }
        admin.core.now = now;
        admin.core.io_queues = admin.queues.iter().any(Option::is_some);
        if AdminOpcode(sqe.opcode()) == AdminOpcode::GET_LOG_PAGE {
            if self.is_discovery() && Lid(LogCdw10::from_bits(sqe.cdw10).lid()) == Lid::DISCOVERY {
                let page = discovery::page(target, &self.host.nqn, local);
                return admin.core.give_page(sqe, &page, data).map(Outcome::Done);
            }
            admin.core.counters = admin.total();
        }
        let outcome = admin.core.admin_command(sqe, data);
        self.settings_changed(admin);
        outcome
    }

    /// Abort. Event requests are the only commands of the admin queue that stay.
    pub(crate) fn abort(&self, sqe: &Sqe) -> Abort {
        let abort = AbortCdw10::from_bits(sqe.cdw10);
        let (sqid, cid) = (abort.sqid(), abort.cid());
        let mut admin = lock(&self.admin);
        if sqid == 0 {
            return if admin.core.events.abort(cid) { Abort::Event(cid) } else { Abort::None };
        }
        let Some(Some(queue)) = admin.queues.get(usize::from(sqid)) else { return Abort::None };
        let asked = Arc::new(Asked { cid, answer: AtomicU8::new(Asked::PENDING) });
        lock(&queue.aborts).push(Arc::clone(&asked));
        Abort::Asked(asked)
    }

    /// Takes note of what changed around the controller; the event to report now, and the request that it ends.
    pub(crate) fn event(&self, target: &Target) -> Option<(u16, AsyncEvent)> {
        let mut admin = lock(&self.admin);
        if self.epoch() == 0 {
            return None;
        }
        admin.core.refresh();
        if self.is_discovery() && admin.genctr != target.generation() {
            admin.genctr = target.generation();
            admin.core.discovery_notice();
        }
        admin.core.events.deliver()
    }
}

impl Admin {
    fn total(&self) -> Counters {
        let mut total = self.gone;
        for queue in self.queues.iter().flatten() {
            total.add(&queue.load());
        }
        total
    }
}

/// Why an I/O queue was not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OpenError {
    /// No queue has this identifier.
    Identifier,
    /// The queue exists.
    Taken,
}

/// A timeout in units of KAS, not less than what was asked for.
fn round(kato: u32) -> u32 {
    kato.checked_next_multiple_of(u32::from(KAS) * 100).unwrap_or(u32::MAX)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

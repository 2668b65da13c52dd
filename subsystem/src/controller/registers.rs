//! The register machine: CAP to CRTO, and what a write to CC sets in motion (RST-8).
//!
//! Owns the registers' values. Reset, enabling and shutdown take effect before the write returns, so that CSTS never
//! shows a state on the way.

use doorbell_spec::register::{self, Aqa, Cap, Cc, Crto, Csts, Vs, offset};
use doorbell_spec::status::Status;

use super::Controller;
use super::queue::{CompletionQueue, Doorbell, SubmissionQueue};
use crate::memory::Ring;

/// The revision whose rules the controller keeps (see the crate's documentation).
pub(crate) const VERSION: Vs = Vs::V2_0;
/// Time to become ready, in 500 ms. Enabling takes none; this is for hosts that share a busy machine.
const READY_TIMEOUT: u8 = 20;

/// Values of the registers below the doorbells.
#[derive(Debug)]
pub(crate) struct Registers {
    pub(crate) cap: Cap,
    pub(crate) cc: Cc,
    pub(crate) csts: Csts,
    aqa: Aqa,
    asq: u64,
    acq: u64,
    masked: u32,
}

impl Registers {
    pub(crate) fn new(mqes_z: u16, dstrd: u8, mpsmax: u8) -> Self {
        let cap = Cap::new()
            .with_mqes_z(mqes_z)
            .with_cqr(true)
            .with_to(READY_TIMEOUT)
            .with_dstrd(dstrd)
            .with_css(Cap::CSS_NVM | Cap::CSS_IOCS)
            .with_mpsmax(mpsmax)
            .with_crms(1);
        Self { cap, cc: Cc::new(), csts: Csts::new(), aqa: Aqa::new(), asq: 0, acq: 0, masked: 0 }
    }

    pub(crate) fn read(&self, at: u64) -> u32 {
        let crto = Crto::new().with_crwmt(u16::from(READY_TIMEOUT));
        match at {
            offset::CAP => self.cap.into_bits() as u32,
            at if at == offset::CAP + 4 => (self.cap.into_bits() >> 32) as u32,
            offset::VS => VERSION.into_bits(),
            offset::INTMS | offset::INTMC => self.masked,
            offset::CC => self.cc.into_bits(),
            offset::CSTS => self.csts.into_bits(),
            offset::AQA => self.aqa.into_bits(),
            offset::ASQ => self.asq as u32,
            at if at == offset::ASQ + 4 => (self.asq >> 32) as u32,
            offset::ACQ => self.acq as u32,
            at if at == offset::ACQ + 4 => (self.acq >> 32) as u32,
            offset::CRTO => crto.into_bits(),
            _ => 0,
        }
    }

    /// Whether what the host put into CC lets the controller be enabled.
    pub(crate) fn is_acceptable(&self) -> bool {
        let css = match self.cc.css() {
            Cc::CSS_NVM => Cap::CSS_NVM,
            Cc::CSS_ALL => Cap::CSS_IOCS,
            Cc::CSS_ADMIN_ONLY => Cap::CSS_NONE,
            _ => 0,
        };
        let mps = self.cc.mps();
        self.cap.css() & css != 0
            && (self.cap.mpsmin()..=self.cap.mpsmax()).contains(&mps)
            && self.cc.ams() == Cc::AMS_ROUND_ROBIN
    }

    /// Whether the host has said where the admin queues are.
    fn has_admin_queues(&self) -> bool {
        let in_page = (1u64 << (12 + self.cc.mps())) - 1;
        self.aqa.asqs_z() != 0 && self.aqa.acqs_z() != 0 && (self.asq | self.acq) & in_page == 0
    }
}

fn low(value: u64, half: u32) -> u64 {
    value & !0xffff_ffff | u64::from(half)
}

fn high(value: u64, half: u32) -> u64 {
    value & 0xffff_ffff | u64::from(half) << 32
}

impl Controller {
    /// Reads `width` bytes, 4 or 8, at `offset` of BAR0. Anything that is no register, and every doorbell, reads as
    /// zero.
    pub fn read(&mut self, offset: u64, width: usize) -> u64 {
        if !aligned(offset, width) || offset >= offset::DOORBELLS {
            return 0;
        }
        let low = u64::from(self.read_register(offset));
        let high = if width == 8 { u64::from(self.read_register(offset + 4)) } else { 0 };
        low | high << 32
    }

    /// Writes `width` bytes, 4 or 8, at `offset` of BAR0: a register, or a doorbell that is not mapped. Anything else
    /// is ignored.
    pub fn write(&mut self, offset: u64, width: usize, value: u64) {
        if !aligned(offset, width) {
            return;
        }
        if offset >= offset::DOORBELLS {
            return self.ring(offset, width, value);
        }
        self.write_dword(offset, value as u32);
        if width == 8 {
            self.write_dword(offset + 4, (value >> 32) as u32);
        }
    }

    fn write_dword(&mut self, at: u64, value: u32) {
        if self.faults.is_none() || self.written(at, value) {
            self.write_register(at, value);
        }
    }

    fn read_register(&mut self, at: u64) -> u32 {
        let value = self.registers.read(at);
        if self.faults.is_some() { self.read_faulty(at, value) } else { value }
    }

    pub(super) fn write_register(&mut self, at: u64, value: u32) {
        let registers = &mut self.registers;
        match at {
            offset::INTMS => registers.masked |= value,
            offset::INTMC => registers.masked &= !value,
            offset::CC => self.configure(Cc::from_bits(value)),
            offset::AQA => registers.aqa = Aqa::from_bits(value & 0x0fff_0fff),
            offset::ASQ => registers.asq = low(registers.asq, value),
            at if at == offset::ASQ + 4 => registers.asq = high(registers.asq, value),
            offset::ACQ => registers.acq = low(registers.acq, value),
            at if at == offset::ACQ + 4 => registers.acq = high(registers.acq, value),
            // The rest is read only, or a capability that is not there.
            _ => {}
        }
    }

    fn configure(&mut self, cc: Cc) {
        let old = self.registers.cc;
        match (old.en(), cc.en()) {
            (false, true) => {
                self.registers.cc = cc;
                self.enable();
            }
            (true, false) => {
                self.disable();
                self.registers.cc = cc.with_shn(Cc::SHN_NONE);
                return;
            }
            // Everything else only counts when the controller is enabled.
            (true, true) => {
                let cc = old.with_shn(cc.shn()).with_iosqes(cc.iosqes()).with_iocqes(cc.iocqes());
                self.registers.cc = cc;
            }
            (false, false) => self.registers.cc = cc,
        }
        if old.shn() == Cc::SHN_NONE && cc.shn() != Cc::SHN_NONE {
            self.shut_down();
        }
    }

    fn enable(&mut self) {
        let registers = &mut self.registers;
        registers.csts = Csts::new();
        if !registers.is_acceptable() || !registers.has_admin_queues() {
            registers.csts.set_cfs(true);
            return;
        }
        let (submissions, completions) =
            (u32::from(registers.aqa.asqs_z()) + 1, u32::from(registers.aqa.acqs_z()) + 1);
        let (asq, acq) = (registers.asq, registers.acq);
        registers.csts.set_rdy(true);
        self.page_shift = 12 + u32::from(registers.cc.mps());
        self.doorbells.clear();
        let ring = Ring::new(&self.memory, asq, u64::from(submissions) * 64);
        let doorbell = Doorbell::new(self.doorbell_index(0, false));
        let queue = SubmissionQueue::new(0, 0, submissions, ring, doorbell);
        self.queues.open_submission(queue);
        let ring = Ring::new(&self.memory, acq, u64::from(completions) * 16);
        let doorbell = Doorbell::new(self.doorbell_index(0, true));
        self.queues.open_completion(0, CompletionQueue::new(completions, ring, doorbell, Some(0)));
        self.running = true;
    }

    /// Controller Reset (RST-1): queues, events, shadow doorbells and volatile features go; AQA, ASQ and ACQ stay.
    fn disable(&mut self) {
        self.running = false;
        self.registers.csts = Csts::new();
        self.forget();
    }

    /// Shutdown notification (RST-5): what was written becomes durable. Nothing is processed afterwards.
    fn shut_down(&mut self) {
        self.running = false;
        // A drive that cannot flush has no better answer than to finish the shutdown.
        let _ = self.core.subsystem.flush();
        self.registers.csts.set_shst(Csts::SHST_COMPLETE);
    }

    /// Gives up: the host has to reset (TGT-6).
    #[cold]
    pub(crate) fn fail(&mut self) {
        self.running = false;
        self.registers.csts.set_cfs(true);
    }

    /// Function level reset: every register and everything behind it is as after power on. The memory map stays.
    pub fn reset(&mut self) {
        if !self.resettable() {
            return;
        }
        self.disable();
        let cap = self.registers.cap;
        self.registers = Registers::new(cap.mqes_z(), cap.dstrd(), cap.mpsmax());
        self.doorbells.clear();
    }

    /// A doorbell write that came as a message.
    fn ring(&mut self, offset: u64, width: usize, value: u64) {
        let at = offset - offset::DOORBELLS;
        let stride = register::doorbell_stride(self.core.config.dstrd);
        if width != 4 || !at.is_multiple_of(stride) || !self.running {
            return;
        }
        let index = (at / 4) as usize;
        if self.queues.has_doorbell(index) {
            self.doorbells.store(index, value as u32);
        } else {
            self.core.bad_doorbell_register();
        }
    }

    /// Index of a doorbell in the doorbell page.
    pub(crate) fn doorbell_index(&self, qid: u16, completion: bool) -> usize {
        let dstrd = self.core.config.dstrd;
        let offset = if completion {
            register::cq_head_doorbell(qid, dstrd)
        } else {
            register::sq_tail_doorbell(qid, dstrd)
        };
        ((offset - offset::DOORBELLS) / 4) as usize
    }

    /// Entry sizes that CC must select before I/O queues are created.
    pub(crate) fn entry_sizes_selected(&self) -> Result<(), Status> {
        let cc = self.registers.cc;
        if cc.iosqes() == Cc::IOSQES_64 && cc.iocqes() == Cc::IOCQES_16 {
            Ok(())
        } else {
            Err(Status::INVALID_QUEUE_SIZE.with_dnr())
        }
    }
}

fn aligned(offset: u64, width: usize) -> bool {
    matches!(width, 4 | 8) && offset.is_multiple_of(width as u64)
}

//! Bring-up and shutdown of a controller (NVM Express Base 2.1, 3.5 "Controller Initialization", 3.6 "Shutdown
//! Processing"), read top to bottom like the document. Works on [`Properties`], so that every transport shares it.

use std::time::Duration;

use doorbell_spec::register::{Aqa, Cap, Cc, Crto, Csts, Vs, offset};

use crate::clock::{Clock, Deadline};
use crate::device::{Device, DeviceError, Properties, Width};
use crate::quirk::Quirks;

/// Why a controller could not be brought up or shut down.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BringUpError {
    /// The registers read as all ones: nothing is there.
    #[error("{address}: registers read as all ones: the device is absent, asleep or removed")]
    Absent {
        /// Address as the user gave it.
        address: String,
    },
    /// The controller cannot be driven by this driver.
    #[error("{address}: {what}")]
    Unsupported {
        /// Address as the user gave it.
        address: String,
        /// What it reports, and what would be needed.
        what: String,
    },
    /// The controller did not become ready, idle or shut down in the time it asks for.
    #[error(
        "{address}: {what} did not happen within {after:?} (CSTS {csts:#010x}); {}",
        next_step(*refused)
    )]
    TimedOut {
        /// Address as the user gave it.
        address: String,
        /// What was waited for.
        what: &'static str,
        /// The deadline.
        after: Duration,
        /// CSTS when it passed.
        csts: u32,
        /// The register that asks for more than [`Config::ready_limit`](crate::Config::ready_limit), and for how much.
        refused: Option<(&'static str, Duration)>,
    },
    /// The controller reports a fatal status.
    #[error(
        "{address}: the controller reports a fatal error (CSTS.CFS) {when}; reset or power-cycle the drive"
    )]
    Fatal {
        /// Address as the user gave it.
        address: String,
        /// During which step.
        when: &'static str,
    },
    /// The registers could not be reached.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

/// What can be done about a controller that has not become ready.
fn next_step(refused: Option<(&str, Duration)>) -> String {
    match refused {
        Some((register, asked)) => format!(
            "{register} asks for {asked:?}, which is more than Config::ready_limit allows: raise it for a drive that means it"
        ),
        None => "power-cycle the drive if a reset does not help".to_owned(),
    }
}

/// How long a wait may take.
#[derive(Clone, Copy)]
struct Patience {
    longest: Duration,
    /// The register that asks for more than that, and for how much.
    refused: Option<(&'static str, Duration)>,
}

/// What the registers say of a controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Capabilities {
    pub(crate) cap: Cap,
    pub(crate) vs: Vs,
    /// log2 of the memory page size that the driver uses, CC.MPS + 12.
    pub(crate) page_shift: u32,
    /// What is known to be wrong with it.
    pub(crate) quirks: Quirks,
    /// The longest that is waited for it, whatever it asks for.
    pub(crate) limit: Duration,
}

impl Capabilities {
    /// Entries that a queue may have.
    pub(crate) fn max_entries(&self) -> u32 {
        u32::from(self.cap.mqes_z()) + 1
    }

    /// CC as this driver sets it, but for EN.
    pub(crate) fn configuration(&self) -> Cc {
        let all_command_sets = self.cap.css() & Cap::CSS_IOCS != 0;
        Cc::new()
            .with_css(if all_command_sets { Cc::CSS_ALL } else { Cc::CSS_NVM })
            .with_mps((self.page_shift - 12) as u8)
            .with_ams(Cc::AMS_ROUND_ROBIN)
            .with_shn(Cc::SHN_NONE)
            .with_iosqes(Cc::IOSQES_64)
            .with_iocqes(Cc::IOCQES_16)
    }

    /// The wait that CAP.TO asks for, at least one step of it, as far as that is granted.
    pub(crate) fn timeout(&self) -> Duration {
        self.patience(None).longest
    }

    /// The longer one of the waits that CAP.TO and CRTO ask for (as Linux: some have a CRTO below CAP.TO), as far as that
    /// is granted.
    fn patience(&self, crto: Option<Crto>) -> Patience {
        let by_cap = ("CAP.TO", STEP * u32::from(self.cap.to().max(1)));
        let by_crto = crto.map(|crto| ("CRTO.CRWMT", STEP * u32::from(crto.crwmt())));
        let (register, asked) = by_crto.filter(|(_, asked)| *asked > by_cap.1).unwrap_or(by_cap);
        let refused = (asked > self.limit).then_some((register, asked));
        Patience { longest: asked.min(self.limit), refused }
    }
}

/// Unit of CAP.TO and CRTO.
const STEP: Duration = Duration::from_millis(500);
/// Between two looks at CSTS.
const LOOK: Duration = Duration::from_millis(1);
/// Some controllers miss EN=1 right after RDY=0 (INIT-5).
const BEFORE_ENABLE: Duration = Duration::from_micros(100);
/// For those that must not be asked earlier whether they are ready.
const BEFORE_READY: Duration = Duration::from_millis(2300);
/// For those that need it after a function level reset.
const AFTER_RESET: Duration = Duration::from_secs(2);
/// Times a controller that reports CFS is reset before it is given up (PIT-13).
const RESETS: u32 = 1;

/// The registers of a controller being brought up.
pub(crate) struct Registers<'a> {
    pub(crate) properties: &'a dyn Properties,
    /// Address as the user gave it.
    pub(crate) address: &'a str,
    /// What can be reset when the controller does not obey.
    pub(crate) device: Option<&'a dyn Device>,
    pub(crate) clock: &'a dyn Clock,
}

/// I/O address and entries of the two admin rings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AdminRings {
    pub(crate) asq: (u64, u32),
    pub(crate) acq: (u64, u32),
}

/// Whether CSTS says that the controller works.
pub(crate) fn is_sound(properties: &dyn Properties) -> bool {
    let csts = properties.read(offset::CSTS, Width::Dword).map(|value| Csts::from(value as u32));
    csts.is_ok_and(|csts| !csts.is_absent() && csts.rdy() && !csts.cfs())
}

impl Registers<'_> {
    fn address(&self) -> String {
        self.address.to_owned()
    }

    fn read32(&self, offset: u64) -> Result<u32, BringUpError> {
        Ok(self.properties.read(offset, Width::Dword)? as u32)
    }

    fn read64(&self, offset: u64) -> Result<u64, BringUpError> {
        Ok(self.properties.read(offset, Width::Qword)?)
    }

    fn write32(&self, offset: u64, value: u32) -> Result<(), BringUpError> {
        Ok(self.properties.write(offset, Width::Dword, value.into())?)
    }

    fn write64(&self, offset: u64, value: u64) -> Result<(), BringUpError> {
        Ok(self.properties.write(offset, Width::Qword, value)?)
    }

    /// CSTS, of a controller that is there. The one place that judges all-ones (INIT-9, RST-7).
    ///
    /// A read that nobody answers is all ones, whatever the register; a device that answers has none that is: CSTS has
    /// reserved bits, and there is no such version. So it takes both to say that a device has gone, after which it is
    /// left alone for good. If it is CSTS alone, a second look counts; should that be all ones again, it has every bit
    /// set that is bad, and nothing that is waited for has happened.
    pub(crate) fn status(&self) -> Result<Csts, BringUpError> {
        let csts = Csts::from(self.read32(offset::CSTS)?);
        if !csts.is_absent() {
            return Ok(csts);
        }
        if self.read32(offset::VS)? == u32::MAX {
            return Err(BringUpError::Absent { address: self.address() });
        }
        Ok(Csts::from(self.read32(offset::CSTS)?))
    }

    fn configuration(&self) -> Result<Cc, BringUpError> {
        self.status()?;
        Ok(Cc::from(self.read32(offset::CC)?))
    }

    fn unsupported(&self, what: String) -> BringUpError {
        BringUpError::Unsupported { address: self.address(), what }
    }

    /// Waits until `is` holds of CSTS.
    fn wait(
        &self,
        what: &'static str,
        patience: Patience,
        fatal_ends_it: bool,
        is: impl Fn(Csts) -> bool,
    ) -> Result<(), BringUpError> {
        let Patience { longest, refused } = patience;
        let deadline = Deadline::after(self.clock, longest);
        let mut round = 0;
        loop {
            // Judged before the status: whoever waits too long for its turn to look has still looked once more.
            let late = deadline.passed(self.clock);
            let csts = self.status()?;
            if !csts.is_absent() && is(csts) {
                return Ok(());
            }
            if fatal_ends_it && csts.cfs() {
                return Err(BringUpError::Fatal { address: self.address(), when: what });
            }
            if late {
                let csts = u32::from(csts);
                return Err(BringUpError::TimedOut {
                    address: self.address(),
                    what,
                    after: longest,
                    csts,
                    refused,
                });
            }
            self.clock.pause(round, LOOK);
            round += 1;
        }
    }

    /// INIT-1, INIT-2: is there a controller, and can it be driven?
    pub(crate) fn inspect(
        &self,
        quirks: Quirks,
        limit: Duration,
    ) -> Result<Capabilities, BringUpError> {
        // PIT-01: one look; there is nothing yet that could be lost by believing it.
        if Csts::from(self.read32(offset::CSTS)?).is_absent() {
            return Err(BringUpError::Absent { address: self.address() });
        }
        let mut cap = Cap::from(self.read64(offset::CAP)?);
        let vs = Vs::from(self.read32(offset::VS)?);
        if u64::from(cap) == u64::MAX {
            return Err(BringUpError::Absent { address: self.address() });
        }
        if cap.mqes_z() == 0 && quirks.has(Quirks::MQES_ZERO) {
            cap.set_mqes_z(63);
        }
        if cap.mqes_z() == 0 {
            return Err(
                self.unsupported("CAP.MQES is 0: a queue of one entry holds no command".into())
            );
        }
        if cap.mpsmax() < cap.mpsmin() {
            let (min, max) = (cap.mpsmin(), cap.mpsmax());
            return Err(self.unsupported(format!("CAP.MPSMAX ({max}) is below CAP.MPSMIN ({min})")));
        }
        let page_shift = 12 + u32::from(cap.mpsmin());
        if page_shift > 16 {
            let size = 1u64 << page_shift;
            return Err(self.unsupported(format!(
                "memory pages of {size} bytes; this driver has up to 64 KiB"
            )));
        }
        Ok(Capabilities { cap, vs, page_shift, quirks, limit })
    }

    /// INIT-3, INIT-4: from whatever state it was left in to disabled. One function level reset if it does not obey.
    pub(crate) fn disable(&self, capabilities: &Capabilities) -> Result<(), BringUpError> {
        let resettable = self.device.filter(|device| device.info().resettable);
        match (self.disable_once(capabilities), resettable) {
            (Err(BringUpError::TimedOut { .. } | BringUpError::Fatal { .. }), Some(device)) => {
                device.reset()?;
                self.delay(capabilities, Quirks::DELAY_AFTER_RESET);
                self.disable_once(capabilities)
            }
            (other, _) => other,
        }
    }

    /// Keeps away from the registers of a controller that has to be left alone for a while.
    pub(crate) fn delay(&self, capabilities: &Capabilities, quirk: Quirks) {
        if !capabilities.quirks.has(quirk) {
            return;
        }
        let long = if quirk == Quirks::DELAY_READY { BEFORE_READY } else { AFTER_RESET };
        let until = Deadline::after(self.clock, long);
        let mut round = 0;
        while !until.passed(self.clock) {
            self.clock.pause(round, LOOK);
            round += 1;
        }
    }

    fn disable_once(&self, capabilities: &Capabilities) -> Result<(), BringUpError> {
        let patience = capabilities.patience(None);
        let cc = self.configuration()?;
        if cc.en() {
            let csts = self.status()?;
            if !csts.rdy() && !csts.cfs() {
                // Clearing EN while an earlier 0 to 1 transition is under way is undefined.
                let _best_effort =
                    self.wait("CSTS.RDY=1 of an enable under way", patience, true, |csts| {
                        csts.rdy()
                    });
            }
        }
        // Also where EN reads as 0 already: what follows gives memory back, and a register that is wrong must not decide that.
        // SHN stays 0: a shutdown notification would let it finish commands into memory that is not ours.
        self.write32(offset::CC, cc.with_en(false).with_shn(Cc::SHN_NONE).into())?;
        if cc.en() {
            self.delay(capabilities, Quirks::DELAY_READY);
        }
        self.wait("CSTS.RDY=0 after CC.EN=0", patience, false, |csts| !csts.rdy())
    }

    /// INIT-5 to INIT-10: enables the controller, over admin rings that hold zeros where its transport has rings.
    pub(crate) fn enable(
        &self,
        capabilities: &Capabilities,
        rings: Option<AdminRings>,
    ) -> Result<(), BringUpError> {
        self.clock.pause(u32::MAX, BEFORE_ENABLE);
        if self.status()?.rdy() {
            let what = "CSTS.RDY=0 with CC.EN=0";
            let csts = self.read32(offset::CSTS)?;
            return Err(BringUpError::TimedOut {
                address: self.address(),
                what,
                after: BEFORE_ENABLE,
                csts,
                refused: None,
            });
        }
        if let Some(AdminRings { asq, acq }) = rings {
            let size_z = |entries: u32| (entries - 1) as u16;
            let aqa = Aqa::new().with_asqs_z(size_z(asq.1)).with_acqs_z(size_z(acq.1));
            self.write32(offset::AQA, aqa.into())?;
            self.write64(offset::ASQ, asq.0)?;
            self.write64(offset::ACQ, acq.0)?;
        }

        let cc = capabilities.configuration();
        self.write32(offset::CC, cc.into())?;
        // The wait may depend on what CC selects: read CAP again.
        let cap = Cap::from(self.read64(offset::CAP)?);
        let crto = match cap.crwms() {
            true => Some(Crto::from(self.read32(offset::CRTO)?)),
            false => None,
        };
        let patience = Capabilities { cap, ..*capabilities }.patience(crto);
        let mut resets = 0;
        loop {
            self.write32(offset::CC, cc.with_en(true).into())?;
            self.delay(capabilities, Quirks::DELAY_READY);
            match self.wait("CSTS.RDY=1 after CC.EN=1", patience, true, |csts| csts.rdy()) {
                Err(BringUpError::Fatal { .. }) if resets < RESETS => {
                    resets += 1;
                    self.write32(offset::CC, cc.into())?;
                    self.wait("CSTS.RDY=0 after CC.EN=0", patience, false, |csts| !csts.rdy())?;
                }
                other => return other,
            }
        }
    }

    /// RST-5: normal shutdown, within `longest`. The queues have been deleted.
    pub(crate) fn shut_down(&self, longest: Duration) -> Result<(), BringUpError> {
        let cc = self.configuration()?;
        if !cc.en() {
            return Ok(());
        }
        self.write32(offset::CC, cc.with_shn(Cc::SHN_NORMAL).into())?;
        let patience = Patience { longest, refused: None };
        self.wait("CSTS.SHST=complete after CC.SHN", patience, true, |csts| {
            csts.shst() == Csts::SHST_COMPLETE
        })
    }
}

//! Opens what the command line names and puts the queues together.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use doorbell::address::Backing;
use doorbell::clock::SystemClock;
use doorbell::device::embedded::Embedded;
use doorbell::{Address, Controller, QueueConfig};
use doorbell_subsystem::fault::{Counters, Plan as FaultPlan};

use crate::clock::Clock;
use crate::config::{Config, EngineKind};
use crate::crew::{Crew, Lanes};
use crate::engine::Engine;
use crate::engine::doorbell::Doorbell;
use crate::engine::io_uring::Uring;
use crate::engine::kernel::KernelTarget;
use crate::engine::pread::Pread;
use crate::guard::Guard;
use crate::lane::Lane;
use crate::plan::{Device, Plan, Share};
use crate::random::Random;
use crate::units;
use crate::workload::{Operation, Workload};

/// Longest list of deallocated blocks: one page, since some controllers read so much whatever the list's length.
const TRIM_LIST: usize = 4096;

/// One engine with its devices and its lanes, a crew for each worker.
pub struct Side {
    /// Which engine.
    pub engine: EngineKind,
    /// What it works on.
    pub devices: Vec<Device>,
    /// One crew for each worker.
    pub crews: Vec<Box<dyn Crew>>,
    /// Controllers to shut down when everything has been reported.
    pub controllers: Vec<Controller>,
    /// What each drive that misbehaves by a plan has done.
    pub faults: Vec<Counters>,
}

/// Opens the engine of the run and the one it is compared with.
///
/// # Errors
/// What is wrong with an address, a drive, or the consent to overwrite it.
pub fn open(config: &Config, clock: Clock, consent: bool) -> anyhow::Result<Vec<Side>> {
    let mut sides = vec![side(config, config.engine, &config.addresses, clock, consent)?];
    if let Some(engine) = config.compare {
        let targets = compare_targets(config, engine)?;
        sides.push(side(config, engine, &targets, clock, consent).context("--compare")?);
    }
    Ok(sides)
}

fn compare_targets(config: &Config, engine: EngineKind) -> anyhow::Result<Vec<String>> {
    if let Some(target) = &config.compare_target {
        return Ok(vec![target.clone()]);
    }
    if engine.is_kernel() == config.engine.is_kernel() {
        return Ok(config.addresses.clone());
    }
    let files: Option<Vec<String>> =
        config.addresses.iter().map(|address| file_behind(address)).collect();
    files.filter(|_| engine.is_kernel()).with_context(|| {
        let name = engine.name();
        let addresses = config.addresses.join(" ");
        let wanted = if engine.is_kernel() { "a block device or file" } else { "an address" };
        format!(
            "--compare {name}: {name} cannot use {addresses}; name {wanted} with --compare-target"
        )
    })
}

/// The file that an embedded drive keeps its data in.
fn file_behind(address: &str) -> Option<String> {
    match address.parse() {
        Ok(Address::Embedded(options)) => match options.backing {
            Backing::File(path) => path.to_str().map(str::to_owned),
            _ => None,
        },
        _ => None,
    }
}

fn side(
    config: &Config,
    engine: EngineKind,
    targets: &[String],
    clock: Clock,
    consent: bool,
) -> anyhow::Result<Side> {
    if engine.is_kernel() && config.workload == Workload::Compare {
        bail!("the kernel has no compare command; use --engine doorbell");
    }
    let mut side = Side {
        engine,
        devices: Vec::new(),
        crews: Vec::new(),
        controllers: Vec::new(),
        faults: Vec::new(),
    };
    match engine {
        EngineKind::Doorbell => {
            let mut drives = Vec::new();
            for target in targets {
                let plan = plan_of_faults(config)?;
                side.faults.extend(plan.as_ref().map(FaultPlan::counters));
                let (drive, device) = open_drive(config, target, consent, plan)?;
                side.controllers.push(drive.controller.clone());
                side.devices.push(device);
                drives.push(drive);
            }
            side.crews = crews(config, clock, &mut side.devices, |index, plan| {
                let drive: &Drive = drives.get(index).context("a device without a drive")?;
                drive.queue(config, plan.blocks)
            })?;
        }
        EngineKind::IoUring | EngineKind::Pread => {
            let mut files = Vec::new();
            for target in targets {
                let (file, device) = open_file(config, engine, target, consent)?;
                side.devices.push(device);
                files.push(Arc::new(file));
            }
            let file = |index: usize| -> anyhow::Result<Arc<KernelTarget>> {
                files.get(index).cloned().context("a device without a file")
            };
            let len = config.block_size as usize;
            side.crews = if engine == EngineKind::Pread {
                crews(config, clock, &mut side.devices, |index, _| {
                    Ok((Pread::new(file(index)?, len)?, None))
                })?
            } else {
                crews(config, clock, &mut side.devices, |index, _| {
                    let ring = Uring::new(file(index)?, config.depth, len as u32, config.iopoll);
                    let ring = ring.context(
                        "io_uring (allowed by kernel.io_uring_disabled and by containers?)",
                    )?;
                    Ok((ring, None))
                })?
            };
        }
    }
    Ok(side)
}

/// Makes the lanes of every worker; `queue` opens one more queue of a device, and says what is to be noted about it.
fn crews<E: Engine + 'static>(
    config: &Config,
    clock: Clock,
    devices: &mut [Device],
    queue: impl Fn(usize, &Plan) -> anyhow::Result<(E, Option<String>)>,
) -> anyhow::Result<Vec<Box<dyn Crew>>> {
    let workers = config.cores.count();
    let lanes_each = workers * config.queues;
    let streams = (devices.len() * lanes_each) as u64;
    let mut crews: Vec<Vec<Lane<E>>> = (0..workers).map(|_| Vec::new()).collect();
    for (index, device) in devices.iter_mut().enumerate() {
        let plan = Plan::new(config, index, device)?;
        for lane in 0..lanes_each {
            let (mut engine, note) = queue(index, &plan)?;
            device.note = device.note.take().or(note);
            let share = Share { index: lane as u64, of: lanes_each as u64 };
            let stream = Share { index: (index * lanes_each + lane) as u64, of: streams };
            fill(config, &mut engine, stream.index);
            let lane_config = plan.lane(config, &clock, share, stream);
            if let Some(crew) = crews.get_mut(lane % workers) {
                crew.push(Lane::new(engine, clock, lane_config));
            }
        }
    }
    Ok(crews.into_iter().map(|lanes| Box::new(Lanes::new(lanes, clock)) as Box<dyn Crew>).collect())
}

/// What is written does not compress, as drives that compress would look better than they are.
fn fill<E: Engine>(config: &Config, engine: &mut E, stream: u64) {
    if !config.may_prefill() && !config.workload.operations().contains(&Operation::Write) {
        return;
    }
    let mut random = Random::new(!config.seed, stream);
    for tag in 0..engine.depth() {
        for word in engine.buffer(tag).as_chunks_mut::<8>().0 {
            *word = random.bits().to_le_bytes();
        }
    }
}

/// An attached controller and its namespace.
struct Drive {
    controller: Controller,
    namespace: doorbell::Namespace,
}

/// How embedded drives are to misbehave, if they are.
fn plan_of_faults(config: &Config) -> anyhow::Result<Option<FaultPlan>> {
    let Some(path) = &config.faults else { return Ok(None) };
    let what = || format!("--faults {}", path.display());
    let text = std::fs::read_to_string(path).with_context(what)?;
    Ok(Some(text.parse().with_context(what)?))
}

fn attach(
    address: &Address,
    config: doorbell::Config,
    plan: Option<FaultPlan>,
) -> anyhow::Result<Controller> {
    match (address, plan) {
        (address, None) => Ok(Controller::attach(address, config)?),
        (Address::Embedded(options), plan) => {
            let device = Embedded::open(options)?;
            // From the beginning, bring-up included.
            device.port().set_faults(plan);
            let clock = Arc::new(SystemClock::new());
            Ok(Controller::attach_device(Arc::new(device), config, clock)?)
        }
        (address, Some(_)) => {
            bail!(
                "--faults is for embedded drives, and {address} is none; give the plan to its server: doorbell-subsystem --faults FILE"
            )
        }
    }
}

fn open_drive(
    config: &Config,
    target: &str,
    consent: bool,
    faults: Option<FaultPlan>,
) -> anyhow::Result<(Drive, Device)> {
    let address: Address =
        target.parse().map_err(|error| hint_at_kernel(target, anyhow::Error::new(error)))?;
    let canonical = address.to_string();
    if config.is_destructive() {
        let bdf = match &address {
            Address::Embedded(_) => None,
            Address::Pcie(bdf) => Some(Some(bdf.to_string())),
            _ => Some(None),
        };
        if let Some(bdf) = bdf {
            Guard::default().allow_address(&canonical, bdf.as_deref(), consent)?;
        }
    }
    let mut settings = doorbell::Config::default();
    let queues = config.cores.count() * config.queues;
    settings.detach_on_request = true;
    settings.io_queues = u16::try_from(queues).unwrap_or(u16::MAX);
    let controller = attach(&address, settings, faults)?;
    let namespace = match config.namespace {
        Some(nsid) => controller.namespace(nsid)?,
        None => {
            let first = controller.namespace_ids()?.into_iter().next();
            controller
                .namespace(first.with_context(|| format!("{canonical}: no active namespace"))?)?
        }
    };
    let identity = controller.identify();
    let (model, serial) = (identity.model().to_string(), identity.serial().to_string());
    let firmware = identity.firmware().to_string();
    let (model, serial, firmware) = (model.trim(), serial.trim(), firmware.trim());
    let device = Device {
        address: canonical,
        description: format!("{model} {serial}, namespace {}", namespace.id()),
        namespace: Some(namespace.id()),
        block: namespace.block_size(),
        bytes: namespace.bytes(),
        span: namespace.bytes(),
        note: None,
        in_memory: matches!(&address, Address::Embedded(options) if options.backing == Backing::Memory),
        facts: vec![
            ("model", model.to_owned()),
            ("serial", serial.to_owned()),
            ("firmware", firmware.to_owned()),
        ],
    };
    Ok((Drive { controller, namespace }, device))
}

/// A path where an address is expected is most likely meant for a kernel engine.
fn hint_at_kernel(target: &str, error: anyhow::Error) -> anyhow::Error {
    if Path::new(target).exists() {
        error.context(format!(
            "{target} is a path; --engine io_uring or pread measures it through the kernel"
        ))
    } else {
        error
    }
}

impl Drive {
    fn queue(&self, config: &Config, blocks: u64) -> anyhow::Result<(Doorbell, Option<String>)> {
        let most = usize::from(u16::MAX - 1);
        let mut layout = QueueConfig::with_depth((config.depth as usize).min(most) as u16);
        layout.max_transfer =
            layout.max_transfer.max(config.block_size as usize).min(QueueConfig::MAX_TRANSFER);
        let queue = self.controller.queue(layout)?;
        let depth = queue.depth().min(config.depth as usize);
        let note = (depth < config.depth as usize)
            .then(|| format!("depth is {depth}, since the controller's queues hold no more"));
        let len = match config.workload {
            Workload::Flush | Workload::WriteZeroes => None,
            Workload::Trim => Some(TRIM_LIST),
            _ => Some(config.block_size as usize),
        };
        let buffers: Result<Vec<_>, _> =
            (0..depth).map(|_| len.map(|len| self.controller.buffer(len)).transpose()).collect();
        let buffers = buffers.with_context(|| {
            let all = units::size((depth * len.unwrap_or(0)) as u64);
            format!(
                "no DMA memory for {all} of buffers; a smaller --depth or --block-size needs less"
            )
        })?;
        // What goes through no IOMMU does as well on ordinary pages.
        let address = self.controller.address();
        let emulated = address.starts_with("embedded:") || address.starts_with("tcp:");
        let notices = (!emulated).then(|| self.controller.memory().notices());
        let note = note.or_else(|| notices?.into_iter().next());
        Ok((Doorbell::new(queue, self.namespace.clone(), buffers, blocks), note))
    }
}

fn open_file(
    config: &Config,
    engine: EngineKind,
    target: &str,
    consent: bool,
) -> anyhow::Result<(KernelTarget, Device)> {
    let path = PathBuf::from(target);
    if target.starts_with("embedded:")
        || target.starts_with("pcie:")
        || target.starts_with("vfio-user:")
        || target.starts_with("tcp:")
    {
        bail!(
            "{} needs the path of a block device or file, not the address {target}",
            engine.name()
        );
    }
    let destructive = config.is_destructive();
    if destructive {
        Guard::default().allow_path(&path, consent)?;
    }
    let write = destructive || config.workload == Workload::Flush;
    let file = KernelTarget::open(&path, write, destructive)?;
    let kind = if file.is_block_device { "block device" } else { "file" };
    let access = if file.direct { "direct I/O" } else { "through the page cache" };
    let mut notes = Vec::new();
    if !file.direct {
        notes.push("the filesystem has no direct I/O, so this measures the page cache".to_owned());
    }
    if file.is_sparse && !config.is_destructive() {
        notes.push(
            "the file has holes, which cost nothing to read; --prefill writes all of it first"
                .to_owned(),
        );
    }
    if engine == EngineKind::Pread && config.depth > 1 {
        notes.push("pread has one I/O in flight on each queue, whatever --depth says".to_owned());
    }
    let device = Device {
        address: target.to_owned(),
        description: format!("{kind}, {access} by {}", engine.name()),
        namespace: None,
        block: file.block,
        bytes: file.bytes,
        span: file.bytes,
        note: (!notes.is_empty()).then(|| notes.join("; ")),
        in_memory: false,
        facts: vec![("kind", kind.to_owned())],
    };
    Ok((file, device))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_of_an_embedded_drive_serves_for_comparison() {
        assert_eq!(file_behind("embedded:block=512,file=disk.img"), Some("disk.img".to_owned()));
        assert_eq!(file_behind("embedded:size=1GiB"), None);
        let compare = Some(EngineKind::IoUring);
        let config =
            Config { addresses: vec!["embedded:file=a".into()], compare, ..Config::default() };
        assert_eq!(compare_targets(&config, EngineKind::IoUring).expect("a file"), ["a"]);
        let config = Config { compare, ..Config::default() };
        let error = compare_targets(&config, EngineKind::IoUring).expect_err("no file").to_string();
        assert!(error.contains("--compare-target"), "{error}");
    }
}

//! Pages that a controller fills in: Identify, log pages, lists, descriptors.
//!
//! Input: a byte that says how many changes, each of which names a page, the first reply that it is about, and bytes for
//! a place in it; and the rest is a page of its own. The pages go through the whole driver, changed; the last one goes to
//! the parsers as it is. Lists end, text can be shown, block sizes that are used are powers of two of at least 512, and
//! I/O on what comes out of it ends as it should, in the buffers that it was given.

use std::fmt::Write;

use doorbell::clock::Clock;
use doorbell::{Buffer, Controller, Namespace};
use doorbell_spec::admin::AdminOpcode;
use doorbell_spec::feature::Fid;
use doorbell_spec::identify::{
    ControllerList, IdentifyController, IdentifyNamespace, IndependentNamespace,
    NamespaceDescriptorList, NamespaceList, NvmController,
};
use doorbell_spec::log::{
    ChangedNamespaceList, CommandEffectsLog, ErrorLogEntry, FeatureEffectsLog, FirmwareSlotLog,
    Lid, SmartLog, SupportedLogPages,
};
use doorbell_subsystem::fault::{Commands, Plan, Rule};
use zerocopy::FromBytes;

use super::Input;
use super::scene::Scene;
use super::storm::Open;

/// Identify pages by CNS, then log pages by identifier.
const CNS: [u8; 8] = [0x00, 0x01, 0x02, 0x03, 0x05, 0x06, 0x08, 0x1c];
const LID: [u8; 8] = [0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x12, 0x13];

/// A change: which page, when, where, what. Short ones repeat.
fn rule(input: &mut Input<'_>) -> Rule {
    let (which, when) = (input.byte(), input.byte());
    let (at, count, fill) = (usize::from(input.half() & 0xfff), input.byte(), input.byte());
    let bytes = input.bytes(usize::from(count & 0x3f)).to_vec();
    let at_pages = if which & 8 == 0 {
        Commands::admin(AdminOpcode::IDENTIFY).selector(CNS[usize::from(which & 7)])
    } else {
        Commands::admin(AdminOpcode::GET_LOG_PAGE).selector(LID[usize::from(which & 7)])
    };
    // Once, a few times over, or to the end.
    let times = [1, 2, 16, usize::MAX][usize::from(count >> 6)];
    let rule = Rule::reply(at_pages, move |page| {
        if which & 0x80 != 0 {
            page.fill(fill);
        }
        let to = page.iter_mut().skip(at);
        let bytes = bytes.iter().cycle().take(bytes.len().saturating_mul(times));
        to.zip(bytes).for_each(|(to, byte)| *to = *byte);
    });
    let rule = rule.after(u64::from(when & 7));
    if when & 0x80 != 0 { rule.times(1 + u64::from(when >> 3 & 7)) } else { rule }
}

/// What must hold for any bytes.
///
/// # Panics
/// If something does not.
pub fn body(bytes: &[u8]) {
    let mut input = Input(bytes);
    let scene = Scene::new();
    let rules = input.byte() & 7;
    let plan = (0..rules).fold(Plan::new(1), |plan, _| plan.rule(rule(&mut input)));
    scene.set(Some(plan));
    if let Some(controller) = scene.attach() {
        through(&scene, &controller);
        scene.close(controller);
    }
    parse(input.0);
}

/// Everything that reads pages, by way of the driver.
fn through(scene: &Scene, controller: &Controller) {
    show_controller(controller.identify());
    let limits = controller.limits();
    assert!(limits.max_transfer >= 4096, "{limits:?}");
    let ids = controller.namespace_ids().unwrap_or_default();
    assert!(ids.len() <= 1 << 17 && ids.is_sorted_by(|one, next| one < next), "{} ids", ids.len());
    for nsid in ids.into_iter().take(4).chain([1, 2]) {
        if let Ok(list) = controller.identify_descriptors(nsid) {
            descriptors(&list);
        }
        if let Ok(namespace) = controller.namespace(nsid) {
            io(scene, controller, &namespace);
        }
    }
    if let Ok(list) = controller.identify_namespace(1) {
        show_namespace(&list);
    }
    assert!(controller.error_log().is_ok_and(|entries| entries.len() <= 256));
    if let Ok(log) = controller.log_page::<SmartLog>() {
        smart(&log);
    }
    if let Ok(log) = controller.log_page::<FirmwareSlotLog>() {
        firmware(&log);
    }
    drop(controller.event_page::<ChangedNamespaceList>());
    drop(controller.log_page::<CommandEffectsLog>());
    drop(controller.log_page::<SupportedLogPages>());
    drop(controller.feature(Fid::TEMPERATURE_THRESHOLD, 0, 0));
    controller.poll(|_| {});
    drop(controller.reset());
    controller.poll(|_| {});
}

/// Reads and writes: each ends once, with its buffer, and touches nothing beside it.
fn io(scene: &Scene, controller: &Controller, namespace: &Namespace) {
    let block = namespace.block_size();
    assert!(block.is_power_of_two() && block >= 512, "blocks of {block} bytes");
    assert!(namespace.blocks() > 0 && namespace.bytes() / u64::from(block) == namespace.blocks());
    let Some(mut queue) = Scene::queue(controller, 4) else { return };
    let size = block as usize;
    let mut open = Open::default();
    if size <= 1 << 16 {
        // Side by side in one block of memory, as small buffers are.
        let buffer = |fill| {
            let mut buffer = controller.buffer(size).expect("memory");
            buffer.fill(fill);
            buffer
        };
        let around: Vec<Buffer> = (0..4).map(|_| buffer(0xa5)).collect();
        let (first, second) = (buffer(0x11), buffer(0x22));
        let after: Vec<Buffer> = (0..4).map(|_| buffer(0xa5)).collect();
        open.submit(&mut queue, namespace.write(namespace.blocks() - 1, first));
        open.submit(&mut queue, namespace.read(0, second));
        queue.ring();
        open.settle(&mut queue, &*scene.clock);
        let around = around.iter().chain(&after);
        assert!(
            around.into_iter().all(|buffer| buffer.iter().all(|byte| *byte == 0xa5)),
            "written beside a buffer, by commands in blocks of {block}"
        );
    }
    open.submit(&mut queue, namespace.flush());
    queue.ring();
    open.settle(&mut queue, &*scene.clock);
    scene.clock.pause(0, std::time::Duration::from_micros(1));
}

/// The parsers, each given the same bytes.
fn parse(bytes: &[u8]) {
    let mut page = [0; 4096];
    for (to, from) in page.iter_mut().zip(bytes) {
        *to = *from;
    }
    show_controller(&IdentifyController::read_from_bytes(&page).expect("a page"));
    show_namespace(&IdentifyNamespace::read_from_bytes(&page).expect("a page"));
    descriptors(&NamespaceDescriptorList::read_from_bytes(&page).expect("a page"));
    let list = NamespaceList::read_from_bytes(&page).expect("a page");
    assert!(list.iter().count() <= NamespaceList::CAPACITY);
    for last in [0, 1, u32::MAX - 1, u32::MAX] {
        let mut before = last;
        for nsid in list.after(last) {
            assert!(nsid > before, "{nsid} behind {before}");
            before = nsid;
        }
    }
    let controllers = ControllerList::read_from_bytes(&page).expect("a page");
    assert!(controllers.iter().count() <= 2047);
    let changed = ChangedNamespaceList::read_from_bytes(&page).expect("a page");
    assert!(changed.iter().count() <= 1024);
    let _ = changed.overflowed();
    let effects = CommandEffectsLog::read_from_bytes(&page).expect("a page");
    let supported = SupportedLogPages::read_from_prefix(&page).expect("a page").0;
    let features = FeatureEffectsLog::read_from_prefix(&page).expect("a page").0;
    let mut text = String::new();
    for index in 0..=u8::MAX {
        let _ = write!(text, "{:?}{:?}", effects.admin(index), effects.io(index));
        let _ =
            write!(text, "{:?}{:?}", supported.support(Lid(index)), features.effects(Fid(index)));
    }
    if let Ok((nvm, _)) = NvmController::read_from_prefix(&page) {
        let _ = write!(text, "{nvm:?}");
        for mpsmin in 0..16 {
            let _ = NvmController::bytes(page[0], mpsmin);
        }
    }
    if let Ok((independent, _)) = IndependentNamespace::read_from_prefix(&page) {
        let _ = write!(text, "{independent:?}");
    }
    if let Ok((entry, _)) = ErrorLogEntry::read_from_prefix(&page) {
        let _ = write!(text, "{entry:?}{}", entry.status());
    }
    smart(&SmartLog::read_from_prefix(&page).expect("a page").0);
    firmware(&FirmwareSlotLog::read_from_prefix(&page).expect("a page").0);
}

fn show_controller(identify: &IdentifyController) {
    let mut text = String::new();
    for name in [identify.serial(), identify.model(), identify.firmware()] {
        let _ = write!(text, "{name}{name:?}");
        assert!(name.chars().count() <= name.as_bytes().len());
    }
    if let Some(nqn) = identify.nqn() {
        let _ = write!(text, "{nqn}");
    }
    let _ = write!(
        text,
        "{:?}{:?}{:?}{:?}{:?}{:?}{:?}{:?}{:?}{:?}{}",
        identify.version(),
        identify.cmic(),
        identify.ctratt(),
        identify.oacs(),
        identify.oncs(),
        identify.frmw(),
        identify.lpa(),
        identify.fna(),
        identify.vwc(),
        identify.sgls(),
        identify.max_in_capsule(),
    );
    for mpsmin in 0..16 {
        assert!(identify.max_transfer(mpsmin).is_none_or(|bytes| bytes >= 4096));
    }
    let _ = (identify.sqes(), identify.cqes());
}

fn show_namespace(identify: &IdentifyNamespace) {
    assert!(identify.formats() > 0);
    let _ = (identify.nsfeat(), identify.flbas(), identify.dlfeat(), identify.is_absent());
    if let Some(block) = identify.block_size() {
        assert!(block.is_power_of_two() && block >= 512);
        assert!(identify.lba_format().is_some());
    }
    if let (Some(size), Some(block)) = (identify.size(), identify.block_size()) {
        assert!(size.is_multiple_of(block.into()));
    }
}

fn descriptors(list: &NamespaceDescriptorList) {
    // Each takes four bytes at least.
    assert!(list.iter().count() <= 1024);
    let text = format!("{:?}{:?}", list.identifiers(), list.iter().collect::<Vec<_>>());
    assert!(!text.is_empty());
}

fn smart(log: &SmartLog) {
    let text = format!("{:?}{:?}", log.critical_warning(), log.celsius());
    assert!(!text.is_empty());
}

fn firmware(log: &FirmwareSlotLog) {
    for slot in 0..=u8::MAX {
        assert!(log.revision(slot).is_none_or(|revision| revision.as_bytes().len() <= 8));
    }
    assert!(log.active_slot() < 8);
}

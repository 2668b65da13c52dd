//! The driver, and what the registers of a controller may read as.
//!
//! Input: up to eight rules, each of a register, which of its reads, and what then; and a list of calls. The controller
//! behind the registers is a good one. An attach works, or fails with an error that names the device; no memory is
//! taken back while the controller could reach it, unless it reads as a device that is gone; commands end once, with
//! their buffers.

use std::time::Duration;

use doorbell::clock::Clock;
use doorbell_spec::register::offset;
use doorbell_subsystem::fault::{Plan, Rule};

use super::Input;
use super::scene::{LONGEST, Scene};
use super::storm::Open;

const REGISTERS: [u64; 8] = [
    offset::CAP,
    offset::CSTS,
    offset::CC,
    offset::VS,
    offset::CSTS,
    offset::CRTO,
    offset::CMBSZ,
    offset::AQA,
];

/// One rule: register, act, first read and how many, and 64 bits of which few are set.
fn rule(input: &mut Input<'_>) -> Rule {
    let (what, when) = (input.byte(), input.byte());
    let at = Rule::read(REGISTERS[usize::from(what & 7)]);
    let mut value = u64::from(input.half()) << (input.byte() & 63);
    if what & 0x80 != 0 {
        value |= u64::from(input.half()) | u64::from(input.half()) << 32;
    }
    let rule = match what >> 3 & 7 {
        0 => at.all_ones(),
        1..=3 => at.value(value),
        4 => at.clear_bits(value),
        5 => at.fatal(),
        _ => at.set_bits(value),
    };
    let rule = rule.after(u64::from(when & 0x1f));
    let times = match when >> 5 {
        0 => u64::MAX,
        times => times.into(),
    };
    rule.times(times)
}

/// What must hold for any bytes.
///
/// # Panics
/// If something does not.
pub fn body(bytes: &[u8]) {
    let mut input = Input(bytes);
    let scene = Scene::new();
    let rules = input.byte() & 7;
    let plan = (0..=rules).fold(Plan::new(1), |plan, _| plan.rule(rule(&mut input)));
    scene.set(Some(plan));
    let Some(controller) = scene.attach() else {
        assert!(scene.clock.now() < LONGEST, "{:?}", scene.clock.now());
        return;
    };
    calls(&mut input, &scene, &controller);
    scene.close(controller);
}

fn calls(input: &mut Input<'_>, scene: &Scene, controller: &doorbell::Controller) {
    let Ok(namespace) = controller.namespace(1) else { return };
    let Some(mut queue) = Scene::queue(controller, 4) else { return };
    let mut open = Open::default();
    while !input.0.is_empty() {
        let step = input.byte();
        match step & 7 {
            0..=2 => {
                let Ok(buffer) = controller.buffer(4096) else { continue };
                let lba = u64::from(step >> 3);
                let write = step & 7 == 0;
                let io =
                    if write { namespace.write(lba, buffer) } else { namespace.read(lba, buffer) };
                open.submit(&mut queue, io);
                queue.ring();
            }
            3 => open.poll(&mut queue),
            4 => {
                // The health of a controller is looked at when commands are overdue.
                let pass = Duration::from_millis(u64::from(step >> 3) * 4);
                scene.clock.pause(0, pass);
                open.poll(&mut queue);
            }
            5 => drop(controller.reset()),
            6 => drop(controller.identify_namespace(1)),
            _ => drop(controller.poll(|_| {})),
        }
        scene.clock.pause(0, Duration::from_micros(100));
    }
    scene.set(None);
    open.settle(&mut queue, &*scene.clock);
}

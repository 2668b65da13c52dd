//! The driver, and what a controller may write into a completion queue.
//!
//! Input: the depth of a queue, and a list of steps: commands, polls, time, resets, and completion entries. The device
//! loses every I/O command, so that the completion queue is the input's alone: right entries, for commands that are
//! out, changed here and there, and 16 bytes as they are, in order or anywhere. Each command ends once, with its buffer,
//! and all memory is back at the end.

use std::time::Duration;

use doorbell::clock::Clock;
use doorbell_spec::admin::AdminOpcode;
use doorbell_subsystem::fault::{Commands, Plan, Rule};

use super::Input;
use super::scene::Scene;
use super::storm::Open;
use crate::watched::Watched;

/// Admin commands among which those that made the queue are: the first ones since the controller was enabled.
const ADMIN: u64 = 32;

/// A queue pair as the device sees it.
#[derive(Default)]
struct Rings {
    epoch: u64,
    /// I/O addresses of the rings, and their entries.
    sq: u64,
    sq_size: u64,
    cq: u64,
    cq_size: u64,
    /// Where the next entry goes, and its phase.
    head: u64,
    lap: bool,
}

impl Rings {
    /// The rings as they are now, if there are any: they move when the controller is reset.
    fn look(&mut self, device: &Watched) -> Option<&mut Self> {
        if self.epoch != device.epoch() {
            let cq = device.admin_command(AdminOpcode::CREATE_IO_CQ, ADMIN)?;
            let sq = device.admin_command(AdminOpcode::CREATE_IO_SQ, ADMIN)?;
            let size = |cdw10: u32| u64::from(cdw10 >> 16) + 1;
            *self = Self {
                epoch: device.epoch(),
                sq: sq.prp1,
                sq_size: size(sq.cdw10),
                cq: cq.prp1,
                cq_size: size(cq.cdw10),
                head: 0,
                lap: true,
            };
        }
        Some(self)
    }

    /// Writes an entry without its phase, the half that has it last.
    fn put(&self, device: &Watched, at: u64, low: u64, high: u64, phase: bool) {
        let high = high & !(1 << 48) | u64::from(phase) << 48;
        let entry = self.cq + at % self.cq_size * 16;
        if device.store(entry, low) {
            device.store(entry + 8, high);
        }
    }

    fn advance(&mut self) {
        self.head = (self.head + 1) % self.cq_size;
        self.lap ^= self.head == 0;
    }

    fn entry(&mut self, device: &Watched, step: u8, input: &mut Input<'_>) {
        // Of the command in an entry of the submission queue, whether it is out or not.
        let which = u64::from(input.byte());
        let sqe = device.sqe(self.sq + which % self.sq_size * 64);
        let cid = u64::from(sqe.map_or(0, |sqe| sqe.cid()));
        let right = cid << 32 | 1 << 16 | ((which + 1) % self.sq_size);
        match step {
            // As it should be.
            6..=9 => {
                self.put(device, self.head, 0, right, self.lap);
                self.advance();
            }
            // With a status.
            10 => {
                let status = u64::from(input.half() & 0xfffe) << 48;
                self.put(device, self.head, input.half().into(), right | status, self.lap);
                self.advance();
            }
            // Not quite.
            11 => {
                let flip = 1 << (input.byte() & 63);
                self.put(device, self.head, 0, right ^ flip, self.lap);
                self.advance();
            }
            // Anything at all, where it belongs.
            12 => {
                let mut raw = [0; 16];
                let given = input.bytes(raw.len());
                raw[..given.len()].copy_from_slice(given);
                let raw = u128::from_le_bytes(raw);
                self.put(device, self.head, raw as u64, (raw >> 64) as u64, self.lap);
                self.advance();
            }
            // Anywhere, in any phase.
            _ => {
                let (at, phase) = (u64::from(input.byte()), input.byte() & 1 != 0);
                let high = right ^ u64::from(input.half()) << 32;
                self.put(device, self.head + at, 0, high, phase);
            }
        }
    }
}

/// What must hold for any bytes.
///
/// # Panics
/// If something does not.
pub fn body(bytes: &[u8]) {
    let mut input = Input(bytes);
    let scene = Scene::new();
    scene.set(Some(Plan::new(1).rule(Rule::command(Commands::any_io()).lose())));
    let controller = scene.attach().expect("a controller");
    let namespace = controller.namespace(1).expect("a namespace");
    let mut queue = Scene::queue(&controller, 1 + u16::from(input.byte() & 31)).expect("a queue");
    let mut open = Open::default();
    let mut rings = Rings::default();
    assert!(rings.look(&scene.watched).is_some(), "no queue was made");
    while !input.0.is_empty() {
        // Found anew behind each reset, while the commands that made it are still in the admin queue.
        rings.look(&scene.watched);
        let step = input.byte();
        match step & 15 {
            0..=2 => {
                for _ in 0..=step >> 6 {
                    let Ok(buffer) = controller.buffer(512 << (step >> 4 & 3)) else { break };
                    let lba = u64::from(step);
                    let io = match step & 15 {
                        0 => namespace.read(lba, buffer),
                        1 => namespace.write(lba, buffer),
                        _ => namespace.flush(),
                    };
                    open.submit(&mut queue, io);
                }
                queue.ring();
            }
            3 => open.poll(&mut queue),
            4 => scene.clock.pause(0, Duration::from_micros(u64::from(step >> 4) * 100)),
            5 => match step >> 4 {
                0 => drop(controller.reset()),
                1..=3 => {
                    // Long enough for commands to be overdue.
                    for _ in 0..50 {
                        scene.clock.pause(0, Duration::from_millis(1));
                        open.poll(&mut queue);
                    }
                }
                4 => drop(controller.poll(|_| {})),
                _ => scene.clock.pause(0, Duration::from_micros(100)),
            },
            other => {
                if let Some(rings) = rings.look(&scene.watched) {
                    rings.entry(&scene.watched, other, &mut input);
                }
                if step & 0x80 == 0 {
                    open.poll(&mut queue);
                }
            }
        }
    }
    // Nothing more is written: what is out is overdue, and ends.
    open.settle(&mut queue, &*scene.clock);
    // And after a reset it is a device like any other.
    scene.set(None);
    if controller.reset().is_ok() && queue.failure().is_none() {
        // A queue learns of a reset when it is polled.
        for _ in 0..64 {
            open.poll(&mut queue);
        }
        let buffer = controller.buffer(512).expect("memory");
        let back = queue.run(namespace.read(0, buffer));
        assert!(back.is_ok() || queue.failure().is_some(), "{back:?}");
    }
    assert!(open.is_empty());
    drop((queue, namespace));
    scene.close(controller);
}

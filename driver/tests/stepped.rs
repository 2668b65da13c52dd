//! The whole driver over a device stepped on this thread: bring-up, I/O, futures, teardown. Small enough for Miri, which
//! sees both sides of every ring and every buffer.

use std::sync::Arc;
use std::time::Duration;

use doorbell::clock::Clock;
use doorbell::device::embedded::{Embedded, SteppedClock};
use doorbell::queue::Invalid;
use doorbell::{Address, Config, Controller, Io, QueueConfig, Reason};

fn attach(options: &str) -> (Controller, Arc<SteppedClock>) {
    let address = format!("embedded:{options}").parse().unwrap();
    let Address::Embedded(options) = address else { panic!("an embedded address") };
    let device = Arc::new(Embedded::stepped(&options).unwrap());
    let clock = Arc::new(SteppedClock::new(device.clone()));
    let controller = Controller::attach_device(device, Config::default(), clock.clone()).unwrap();
    (controller, clock)
}

fn small() -> QueueConfig {
    QueueConfig::with_depth(4)
}

#[test]
fn from_bring_up_to_shutdown() {
    let (controller, clock) = attach("size=4MiB,block=512,mdts=8KiB");
    assert!(
        clock.now() < Duration::from_secs(1),
        "virtual time passes only while the driver waits"
    );
    let namespace = controller.namespace(1).unwrap();
    let mut queue = controller.queue(small()).unwrap();
    // Divided, and across pages and lists.
    let mut data = controller.buffer(20 * 512).unwrap();
    for (index, byte) in data.iter_mut().enumerate() {
        *byte = (index / 512) as u8 ^ index as u8;
    }
    let expected = data.to_vec();
    queue.run(namespace.write(3, data)).unwrap();
    let done = queue.run(namespace.read(3, controller.buffer(20 * 512).unwrap())).unwrap();
    assert_eq!(done.buffer.unwrap()[..], expected[..]);
    assert_eq!(queue.counters().divided, 2);

    // Under one doorbell, with the device stepped by hand.
    for tag in 0..4 {
        let buffer = controller.buffer(512).unwrap();
        queue.stage(namespace.read(3 + tag, buffer).tag(tag)).unwrap();
    }
    queue.ring();
    assert_eq!(queue.poll(|_| panic!("the device has not run")), 0);
    clock.settle();
    let mut tags = Vec::new();
    queue.poll(|done| {
        assert!(done.status.is_success());
        tags.push(done.tag);
    });
    assert_eq!(tags, [0, 1, 2, 3]);
    drop((queue, namespace));
    controller.shutdown().unwrap();
}

#[test]
fn dropped_with_everything_in_flight() {
    let (controller, clock) = attach("size=4MiB");
    let namespace = controller.namespace(1).unwrap();
    let mut queue = controller.queue(small()).unwrap();
    for lba in 0..4 {
        queue.stage(namespace.write(lba, controller.buffer(512).unwrap())).unwrap();
    }
    queue.ring();
    let memory = controller.memory().clone();
    drop((controller, namespace));
    assert!(memory.stats().in_use > 0);
    drop(queue);
    assert_eq!(
        memory.stats().in_use,
        0,
        "the controller went with its last queue, and gave everything back"
    );
    clock.settle();
}

#[test]
fn futures_dropped_in_flight_leave_their_buffer_with_the_device() {
    let (controller, clock) = attach("size=4MiB");
    let namespace = controller.namespace(1).unwrap();
    let queue = controller.queue(small()).unwrap().into_shared();
    let idle = controller.memory().stats().in_use;
    let mut pending = Box::pin(queue.submit(namespace.read(0, controller.buffer(512).unwrap())));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(pending.as_mut().poll(&mut context).is_pending());
    queue.poll();
    drop(pending);
    assert!(controller.memory().stats().in_use > idle, "still the device's");
    clock.settle();
    queue.poll();
    assert_eq!(controller.memory().stats().in_use, idle);
    let done = queue.block_on(queue.submit(namespace.read(0, controller.buffer(512).unwrap())));
    assert!(done.unwrap().buffer.is_some());
}

#[test]
fn namespaces_and_buffers_of_different_controllers_are_kept_apart() {
    let (one, _) = attach("size=4MiB,block=512,mdts=8KiB");
    let (other, _) = attach("size=4MiB,block=4096,mdts=32KiB");
    let namespace = one.namespace(1).unwrap();
    let mut queue = other.queue(small()).unwrap();
    // To the other controller, 8 blocks are 32 KiB: it must not be told of a buffer of 4.
    let buffers = || [one.buffer(4096).unwrap(), other.buffer(4096).unwrap()];
    let reads = buffers().map(|buffer| namespace.read(0, buffer));
    let trims = buffers().map(|buffer| namespace.deallocate(&[(0, 1)], buffer));
    // What moves no data would hit the other's blocks all the same.
    let without_data = [namespace.write_zeroes(0, 1), namespace.verify(0, 1), namespace.flush()];
    for io in reads.into_iter().chain(trims).chain(without_data) {
        let moves_data = io.command().opcode() & 3 != 0;
        let rejected = queue.stage(io).unwrap_err();
        assert_eq!(rejected.reason, Reason::Invalid(Invalid::Elsewhere));
        assert!(rejected.io.into_buffer().is_some() || !moves_data);
    }
    let raw =
        Io::raw(*namespace.read(0, other.buffer(4096).unwrap()).command(), one.buffer(4096).ok());
    assert_eq!(queue.stage(raw).unwrap_err().reason, Reason::Foreign);
    assert_eq!(queue.in_flight(), 0);
}

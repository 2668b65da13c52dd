//! Commands from many threads through a mailbox: each comes back once to where it came from, whatever ends meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use doorbell::clock::{Clock, SystemClock};
use doorbell::device::embedded::{Embedded, SteppedClock};
use doorbell::queue::{Mailbox, Sender, Served};
use doorbell::{Address, Config, Controller, Namespace, Outcome, QueueConfig, Reason};

const BLOCK: usize = 512;

fn stepped(depth: u16) -> (Controller, Arc<SteppedClock>, Namespace, Mailbox, Served) {
    let address = format!("embedded:size=4MiB,block={BLOCK}").parse().unwrap();
    let Address::Embedded(options) = address else { panic!("an embedded address") };
    let device = Arc::new(Embedded::stepped(&options).unwrap());
    let clock = Arc::new(SteppedClock::new(device.clone()));
    let controller = Controller::attach_device(device, Config::default(), clock.clone()).unwrap();
    let namespace = controller.namespace(1).unwrap();
    let queue = controller.queue(QueueConfig::with_depth(depth)).unwrap();
    let (mailbox, served) = queue.into_mailbox(4);
    (controller, clock, namespace, mailbox, served)
}

fn block(controller: &Controller, fill: u8) -> doorbell::Buffer {
    let mut buffer = controller.buffer(BLOCK).unwrap();
    buffer.fill(fill);
    buffer
}

/// Everything that `sender` gets back until it has nothing under way.
fn collect(sender: &mut Sender, served: &mut Served, clock: &SteppedClock) -> Vec<(u64, Outcome)> {
    let mut ends = Vec::new();
    while sender.under_way() > 0 {
        served.poll();
        clock.settle();
        sender.poll(|reply| {
            let done = reply.unwrap();
            ends.push((done.tag, done.outcome));
        });
    }
    ends.sort();
    ends
}

#[test]
fn replies_go_where_the_command_came_from() {
    let (controller, clock, namespace, mailbox, mut served) = stepped(2);
    let mut senders = [mailbox.sender(3), mailbox.sender(3)];
    for tag in 0..2 {
        for (index, sender) in senders.iter_mut().enumerate() {
            let io = namespace.write(tag, block(&controller, index as u8)).tag(tag);
            sender.send(io).unwrap();
        }
    }
    // The box is full now; nothing is lost by that.
    let refused = senders[0].send(namespace.flush().tag(9)).unwrap_err();
    assert_eq!(refused.reason, Reason::Full);
    for sender in &mut senders {
        assert_eq!(sender.under_way(), 2);
        let ends = collect(sender, &mut served, &clock);
        assert_eq!(ends, [(0, Outcome::Completed), (1, Outcome::Completed)]);
    }
    // A sender has no more under way than it may, even where the box has room.
    let sender = &mut senders[0];
    for tag in 0..3 {
        sender.send(namespace.flush().tag(tag)).unwrap();
    }
    assert_eq!(sender.send(namespace.flush()).unwrap_err().reason, Reason::Full);
    assert_eq!(collect(sender, &mut served, &clock).len(), 3);
}

#[test]
fn a_command_that_cannot_be_sent_comes_back_with_the_reason() {
    let (controller, clock, namespace, mailbox, mut served) = stepped(2);
    let mut sender = mailbox.sender(1);
    let odd = controller.buffer(BLOCK + 1).unwrap();
    sender.send(namespace.write(0, odd).tag(7)).unwrap();
    served.poll();
    clock.settle();
    let mut replies = Vec::new();
    sender.poll(|reply| replies.push(reply));
    let [Err(rejected)] = &replies[..] else { panic!("{replies:?}") };
    assert!(matches!(rejected.reason, Reason::Invalid(_)), "{rejected:?}");
    assert_eq!(rejected.io.command().slba(), 0);
}

#[test]
fn dropping_the_owner_answers_everybody_once() {
    let (controller, clock, namespace, mailbox, mut served) = stepped(2);
    let mut sender = mailbox.sender(8);
    // One completes, one is with the device, one waits at a full queue, and one is still in the box.
    sender.send(namespace.flush().tag(0)).unwrap();
    served.poll();
    clock.settle();
    sender.send(namespace.write(1, block(&controller, 1)).tag(1)).unwrap();
    sender.send(namespace.write(2, block(&controller, 2)).tag(2)).unwrap();
    sender.send(namespace.write(3, block(&controller, 3)).tag(3)).unwrap();
    served.poll();
    sender.send(namespace.write(4, block(&controller, 4)).tag(4)).unwrap();
    let with_device = served.in_flight();
    assert_eq!(with_device, 2);
    drop(served);

    let mut ends = Vec::new();
    sender.poll(|reply| {
        let done = reply.unwrap();
        // Whoever was not sent has the buffer back.
        assert_eq!(done.buffer.is_some(), done.outcome == Outcome::NotSent && done.tag > 0);
        ends.push((done.tag, done.outcome));
    });
    ends.sort();
    let tags: Vec<_> = ends.iter().map(|&(tag, _)| tag).collect();
    assert_eq!(tags, [0, 1, 2, 3, 4], "{ends:?}");
    let count = |outcome| ends.iter().filter(|&&(_, found)| found == outcome).count();
    assert_eq!(ends[0].1, Outcome::Completed);
    assert_eq!(count(Outcome::Indeterminate), 2, "{ends:?}");
    assert_eq!(count(Outcome::NotSent), 2, "{ends:?}");
    assert_eq!(sender.under_way(), 0);

    let refused = sender.send(namespace.flush()).unwrap_err();
    assert_eq!(refused.reason, Reason::Closed);
    assert_eq!(controller.memory().stats().in_use, admin_memory(&controller));
}

/// Bytes in use when nothing but the admin queue is there: as much as with another queue created and dropped.
fn admin_memory(controller: &Controller) -> u64 {
    drop(controller.queue(QueueConfig::with_depth(2)).unwrap());
    controller.memory().stats().in_use
}

#[test]
fn a_sender_dropped_under_way_leaves_nothing_behind() {
    let (controller, clock, namespace, mailbox, mut served) = stepped(2);
    let before = controller.memory().stats().in_use;
    let mut sender = mailbox.sender(2);
    sender.send(namespace.write(0, block(&controller, 1))).unwrap();
    served.poll();
    sender.send(namespace.write(1, block(&controller, 2))).unwrap();
    drop(sender);
    for _ in 0..2 {
        served.poll();
        clock.settle();
    }
    served.poll();
    assert_eq!(served.in_flight(), 0);
    assert_eq!(controller.memory().stats().in_use, before);
}

#[test]
#[cfg_attr(miri, ignore = "threads that spin")]
fn threads_share_a_queue_and_each_reads_what_it_wrote() {
    const THREADS: u64 = 3;
    const ROUNDS: u64 = 400;
    let controller = doorbell::attach("embedded:size=16MiB,block=512").unwrap();
    let namespace = controller.namespace(1).unwrap();
    let queue = controller.queue(QueueConfig::with_depth(8)).unwrap();
    let (mailbox, mut served) = queue.into_mailbox(16);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..THREADS)
            .map(|thread| {
                let mut sender = mailbox.sender(4);
                let (controller, namespace) = (&controller, &namespace);
                scope.spawn(move || {
                    for round in 0..ROUNDS {
                        let lba = thread * ROUNDS + round;
                        let fill = (lba * 31) as u8;
                        let done = sender.run(namespace.write(lba, block(controller, fill)));
                        let buffer = done.unwrap().buffer.unwrap();
                        let done = sender.run(namespace.read(lba, buffer)).unwrap();
                        assert!(done.buffer.unwrap().iter().all(|&byte| byte == fill));
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            let clock = SystemClock::new();
            let mut round = 0;
            while !stop.load(Ordering::Relaxed) {
                round = if served.poll() > 0 { 0 } else { round + 1 };
                clock.pause(round, Duration::from_micros(100));
            }
        });
        let results: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
        // The owner ends even where a worker has failed.
        stop.store(true, Ordering::Relaxed);
        assert!(results.iter().all(Result::is_ok));
    });
}

#[test]
#[cfg_attr(miri, ignore = "threads that spin")]
fn an_owner_that_ends_under_load_leaves_no_sender_waiting() {
    for round in 0..50 {
        let controller = doorbell::attach("embedded:size=16MiB,block=512").unwrap();
        let namespace = controller.namespace(1).unwrap();
        let queue = controller.queue(QueueConfig::with_depth(4)).unwrap();
        let (mailbox, mut served) = queue.into_mailbox(8);
        thread::scope(|scope| {
            for _ in 0..2 {
                let mut sender = mailbox.sender(4);
                let namespace = &namespace;
                scope.spawn(move || {
                    let (mut sent, mut ended) = (0u64, 0u64);
                    let clock = SystemClock::new();
                    let mut idle = 0;
                    loop {
                        match sender.send(namespace.flush()) {
                            Ok(()) => sent += 1,
                            Err(refused) if refused.reason == Reason::Closed => break,
                            Err(_) => clock.pause(idle, Duration::from_micros(100)),
                        }
                        let count = sender.poll(|reply| assert!(reply.is_ok())) as u64;
                        ended += count;
                        idle = if count > 0 { 0 } else { idle + 1 };
                    }
                    // The replies are there once the mailbox is seen closed and its owner has gone.
                    let mut last = 0;
                    while ended < sent && last < 100_000 {
                        ended += sender.poll(|reply| assert!(reply.is_ok())) as u64;
                        clock.pause(last, Duration::from_micros(100));
                        last += 1;
                    }
                    assert_eq!(ended, sent, "every command that was taken in has one end");
                });
            }
            let mut taken = 0;
            while taken < 20 + round * 7 {
                taken += served.poll();
                thread::yield_now();
            }
            drop(served);
        });
    }
}

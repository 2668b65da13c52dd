//! Futures dropped at every await point: whatever was sent completes into nothing, and every slot and buffer comes back.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use doorbell::clock::Clock;
use doorbell::queue::SharedQueue;
use doorbell::{Buffer, CommandError, Controller, Namespace};
use doorbell_subsystem::fault::{Commands, Rule};

use crate::bench::{Bench, Load, small};

/// What futures are made of.
struct Stage {
    bench: Bench,
    controller: Controller,
    namespace: Namespace,
    queue: SharedQueue,
}

impl Stage {
    fn new(depth: u16) -> Self {
        let Load { bench, controller, namespace, queue, .. } = Load::new(1);
        drop(queue);
        let mut config = small(depth);
        config.max_transfer = 16 << 10;
        let queue = controller.queue(config).expect("a queue").into_shared();
        // Completions take their time, so that there is something to wait for at each await.
        let late = Rule::completion(Commands::any_io()).delay(Duration::from_micros(3));
        bench.inject([late]);
        Self { bench, controller, namespace, queue }
    }

    fn buffer(&self, len: usize) -> Buffer {
        self.controller.buffer(len).expect("memory")
    }

    /// One round of the queue, and a microsecond.
    fn round(&self) {
        self.queue.poll();
        self.bench.clock.pause(0, Duration::from_micros(1));
    }

    /// Polls `future` at most `polls` times, with a round after each; its output, if it came to that.
    fn poll<T>(&self, future: impl Future<Output = T>, polls: usize) -> Option<T> {
        let mut future = pin!(future);
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..polls {
            if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
                return Some(output);
            }
            self.round();
        }
        None
    }

    /// Everything in flight has ended, and its buffers are back.
    #[track_caller]
    fn settle(&self, memory: u64) {
        for _ in 0..1000 {
            if self.queue.in_flight() == 0 && self.controller.memory().stats().in_use == memory {
                return;
            }
            self.round();
        }
        let in_use = self.controller.memory().stats().in_use;
        panic!("{} in flight, {in_use} bytes in use, {memory} before", self.queue.in_flight());
    }
}

/// Drops what `make` makes before its first poll, after its first, ..., until it is done; how often that was.
fn at_every_poll<'a, T, F: Future<Output = Result<T, CommandError>>>(
    stage: &'a Stage,
    make: impl Fn(&'a Stage) -> F,
) -> usize {
    let memory = stage.controller.memory().stats().in_use;
    for polls in 0..10_000 {
        let output = stage.poll(make(stage), polls);
        let done = output.is_some();
        if let Some(output) = output {
            assert!(output.is_ok(), "{:?}", output.err());
        }
        stage.settle(memory);
        // Whoever comes after finds the queue as if nothing had been.
        if polls % 8 == 0 || done {
            let read = stage.queue.submit(stage.namespace.read(0, stage.buffer(512)));
            stage.queue.block_on(read).expect("a read");
            stage.settle(memory);
        }
        if done {
            return polls;
        }
    }
    panic!("no end");
}

fn close(stage: Stage) {
    let Stage { bench, controller, namespace, queue } = stage;
    let Ok(queue) = queue.into_inner() else { panic!("futures are left") };
    drop((queue, namespace));
    bench.close(controller);
}

#[test]
fn commands_dropped_at_every_poll() {
    let stage = Stage::new(4);
    let submit = |stage: &Stage, io| stage.queue.submit(io);
    assert!(at_every_poll(&stage, |s| submit(s, s.namespace.read(0, s.buffer(512)))) > 3);
    assert!(at_every_poll(&stage, |s| submit(s, s.namespace.write(0, s.buffer(4096)))) > 3);
    assert!(at_every_poll(&stage, |s| submit(s, s.namespace.flush())) > 3);
    assert!(at_every_poll(&stage, |s| submit(s, s.namespace.write_zeroes(0, 8))) > 3);
    let ranges = |s: &Stage| s.namespace.deallocate(&[(0, 8)], s.buffer(4096));
    assert!(at_every_poll(&stage, |s| submit(s, ranges(s))) > 3);
    close(stage);
}

#[test]
#[cfg_attr(miri, ignore = "long transfers")]
fn operations_of_many_commands_dropped_at_every_poll() {
    // Sixteen commands, two at a time.
    let stage = Stage::new(2);
    let long = 256 << 10;
    let submit = |stage: &Stage, io| stage.queue.submit(io);
    assert!(at_every_poll(&stage, |s| submit(s, s.namespace.read(0, s.buffer(long)))) > 20);
    assert!(at_every_poll(&stage, |s| submit(s, s.namespace.write(0, s.buffer(long)))) > 20);
    close(stage);
}

#[test]
fn a_chain_of_awaits_dropped_at_every_poll() {
    let stage = Stage::new(4);
    let polls = at_every_poll(&stage, |stage| async move {
        let mut buffer = stage.buffer(512);
        buffer.fill(0x77);
        let written = stage.queue.submit(stage.namespace.write(7, buffer)).await?;
        stage.queue.submit(stage.namespace.flush()).await?;
        let buffer = written.buffer.expect("a buffer");
        let read = stage.queue.submit(stage.namespace.read(7, buffer)).await?;
        let buffer = read.buffer.expect("a buffer");
        assert!(buffer.iter().all(|&byte| byte == 0x77));
        stage.queue.submit(stage.namespace.compare(7, buffer)).await
    });
    assert!(polls > 12, "{polls}");
    close(stage);
}

#[test]
fn futures_that_wait_for_room_dropped_at_every_poll() {
    // One slot: the second future finds no room until the first is through, or gone.
    let stage = Stage::new(1);
    let polls = at_every_poll(&stage, |stage| async move {
        let mut first = pin!(stage.queue.submit(stage.namespace.read(0, stage.buffer(512))));
        let mut second = pin!(stage.queue.submit(stage.namespace.read(1, stage.buffer(512))));
        let (mut one, mut two) = (None, None);
        std::future::poll_fn(|context| {
            if one.is_none()
                && let Poll::Ready(done) = first.as_mut().poll(context)
            {
                one = Some(done);
            }
            if two.is_none()
                && let Poll::Ready(done) = second.as_mut().poll(context)
            {
                two = Some(done);
            }
            if one.is_some() && two.is_some() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        one.expect("polled")?;
        two.expect("polled")
    });
    assert!(polls > 6, "{polls}");
    close(stage);
}

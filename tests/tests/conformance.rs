//! One body of tests for the driver and the subsystem together, run through every door: a device stepped on the
//! test's own thread in virtual time, one with a thread of its own, and servers over vfio-user and over TCP.

use std::collections::HashMap;
use std::thread;
use std::time::Duration;

use doorbell::spec::admin::{self, LogRequest};
use doorbell::spec::command::Sqe;
use doorbell::spec::identify::{Cns, Csi, IdentifyController};
use doorbell::spec::log::{Lid, SmartLog};
use doorbell::spec::nvm;
use doorbell::spec::status::Status;
use doorbell::{
    Buffer, CommandError, Controller, Io, Namespace, Queue, QueueConfig, QueueError, Reason,
};
use doorbell_tests::model::{Model, Random};
use doorbell_tests::rig::{Door, Rig};
use zerocopy::IntoBytes;

const BLOCKS: [u32; 2] = [512, 4096];

fn each_rig(door: Door, body: impl Fn(&Rig)) {
    for block in BLOCKS {
        let rig = Rig::open(door, &format!("size=64MiB,block={block}"));
        body(&rig);
        rig.close();
    }
}

fn first(rig: &Rig) -> (Namespace, Queue) {
    let namespace = rig.controller.namespace(1).unwrap();
    let queue = rig.controller.queue(QueueConfig::default()).unwrap();
    (namespace, queue)
}

fn filled(controller: &Controller, len: usize, random: &mut Random) -> Buffer {
    let mut buffer = controller.buffer(len).unwrap();
    random.fill(&mut buffer);
    buffer
}

fn write_and_read_of_any_length(door: Door) {
    each_rig(door, |rig| {
        let mut random = Random::from_env();
        let (namespace, mut queue) = first(rig);
        let block = namespace.block_size() as usize;
        for blocks in [1, 2, 3, 7, 8, 9, 31, 32, 33, 64, 65, 255, 256, 257, 1000] {
            let lba = random.below(namespace.blocks() - blocks);
            let data = filled(&rig.controller, blocks as usize * block, &mut random);
            let expected = data.to_vec();
            queue.run(namespace.write(lba, data)).unwrap();
            let buffer = rig.controller.buffer(blocks as usize * block).unwrap();
            let done = queue.run(namespace.read(lba, buffer)).unwrap();
            assert!(done.buffer.unwrap()[..] == expected[..], "{blocks} blocks at {lba}");
        }
        if queue.max_transfer() < 1000 * block {
            assert!(queue.counters().divided > 0);
        }
    });
}

#[derive(Clone)]
struct Asked {
    lba: u64,
    blocks: usize,
    /// What a read must return.
    expected: Option<Vec<u8>>,
    differs: bool,
}

fn random_operations_match_the_model(door: Door) {
    const BLOCKS: usize = 4096;
    each_rig(door, |rig| {
        let mut random = Random::from_env();
        let (namespace, mut queue) = first(rig);
        let block = namespace.block_size() as usize;
        let mut model = Model::new(block, BLOCKS);
        let mut asked: HashMap<u64, Asked> = HashMap::new();
        let mut kinds = [0u32; 8];
        let operations = 3_000;
        let mut round = 0;
        for tag in 0..operations {
            let kind = random.below(8);
            if let Some((lba, blocks)) = model.claim(&mut random, 80) {
                let len = blocks * block;
                let mut this = Asked { lba, blocks, expected: None, differs: false };
                let io = match kind {
                    0..=2 => {
                        this.expected = Some(model.range(lba, blocks).to_vec());
                        namespace.read(lba, rig.controller.buffer(len).unwrap())
                    }
                    3 | 4 => {
                        let data = filled(&rig.controller, len, &mut random);
                        model.range(lba, blocks).copy_from_slice(&data);
                        let io = namespace.write(lba, data);
                        if random.below(4) == 0 { io.fua() } else { io }
                    }
                    5 => {
                        model.range(lba, blocks).fill(0);
                        namespace.write_zeroes(lba, blocks as u64)
                    }
                    6 => {
                        // A deallocated block reads as zeros here: DLFEAT says so.
                        model.range(lba, blocks).fill(0);
                        let ranges = [(lba, blocks as u32)];
                        namespace.deallocate(&ranges, rig.controller.buffer(4096).unwrap())
                    }
                    _ => {
                        let mut data = rig.controller.buffer(len).unwrap();
                        data.copy_from_slice(model.range(lba, blocks));
                        this.differs = random.below(2) == 0;
                        if this.differs {
                            let at = random.below(len as u64) as usize;
                            data[at] ^= 1 << random.below(8);
                        }
                        namespace.compare(lba, data)
                    }
                };
                kinds[kind as usize] += 1;
                asked.insert(tag, this);
                let mut io = Some(io.tag(tag));
                while let Some(again) = io.take() {
                    if let Err(rejected) = queue.submit(again) {
                        assert_eq!(rejected.reason, Reason::Full);
                        io = Some(rejected.io);
                        rig.pause(&mut round);
                        reap(&mut queue, &mut asked, &mut model);
                    }
                }
            }
            if random.below(3) == 0 {
                reap(&mut queue, &mut asked, &mut model);
            }
        }
        while !asked.is_empty() {
            rig.pause(&mut round);
            reap(&mut queue, &mut asked, &mut model);
        }
        queue.run(namespace.flush()).unwrap();
        queue.run(namespace.verify(0, BLOCKS as u64)).unwrap();
        let whole = queue.run(namespace.read(0, rig.controller.buffer(BLOCKS * block).unwrap()));
        assert!(whole.unwrap().buffer.unwrap()[..] == *model.range(0, BLOCKS));
        assert!(kinds.iter().all(|&count| count > 0));
        assert_eq!(queue.free_slots(), queue.depth());
    });
}

fn reap(queue: &mut Queue, asked: &mut HashMap<u64, Asked>, model: &mut Model) {
    queue.poll(|done| {
        let this = asked.remove(&done.tag).expect("completes once");
        model.release(this.lba, this.blocks);
        let expected = if this.differs { Status::COMPARE_FAILURE } else { Status::SUCCESS };
        assert!(done.status.is(expected), "{:?} at {}", done, this.lba);
        if let Some(expected) = this.expected {
            assert!(
                done.buffer.unwrap()[..] == expected[..],
                "blocks {} from {}",
                this.blocks,
                this.lba
            );
        }
    });
}

fn errors_come_back_as_the_status_they_are(door: Door) {
    each_rig(door, |rig| {
        let (namespace, mut queue) = first(rig);
        let block = namespace.block_size() as usize;
        let status = |result: Result<doorbell::Done, CommandError>| {
            result.expect_err("must fail").status().expect("a status")
        };
        let one = || rig.controller.buffer(block).unwrap();
        let past = namespace.read(namespace.blocks(), one());
        assert!(status(queue.run(past)).is(Status::LBA_OUT_OF_RANGE));
        let across =
            namespace.write(namespace.blocks() - 1, rig.controller.buffer(2 * block).unwrap());
        assert!(status(queue.run(across)).is(Status::LBA_OUT_OF_RANGE));
        let inactive = Io::raw(nvm::read(77, 0, 0), Some(one()));
        assert!(status(queue.run(inactive)).is(Status::INVALID_FIELD));
        let invalid = Io::raw(nvm::read(0xffff_fffe, 0, 0), Some(one()));
        assert!(status(queue.run(invalid)).is(Status::INVALID_NAMESPACE));
        let unknown = Io::raw(Sqe::new(0xff).with_nsid(1), None);
        assert!(status(queue.run(unknown)).is(Status::INVALID_OPCODE));
        // An address that wraps must not come out at the other end.
        let error = queue.run(namespace.read(u64::MAX, one())).expect_err("out of range");
        let refused = error.status().map_or_else(
            // The device says so, or the driver does.
            || error.to_string().contains("no command can cover"),
            |status| status.is(Status::LBA_OUT_OF_RANGE),
        );
        assert!(refused, "{error}");
        assert!(error.into_buffer().is_some());
        // And the queue is none the worse.
        queue.run(namespace.read(0, one())).unwrap();
    });
}

fn raw_commands_reach_no_memory_but_their_buffer(door: Door) {
    each_rig(door, |rig| {
        let mut random = Random::from_env();
        let (namespace, mut queue) = first(rig);
        let block = namespace.block_size() as usize;
        let blocks = (128 << 10) / block;
        let data = filled(&rig.controller, blocks * block, &mut random);
        queue.run(namespace.write(0, data)).unwrap();
        for pages in 1..=4 {
            let canaries: Vec<Buffer> =
                (0..64).map(|_| rig.controller.buffer(4096).unwrap()).collect();
            let mut short = rig.controller.buffer(pages * 4096).unwrap();
            short.fill(0x5a);
            let more: Vec<Buffer> = (0..64).map(|_| rig.controller.buffer(4096).unwrap()).collect();
            let before: Vec<Vec<u8>> =
                canaries.iter().chain(&more).map(|buffer| buffer.to_vec()).collect();
            // The command moves 128 KiB, the buffer holds a few pages.
            let over = Io::raw(nvm::read(1, 0, (blocks - 1) as u16), Some(short));
            let error = queue.run(over).expect_err("runs into unmapped addresses");
            assert!(error.status().is_some(), "{error}");
            let after = canaries.iter().chain(&more).map(|buffer| buffer.to_vec());
            assert!(after.eq(before), "other memory was written");
        }
    });
}

fn a_full_queue_hands_everything_back(door: Door) {
    each_rig(door, |rig| {
        let namespace = rig.controller.namespace(1).unwrap();
        let mut queue = rig.controller.queue(QueueConfig::with_depth(4)).unwrap();
        let block = namespace.block_size() as usize;
        for tag in 0..4 {
            let io = namespace.read(tag, rig.controller.buffer(block).unwrap()).tag(tag);
            queue.stage(io).unwrap();
        }
        let buffer = rig.controller.buffer(block).unwrap();
        let iova = buffer.iova();
        let rejected = queue.stage(namespace.read(9, buffer)).unwrap_err();
        assert_eq!(rejected.reason, Reason::Full);
        assert_eq!(rejected.io.into_buffer().unwrap().iova(), iova);
        queue.ring();
        let (mut seen, mut round) = (Vec::new(), 0);
        while seen.len() < 4 {
            queue.poll(|done| seen.push(done.tag));
            rig.pause(&mut round);
        }
        seen.sort_unstable();
        assert_eq!(seen, [0, 1, 2, 3]);
        assert_eq!(queue.counters().commands, 4);
    });
}

fn queues_come_and_go_in_any_order(door: Door) {
    each_rig(door, |rig| {
        let mut random = Random::from_env();
        let namespace = rig.controller.namespace(1).unwrap();
        let block = namespace.block_size() as usize;
        let most = usize::from(rig.controller.limits().max_io_queues);
        assert!(most >= 2);
        for _ in 0..3 {
            let mut queues: Vec<Queue> = (0..most)
                .map(|_| rig.controller.queue(QueueConfig::with_depth(8)).unwrap())
                .collect();
            let one_more = rig.controller.queue(QueueConfig::default());
            assert!(matches!(one_more, Err(QueueError::NoneLeft { .. })));
            while !queues.is_empty() {
                let at = random.below(queues.len() as u64) as usize;
                let buffer = rig.controller.buffer(block).unwrap();
                queues[at].run(namespace.read(random.below(100), buffer)).unwrap();
                // Every other one goes with commands in flight.
                if random.below(2) == 0 {
                    for lba in 0..8 {
                        let buffer = rig.controller.buffer(block).unwrap();
                        queues[at].stage(namespace.read(lba, buffer)).unwrap();
                    }
                    queues[at].ring();
                }
                drop(queues.swap_remove(at));
            }
        }
        let idle = rig.controller.memory().stats().in_use;
        let queue = rig.controller.queue(QueueConfig::default()).unwrap();
        drop(queue);
        assert_eq!(rig.controller.memory().stats().in_use, idle, "queues leave nothing behind");
    });
}

fn handles_may_go_in_any_order(door: Door) {
    let rig = Rig::open(door, "size=16MiB");
    let (namespace, mut queue) = first(&rig);
    let mut keeper = rig.controller.buffer(4096).unwrap();
    let clock = rig.forget_controller();
    // Namespace and queue hold the controller up.
    let buffer = namespace.controller().buffer(512).unwrap();
    queue.run(namespace.read(0, buffer)).unwrap();
    drop(namespace);
    let io = Io::raw(nvm::flush(1), None);
    queue.run(io).unwrap();
    drop(queue);
    // The controller has been shut down; the memory outlives it.
    keeper.fill(7);
    assert!(keeper.iter().all(|&byte| byte == 7));
    drop(keeper);
    drop(clock);
}

fn threads_with_a_queue_each_do_not_meet(door: Door) {
    each_rig(door, |rig| {
        let namespace = rig.controller.namespace(1).unwrap();
        let share = namespace.blocks() / 4;
        thread::scope(|scope| {
            for worker in 0..4 {
                let (namespace, controller) = (namespace.clone(), rig.controller.clone());
                scope.spawn(move || {
                    let mut random = Random::from_env();
                    let mut queue = controller.queue(QueueConfig::with_depth(16)).unwrap();
                    let block = namespace.block_size() as usize;
                    for _ in 0..100 {
                        let blocks = 1 + random.below(20) as usize;
                        let lba = worker * share + random.below(share - 20);
                        let data = filled(&controller, blocks * block, &mut random);
                        let expected = data.to_vec();
                        let done = queue.run(namespace.write(lba, data)).unwrap();
                        let done = queue.run(namespace.read(lba, done.buffer.unwrap())).unwrap();
                        assert!(done.buffer.unwrap()[..] == expected[..]);
                    }
                });
            }
        });
    });
}

fn a_queue_moves_between_threads(door: Door) {
    let rig = Rig::open(door, "size=16MiB");
    let (namespace, mut queue) = first(&rig);
    for lba in 0..8 {
        let buffer = rig.controller.buffer(512).unwrap();
        queue.stage(namespace.read(lba, buffer)).unwrap();
    }
    queue.ring();
    let queue = thread::scope(|scope| {
        let moved = scope.spawn(|| {
            let mut round = 0;
            let mut count = 0;
            while count < 8 {
                count += queue.poll(|done| assert!(done.status.is_success()));
                rig.pause(&mut round);
            }
            queue
        });
        moved.join().unwrap()
    });
    assert_eq!(queue.counters().completions, 8);
    drop((queue, namespace));
    rig.close();
}

fn futures_run_beside_each_other(door: Door) {
    each_rig(door, |rig| {
        let (namespace, queue) = first(rig);
        let block = namespace.block_size() as usize;
        let queue = queue.into_shared();
        let total = queue.block_on(async {
            let mut random = Random::from_env();
            let data = filled(&rig.controller, 4 * block, &mut random);
            let expected = data.to_vec();
            let done = queue.submit(namespace.write(40, data)).await.unwrap();
            let done = queue.submit(namespace.read(40, done.buffer.unwrap())).await.unwrap();
            assert!(done.buffer.unwrap()[..] == expected[..]);
            // Dropped without being polled, and dropped in flight.
            drop(queue.submit(namespace.flush()));
            let mut abandoned =
                Box::pin(queue.submit(namespace.read(0, rig.controller.buffer(block).unwrap())));
            let polled = std::future::poll_fn(|context| {
                std::task::Poll::Ready(abandoned.as_mut().poll(context).is_pending())
            });
            assert!(polled.await);
            drop(abandoned);
            expected.len()
        });
        assert_eq!(total, 4 * block);
        let mut round = 0;
        while queue.in_flight() > 0 {
            queue.poll();
            rig.pause(&mut round);
        }
    });
}

fn admin_commands_typed_and_raw_agree(door: Door) {
    each_rig(door, |rig| {
        let controller = &rig.controller;
        let buffer = controller.buffer(4096).unwrap();
        let command = admin::identify(Cns::CONTROLLER, 0, 0, Csi::NVM);
        let done = controller.admin(command, Some(buffer)).unwrap();
        let raw = done.buffer.unwrap();
        assert!(raw[..size_of::<IdentifyController>()] == *controller.identify().as_bytes());
        assert_eq!(controller.namespace_ids().unwrap(), [1]);
        assert!(controller.nqn().starts_with("nqn."), "{}", controller.nqn());
        let smart = controller.log_page::<SmartLog>().unwrap();
        let buffer = controller.buffer(512).unwrap();
        let command = admin::get_log_page(LogRequest::new(Lid::SMART, 127));
        let done = controller.admin(command, Some(buffer)).unwrap();
        assert_eq!(done.buffer.unwrap()[1..3], smart.as_bytes()[1..3], "composite temperature");
        assert!(controller.error_log().unwrap().len() <= 256);
        // What the driver's own safety rests on is not for the caller.
        for command in [
            admin::create_io_cq(9, 1, None),
            admin::delete_io_sq(1),
            admin::doorbell_buffer_config(),
            admin::async_event_request(),
            // Property Set of CAP, which would be the driver's to send over TCP.
            Sqe::new(0x7f),
        ] {
            let error = controller.admin(command, None).unwrap_err();
            assert!(matches!(error, CommandError::Rejected(_)), "{error}");
        }
        let status = controller.admin(Sqe::new(0x7e), None).unwrap_err().status().unwrap();
        assert!(status.is(Status::INVALID_OPCODE));
    });
}

fn small_transfers_are_joined_to_long_ones(door: Door) {
    let rig = Rig::open(door, "size=64MiB,block=512,mdts=8KiB");
    let mut random = Random::from_env();
    let (namespace, mut queue) = first(&rig);
    assert_eq!(queue.max_transfer(), 8192);
    let data = filled(&rig.controller, 1 << 20, &mut random);
    let expected = data.to_vec();
    queue.run(namespace.write(3, data)).unwrap();
    assert_eq!(queue.counters().commands, 128);
    let done = queue.run(namespace.read(3, rig.controller.buffer(1 << 20).unwrap())).unwrap();
    assert!(done.buffer.unwrap()[..] == expected[..]);
    queue.run(namespace.write_zeroes(0, namespace.blocks())).unwrap();
    let done = queue.run(namespace.read(3, rig.controller.buffer(1 << 20).unwrap())).unwrap();
    assert!(done.buffer.unwrap().iter().all(|&byte| byte == 0));
    drop((queue, namespace));
    rig.close();
}

fn many_controllers_live_side_by_side(door: Door) {
    let rigs: Vec<Rig> = (0..3).map(|_| Rig::open(door, "size=16MiB")).collect();
    let mut parts: Vec<_> = rigs.iter().map(first).collect();
    for (which, (namespace, queue)) in parts.iter_mut().enumerate() {
        let mut buffer = namespace.controller().buffer(512).unwrap();
        buffer.fill(which as u8);
        queue.run(namespace.write(0, buffer)).unwrap();
    }
    for (which, (namespace, queue)) in parts.iter_mut().enumerate() {
        let buffer = namespace.controller().buffer(512).unwrap();
        let done = queue.run(namespace.read(0, buffer)).unwrap();
        assert!(done.buffer.unwrap().iter().all(|&byte| byte == which as u8));
    }
    drop(parts);
    for rig in rigs {
        rig.close();
    }
}

/// Every wait of these tests ends: nothing here may take longer.
const LONGEST: Duration = Duration::from_secs(300);

macro_rules! through {
    ($module:ident, $door:expr) => {
        mod $module {
            use super::*;
            through!(@each $door;
                write_and_read_of_any_length random_operations_match_the_model
                errors_come_back_as_the_status_they_are raw_commands_reach_no_memory_but_their_buffer
                a_full_queue_hands_everything_back queues_come_and_go_in_any_order
                handles_may_go_in_any_order threads_with_a_queue_each_do_not_meet
                a_queue_moves_between_threads futures_run_beside_each_other
                admin_commands_typed_and_raw_agree small_transfers_are_joined_to_long_ones
                many_controllers_live_side_by_side
            );
        }
    };
    (@each $door:expr; $($test:ident)*) => {
        $(#[test]
        fn $test() {
            doorbell_tests::rig::within(LONGEST, || super::$test($door));
        })*
    };
}

through!(stepped, Door::Stepped);
through!(stepped_shadows, Door::SteppedShadows);
through!(threaded, Door::Threaded);
through!(threaded_shadows, Door::ThreadedShadows);
through!(vfio_user, Door::VfioUser);
through!(tcp, Door::Tcp { digests: false });
through!(tcp_digests, Door::Tcp { digests: true });

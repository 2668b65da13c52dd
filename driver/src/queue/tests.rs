//! The queue over a transport that does what the test says, in virtual time.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Mutex;
use std::task::{Context, Waker};

use doorbell_spec::command::Sqe;
use doorbell_spec::nvm;
use doorbell_spec::status::Status;

use super::*;
use crate::error::CommandError;
use crate::memory::tests::{Random, any_memory as memory};
use crate::memory::{Buffer, DmaMemory};
use crate::transport::{CloseError, Full, Handling, Limits, Outcome, Usage};

/// What the "device" knows; shared between a queue's transport and its test.
#[derive(Default)]
struct Device {
    staged: Vec<(u16, Sqe, Data)>,
    sent: Vec<(u16, Sqe, Data)>,
    completions: VecDeque<Result<Completion, Violation>>,
    closed: bool,
    released: u32,
}

impl Device {
    fn complete(&mut self, at: usize, status: Status) {
        let (cid, command, _) = self.sent.remove(at);
        self.completions.push_back(Ok(Completion {
            cid,
            status,
            result: command.slba(),
            outcome: Outcome::Completed,
        }));
    }
}

struct Fake {
    device: Rc<RefCell<Device>>,
    limits: Limits,
}

impl Transport for Fake {
    fn limits(&self) -> Limits {
        self.limits
    }

    fn stage(&mut self, slot: u16, cid: u16, command: Sqe, data: Data) -> Result<(), Full> {
        assert!(slot < self.limits.depth);
        let mut device = self.device.borrow_mut();
        assert!(device.sent.iter().chain(&device.staged).all(|&(other, ..)| other != cid), "CQ-9");
        device.staged.push((cid, command, data));
        Ok(())
    }

    fn release(&mut self, _: u16) {
        self.device.borrow_mut().released += 1;
    }

    fn ring(&mut self) {
        let device = &mut *self.device.borrow_mut();
        device.sent.append(&mut device.staged);
    }

    fn next(&mut self) -> Result<Option<Completion>, Violation> {
        self.device.borrow_mut().completions.pop_front().transpose()
    }

    fn usage(&self) -> Usage {
        Usage::default()
    }

    fn close(&mut self) -> Result<(), CloseError> {
        self.device.borrow_mut().closed = true;
        Ok(())
    }
}

/// Moves on by what each pause asks for, and counts them.
#[derive(Default)]
struct Virtual(Mutex<Duration>);

impl Clock for Virtual {
    fn now(&self) -> Duration {
        *self.0.lock().unwrap()
    }

    fn pause(&self, _: u32, longest: Duration) {
        *self.0.lock().unwrap() += longest;
    }
}

struct Bench {
    queue: Queue<Fake>,
    device: Rc<RefCell<Device>>,
    memory: Arc<DmaMemory>,
}

const BLOCK: usize = 512;

fn bench(depth: u16, max_transfer: usize) -> Bench {
    let device = Rc::new(RefCell::new(Device::default()));
    let transport = Fake {
        device: device.clone(),
        limits: Limits { depth, max_transfer, page: 4096, direct: true },
    };
    let (memory, clock) = (memory(), Arc::new(Virtual::default()));
    let queue = Queue::new(transport, memory.home(), clock, Duration::from_secs(1));
    Bench { queue, device, memory }
}

impl Bench {
    fn buffer(&self, blocks: usize) -> Buffer {
        self.memory.allocate(blocks * BLOCK).unwrap()
    }

    fn read(&self, lba: u64, blocks: usize, boundary: u32, tag: u64) -> Io {
        let block_shift = BLOCK.trailing_zeros() as u8;
        let extent = Extent {
            blocks: 0,
            block_shift,
            boundary,
            max_blocks: 1 << 16,
            home: self.memory.home(),
            made: 0,
        };
        Io::data(nvm::read(1, lba, 0), self.buffer(blocks), extent).tag(tag)
    }
}

fn completion(cid: u16, result: u64) -> Completion {
    Completion { cid, status: Status::SUCCESS, result, outcome: Outcome::Completed }
}

#[test]
fn what_became_of_an_operation_is_the_worst_of_its_parts_and_no_more_than_known() {
    use Outcome::{Aborted, Completed, Indeterminate, NotSent};
    for (outcomes, expected) in [
        ([Completed, Completed], Completed),
        ([NotSent, NotSent], NotSent),
        ([Completed, NotSent], Indeterminate),
        ([NotSent, Aborted], Aborted),
        ([Aborted, Completed], Aborted),
        ([Indeterminate, NotSent], Indeterminate),
    ] {
        let mut bench = bench(8, 4096);
        bench.queue.submit(bench.read(0, 16, 0, 9)).unwrap();
        for outcome in outcomes {
            let mut device = bench.device.borrow_mut();
            let (cid, ..) = device.sent.remove(0);
            let lost = outcome != Completed;
            let status = if lost { Status::HOST_PATHING_ERROR } else { Status::SUCCESS };
            device.completions.push_back(Ok(Completion { cid, status, result: 0, outcome }));
        }
        let done = bench.queue.reap().expect("the whole operation ends once");
        assert_eq!((done.tag, done.outcome), (9, expected), "{outcomes:?}");
        assert!(bench.queue.reap().is_none());
        let error = done.ok().err();
        assert_eq!(error.is_some(), expected != Completed);
        assert!(error.is_none_or(|error| error.into_buffer().is_some()), "the buffer comes back");
    }
}

#[test]
fn a_full_queue_gives_command_and_buffer_back() {
    let mut bench = bench(2, 4096);
    for tag in 0..2 {
        let io = bench.read(0, 1, 0, tag);
        bench.queue.stage(io).unwrap();
    }
    let io = bench.read(7, 1, 0, 9);
    let iova = io.buffer.as_ref().map(Buffer::iova);
    let rejected = bench.queue.stage(io).unwrap_err();
    assert_eq!(rejected.reason, Reason::Full);
    assert_eq!((rejected.io.tag, rejected.io.command().slba()), (9, 7));
    assert_eq!(rejected.io.into_buffer().map(|buffer| buffer.iova()), iova);
}

#[test]
fn operations_are_divided_at_every_limit_and_complete_once() {
    let mut random = Random::from_env();
    let rounds = if cfg!(miri) { 3 } else { 2_000 };
    for _ in 0..rounds {
        let depth = 1 + random.below(9) as u16;
        let max_transfer = 4096 << random.below(3);
        let boundary = [0, 8, 16, 64][random.below(4) as usize];
        let mut bench = bench(depth, max_transfer);
        let mut expected = Vec::new();
        let mut begun = 0;
        let mut done = Vec::new();
        while begun < 6 || bench.queue.outstanding() > 0 {
            if begun < 6 {
                let (lba, blocks) = (random.below(1000), 1 + random.below(100) as usize);
                let io = bench.read(lba, blocks, boundary, begun);
                let iova = io.buffer.as_ref().map_or(0, Buffer::iova);
                if bench.queue.stage(io).is_ok() {
                    expected.push((lba, blocks as u64, iova));
                    begun += 1;
                }
            }
            bench.queue.ring();
            let waiting = bench.device.borrow().sent.len() as u64;
            if waiting > 0 {
                bench.device.borrow_mut().complete(random.below(waiting) as usize, Status::SUCCESS);
            }
            // What goes out covers each operation in order, in pieces within the limits.
            bench.queue.poll(|completion| {
                assert!(completion.status.is_success());
                done.push(completion.tag);
            });
            for (_, command, data) in &bench.device.borrow().sent {
                let blocks = u64::from(command.nlb_z()) + 1;
                assert_eq!(data.len as u64, blocks * BLOCK as u64);
                assert!(data.len <= max_transfer);
                if boundary != 0 {
                    let edge = u64::from(boundary);
                    assert!(command.slba() % edge + blocks <= edge, "crosses NOIOB");
                }
                assert!(expected.iter().any(|&(lba, count, iova)| command.slba() >= lba
                    && command.slba() + blocks <= lba + count
                    && data.iova == iova + (command.slba() - lba) * BLOCK as u64));
            }
        }
        done.sort_unstable();
        assert_eq!(done, (0..6).collect::<Vec<_>>(), "each operation completes once");
        assert_eq!(bench.queue.free_slots(), usize::from(depth));
    }
}

#[test]
fn the_failure_at_the_lowest_address_is_reported_after_all_parts_are_back() {
    let mut bench = bench(8, 4096);
    let io = bench.read(0, 24, 0, 5);
    bench.queue.submit(io).unwrap();
    bench.device.borrow_mut().complete(2, Status::WRITE_FAULT);
    bench.device.borrow_mut().complete(1, Status::UNRECOVERED_READ_ERROR);
    assert_eq!(bench.queue.poll(|_| panic!("a part is still out")), 0);
    bench.device.borrow_mut().complete(0, Status::SUCCESS);
    let mut seen = Vec::new();
    bench.queue.poll(|done| seen.push((done.tag, done.status, done.buffer.is_some())));
    assert_eq!(seen, [(5, Status::UNRECOVERED_READ_ERROR, true)]);
}

#[test]
fn data_that_one_command_cannot_carry_is_refused_where_it_cannot_be_divided() {
    let mut bench = bench(2, 4096);
    let buffer = bench.buffer(16);
    let rejected = bench.queue.stage(Io::raw(Sqe::new(0xc2), Some(buffer))).unwrap_err();
    assert_eq!(rejected.reason, Reason::TooLong { len: 8192, max: 4096 });
}

#[test]
fn raw_commands_cannot_name_other_memory() {
    let mut bench = bench(2, 1 << 20);
    let mut refuse = |command, buffer| {
        let rejected = bench.queue.stage(Io::raw(command, buffer)).unwrap_err();
        assert!(matches!(rejected.reason, Reason::Invalid(Invalid::Reserved { .. })), "{rejected}");
    };
    refuse(Sqe { mptr: 4096, ..Sqe::new(2) }, None);
    refuse(Sqe::new(1).with_fuse(1), None);
    let two_pages = bench.memory.allocate(8192).unwrap();
    refuse(Sqe::new(0xc3), Some(two_pages));
    // A list in place of the second page would be all zeros.
    let mut buffer = bench.buffer(16);
    buffer.fill(0xff);
    bench.queue.submit(Io::raw(Sqe { prp1: 1, prp2: 2, ..Sqe::new(0xc2) }, Some(buffer))).unwrap();
    let (_, command, data) = bench.device.borrow().sent[0];
    assert_eq!((command.prp1, command.prp2), (0, 0), "pointers of the caller's are not sent");
    assert_eq!(data.handling, Handling::Guarded);
    bench.device.borrow_mut().complete(0, Status::SUCCESS);
    bench.queue.poll(|done| {
        let data = done.buffer.unwrap();
        assert!(data[..4096].iter().all(|&byte| byte == 0xff));
        assert!(data[4096..].iter().all(|&byte| byte == 0));
    });
    assert_eq!(bench.device.borrow().released, 1);
}

#[test]
fn pit_18_a_second_completion_is_dropped_and_counted() {
    let mut bench = bench(4, 4096);
    let io = bench.read(0, 1, 0, 1);
    bench.queue.submit(io).unwrap();
    bench.device.borrow_mut().complete(0, Status::SUCCESS);
    let again = bench.device.borrow().completions[0];
    bench.device.borrow_mut().completions.push_back(again);
    assert_eq!(bench.queue.poll(|done| assert_eq!(done.tag, 1)), 1);
    assert_eq!(bench.queue.counters().strays, 1);
    assert!(bench.queue.failure().is_none());
}

#[test]
fn pit_16_a_completion_never_asked_for_fails_the_queue() {
    let mut bench = bench(4, 4096);
    let io = bench.read(0, 1, 0, 1);
    bench.queue.submit(io).unwrap();
    let made_up = completion(0x7ff3, 0);
    bench.device.borrow_mut().completions.push_back(Ok(made_up));
    bench.device.borrow_mut().complete(0, Status::SUCCESS);
    assert_eq!(bench.queue.poll(|_| panic!("nothing is handed out by a failed queue")), 0);
    assert_eq!(bench.queue.failure(), Some(Violation::UnknownCommand { cid: 0x7ff3 }));
    let io = bench.read(0, 1, 0, 2);
    assert!(matches!(bench.queue.stage(io).unwrap_err().reason, Reason::Failed(_)));
    let device = bench.device.clone();
    drop(bench.queue);
    assert!(device.borrow().closed);
}

#[test]
fn run_keeps_what_is_not_its_own_for_the_next_poll() {
    let mut bench = bench(4, 4096);
    for tag in 1..=2 {
        let io = bench.read(tag, 1, 0, tag);
        bench.queue.submit(io).unwrap();
    }
    bench.device.borrow_mut().complete(0, Status::SUCCESS);
    bench.device.borrow_mut().complete(0, Status::WRITE_FAULT);
    // The next command has the identifier of slot 2, first generation.
    let own = completion(2, 77);
    bench.device.borrow_mut().completions.push_back(Ok(own));
    let io = bench.read(9, 1, 0, 0);
    let done = bench.queue.run(io).unwrap();
    assert_eq!(done.result, 77);
    let mut kept = Vec::new();
    bench.queue.poll(|done| kept.push((done.tag, done.status.is_success())));
    assert_eq!(kept, [(1, true), (2, false)]);
}

#[test]
fn run_times_out_and_the_buffer_stays_with_the_device() {
    let mut bench = bench(1, 4096);
    let io = bench.read(0, 1, 0, 0);
    let before = bench.memory.stats().in_use;
    assert!(matches!(bench.queue.run(io), Err(CommandError::TimedOut { .. })));
    assert_eq!(bench.memory.stats().in_use, before, "PIT-23: the command still owns its buffer");
    bench.device.borrow_mut().complete(0, Status::SUCCESS);
    assert_eq!(bench.queue.poll(|_| panic!("nobody waits for it")), 0);
    assert_eq!(bench.memory.stats().in_use, 0);
    assert_eq!(bench.queue.free_slots(), 1);
}

#[test]
fn pit_24_one_poll_hands_out_no_more_than_the_queue_holds() {
    let mut bench = bench(2, 4096);
    for round in 0..50u16 {
        // Stale identifiers: dropped one by one, in bounded rounds.
        let stray = completion(0xfffe | (round & 1), 0);
        bench.device.borrow_mut().completions.push_back(Ok(stray));
    }
    bench.queue.poll(|_| panic!("nothing was asked for"));
    assert!(bench.device.borrow().completions.len() >= 47);
}

fn poll_once<F: Future>(future: std::pin::Pin<&mut F>) -> std::task::Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn futures_resolve_to_their_own_completion_and_give_the_buffer_back() {
    let bench = bench(4, 4096);
    let device = bench.device.clone();
    let ios: Vec<Io> = (0..3).map(|tag| bench.read(tag, 1, 0, 40 + tag)).collect();
    let shared = bench.queue.into_shared();
    let mut futures: Vec<_> = ios.into_iter().map(|io| Box::pin(shared.submit(io))).collect();
    assert!(futures.iter_mut().all(|future| poll_once(future.as_mut()).is_pending()));
    shared.poll();
    device.borrow_mut().complete(2, Status::SUCCESS);
    device.borrow_mut().complete(0, Status::WRITE_FAULT);
    assert_eq!(shared.poll(), 2);
    let std::task::Poll::Ready(Ok(done)) = poll_once(futures[2].as_mut()) else { panic!("ready") };
    assert_eq!((done.tag, done.buffer.map(|buffer| buffer.len())), (42, Some(BLOCK)));
    assert!(poll_once(futures[1].as_mut()).is_pending());
    let std::task::Poll::Ready(Err(error)) = poll_once(futures[0].as_mut()) else {
        panic!("ready")
    };
    assert_eq!(error.status(), Some(Status::WRITE_FAULT));
    assert!(error.into_buffer().is_some());
}

#[test]
fn futures_dropped_at_any_moment_neither_lose_nor_free_what_is_in_flight() {
    let mut random = Random::from_env();
    let rounds = if cfg!(miri) { 12 } else { 3_000 };
    let bench = bench(3, 4096);
    let device = bench.device.clone();
    let memory = bench.memory.clone();
    let dropped = Cell::new(0);
    let ios: Vec<Io> =
        (0..rounds).map(|tag| bench.read(tag, 1 + tag as usize % 20, 0, tag)).collect();
    let total = ios.len();
    let shared = bench.queue.into_shared();
    let mut live = Vec::new();
    let mut resolved = 0;
    for io in ios {
        live.push(Box::pin(shared.submit(io)));
        for _ in 0..random.below(4) {
            match random.below(5) {
                0 if !live.is_empty() => {
                    let at = random.below(live.len() as u64) as usize;
                    drop(live.swap_remove(at));
                    dropped.set(dropped.get() + 1);
                }
                1 => {
                    let waiting = device.borrow().sent.len() as u64;
                    if waiting > 0 {
                        device
                            .borrow_mut()
                            .complete(random.below(waiting) as usize, Status::SUCCESS);
                    }
                }
                2 => {
                    shared.poll();
                }
                _ => live.retain_mut(|future| {
                    let pending = poll_once(future.as_mut()).is_pending();
                    resolved += usize::from(!pending);
                    pending
                }),
            }
        }
    }
    while !live.is_empty() || shared.in_flight() > 0 {
        shared.poll();
        while !device.borrow().sent.is_empty() {
            device.borrow_mut().complete(0, Status::SUCCESS);
        }
        live.retain_mut(|future| {
            let pending = poll_once(future.as_mut()).is_pending();
            resolved += usize::from(!pending);
            pending
        });
    }
    shared.poll();
    assert_eq!(resolved + dropped.get(), total);
    assert_eq!(memory.stats().in_use, 0, "every buffer is back in its pool");
    assert!(shared.into_inner().is_ok());
}

#[test]
fn a_buffer_of_another_controller_is_given_back() {
    let mut bench = bench(4, 64 << 10);
    let other = memory();
    let home = bench.memory.home();
    let extent =
        Extent { blocks: 0, block_shift: 9, boundary: 0, max_blocks: 1 << 16, home, made: 0 };
    let foreign = || other.allocate(BLOCK).unwrap();
    let data = Io::data(nvm::read(1, 0, 0), foreign(), extent);
    let raw = Io::raw(nvm::read(1, 0, 0), Some(foreign()));
    for io in [data, raw] {
        let rejected = bench.queue.stage(io).unwrap_err();
        assert_eq!(rejected.reason, Reason::Foreign);
        assert!(rejected.io.into_buffer().is_some());
    }
    // Longer than one command carries: none of its parts is sent either.
    let long = Io::data(nvm::read(1, 0, 0), other.allocate(128 << 10).unwrap(), extent);
    assert_eq!(bench.queue.stage(long).unwrap_err().reason, Reason::Foreign);
    let own = bench.read(0, 1, 0, 7);
    bench.queue.stage(own).unwrap();
    assert_eq!(bench.device.borrow().staged.len(), 1);
}

//! The in-process port: its thread, and the form without one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use doorbell_spec::register::{Aqa, Cc, Csts, offset};
use doorbell_spec::{admin, completion::Cqe, identify::Cns, identify::Csi};
use doorbell_subsystem::{Controller, InProcess, MapError};

use crate::host::config;
use crate::ram::{BASE, Ram};
use crate::subsystem;

/// Enables the controller behind a port, and has it answer an Identify.
fn identify(port: &InProcess, step: impl Fn()) {
    let ram = Arc::new(Ram::new(64 << 10));
    ram.map_port(port, BASE).expect("map");
    let aqa = Aqa::new().with_asqs_z(7).with_acqs_z(7);
    port.write(offset::AQA, 4, aqa.into_bits().into());
    port.write(offset::ASQ, 8, BASE);
    port.write(offset::ACQ, 8, BASE + 4096);
    port.write(offset::CC, 4, Cc::new().with_en(true).into_bits().into());
    assert!(Csts::from_bits(port.read(offset::CSTS, 4) as u32).rdy());
    let sqe = admin::identify(Cns::CONTROLLER, 0, 0, Csi::NVM).with_cid(9).with_prp(BASE + 8192, 0);
    ram.write(BASE, &sqe.to_words().map(u64::to_ne_bytes).concat());
    port.doorbells().store(0, 1);
    let deadline = Instant::now() + Duration::from_secs(30);
    let entry = loop {
        step();
        let high = ram.word(BASE + 4096 + 8);
        let entry = Cqe::from_words([ram.word(BASE + 4096), high]);
        if entry.phase() {
            break entry;
        }
        assert!(Instant::now() < deadline, "no completion");
        std::thread::yield_now();
    };
    assert_eq!((entry.cid, entry.status().is_success()), (9, true));
    assert_eq!(ram.read(BASE + 8192 + 4, 8), *b"DOORBELL");
    port.reset();
    assert_eq!(port.read(offset::CSTS, 4), 0);
    port.unmap(BASE, 64 << 10).expect("unmap");
    let again = port.unmap(BASE, 64 << 10);
    assert_eq!(again, Err(MapError::NotMapped { iova: BASE, len: 64 << 10 }));
}

#[test]
fn stepped_by_its_caller() {
    let controller = Controller::new(subsystem(&[]), config()).expect("controller");
    let port = InProcess::stepped(controller);
    for _ in 0..2 {
        identify(&port, || {
            port.step(Duration::from_secs(1));
        });
    }
}

#[test]
fn on_a_thread_of_its_own() {
    let controller = Controller::new(subsystem(&[]), config()).expect("controller");
    let port = InProcess::spawn(controller).expect("thread");
    for _ in 0..3 {
        identify(&port, || {});
    }
}

#[test]
#[cfg_attr(miri, ignore = "reads /proc")]
fn an_idle_thread_hardly_runs() {
    let controller = Controller::new(subsystem(&["memory:1MiB"]), config()).expect("controller");
    let port = InProcess::spawn(controller).expect("thread");
    identify(&port, || {});
    // Enabled and polled, with nothing to do.
    port.write(offset::CC, 4, Cc::new().with_en(true).into_bits().into());
    // Sleeps have to grow first. Other tests have such threads too, for moments: one quiet second out of a few is enough.
    let shares = (0..5).map(|_| {
        let (start, before) = (Instant::now(), run_time());
        std::thread::sleep(Duration::from_secs(1));
        run_time().saturating_sub(before) as f64 / start.elapsed().as_nanos() as f64
    });
    let idle =
        shares.inspect(|share| println!("idle controller: {:.2} % of a core", share * 100.0));
    assert!(idle.into_iter().any(|share| share < 0.02));
}

/// Nanoseconds that the threads named doorbell-subsys (names are cut to 15 characters) have run.
fn run_time() -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task").expect("tasks");
    let paths = tasks.filter_map(|task| Some(task.ok()?.path()));
    let ours = paths.filter(|path| {
        std::fs::read_to_string(path.join("comm"))
            .is_ok_and(|name| name.trim() == "doorbell-subsys")
    });
    let stat = ours.filter_map(|path| std::fs::read_to_string(path.join("schedstat")).ok());
    stat.filter_map(|stat| stat.split(' ').next()?.parse::<u64>().ok()).sum()
}

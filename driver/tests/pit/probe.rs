//! PIT-01 to PIT-13: registers that make no sense, and controllers that do not come up.

use std::time::Duration;

use doorbell::spec::admin::AdminOpcode;
use doorbell::spec::register::{Cap, Cc, Crto, Csts, Vs, offset};
use doorbell::spec::status::Status;
use doorbell::{Io, Reason};
use doorbell_subsystem::ControllerConfig;
use doorbell_subsystem::fault::{Commands, Rule};

use crate::bench::{Bench, Ledger, settings, small};
use crate::spy::Event;

fn cc(en: bool) -> (u32, u32) {
    (1, u32::from(en))
}

fn bits(csts: Csts) -> u64 {
    csts.into_bits().into()
}

fn writes(bench: &Bench) -> usize {
    bench.spy.count(|event| matches!(event, Event::Write(..)))
}

fn enables(bench: &Bench) -> usize {
    let enable = |event| matches!(event, Event::Write(offset::CC, cc) if cc & 1 != 0);
    bench.spy.count(enable)
}

fn resets(bench: &Bench) -> usize {
    bench.spy.count(|event| event == Event::Reset)
}

/// Capabilities with these fields instead of the controller's own.
fn reports(mask: Cap, cap: Cap) -> Bench {
    Bench::faulty([Rule::capabilities(mask, cap)])
}

/// Reads and writes through a new queue, in commands of one, two and many pages.
fn does_io(bench: &Bench) {
    let controller = bench.attach().expect("a controller");
    let namespace = controller.namespace(1).expect("a namespace");
    let mut queue = controller.queue(small(4)).expect("a queue");
    for len in [512, 4096, 8192, 12_288, 128 << 10, 300 << 10] {
        let mut data = controller.buffer(len).expect("memory");
        for (at, byte) in data.iter_mut().enumerate() {
            *byte = (at / 512 + len) as u8;
        }
        let expected = data.to_vec();
        queue.run(namespace.write(5, data)).expect("written");
        let back = controller.buffer(len).expect("memory");
        let done = queue.run(namespace.read(5, back)).expect("read");
        assert_eq!(done.buffer.expect("a buffer")[..], expected[..], "{len} bytes");
    }
    drop((queue, namespace));
    bench.close(controller);
}

#[test]
fn pit_01_status_of_all_ones_at_probe() {
    for register in [offset::CSTS, offset::CAP] {
        let bench = Bench::faulty([Rule::read(register).all_ones()]);
        let error = bench.refused();
        assert!(error.contains("all ones"), "{error}");
        assert_eq!(writes(&bench), 0, "nothing is written to what is not there");
        assert_eq!(bench.spy.count(|event| event == Event::Read(offset::CSTS)), 1);
        assert_eq!(bench.now(), Duration::ZERO, "nothing to wait for");
    }
}

#[test]
fn pit_02_queues_of_one_entry() {
    let bench = reports(Cap::new().with_mqes_z(0xffff), Cap::new());
    let error = bench.refused();
    assert!(error.contains("CAP.MQES is 0"), "{error}");
    assert_eq!(writes(&bench), 0);
}

#[test]
fn pit_03_queues_of_two_entries() {
    let bench = Bench::with(ControllerConfig { mqes_z: 1, ..settings() }, &["memory:1MiB"]);
    let controller = bench.attach().expect("a controller");
    let namespace = controller.namespace(1).expect("a namespace");
    let mut queue = controller.queue(small(128)).expect("a queue");
    assert_eq!(queue.depth(), 1);
    let mut ledger = Ledger::default();
    let buffer = || controller.buffer(512).expect("memory");
    for lba in 0..10 {
        let tag = ledger.submit(&mut queue, namespace.read(lba, buffer()));
        let rejected = queue.stage(namespace.read(0, buffer())).expect_err("no second one");
        assert_eq!(rejected.reason, Reason::Full);
        ledger.settle(&bench, &mut queue, Duration::from_secs(1));
        assert!(ledger.of(tag).0.is_success());
    }
    let fused = Io::raw(namespace.flush().command().with_fuse(1), None);
    assert!(matches!(queue.stage(fused).expect_err("fused").reason, Reason::Invalid(_)));
    drop((queue, namespace));
    bench.close(controller);
}

#[test]
fn pit_04_queues_of_65536_entries() {
    let bench = Bench::with(ControllerConfig { mqes_z: 65_535, ..settings() }, &["memory:1MiB"]);
    bench.spy.shrinks();
    let controller = bench.attach().expect("a controller");
    assert_eq!(controller.limits().max_queue_entries, 65_536);
    let namespace = controller.namespace(1).expect("a namespace");
    let mut config = small(65_534);
    config.max_transfer = 4096;
    let mut queue = controller.queue(config).expect("a queue");
    assert_eq!(queue.depth(), 65_534);
    let mut ledger = Ledger::default();
    // Twice around, so that indices and phases wrap.
    for _ in 0..if cfg!(miri) { 1 } else { 22 } {
        for lba in 0..if cfg!(miri) { 4 } else { 6_000 } {
            let buffer = controller.buffer(512).expect("memory");
            ledger.submit(&mut queue, namespace.read(lba % 2048, buffer));
        }
        ledger.settle(&bench, &mut queue, Duration::from_secs(10));
    }
    assert!(ledger.ended().all(|(status, _)| status.is_success()));
    drop((queue, namespace));
    bench.close(controller);
}

#[test]
fn pit_05_pages_that_must_be_larger_than_4_kib() {
    let mask = Cap::new().with_mpsmin(0xf);
    for mpsmin in [1, 2, 4] {
        let bench = reports(mask, Cap::new().with_mpsmin(mpsmin));
        let controller = bench.attach().expect("a controller");
        assert_eq!(controller.limits().page_size, 4096 << mpsmin);
        let mdts = controller.identify().mdts;
        assert_eq!(controller.limits().max_transfer, 4096 << mpsmin << mdts, "in units of MPSMIN");
        bench.close(controller);
        does_io(&bench);
    }
    let mask = mask.with_mpsmax(0xf);
    let bench = reports(mask, Cap::new().with_mpsmin(5).with_mpsmax(5));
    let error = bench.refused();
    assert!(error.contains("131072 bytes"), "{error}");
    assert_eq!(writes(&bench), 0);
}

#[test]
fn pit_06_largest_page_below_the_smallest() {
    let mask = Cap::new().with_mpsmin(0xf).with_mpsmax(0xf);
    let bench = reports(mask, Cap::new().with_mpsmin(3).with_mpsmax(2));
    let error = bench.refused();
    assert!(error.contains("MPSMAX (2) is below CAP.MPSMIN (3)"), "{error}");
    assert_eq!(writes(&bench), 0);
}

#[test]
fn pit_07_doorbells_further_apart_than_the_bar_is_long() {
    let bench = reports(Cap::new().with_dstrd(0xf), Cap::new().with_dstrd(15));
    let error = bench.refused();
    assert!(error.contains("BAR0") && error.contains("DSTRD 15"), "{error}");
    // Where the BAR is long enough, they are found there.
    does_io(&Bench::with(ControllerConfig { dstrd: 15, ..settings() }, &["memory:1MiB"]));
}

#[test]
fn pit_08_no_time_to_become_ready() {
    let none = || {
        [
            Rule::capabilities(Cap::new().with_to(0xff), Cap::new()),
            Rule::read(offset::CRTO).value(Crto::new().into_bits().into()),
        ]
    };
    let (mask, on) = cc(true);
    let late = Rule::write(offset::CC).having(mask, on).delay(Duration::from_millis(300)).nth(1);
    let bench = Bench::faulty(none().into_iter().chain([late]));
    does_io(&bench);

    let bench = Bench::faulty(none().into_iter().chain([Rule::never_ready()]));
    let error = bench.refused();
    assert!(error.contains("500ms"), "{error}");
    assert!((400..1200).contains(&bench.now().as_millis()), "neither 0 nor for ever");
}

#[test]
fn time_without_end_to_become_ready_is_not_granted() {
    let crto = |steps| {
        let crto = Crto::new().with_crwmt(steps);
        [
            Rule::capabilities(Cap::new().with_crms(3), Cap::new().with_crms(1)),
            Rule::read(offset::CRTO).value(crto.into_bits().into()),
        ]
    };
    // Asked for and not needed.
    does_io(&Bench::faulty(crto(u16::MAX)));

    let mut bench = Bench::faulty(crto(u16::MAX).into_iter().chain([Rule::never_ready()]));
    let error = bench.refused();
    assert!(error.contains("CRTO.CRWMT asks for 32767.5s"), "{error}");
    assert!(error.contains("Config::ready_limit") && error.contains("128s"), "{error}");
    assert!((128..130).contains(&bench.now().as_secs()), "{:?}", bench.now());

    bench.config.ready_limit = Duration::from_secs(3);
    let most = Cap::new().with_to(255);
    bench.inject([Rule::capabilities(Cap::new().with_to(0xff), most), Rule::never_ready()]);
    let before = bench.now();
    let error = bench.refused();
    assert!(error.contains("CAP.TO asks for 127.5s"), "{error}");
    assert!((3..5).contains(&(bench.now() - before).as_secs()));

    // A drive that means it gets its time, where the caller grants it.
    bench.config.ready_limit = Duration::from_secs(1000);
    let (mask, on) = cc(true);
    let late = Rule::write(offset::CC).having(mask, on).delay(Duration::from_secs(600)).nth(1);
    bench.inject(crto(2000).into_iter().chain([late]));
    does_io(&bench);
}

#[test]
fn pit_09_no_command_set_that_is_known() {
    for css in [0, Cap::CSS_NONE] {
        does_io(&reports(Cap::new().with_css(0xff), Cap::new().with_css(css)));
        let identify = Commands::admin(AdminOpcode::IDENTIFY);
        let bench = Bench::faulty([
            Rule::capabilities(Cap::new().with_css(0xff), Cap::new().with_css(css)),
            Rule::command(identify).answer(Status::INVALID_OPCODE.with_dnr(), 0),
        ]);
        let error = bench.refused();
        assert!(error.contains("Identify Controller") && error.contains("0/01"), "{error}");
        let css = |event| match event {
            Event::Write(offset::CC, cc) if cc & 1 != 0 => Some(Cc::from_bits(cc as u32).css()),
            _ => None,
        };
        let tried: Vec<u8> = bench.spy.events().into_iter().filter_map(css).collect();
        assert_eq!(tried, [Cc::CSS_NVM]);
    }
}

#[test]
fn pit_10_never_ready() {
    let bench = Bench::faulty([Rule::never_ready()]);
    let error = bench.refused();
    assert!(error.contains("CSTS.RDY=1 after CC.EN=1"), "{error}");
    assert!(bench.now() < Duration::from_secs(60), "within the bound of CAP.TO and CRTO");
    // It is enabled all the time, and only does not say so: it is disabled before its memory goes.
    let bench =
        Bench::faulty([Rule::read(offset::CSTS).clear_bits(bits(Csts::new().with_rdy(true)))]);
    bench.refused();
    assert!(bench.now() < Duration::from_secs(60));
    assert!(!bench.device.port().is_running());
    // And where nothing disables it once it is ready, too late, its memory is kept.
    let (mask, off) = cc(false);
    let bench = Bench::faulty([
        Rule::read(offset::CSTS).clear_bits(bits(Csts::new().with_rdy(true))).times(10_100),
        Rule::write(offset::CC).having(mask, off).lose(),
        Rule::function_reset(),
    ]);
    let error = bench.refused();
    assert!(error.contains("CSTS.RDY=1"), "{error}");
    assert!(bench.device.port().is_running(), "nothing helped");
    assert_eq!(resets(&bench), 1);
}

#[test]
fn pit_11_never_idle() {
    let bench =
        Bench::faulty([Rule::read(offset::CSTS).set_bits(bits(Csts::new().with_rdy(true)))]);
    let error = bench.refused();
    assert!(error.contains("CSTS.RDY=0 after CC.EN=0"), "{error}");
    assert_eq!(
        (resets(&bench), enables(&bench)),
        (1, 0),
        "one function level reset, then the error"
    );
    assert!(bench.now() < Duration::from_secs(30));

    // Left enabled by somebody, deaf to CC.EN=0; the function level reset helps.
    let bench = Bench::new();
    let port = bench.device.port();
    port.write(offset::AQA, 4, 0x001f_001f);
    port.write(offset::ASQ, 8, 0x10_0000);
    port.write(offset::ACQ, 8, 0x20_0000);
    let left = Cc::new().with_en(true).with_iosqes(Cc::IOSQES_64).with_iocqes(Cc::IOCQES_16);
    port.write(offset::CC, 4, left.into_bits().into());
    assert!(port.is_running());
    let (mask, off) = cc(false);
    bench.inject([Rule::write(offset::CC).having(mask, off).lose().times(1)]);
    assert_eq!(resets(&bench), 0);
    does_io(&bench);
    assert_eq!(resets(&bench), 1);
}

#[test]
fn pit_12_ready_although_disabled() {
    let stale = Rule::read(offset::CSTS).set_bits(bits(Csts::new().with_rdy(true))).after(3);
    let bench = Bench::faulty([stale]);
    let error = bench.refused();
    assert!(error.contains("RDY"), "{error}");
    assert_eq!(enables(&bench), 0, "not taken for ready");
}

#[test]
fn pit_13_fatal_status_at_bring_up() {
    let (mask, on) = cc(true);
    let fatal = || Rule::write(offset::CC).having(mask, on).fatal();
    let bench = Bench::faulty([fatal().times(1)]);
    does_io(&bench);

    let bench = Bench::faulty([fatal()]);
    let error = bench.refused();
    assert!(error.contains("CSTS.CFS"), "{error}");
    assert_eq!(enables(&bench), 2, "one more attempt, and no third");
    assert!(bench.now() < Duration::from_secs(1), "the time to become ready is not waited for");
}

#[test]
fn an_older_version_is_believed() {
    let bench = Bench::faulty([Rule::read(offset::VS).value(Vs::V1_0.into_bits().into())]);
    let controller = bench.attach().expect("a controller");
    assert_eq!(controller.version(), Vs::V1_0);
    bench.close(controller);
}

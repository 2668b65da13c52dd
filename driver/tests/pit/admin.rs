//! The ladder of admin commands (CQ-12): a deadline, one more look, an Abort, a reset; each step bounded, counted, and
//! left out where that is wanted.

use std::time::Duration;

use doorbell::spec::admin::{self, AdminOpcode};
use doorbell::spec::feature::{Fid, Select};
use doorbell::spec::register::{Csts, offset};
use doorbell::spec::status::Status;
use doorbell::{CommandError, RecoveryCounters};
use doorbell_subsystem::fault::{Commands, Rule};

use crate::bench::{Bench, Load};

const SECOND: Duration = Duration::from_secs(1);

fn features() -> Commands {
    Commands::admin(AdminOpcode::GET_FEATURES)
}

/// Gets a feature, under these rules, within a second; whether it succeeded or with which status it ended, if it did; how
/// long it took, and the steps.
fn overdue(
    bench: Bench,
    rules: Vec<Rule>,
) -> (Result<(), Option<Status>>, Duration, RecoveryCounters) {
    let mut load = Load::with(bench, 4);
    let tags = load.send(3);
    load.bench.inject(rules);
    let start = load.bench.now();
    let command = admin::get_features(Fid::ARBITRATION, 0, Select::CURRENT, 0);
    let buffer = load.controller.buffer(4096).expect("memory");
    let result = load.controller.admin_within(command, Some(buffer), SECOND);
    let took = load.bench.now() - start;
    let result = match result {
        Ok(done) => {
            assert!(done.buffer.is_some());
            Ok(())
        }
        Err(error) => {
            let timed_out = matches!(error, CommandError::TimedOut { .. });
            let status = error.status();
            assert_eq!(timed_out, status.is_none(), "{error:?}");
            // With the error if it has ended; otherwise it has stayed with the queue until the reset.
            assert_eq!(error.into_buffer().is_some(), status.is_some());
            Err(status)
        }
    };
    let steps = load.controller.recovery();
    // I/O goes on, whatever had to be done, and each of its commands has ended once.
    load.settle();
    tags.iter().for_each(|tag| assert_ne!(load.ledger.of(*tag).0, Status::INTERNAL_ERROR));
    load.resumes();
    assert!(load.controller.identify_namespace(1).is_ok());
    load.close();
    (result, took, steps)
}

#[test]
fn an_overdue_admin_command_is_aborted_and_nothing_else_happens() {
    let hang = Rule::command(features()).hang();
    let (result, took, steps) = overdue(Bench::new(), vec![hang]);
    let status = result.expect_err("aborted").expect("an end");
    assert!(status.is(Status::ABORTED_BY_REQUEST), "{status}");
    assert!(took < 2 * SECOND, "{took:?}");
    assert_eq!((steps.overdue, steps.aborts, steps.aborted, steps.resets), (1, 1, 1, 0));
}

#[test]
fn one_that_completes_while_it_is_aborted_is_completed_once() {
    // 2 s: after its deadline of one, within the 5 s that it has from its abort. An abort of a completion that is held back
    // brings that forth, so the abort is lost.
    let late = Rule::completion(features()).delay(2 * SECOND);
    let lost = Rule::command(Commands::admin(AdminOpcode::ABORT)).lose();
    let (result, took, steps) = overdue(Bench::new(), vec![late, lost]);
    assert!(result.is_ok());
    assert!((2..7).contains(&took.as_secs()), "{took:?}");
    assert_eq!((steps.overdue, steps.aborts, steps.aborted, steps.resets), (1, 1, 0, 0));
}

#[test]
fn an_abort_that_does_not_help_is_followed_by_a_reset() {
    for abort_lost in [false, true] {
        let lost = Rule::command(features()).lose();
        let mut rules = vec![lost];
        if abort_lost {
            rules.push(Rule::command(Commands::admin(AdminOpcode::ABORT)).lose());
        }
        let (result, took, steps) = overdue(Bench::new(), rules);
        assert_eq!(result, Err(None), "never answered");
        assert!((6..8).contains(&took.as_secs()), "1 s and 5 s: {took:?}");
        assert_eq!((steps.overdue, steps.aborts, steps.aborted, steps.resets), (1, 1, 0, 1));
    }
}

#[test]
fn steps_can_be_left_out() {
    let without: [fn(&mut Bench); 2] = [
        |bench| bench.config.recovery.abort = false,
        |bench| bench.config.recovery.admin_abort = Duration::ZERO,
    ];
    for without in without {
        let mut bench = Bench::new();
        without(&mut bench);
        let (result, took, steps) = overdue(bench, vec![Rule::command(features()).hang()]);
        assert_eq!(result, Err(None), "never answered");
        assert!(took < 2 * SECOND, "{took:?}");
        assert_eq!((steps.aborts, steps.resets), (0, 1));
    }
}

#[test]
fn nothing_is_asked_of_a_controller_that_has_failed() {
    let lost = Rule::command(features()).lose();
    let failed = Csts::new().with_cfs(true).into_bits();
    // For the one look before the abort; not for the reset that follows.
    let failed = Rule::read(offset::CSTS).set_bits(failed.into()).times(1);
    let (result, took, steps) = overdue(Bench::new(), vec![lost, failed]);
    assert_eq!(result, Err(None), "never answered");
    assert!(took < 2 * SECOND, "{took:?}");
    assert_eq!((steps.aborts, steps.resets), (0, 1));
}

#[test]
fn a_question_about_an_event_that_is_not_answered_ends_in_a_reset() {
    let mut load = Load::new(4);
    let rule = Rule::command(Commands::admin(AdminOpcode::IDENTIFY)).lose().nth(1);
    load.bench.inject([rule]);
    let start = load.bench.now();
    let mut events = 0;
    while load.controller.recovery().resets == 0 {
        load.controller.poll(|_| events += 1);
        load.ledger.poll(&mut load.queue);
        doorbell::clock::Clock::pause(&*load.bench.clock, 16, Duration::from_millis(1));
        assert!(load.bench.now() - start < 10 * SECOND);
    }
    assert!(load.bench.now() - start >= 5 * SECOND, "as long as an admin command may take");
    load.resumes();
    load.close();
}

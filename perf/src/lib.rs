//! The perf tool of Doorbell: measures NVMe drives and subsystems through the driver, and the kernel beside it.
//!
//! A library so that its parts can be tested; `main.rs` only turns the result into an exit status.
//!
//! ```text
//! args -> config -> setup (guard, plan) -> run -> crew -> lane -> engine {doorbell, io_uring, pread}
//!                                           |                |
//!                                         live       latency, verify, rate      outcome -> report {text, json}
//! ```

pub mod args;
pub mod clock;
pub mod config;
pub mod crew;
pub mod engine;
pub mod guard;
pub mod histogram_log;
pub mod lane;
pub mod latency;
pub mod live;
pub mod machine;
pub mod outcome;
pub mod patience;
pub mod pattern;
pub mod plan;
pub mod random;
pub mod rate;
pub mod report;
pub mod run;
pub mod setup;
pub mod sys;
pub mod units;
pub mod verify;
pub mod workload;
pub mod zipf;

use std::io::Write;

use anyhow::Context;
use doorbell_subsystem::fault::{Count, Counters};

use crate::args::{Form, Request};
use crate::clock::Clock;
use crate::machine::Machine;
use crate::outcome::Outcome;

/// Carries a request out and prints the report; whether nothing went wrong.
///
/// # Errors
/// The run could not be started, or its report not be written.
pub fn measure(request: &Request) -> anyhow::Result<bool> {
    let config = &request.config;
    let clock = Clock::calibrate();
    let sides = setup::open(config, clock, request.destroy_data)?;
    if request.form == Form::Text {
        print(&format!("{}\n", report::text::heading(config, &sides)))?;
    }
    sys::catch_interrupts();
    let started = std::time::SystemTime::now();
    let mut workers: Vec<run::Crews> = (0..config.cores.count()).map(|_| Vec::new()).collect();
    let (mut parts, mut faults) = (Vec::new(), Vec::new());
    for side in sides {
        faults.extend(side.faults);
        for (worker, crew) in workers.iter_mut().zip(side.crews) {
            worker.push(crew);
        }
        parts.push((side.engine, side.devices, side.controllers));
    }
    let attend = || {
        // Events are not of interest here, but some are obeyed: a drive that is asked for is given back. A target's
        // controller is looked after by its queues, on their own threads: another that finds the connection closed
        // first would take from them what has arrived and is not read yet.
        let controllers = parts.iter().flat_map(|(.., controllers)| controllers);
        for controller in controllers.filter(|controller| controller.device().is_some()) {
            controller.poll(|_| {});
        }
    };
    let reports = run::run(config, clock, workers, attend)?;
    let mut controllers = Vec::new();
    let mut measured = Vec::new();
    for ((engine, devices, of_side), reports) in parts.into_iter().zip(&reports) {
        let mut side = outcome::Side::new(engine, devices, reports);
        of_side.iter().for_each(|controller| side.count_recovery(&controller.recovery()));
        measured.push(side);
        controllers.extend(of_side);
    }
    let interrupted = sys::interrupted();
    for Count { name, matched, injected } in faults.iter().flat_map(Counters::iter) {
        eprintln!("fault '{name}': injected {injected} of {matched}");
    }
    let outcome = Outcome { config: config.clone(), sides: measured, interrupted, started };
    match request.form {
        Form::Text => print(&report::text::render(&outcome, report::text::is_unicode()))?,
        Form::Json => {
            let text =
                serde_json::to_string_pretty(&report::json::render(&outcome, &Machine::here()))?;
            print(&format!("{text}\n"))?;
        }
    }
    if let Some(path) = &request.histogram {
        histogram_log::write(&outcome, path)?;
    }
    for controller in controllers {
        controller.shutdown()?;
    }
    Ok(outcome.is_clean())
}

fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("cannot write the report")
}

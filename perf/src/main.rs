//! `doorbell-perf`: the command line around the library of the same name.

use std::process::ExitCode;

use clap::Parser;
use doorbell_perf::args::Args;
use doorbell_perf::measure;

fn main() -> ExitCode {
    let request = match Args::parse().into_request() {
        Ok(request) => request,
        Err(error) => return fail(&error, 2),
    };
    match measure(&request) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => fail(&error, 2),
    }
}

fn fail(error: &anyhow::Error, status: u8) -> ExitCode {
    eprintln!("doorbell-perf: {}", in_one_line(error));
    ExitCode::from(status)
}

/// The error and its causes. The driver's errors say their cause themselves; it is not repeated.
fn in_one_line(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |line, cause| match cause.to_string() {
        cause if line.contains(&cause) => line,
        cause if line.is_empty() => cause,
        cause => format!("{line}: {cause}"),
    })
}

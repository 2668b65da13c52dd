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
    eprintln!("doorbell-perf: {error:#}");
    ExitCode::from(status)
}

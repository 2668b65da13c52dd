//! `doorbell-subsystem`: serves namespaces to other processes over vfio-user and to hosts over TCP, until told to stop.
//!
//! One thread for each port, which the library runs; one that waits for signals; and this one, which waits for either
//! to say something.

#![forbid(unsafe_code)]

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};
use std::{io, thread};

use anyhow::{Context, bail};
use clap::Parser;
use doorbell_subsystem::fault::{Count, Plan};
use doorbell_subsystem::port::{Stop, vfio_user};
use doorbell_subsystem::{Controller, Subsystem};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::args::Args;
use crate::console::Console;

mod args;
mod console;
mod tcp;

/// Time for the ports to end once they are told to.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the main thread waits for.
enum Event {
    /// SIGINT or SIGTERM.
    Signal,
    /// A port has ended, told to or not.
    Ended(String, io::Result<()>),
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("doorbell-subsystem: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> anyhow::Result<()> {
    let subsystem = subsystem(args)?;
    let faults = faults(args)?;
    let (send, events) = mpsc::channel();
    // Before the first port: a signal that comes while it starts must still unlink its socket.
    watch_signals(send.clone())?;
    let stop = Stop::new().context("cannot make an event file descriptor")?;
    let servers: Vec<vfio_user::Server> = args
        .vfio_user
        .iter()
        .map(|path| {
            let mut controller = Controller::new(Arc::clone(&subsystem), args.controller())?;
            controller.set_faults(faults.clone());
            Ok(vfio_user::Server::bind(path, controller)?)
        })
        .collect::<anyhow::Result<_>>()?;
    let shape = args.controller();
    let shape = (shape.max_io_queues, shape.mqes_z, shape.mdts);
    let tcp = args.tcp.bind(&subsystem, shape)?.map(|server| match &faults {
        Some(plan) => server.with_faults(plan.clone()),
        None => server,
    });
    let ports = servers.len() + usize::from(tcp.is_some());
    let target = tcp.as_ref().map(|server| Arc::clone(server.target()));
    for (server, path) in servers.into_iter().zip(&args.vfio_user) {
        let name = format!("vfio-user:{}", path.display());
        start(name.clone(), &stop, &send, move |stop| server.run(stop))?;
        // Whoever asked for the address may have stopped reading; the port serves all the same.
        let _ = writeln!(io::stdout(), "{name}");
    }
    if let Some(server) = tcp {
        let nqn = subsystem.nqn();
        let names: Vec<_> =
            server.addresses().iter().map(|address| format!("tcp://{address}/{nqn}")).collect();
        start(names.join(", "), &stop, &send, move |stop| server.run(stop))?;
        for name in names {
            let _ = writeln!(io::stdout(), "{name}");
        }
    }
    if args.console {
        Console::start(&subsystem, target.as_ref())?;
    }
    let result = wait(&events, ports, &stop);
    subsystem.flush().context("flushing")?;
    if let Some(usage) = target.map(|target| target.usage()).filter(|usage| usage.refused != 0) {
        eprintln!("tcp: {usage}");
    }
    if let Some(plan) = &faults {
        for Count { name, matched, injected } in plan.counters().iter() {
            eprintln!("fault '{name}': injected {injected} of {matched}");
        }
    }
    result
}

/// How the controllers are to misbehave, if they are.
fn faults(args: &Args) -> anyhow::Result<Option<Plan>> {
    let Some(path) = &args.faults else { return Ok(None) };
    let what = || format!("--faults {}", path.display());
    let text = std::fs::read_to_string(path).with_context(what)?;
    Ok(Some(text.parse().with_context(what)?))
}

/// The subsystem, with its namespaces.
fn subsystem(args: &Args) -> anyhow::Result<Arc<Subsystem>> {
    let mut builder = Subsystem::builder();
    if let Some(nqn) = &args.nqn {
        builder = builder.nqn(nqn);
    }
    if let Some(serial) = &args.serial {
        builder = builder.serial(serial);
    }
    if let Some(model) = &args.model {
        builder = builder.model(model);
    }
    let subsystem = builder.build();
    for spec in &args.namespace {
        let namespace = spec.open().with_context(|| format!("--namespace {spec}"))?;
        let nsid = subsystem.add(namespace).with_context(|| format!("--namespace {spec}"))?;
        eprintln!("namespace {nsid}: {spec}");
    }
    Ok(subsystem)
}

/// Sends an event at each SIGINT and SIGTERM.
fn watch_signals(send: Sender<Event>) -> anyhow::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM]).context("cannot watch for signals")?;
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            for _ in signals.forever() {
                if send.send(Event::Signal).is_err() {
                    return;
                }
            }
        })
        .context("cannot start a thread")?;
    Ok(())
}

/// Runs a port on a thread.
fn start(
    name: String,
    stop: &Arc<Stop>,
    send: &Sender<Event>,
    run: impl FnOnce(&Arc<Stop>) -> io::Result<()> + Send + 'static,
) -> anyhow::Result<()> {
    let (stop, send) = (Arc::clone(stop), send.clone());
    thread::Builder::new()
        .name(format!("port {name}"))
        .spawn(move || {
            let result = run(&stop);
            // Where nobody receives any more, the process is about to end.
            let _ = send.send(Event::Ended(name, result));
        })
        .context("cannot start a thread")?;
    Ok(())
}

/// Waits for a signal or for the end of a port, then for the end of all of them.
fn wait(events: &Receiver<Event>, ports: usize, stop: &Stop) -> anyhow::Result<()> {
    let mut running = ports;
    let mut failure = None;
    let mut until: Option<Instant> = None;
    while running > 0 {
        let left = match until {
            Some(until) => until.saturating_duration_since(Instant::now()),
            None => Duration::from_secs(3600),
        };
        match events.recv_timeout(left) {
            Ok(Event::Signal) if until.is_some() => bail!("told to stop a second time"),
            Ok(Event::Signal) => {}
            Ok(Event::Ended(name, result)) => {
                running -= 1;
                if let Err(error) = result {
                    let what = format!("the port {name} failed");
                    failure = Some(anyhow::Error::new(error).context(what));
                }
            }
            Err(RecvTimeoutError::Timeout) if until.is_none() => continue,
            Err(_) => bail!("a port did not end within {PATIENCE:?}"),
        }
        until = until.or_else(|| Some(Instant::now() + PATIENCE));
        stop.stop();
    }
    failure.map_or(Ok(()), Err)
}

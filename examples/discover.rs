//! Shows which subsystems a target has, and those that it refers to; `--connect` attaches all of them.
//!
//! `cargo run --release --example discover [ADDRESS] [--connect] [--watch]`, by default at 127.0.0.1.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Parser;
use doorbell::clock::{Clock, SystemClock};
use doorbell::discovery::{Watch, discover};
use doorbell::{Address, Config, Controller};
use doorbell_examples::size;

/// Shows which subsystems a target has, and those that it refers to
#[derive(Parser)]
struct Args {
    /// Target, for example tcp://192.0.2.1 or tcp://[2001:db8::1]:8009
    #[arg(default_value = "tcp://127.0.0.1")]
    address: String,
    /// Attach every subsystem that is found, and show its namespaces
    #[arg(long)]
    connect: bool,
    /// Stay, and show the page again whenever it changes
    #[arg(long)]
    watch: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let Address::Tcp(options) = args.address.parse()? else {
        bail!("{}: discovery is for targets across a network, as in tcp://192.0.2.1", args.address);
    };
    let config = Config::default();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let search = discover(&options, &config, &clock)?;
    for found in &search.found {
        let (entry, nqn) = (&found.entry, found.entry.nqn().unwrap_or("(no NQN)"));
        println!("{}", entry.subtype.name());
        println!("  {nqn}");
        let (transport, address, port) = (entry.trtype.name(), entry.address(), entry.service());
        println!("  {transport} {address} port {port}, said by {}", found.via);
    }
    for failed in &search.failed {
        println!("Not asked: {failed}");
    }
    if args.connect {
        for (_, options) in search.subsystems() {
            match Controller::attach_tcp(options, config.clone(), clock.clone()) {
                Ok(controller) => show(&controller)?,
                Err(error) => println!("Not attached: {error}"),
            }
        }
    }
    if args.watch {
        let mut watch = Watch::attach(&options, &config, &clock)?;
        loop {
            if let Some(log) = watch.poll()? {
                println!("Generation {}: {} records", log.generation, log.entries.len());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    Ok(())
}

fn show(controller: &Controller) -> Result<()> {
    println!("Attached {} - {}", controller.address(), controller.identify().model());
    for namespace in controller.namespaces()? {
        println!("  namespace {}: {}", namespace.id(), size(namespace.bytes()));
    }
    Ok(())
}

//! Stays with a controller and shows what it reports: namespaces that come, go or change, warnings, reconnects.
//!
//! `cargo run --release --example events [ADDRESS]`, by default of a target at 127.0.0.1.

use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use doorbell::{Controller, Event};
use doorbell_examples::size;

/// Stays with a controller and shows what it reports
#[derive(Parser)]
struct Args {
    /// Drive or subsystem, for example tcp://192.0.2.1 or pcie:0000:01:00.0
    #[arg(default_value = "tcp://127.0.0.1")]
    address: String,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let controller = doorbell::attach(&args.address)?;
    println!("Watching {}", controller.address());
    show_namespaces(&controller)?;
    loop {
        let mut events = Vec::new();
        // Keeps the controller alive as well.
        controller.poll(|event| events.push(event));
        for event in events {
            show(&controller, event)?;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn show(controller: &Controller, event: Event) -> Result<()> {
    match event {
        Event::NamespaceAdded { nsid }
        | Event::NamespaceRemoved { nsid }
        | Event::NamespaceResized { nsid, .. }
        | Event::NamespaceReformatted { nsid }
        | Event::NamespaceChanged { nsid } => {
            println!("Namespaces changed: {nsid}");
            show_namespaces(controller)?;
        }
        Event::Health { warning } => println!("Health: critical warning {warning:?}"),
        Event::Reported(event) => {
            let (aet, aei) = (event.aet(), event.aei());
            println!("Event of type {aet}: {aei:#04x}, log page {:#04x}", event.lid());
        }
        Event::Reconnected => println!("Connected again"),
        other => println!("{other:?}"),
    }
    Ok(())
}

fn show_namespaces(controller: &Controller) -> Result<()> {
    let namespaces = controller.namespaces()?;
    for namespace in &namespaces {
        println!("  namespace {}: {}", namespace.id(), size(namespace.bytes()));
    }
    println!("  {} in all", namespaces.len());
    Ok(())
}

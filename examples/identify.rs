//! Says in words what a controller and its namespaces are; `--json` for programs.
//!
//! `cargo run --release --example identify [ADDRESS] [--json]`, by default on a drive emulated in this process.

use anyhow::Result;
use clap::Parser;
use doorbell::spec::log::SmartLog;
use doorbell::{Controller, Namespace};
use doorbell_examples::{size, yes};
use serde_json::{Value, json};

/// Says in words what a controller and its namespaces are
#[derive(Parser)]
struct Args {
    /// Drive, for example pcie:0000:01:00.0 or vfio-user:/run/drive.sock
    #[arg(default_value = "embedded:")]
    address: String,
    /// For programs
    #[arg(long)]
    json: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let controller = doorbell::attach(&args.address)?;
    let about = about(&controller)?;
    let namespaces: Vec<Value> = controller.namespaces()?.iter().map(describe).collect();
    if args.json {
        println!("{:#}", json!({ "controller": about, "namespaces": namespaces }));
        return Ok(());
    }
    println!("Controller {}", controller.address());
    print(&about);
    for namespace in &namespaces {
        println!("Namespace");
        print(namespace);
    }
    Ok(())
}

fn about(controller: &Controller) -> Result<Value> {
    let (identity, limits) = (controller.identify(), controller.limits());
    let (version, optional) = (controller.version(), identity.oncs());
    let health = controller.log_page::<SmartLog>()?;
    Ok(json!({
        "address": controller.address(),
        "model": identity.model().to_string(),
        "serial": identity.serial().to_string(),
        "firmware": identity.firmware().to_string(),
        "subsystem": identity.nqn().map(|name| name.to_string()),
        "NVMe version": format!("{}.{}.{}", version.mjr(), version.mnr(), version.ter()),
        "data in one command": size(limits.max_transfer as u64),
        "I/O queues": limits.max_io_queues,
        "entries of a queue": limits.max_queue_entries,
        "volatile write cache": yes(identity.vwc().vwcp()),
        "compare": yes(optional.nvmcmps()),
        "deallocate": yes(optional.nvmdsmsv()),
        "write zeroes": yes(optional.nvmwzsv()),
        "verify": yes(optional.nvmvfys()),
        "temperature": format!("{} C", i32::from(health.ctemp.get()) - 273),
        "life used": format!("{} %", health.pused),
    }))
}

fn describe(namespace: &Namespace) -> Value {
    json!({
        "namespace": namespace.id(),
        "size": size(namespace.bytes()),
        "block size": size(namespace.block_size().into()),
        "blocks": namespace.blocks(),
        "blocks in use": namespace.identify().nuse.get(),
    })
}

fn print(facts: &Value) {
    for (name, value) in facts.as_object().into_iter().flatten() {
        println!("  {name:<22}{}", value.as_str().map_or_else(|| value.to_string(), str::to_owned));
    }
}

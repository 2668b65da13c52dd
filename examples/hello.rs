//! Writes a greeting to the last block of a drive, reads it back, compares, and puts the old contents back.
//!
//! `cargo run --release --example hello [ADDRESS]`, by default on a drive emulated in this process.

use anyhow::{Context, bail, ensure};
use doorbell::QueueConfig;

const GREETING: &[u8] = b"Hello from userspace!";

fn main() -> anyhow::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "embedded:".to_owned());
    if address.starts_with('-') {
        bail!("usage: hello [ADDRESS], for example hello pcie:0000:01:00.0");
    }
    let controller = doorbell::attach(&address)?;
    let namespace = controller.namespaces()?.into_iter().next().context("no usable namespace")?;
    let lba = namespace.blocks() - 1;
    println!("{} - {}", controller.address(), controller.identify().model());

    // A queue belongs to one thread; buffers are memory that the drive can reach.
    let mut queue = controller.queue(QueueConfig::default())?;
    let block = namespace.block_size() as usize;

    // The short way: send one command and wait for it. The buffer goes with the command and comes back with the answer.
    let old = queue.run(namespace.read(lba, controller.buffer(block)?))?.buffer;

    // The fast way: stage as many commands as there are, ring the doorbell once, and poll for what has completed.
    let mut buffer = controller.buffer(block)?;
    buffer.fill(0);
    buffer.get_mut(..GREETING.len()).context("tiny block")?.copy_from_slice(GREETING);
    queue.stage(namespace.write(lba, buffer).tag(7))?;
    queue.ring();
    let mut written = None;
    while written.is_none() {
        queue.poll(|done| written = Some(done));
        std::thread::yield_now();
    }
    let written = written.context("no completion")?.ok()?;
    println!("Wrote  {:?} to block {lba} (tag {})", text(GREETING), written.tag);

    let read =
        queue.run(namespace.read(lba, controller.buffer(block)?))?.buffer.context("no data")?;
    println!("Read   {:?} from block {lba}", text(read.get(..GREETING.len()).unwrap_or_default()));
    ensure!(written.buffer.as_deref() == Some(&*read), "the block differs from what was written");

    // The drive can compare as well, without sending the data back.
    if controller.identify().oncs().nvmcmps() {
        drop(queue.run(namespace.compare(lba, read))?);
        println!("The drive agrees.");
    }
    drop(queue.run(namespace.write(lba, old.context("no data")?))?);
    println!("Done; the block holds again what it held before.");
    Ok(())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

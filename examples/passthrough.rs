//! Sends any command: opcode and dwords in, completion and data out. By default it identifies the controller.
//!
//! `cargo run --release --example passthrough -- --help`. It asks no questions: Format erases the drive.

use anyhow::{Context, Result};
use clap::Parser;
use doorbell::spec::command::{Direction, Sqe};
use doorbell::{Io, QueueConfig};
use doorbell_examples::{Dwords, hexdump, number};

/// Sends any admin or I/O command; by default Identify, of the controller
#[derive(Parser)]
#[command(after_help = "Examples:
  passthrough                                         Identify Controller
  passthrough -o 0x02 --cdw10 0x7f0002 -l 512         Get Log Page: SMART
  passthrough --io -o 2 -n 1 -l 4096                  Read block 0 (of 4096 bytes)
  passthrough --io -o 1 -n 1 --input block.bin        Write it")]
struct Args {
    /// Drive, for example pcie:0000:01:00.0 or vfio-user:/run/drive.sock
    #[arg(default_value = "embedded:")]
    address: String,
    /// An I/O command; without it, an admin command
    #[arg(long)]
    io: bool,
    /// Opcode; numbers are decimal, or hexadecimal after 0x
    #[arg(short, long, default_value = "0x06", value_parser = number)]
    opcode: u32,
    /// Namespace
    #[arg(short, long, default_value = "0", value_parser = number)]
    nsid: u32,
    #[command(flatten)]
    dwords: Dwords,
    /// Bytes of data [default: those of --input, or 4096]
    #[arg(short, long, value_parser = number)]
    length: Option<u32>,
    /// Data to the controller
    #[arg(short, long)]
    input: Option<std::path::PathBuf>,
    /// Where data from the controller goes, instead of a hex dump
    #[arg(short = 'O', long)]
    output: Option<std::path::PathBuf>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let controller = doorbell::attach(&args.address)?;
    let opcode = u8::try_from(args.opcode).context("an opcode is a byte")?;
    let mut command = Sqe::new(opcode).with_nsid(args.nsid);
    args.dwords.put_into(&mut command);

    let input = args.input.as_deref().map_or(Ok(vec![]), std::fs::read).context("--input")?;
    let length = args.length.map_or(input.len().max(4096), |length| length as usize);
    let mut buffer = match command.direction() {
        Direction::None => None,
        _ => Some(controller.buffer(length)?),
    };
    if let Some(buffer) = &mut buffer {
        buffer.fill(0);
        buffer.iter_mut().zip(&input).for_each(|(to, from)| *to = *from);
    }
    let done = if args.io {
        // A raw command is never divided: the queue has to take it whole.
        let mut config = QueueConfig::default();
        config.max_transfer = length.max(4096);
        controller.queue(config)?.run(Io::raw(command, buffer))?
    } else {
        controller.admin(command, buffer)?
    };
    eprintln!("{}, result {:#x}", done.status, done.result);
    match (command.direction(), done.buffer, args.output) {
        (Direction::ToController | Direction::None, ..) | (_, None, _) => {}
        (_, Some(data), Some(path)) => std::fs::write(path, &*data).context("--output")?,
        (_, Some(data), None) => print!("{}", hexdump(&data)),
    }
    Ok(())
}

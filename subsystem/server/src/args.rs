//! The command line.

use std::path::PathBuf;

use clap::{ArgGroup, Parser};
use doorbell_subsystem::{ControllerConfig, NamespaceSpec};

use crate::tcp::TcpArgs;

const EXAMPLES: &str = "\
Namespaces:
  memory:1GiB                        memory, taken as it is written
  null:1TiB                          nowhere: completes at once, for measuring
  file:disk.img,size=10GiB           a file, created if size says how large; or a block device
  ...,block=4096                     blocks of 4096 bytes instead of 512

Examples:
  doorbell-subsystem --vfio-user /tmp/nvme.sock --namespace memory:1GiB
  doorbell-perf vfio-user:/tmp/nvme.sock

  # Over TCP, to any host that can reach this one; nvme connect-all works as well.
  doorbell-subsystem --tcp 0.0.0.0:4420 --namespace memory:1GiB
  doorbell-perf tcp://127.0.0.1:4420

  # Two hosts share a file; SPDK's host looks for a socket named cntrl in a directory.
  mkdir -p /tmp/spdk
  doorbell-subsystem --vfio-user /tmp/a.sock --vfio-user /tmp/spdk --namespace file:disk.img,size=1GiB
  spdk_nvme_perf -g -r 'trtype:VFIOUSER traddr:/tmp/spdk' -q 32 -o 4096 -w randread -t 10

  # A drive that misbehaves; the crate's documentation of fault::file says all that can be written.
  printf '[[rule]]\\nat = \"completion\"\\nopcode = \"read\"\\nprobability = 0.01\\ndo = \"delay\"\\nby = \"5ms\"\\n' > slow.toml
  doorbell-subsystem --vfio-user /tmp/nvme.sock --faults slow.toml

  # A guest of QEMU 10.1 or newer.
  qemu-system-x86_64 -M q35,memory-backend=mem -m 1G \\
    -object memory-backend-memfd,id=mem,size=1G,share=on \\
    -device '{\"driver\":\"vfio-user-pci\",\"socket\":{\"type\":\"unix\",\"path\":\"/tmp/nvme.sock\"}}' ...";

/// An NVMe subsystem in software, served to other processes.
///
/// Each --vfio-user is a controller of its own with a socket, which one client at a time can drive; each --tcp takes any
/// number of hosts. All of them serve the same namespaces. Prints the address of each, as doorbell-perf and the other
/// tools of Doorbell take it, and runs until SIGINT or SIGTERM, which flush and leave cleanly.
#[derive(Debug, Parser)]
#[command(name = "doorbell-subsystem", version, after_help = EXAMPLES)]
#[command(group = ArgGroup::new("port").args(["vfio_user", "tcp"]).required(true).multiple(true))]
pub(crate) struct Args {
    /// Serve a controller at the socket PATH, or at `cntrl` in the directory PATH (may be repeated)
    #[arg(long, value_name = "PATH")]
    pub(crate) vfio_user: Vec<PathBuf>,

    #[command(flatten)]
    pub(crate) tcp: TcpArgs,

    /// What to serve (may be repeated; the first is namespace 1)
    #[arg(long, short, value_name = "SPEC", default_value = "memory:1GiB")]
    pub(crate) namespace: Vec<NamespaceSpec>,

    /// NVMe Qualified Name of the subsystem
    #[arg(long, value_name = "NQN")]
    pub(crate) nqn: Option<String>,

    /// Serial number, up to 20 characters
    #[arg(long, value_name = "TEXT")]
    pub(crate) serial: Option<String>,

    /// Model number, up to 40 characters
    #[arg(long, value_name = "TEXT")]
    pub(crate) model: Option<String>,

    /// Pairs of I/O queues of each controller
    #[arg(long, value_name = "N", default_value_t = ControllerConfig::default().max_io_queues)]
    pub(crate) max_queues: u16,

    /// Entries of the longest queue (CAP.MQES + 1)
    #[arg(long, value_name = "N", default_value_t = u32::from(ControllerConfig::default().mqes_z) + 1,
          value_parser = clap::value_parser!(u32).range(2..=65536))]
    pub(crate) queue_entries: u32,

    /// Largest transfer, as 4096 << N bytes (MDTS)
    #[arg(long, value_name = "N", default_value_t = ControllerConfig::default().mdts)]
    pub(crate) mdts: u8,

    /// Interrupt vectors of each controller
    #[arg(long, value_name = "N", default_value_t = ControllerConfig::default().vectors)]
    pub(crate) vectors: u16,

    /// Misbehave as the plan in FILE says, over vfio-user and TCP alike; what was injected is printed at the end (a plan with
    /// an example of everything: subsystem/server/faults.toml)
    #[arg(long, value_name = "FILE")]
    pub(crate) faults: Option<PathBuf>,

    /// Take commands from standard input while serving: add and remove namespaces, and more (help)
    #[arg(long)]
    pub(crate) console: bool,

    /// Doorbell stride, as 4 << N bytes (CAP.DSTRD); SPDK's host and others need 0
    #[arg(long, value_name = "N", default_value_t = ControllerConfig::default().dstrd)]
    pub(crate) dstrd: u8,
}

impl Args {
    /// What each controller is made like.
    pub(crate) fn controller(&self) -> ControllerConfig {
        ControllerConfig {
            max_io_queues: self.max_queues,
            mqes_z: u16::try_from(self.queue_entries - 1).unwrap_or(u16::MAX),
            mdts: self.mdts,
            vectors: self.vectors,
            dstrd: self.dstrd,
            ..ControllerConfig::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Args::command().debug_assert();
        let args = Args::parse_from([
            "doorbell-subsystem",
            "--vfio-user=/tmp/a",
            "--vfio-user=/tmp/b",
            "-n",
            "null:1TiB",
            "--namespace=memory:1MiB,block=4096",
            "--queue-entries=65536",
        ]);
        assert_eq!((args.vfio_user.len(), args.namespace.len()), (2, 2));
        assert_eq!(args.controller().mqes_z, 65_535);
        let args = Args::parse_from(["doorbell-subsystem", "--tcp=[::1]", "--tcp=127.0.0.1:1"]);
        let ports: Vec<_> = args.tcp.tcp.iter().map(ToString::to_string).collect();
        assert_eq!(ports, ["[::1]:4420", "127.0.0.1:1"]);
        let wrong = ["--namespace=tape:1GiB", "--queue-entries=1", "--mdts=300", "--tcp=here"];
        let of_tcp =
            ["--in-capsule=65KiB", "--in-capsule=8", "--connect-time=0", "--data-alignment=6"];
        for wrong in wrong.into_iter().chain(of_tcp) {
            let args = ["doorbell-subsystem", "--vfio-user=/tmp/a", wrong];
            assert!(Args::try_parse_from(args).is_err(), "{wrong}");
        }
        assert!(Args::try_parse_from(["doorbell-subsystem"]).is_err(), "no port");
    }
}

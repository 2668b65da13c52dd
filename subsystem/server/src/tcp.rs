//! The port over TCP, as the command line asks for it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use doorbell_subsystem::Subsystem;
use doorbell_subsystem::fabrics::{Limits, Referral, Target};
use doorbell_subsystem::namespace_spec::parse_size;
use doorbell_subsystem::port::tcp::{End, Server};

/// NVMe/TCP's port for I/O controllers.
const PORT: u16 = 4420;

/// Options of the port over TCP.
#[derive(Debug, Args)]
pub(crate) struct TcpArgs {
    // No documentation comment: brackets would be a link there.
    #[arg(
        long,
        value_name = "ADDR",
        value_parser = address,
        help = "Serve hosts over NVMe/TCP at ADDR, as 127.0.0.1, 0.0.0.0:4420 or [::1]:4420 (may be repeated)"
    )]
    pub(crate) tcp: Vec<SocketAddr>,

    /// Threads that serve TCP
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u16).range(1..=256))]
    tcp_threads: u16,

    /// Let in the host NQN over TCP, and no other that is not named (may be repeated)
    #[arg(long, value_name = "NQN")]
    allow_host: Vec<String>,

    /// Point hosts to the discovery service at ADDR, port 8009 unless given (may be repeated)
    #[arg(long, value_name = "ADDR")]
    referral: Vec<Referral>,

    /// TCP connections of all hosts together
    #[arg(long, value_name = "N", default_value_t = Limits::default().connections)]
    max_connections: u32,

    /// TCP connections of one host
    #[arg(long, value_name = "N", default_value_t = Limits::default().connections_per_host)]
    max_host_connections: u32,

    /// Data in the capsule of an I/O command over TCP (IOCCSZ), up to 64KiB
    #[arg(long, value_name = "SIZE", default_value = "8KiB", value_parser = in_capsule)]
    in_capsule: u32,

    /// Time for a TCP connection to send its Connect, as 10s or 500ms
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = time)]
    connect_time: Duration,

    /// Where the data that TCP hosts send begins (CPDA): a multiple of 4, up to 128; Linux takes only 4
    #[arg(long, value_name = "BYTES", default_value = "4", value_parser = cpda_z)]
    data_alignment: u8,

    /// Memory that the TCP connections of one host may hold
    #[arg(long, value_name = "SIZE", default_value = "1GiB", value_parser = parse_size)]
    max_host_memory: u64,
}

fn address(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let wrong = || "no IP address; write 127.0.0.1, 0.0.0.0:4420 or [::1]:4420".to_owned();
    bare.parse().map(|ip: IpAddr| SocketAddr::new(ip, PORT)).map_err(|_| wrong())
}

fn in_capsule(text: &str) -> Result<u32, String> {
    let size = parse_size(text).map_err(|error| error.to_string())?;
    let fits = size <= u64::from(Limits::MOST_IN_CAPSULE) && size.is_multiple_of(16);
    let wrong = || "no multiple of 16 bytes up to 64KiB".to_owned();
    u32::try_from(size).ok().filter(|_| fits).ok_or_else(wrong)
}

fn time(text: &str) -> Result<Duration, String> {
    let parse = |digits: &str, unit| digits.parse().ok().map(|count: u32| unit * count);
    let time = match text.strip_suffix("ms") {
        Some(digits) => parse(digits, Duration::from_millis(1)),
        None => parse(text.strip_suffix('s').unwrap_or(text), Duration::from_secs(1)),
    };
    time.filter(|time| !time.is_zero()).ok_or_else(|| "no time; write 10s or 500ms".to_owned())
}

/// CPDA for data that begins at a multiple of so many bytes.
fn cpda_z(text: &str) -> Result<u8, String> {
    let bytes: Option<u8> = text.parse().ok();
    let good = bytes.filter(|bytes| matches!(bytes, 4..=128) && bytes.is_multiple_of(4));
    good.map(|bytes| bytes / 4 - 1).ok_or_else(|| "no multiple of 4 from 4 to 128".to_owned())
}

impl TcpArgs {
    /// The port, listening; `None` where none is asked for. `io_queues`, `mqes_z` and `mdts` are as for other ports.
    pub(crate) fn bind(
        &self,
        subsystem: &Arc<Subsystem>,
        (io_queues, mqes_z, mdts): (u16, u16, u8),
    ) -> anyhow::Result<Option<Server>> {
        if self.tcp.is_empty() {
            return Ok(None);
        }
        let limits = Limits {
            connections: self.max_connections,
            connections_per_host: self.max_host_connections,
            memory_per_host: self.max_host_memory,
            io_queues,
            mqes_z,
            mdts,
            in_capsule: self.in_capsule,
            cpda_z: self.data_alignment,
            introduction: self.connect_time,
        };
        let target = Target::new(Arc::clone(subsystem), limits)
            .with_context(|| format!("--nqn {}", subsystem.nqn()))?;
        if !self.allow_host.is_empty() {
            let hosts = self.allow_host.clone();
            target.allow(Some(hosts)).context("--allow-host")?;
        }
        self.referral.iter().for_each(|referral| target.refer(*referral));
        let server = Server::bind(target, &self.tcp, usize::from(self.tcp_threads))?;
        Ok(Some(server.observed(Arc::new(|peer, end| match end {
            // What hosts do when they are done.
            End::Closed | End::Disconnected | End::Dissociated | End::Reset => {}
            end => eprintln!("tcp://{peer}: {end}"),
        }))))
    }
}

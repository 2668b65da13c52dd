//! The port over TCP, as the command line asks for it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

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
            ..Limits::default()
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

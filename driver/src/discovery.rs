//! Discovery: which subsystems there are, and where.
//!
//! A discovery subsystem says it in a log page of its own ([`log`](Controller::discovery_log)), which is read in parts and
//! is good only if it did not change meanwhile; it may refer to others ([`discover`] follows, each of them once). One
//! that stays attached reports changes ([`Watch`]).

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use doorbell_spec::admin::{self as commands, AsyncEvent, LogRequest};
use doorbell_spec::fabrics::discovery::{
    DiscoveryEntry, DiscoveryHeader, RECORD, SecurityType, SubsystemType, TransportType,
};
use doorbell_spec::fabrics::{DISCOVERY_NQN, DISCOVERY_TCP_PORT, TCP_PORT};
use doorbell_spec::log::Lid;
use zerocopy::FromBytes;

use crate::address::TcpOptions;
use crate::clock::Clock;
use crate::controller::{Config, Controller, Event};
use crate::error::{AttachError, CommandError};
use crate::transport::tcp::TcpError;

/// Records of one log page that are read; a controller that says more says nonsense.
const MOST_RECORDS: u64 = 4096;
/// Records read by one command.
const CHUNK: usize = 4;
/// Times a page that changes while it is read is read again.
const RETRIES: u32 = 10;
/// Discovery subsystems asked, the first included.
const MOST_ASKED: usize = 64;
/// Keep Alive Timeout of a discovery controller that stays attached.
const WATCH_KATO: Duration = Duration::from_secs(30);

/// Why the discovery log page could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiscoveryError {
    /// A command failed.
    #[error("{address}: reading the discovery log page: {source}")]
    Command {
        /// Address as the user gave it.
        address: String,
        /// The failure.
        source: CommandError,
    },
    /// It changed every time while it was read.
    #[error(
        "{address}: the discovery log page changed {RETRIES} times while it was read; try again later"
    )]
    Changing {
        /// Address as the user gave it.
        address: String,
    },
    /// It makes no sense.
    #[error("{address}: the discovery log page {what}")]
    Malformed {
        /// Address as the user gave it.
        address: String,
        /// What it says.
        what: String,
    },
}

/// A discovery log page, whole and of one generation.
#[derive(Clone, Debug)]
pub struct DiscoveryLog {
    /// GENCTR: changes whenever the page does.
    pub generation: u64,
    /// Its records.
    pub entries: Vec<DiscoveryEntry>,
}

/// A subsystem that was found.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Found {
    /// The record.
    pub entry: DiscoveryEntry,
    /// Address of the discovery subsystem that has it.
    pub via: String,
    /// How to attach it, with the options of the search; `None` if this driver cannot.
    pub options: Option<TcpOptions>,
}

/// What a search found.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Search {
    /// Every record of every page, referrals among them.
    pub found: Vec<Found>,
    /// Discovery subsystems that were referred to and could not be asked.
    pub failed: Vec<AttachError>,
}

impl Search {
    /// NVM subsystems that can be attached.
    pub fn subsystems(&self) -> impl Iterator<Item = (&Found, &TcpOptions)> {
        let is_nvm = |found: &&Found| found.entry.subtype == SubsystemType::NVM;
        self.found.iter().filter(is_nvm).filter_map(|it| Some((it, it.options.as_ref()?)))
    }
}

impl Controller {
    /// The Discovery log page, of a discovery controller.
    ///
    /// # Errors
    /// [`DiscoveryError`].
    pub fn discovery_log(&self) -> Result<DiscoveryLog, DiscoveryError> {
        let address = || self.address().to_owned();
        for _ in 0..RETRIES {
            let before = self.discovery_header(true)?;
            let records = before.numrec.get();
            if before.recfmt.get() != 0 || records > MOST_RECORDS {
                let what =
                    format!("has {records} records of format {}, which is too much", before.recfmt);
                return Err(DiscoveryError::Malformed { address: address(), what });
            }
            let mut entries = Vec::new();
            while (entries.len() as u64) < records {
                let count = CHUNK.min((records - entries.len() as u64) as usize);
                let from = RECORD * (entries.len() + 1);
                let bytes = self.discovery_bytes(from as u64, count * RECORD, true)?;
                let chunk = bytes.chunks_exact(RECORD);
                entries.extend(chunk.filter_map(|it| DiscoveryEntry::read_from_bytes(it).ok()));
            }
            // Read to the end, so that the next change is reported.
            let after = self.discovery_header(false)?;
            if (before.genctr, before.numrec) == (after.genctr, after.numrec) {
                return Ok(DiscoveryLog { generation: before.genctr.get(), entries });
            }
        }
        Err(DiscoveryError::Changing { address: address() })
    }

    fn discovery_header(&self, retain: bool) -> Result<DiscoveryHeader, DiscoveryError> {
        let bytes = self.discovery_bytes(0, RECORD, retain)?;
        DiscoveryHeader::read_from_bytes(&bytes).map_err(|_| DiscoveryError::Malformed {
            address: self.address().to_owned(),
            what: "is shorter than its header".into(),
        })
    }

    fn discovery_bytes(&self, from: u64, len: usize, rae: bool) -> Result<Vec<u8>, DiscoveryError> {
        let failed =
            |source| DiscoveryError::Command { address: self.address().to_owned(), source };
        let mut buffer = self.buffer(len).map_err(|error| failed(CommandError::Memory(error)))?;
        buffer.fill(0);
        let numd_z = (len / 4 - 1) as u32;
        let request =
            LogRequest { lpo: from, rae, nsid: 0, ..LogRequest::new(Lid::DISCOVERY, numd_z) };
        let done = self.admin(commands::get_log_page(request), Some(buffer)).map_err(failed)?;
        Ok(done.buffer.as_deref().unwrap_or_default().to_vec())
    }
}

/// Asks the discovery subsystem at the place that `options` name, and those that it refers to, each of them once. Where
/// they name no port, 8009 is tried first.
///
/// # Errors
/// [`AttachError`] if the first cannot be asked. Others that cannot are in [`Search::failed`].
pub fn discover(
    options: &TcpOptions,
    config: &Config,
    clock: &Arc<dyn Clock>,
) -> Result<Search, AttachError> {
    let mut search = Search::default();
    let mut asked = BTreeSet::new();
    let mut to_ask = VecDeque::from([at_discovery(options)]);
    while let Some(options) = to_ask.pop_front() {
        let key = (options.host.clone(), options.port_or_default(), options.nqn.clone());
        if asked.len() >= MOST_ASKED || !asked.insert(key) {
            continue;
        }
        let first = asked.len() == 1;
        let read = attach_discovery(&options, config, clock).and_then(|controller| {
            Ok((crate::Address::Tcp(options.clone()).to_string(), controller.discovery_log()?))
        });
        let (via, log) = match read {
            Ok(read) => read,
            Err(error) if first => return Err(error),
            Err(error) => {
                search.failed.push(error);
                continue;
            }
        };
        for entry in log.entries {
            let there = reach(&entry, &options);
            if entry.subtype == SubsystemType::REFERRAL {
                to_ask.extend(there.clone());
            }
            search.found.push(Found { entry, via: via.clone(), options: there });
        }
    }
    Ok(search)
}

/// The discovery subsystem at the place of `options`.
fn at_discovery(options: &TcpOptions) -> TcpOptions {
    TcpOptions { nqn: Some(DISCOVERY_NQN.to_owned()), ..options.clone() }
}

fn attach_discovery(
    options: &TcpOptions,
    config: &Config,
    clock: &Arc<dyn Clock>,
) -> Result<Controller, AttachError> {
    // Nothing is lost with it, so there is no need to come back.
    let once = TcpOptions { reconnect: Some(Duration::MAX), ..options.clone() };
    let attach = |port: Option<u16>| {
        let options = TcpOptions { port, ..once.clone() };
        Controller::attach_tcp(&options, config.clone(), clock.clone())
    };
    match (attach(options.port.or(Some(DISCOVERY_TCP_PORT))), options.port) {
        (Err(AttachError::Tcp(TcpError::Socket { .. })), None) => attach(Some(TCP_PORT)),
        (other, _) => other,
    }
}

/// How to attach what `entry` speaks of; the rest is as in `options`.
fn reach(entry: &DiscoveryEntry, options: &TcpOptions) -> Option<TcpOptions> {
    if entry.trtype != TransportType::TCP || entry.security() != SecurityType::NONE {
        return None;
    }
    let host = entry.address().to_string().trim().to_owned();
    let port = entry.service().to_string().trim().parse().ok().filter(|&port: &u16| port != 0)?;
    let nqn = entry.nqn().ok()?.to_owned();
    let usable = !host.is_empty() && !host.contains(|c: char| c.is_whitespace() || c.is_control());
    usable.then(|| TcpOptions { host, port: Some(port), nqn: Some(nqn), ..options.clone() })
}

/// The ways to the one subsystem that is found at the place of `options`: there under its name, and where its record
/// says.
pub(crate) fn only_subsystem(
    options: &TcpOptions,
    config: &Config,
    clock: &Arc<dyn Clock>,
) -> Result<Vec<TcpOptions>, AttachError> {
    let search = discover(options, config, clock)?;
    let nqns: BTreeSet<&str> =
        search.subsystems().filter_map(|(_, there)| there.nqn.as_deref()).collect();
    let address = || crate::Address::Tcp(options.clone()).to_string();
    let mut names = nqns.iter();
    let what = match (names.next(), names.next()) {
        (Some(&nqn), None) => {
            let here = TcpOptions { nqn: Some(nqn.to_owned()), ..options.clone() };
            let mut ways = vec![here];
            ways.extend(search.subsystems().map(|(_, there)| there.clone()));
            ways.dedup();
            return Ok(ways);
        }
        (None, _) => "discovery finds no NVM subsystem that this host may use".to_owned(),
        _ => {
            let list: Vec<&str> = nqns.iter().copied().collect();
            format!(
                "several subsystems are there; give one: tcp://HOST:PORT/ and {}",
                list.join(", or ")
            )
        }
    };
    Err(TcpError::Discovery { address: address(), what }.into())
}

/// A discovery controller that stays attached and says when its page changes.
pub struct Watch {
    controller: Controller,
    /// The page has to be read.
    stale: bool,
}

impl Watch {
    /// Attaches the discovery subsystem at the place that `options` name, to stay.
    ///
    /// # Errors
    /// [`AttachError`].
    pub fn attach(
        options: &TcpOptions,
        config: &Config,
        clock: &Arc<dyn Clock>,
    ) -> Result<Self, AttachError> {
        let kato = options.kato.or(Some(WATCH_KATO));
        let port = options.port.or(Some(DISCOVERY_TCP_PORT));
        let options = TcpOptions { kato, port, ..at_discovery(options) };
        let controller = Controller::attach_tcp(&options, config.clone(), clock.clone())?;
        Ok(Self { controller, stale: true })
    }

    /// The page, the first time and whenever it may have changed since. Call it a few times a second: that also keeps
    /// the controller alive.
    ///
    /// # Errors
    /// [`DiscoveryError`]; the next call tries again.
    pub fn poll(&mut self) -> Result<Option<DiscoveryLog>, DiscoveryError> {
        let stale = &mut self.stale;
        self.controller.poll(|event| {
            *stale |= match event {
                Event::Reported(event) => event.aei() == AsyncEvent::NOTICE_DISCOVERY,
                Event::Reconnected | Event::Reset => true,
                _ => false,
            };
        });
        if !self.stale {
            return Ok(None);
        }
        let log = self.controller.discovery_log()?;
        self.stale = false;
        Ok(Some(log))
    }

    /// The discovery controller.
    #[must_use]
    pub fn controller(&self) -> &Controller {
        &self.controller
    }
}

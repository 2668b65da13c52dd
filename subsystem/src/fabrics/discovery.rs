//! The discovery log: what a host is shown of subsystems and ports.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::PoisonError;

use doorbell_spec::fabrics::connect::CNTLID_DYNAMIC;
use doorbell_spec::fabrics::discovery::{
    AddressFamily, DiscoveryEntry, DiscoveryHeader, Eflags, SubsystemType, TransportType, Treq,
};
use doorbell_spec::fabrics::{DISCOVERY_NQN, DISCOVERY_TCP_PORT, nqn_field};
use zerocopy::{FromZeros, IntoBytes};

use super::Target;

/// ASQSZ: entries of an admin queue that every host gets by with.
const ADMIN_ENTRIES: u16 = 128;

/// Another discovery service, at an IP address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Referral(pub SocketAddr);

/// The text is no address of a discovery service.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no IP address with or without a port; write 192.0.2.1, 192.0.2.1:8009 or [2001:db8::1]:8009"
)]
pub struct ReferralError(String);

impl FromStr for Referral {
    type Err = ReferralError;

    fn from_str(text: &str) -> Result<Self, ReferralError> {
        if let Ok(address) = text.parse() {
            return Ok(Self(address));
        }
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        let ip: IpAddr = bare.parse().map_err(|_| ReferralError(text.to_owned()))?;
        Ok(Self(SocketAddr::new(ip, DISCOVERY_TCP_PORT)))
    }
}

impl fmt::Display for Referral {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The log page as the host `hostnqn` sees it through a connection to `local`.
pub(super) fn page(target: &Target, hostnqn: &str, local: SocketAddr) -> Vec<u8> {
    let allowed = target.is_allowed(hostnqn);
    let visible = target.visible.read().unwrap_or_else(PoisonError::into_inner);
    let mut entries = Vec::new();
    for (port, portid) in visible.ports.iter().zip(1u16..) {
        let Some(address) = seen_from(*port, local) else { continue };
        let here = address == canonical(local);
        let mut own = entry(address, SubsystemType::CURRENT, DISCOVERY_NQN, portid);
        own.eflags.set(Eflags::new().with_duplicate(!here).with_persistent(true).into_bits());
        entries.push(own);
        if allowed {
            entries.push(entry(address, SubsystemType::NVM, target.subsystem().nqn(), portid));
        }
    }
    for referral in &visible.referrals {
        entries.push(entry(referral.0, SubsystemType::REFERRAL, DISCOVERY_NQN, 0));
    }
    let mut header = DiscoveryHeader::new_zeroed();
    header.genctr.set(target.generation());
    header.numrec.set(entries.len() as u64);
    let mut page = header.as_bytes().to_vec();
    entries.iter().for_each(|entry| page.extend_from_slice(entry.as_bytes()));
    page
}

/// The address of a port for a host that reached us at `local`; `None` where it has none there.
fn seen_from(port: SocketAddr, local: SocketAddr) -> Option<SocketAddr> {
    let (port, local) = (canonical(port), canonical(local));
    if !port.ip().is_unspecified() {
        return Some(port);
    }
    // Any IPv6 address takes IPv4 too; any IPv4 address does not take IPv6.
    (port.is_ipv6() || local.is_ipv4()).then(|| SocketAddr::new(local.ip(), port.port()))
}

/// IPv4 addresses as such, where an IPv6 socket gives them.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn entry(address: SocketAddr, subtype: SubsystemType, nqn: &str, portid: u16) -> DiscoveryEntry {
    let mut entry = DiscoveryEntry::new_zeroed();
    entry.trtype = TransportType::TCP;
    entry.adrfam = if address.is_ipv4() { AddressFamily::IPV4 } else { AddressFamily::IPV6 };
    entry.subtype = subtype;
    // TSC stays 0, not specified, as of Linux's target: libnvme 1.3 takes "not required" for a wish for TLS.
    let treq = Treq::new().with_no_flow_control(true);
    entry.treq = treq.into_bits();
    entry.portid.set(portid);
    entry.cntlid.set(CNTLID_DYNAMIC);
    entry.asqsz.set(ADMIN_ENTRIES);
    entry.set_address(&address.ip().to_string());
    entry.set_service(&address.port().to_string());
    entry.subnqn = nqn_field(nqn);
    entry
}

#[cfg(test)]
mod tests;

//! NVMe over Fabrics: commands that exist there only, and the PDUs that carry them over TCP.
//!
//! Owns Base 2.1 "Fabrics Command Set" and "Discovery", and the NVMe/TCP transport: [`pdu`] has the
//! headers on the wire, [`header`] the rules that both sides hold each other to, [`digest`] the
//! checksum. Everything here is a plain function of bytes.

use core::fmt;

pub mod command;
pub mod connect;
pub mod digest;
pub mod discovery;
pub mod header;
pub mod pdu;
pub mod sgl;

/// NQN of every discovery subsystem that has no unique one (Base 2.1, "NVMe Qualified Names").
pub const DISCOVERY_NQN: &str = "nqn.2014-08.org.nvmexpress.discovery";

/// The TCP port of I/O controllers where nobody says otherwise (TCP transport, "Addressing").
pub const TCP_PORT: u16 = 4420;

/// The TCP port of discovery controllers where nobody says otherwise.
pub const DISCOVERY_TCP_PORT: u16 = 8009;

/// The longest NQN, in bytes, without the zero that ends it (Base 2.1, "NVMe Qualified Names").
pub const NQN_MAX: usize = 223;

/// Why a text is no NQN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NqnError {
    /// There is none.
    Empty,
    /// It has more than [`NQN_MAX`] bytes, or its field does not end it.
    Long,
    /// It does not begin with `nqn.`.
    Prefix,
    /// It has a space, a control character or is no UTF-8.
    Character,
    /// It is [`DISCOVERY_NQN`], where that cannot be.
    Reserved,
}

impl fmt::Display for NqnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NqnError::Empty => "an NQN is missing",
            NqnError::Long => "an NQN has at most 223 bytes",
            NqnError::Prefix => {
                "an NQN begins with nqn., as in nqn.2014-08.org.nvmexpress:uuid:..."
            }
            NqnError::Character => "an NQN has neither spaces nor control characters",
            NqnError::Reserved => "this NQN is the discovery service's; choose another one",
        })
    }
}

impl core::error::Error for NqnError {}

/// Checks the form of an NQN.
///
/// # Errors
/// [`NqnError`]. Dates and domains are not looked at, as no peer does (PEER-9).
pub fn check_nqn(nqn: &str) -> Result<(), NqnError> {
    match nqn {
        "" => Err(NqnError::Empty),
        _ if nqn.len() > NQN_MAX => Err(NqnError::Long),
        _ if !nqn.starts_with("nqn.") => Err(NqnError::Prefix),
        _ if nqn.chars().any(|c| c.is_control() || c.is_whitespace()) => Err(NqnError::Character),
        _ => Ok(()),
    }
}

/// The NQN in a field of 256 bytes, where it is there, ends within the field and has the form of
/// one.
///
/// # Errors
/// [`NqnError`].
pub fn nqn(field: &[u8; 256]) -> Result<&str, NqnError> {
    let end = field.iter().position(|&byte| byte == 0).ok_or(NqnError::Long)?;
    let text = field.get(..end).unwrap_or_default();
    let text = core::str::from_utf8(text).map_err(|_| NqnError::Character)?;
    check_nqn(text).map(|()| text)
}

/// An NQN as a field: cut to [`NQN_MAX`] bytes, padded with zeroes.
#[must_use]
pub fn nqn_field(nqn: &str) -> [u8; 256] {
    let mut field = [0; 256];
    for (to, from) in field.iter_mut().take(NQN_MAX).zip(nqn.bytes()) {
        *to = from;
    }
    field
}

#[cfg(test)]
mod tests;

//! Addresses of subsystems across a network: `tcp://HOST:PORT/NQN,OPTIONS`.

use std::fmt;
use std::time::Duration;

use doorbell_spec::fabrics::{DISCOVERY_NQN, DISCOVERY_TCP_PORT, TCP_PORT, check_nqn};

use super::Wrong;

const EXAMPLE: &str =
    "tcp://192.0.2.1:4420/nqn.2014-08.org.nvmexpress:uuid:4cb5ee29-4b43-4e42-b1b5-7d1ab1b2a3c4";
const IPV6_EXAMPLE: &str = "tcp://[2001:db8::1]:4420";
const OPTIONS_EXAMPLE: &str = "tcp://storage.example,hdgst,ddgst,queues=4,kato=5s";

/// What stands behind `tcp:`. What is `None` is left to the defaults that the field names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct TcpOptions {
    /// Name or address of the host, without brackets.
    pub host: String,
    /// Port; 4420, or 8009 for the discovery subsystem.
    pub port: Option<u16>,
    /// The subsystem; the one that discovery finds.
    pub nqn: Option<String>,
    /// Digests of headers, `hdgst`.
    pub header_digest: bool,
    /// Digests of data, `ddgst`.
    pub data_digest: bool,
    /// Flow control of submission queues, `sqflow=on` or `off`; without it there are fewer messages. Where it is not
    /// given, none if the target agrees.
    pub flow_control: Option<bool>,
    /// I/O queues to ask for; as many as the caller wants.
    pub queues: Option<u16>,
    /// NQN of this host; from /etc/nvme/hostnqn, or made of the machine's identity.
    pub host_nqn: Option<String>,
    /// Identifier of this host; from /etc/nvme/hostid, or made of the machine's identity.
    pub host_id: Option<[u8; 16]>,
    /// Keep Alive Timeout; 5 s, none of the discovery subsystem. Zero is none.
    pub kato: Option<Duration>,
    /// How long after a loss the first attempt to connect again comes, and each after it; 1 s. [`Duration::MAX`]: never.
    pub reconnect: Option<Duration>,
    /// How long attempts are made; 600 s. [`Duration::MAX`]: for ever.
    pub loss: Option<Duration>,
    /// How long commands wait for an attempt to succeed, before they end as not sent; as long as attempts are made.
    pub fast_fail: Option<Duration>,
    /// How long after a loss what was in flight may still be carried out; what KATO and the controller's Command
    /// Quiesce Time say. No new connection is made before.
    pub quiesce: Option<Duration>,
}

impl TcpOptions {
    /// The port to connect to.
    #[must_use]
    pub fn port_or_default(&self) -> u16 {
        let discovery = self.nqn.as_deref() == Some(DISCOVERY_NQN);
        self.port.unwrap_or(if discovery { DISCOVERY_TCP_PORT } else { TCP_PORT })
    }

    pub(super) fn parse(text: &str) -> Result<Self, Wrong> {
        let Some(text) = text.strip_prefix("//") else {
            return Err(("'//' is missing after 'tcp:'".into(), EXAMPLE));
        };
        let end = text.find(['?', ',']).unwrap_or(text.len());
        let (place, options) = text.split_at(end);
        let (authority, nqn) = place.split_once('/').unwrap_or((place, ""));
        let (host, port) = split_authority(authority)?;
        let mut this = Self { host: host.to_owned(), port, ..Self::default() };
        if !nqn.is_empty() {
            this.nqn = Some(valid_nqn(nqn)?);
        }
        let mut seen: Vec<&str> = Vec::new();
        for option in options.split(['?', ',', '&']).filter(|option| !option.is_empty()) {
            let (name, value) = match option.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (option, None),
            };
            if seen.contains(&name) {
                return Err((format!("'{name}' is given twice"), OPTIONS_EXAMPLE));
            }
            this.set(name, value)?;
            // A name that `set` knows, so there are few.
            seen.push(name);
        }
        Ok(this)
    }

    fn set(&mut self, name: &str, value: Option<&str>) -> Result<(), Wrong> {
        let wrong = |what: String| (what, OPTIONS_EXAMPLE);
        let given = value.ok_or_else(|| wrong(format!("'{name}' has no value")));
        match name {
            "hdgst" => self.header_digest = switch(name, value)?,
            "ddgst" => self.data_digest = switch(name, value)?,
            "sqflow" => self.flow_control = Some(switch(name, value)?),
            "queues" => {
                let value = given?;
                let queues = value.parse().ok().filter(|queues| (1..=0xfffe).contains(queues));
                let what = || wrong(format!("queues '{value}' is no number from 1 to 65534"));
                self.queues = Some(queues.ok_or_else(what)?);
            }
            "hostnqn" => self.host_nqn = Some(valid_nqn(given?)?),
            "hostid" => {
                let value = given?;
                let what = || wrong(format!("hostid '{value}' is no UUID"));
                self.host_id = Some(parse_uuid(value).ok_or_else(what)?);
            }
            "kato" => self.kato = Some(wait(name, given?, Duration::ZERO)?),
            "reconnect" => self.reconnect = Some(wait(name, given?, Duration::MAX)?),
            "loss" => self.loss = Some(wait(name, given?, Duration::MAX)?),
            "fastfail" => self.fast_fail = Some(wait(name, given?, Duration::MAX)?),
            "quiesce" => self.quiesce = Some(wait(name, given?, Duration::ZERO)?),
            _ => {
                let names = "hdgst, ddgst, sqflow, queues, hostnqn, hostid, kato, reconnect, loss, fastfail and quiesce";
                return Err(wrong(format!("'{name}' is no option; options are {names}")));
            }
        }
        Ok(())
    }
}

fn split_authority(text: &str) -> Result<(&str, Option<u16>), Wrong> {
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let Some((host, rest)) = rest.split_once(']') else {
            return Err(("']' is missing after the IPv6 address".into(), IPV6_EXAMPLE));
        };
        if host.parse::<std::net::Ipv6Addr>().is_err() {
            return Err((format!("'{host}' is no IPv6 address"), IPV6_EXAMPLE));
        }
        match rest.strip_prefix(':') {
            Some(port) => (host, Some(port)),
            None if rest.is_empty() => (host, None),
            None => return Err((format!("'{rest}' stands behind ']'"), IPV6_EXAMPLE)),
        }
    } else {
        match text.split_once(':') {
            Some((_, port)) if port.contains(':') => {
                return Err(("an IPv6 address stands in brackets".into(), IPV6_EXAMPLE));
            }
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        }
    };
    if host.is_empty()
        || host.contains(|c: char| c.is_whitespace() || c.is_control() || "[]%".contains(c))
    {
        return Err((format!("'{host}' is no name and no address of a host"), EXAMPLE));
    }
    let parse = |port: &str| {
        let digits = port.bytes().all(|byte| byte.is_ascii_digit());
        let value = port.parse().ok().filter(|&value: &u16| value != 0 && digits);
        value.ok_or_else(|| (format!("the port '{port}' is no number from 1 to 65535"), EXAMPLE))
    };
    Ok((host, port.map(parse).transpose()?))
}

fn valid_nqn(text: &str) -> Result<String, Wrong> {
    let nqn = unescape(text);
    match check_nqn(&nqn) {
        Ok(()) => Ok(nqn),
        Err(error) => Err((format!("'{nqn}': {error}"), EXAMPLE)),
    }
}

fn switch(name: &str, value: Option<&str>) -> Result<bool, Wrong> {
    match value {
        None | Some("on") => Ok(true),
        Some("off") => Ok(false),
        Some(other) => Err((format!("{name} '{other}' is not on or off"), OPTIONS_EXAMPLE)),
    }
}

/// `5s`, `500ms`, `5` (seconds), or a word for `off`.
fn wait(name: &str, text: &str, off: Duration) -> Result<Duration, Wrong> {
    if matches!(text, "off" | "never" | "forever") {
        return Ok(off);
    }
    let (digits, unit): (&str, fn(u64) -> Duration) = match text.strip_suffix("ms") {
        Some(digits) => (digits, Duration::from_millis),
        None => (text.strip_suffix('s').unwrap_or(text), Duration::from_secs),
    };
    // What KATO's field holds, and about a month and a half.
    let most = Duration::from_millis(u32::MAX.into());
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    let time = digits.parse().ok().filter(|_| plain).map(unit).filter(|&time| time <= most);
    let what = format!("{name} '{text}' is no time such as 5s, 500ms or off");
    time.ok_or((what, OPTIONS_EXAMPLE))
}

/// A UUID with or without its dashes.
pub(crate) fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let digits: String = text.chars().filter(|&c| c != '-').collect();
    let plain = digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let value = u128::from_str_radix(&digits, 16).ok().filter(|&value| plain && value != 0)?;
    Some(value.to_be_bytes())
}

/// A UUID as it is written.
pub(crate) fn print_uuid(bytes: [u8; 16]) -> String {
    let all = format!("{:032x}", u128::from_be_bytes(bytes));
    let part = |from: usize, to: usize| all.get(from..to).unwrap_or_default();
    format!("{}-{}-{}-{}-{}", part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32))
}

fn escape(nqn: &str) -> String {
    let mut text = String::new();
    for c in nqn.chars() {
        match c {
            ',' | '?' | '&' | '%' => text.push_str(&format!("%{:02X}", c as u32)),
            c => text.push(c),
        }
    }
    text
}

fn unescape(text: &str) -> String {
    super::embedded::unescape(text).to_string_lossy().into_owned()
}

impl fmt::Display for TcpOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let colon = self.host.contains(':');
        let (open, close) = if colon { ("[", "]") } else { ("", "") };
        write!(f, "//{open}{}{close}", self.host)?;
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        if let Some(nqn) = &self.nqn {
            write!(f, "/{}", escape(nqn))?;
        }
        for (name, given) in [("hdgst", self.header_digest), ("ddgst", self.data_digest)] {
            write!(f, "{}{}", if given { "," } else { "" }, if given { name } else { "" })?;
        }
        if let Some(given) = self.flow_control {
            write!(f, ",sqflow={}", if given { "on" } else { "off" })?;
        }
        let time = |time: Duration, off: Duration| match time {
            time if time == off => "off".to_owned(),
            time if time.subsec_millis() == 0 => format!("{}s", time.as_secs()),
            time => format!("{}ms", time.as_millis()),
        };
        let options = [
            ("queues", self.queues.map(|queues| queues.to_string())),
            ("hostnqn", self.host_nqn.as_deref().map(escape)),
            ("hostid", self.host_id.map(print_uuid)),
            ("kato", self.kato.map(|it| time(it, Duration::ZERO))),
            ("reconnect", self.reconnect.map(|it| time(it, Duration::MAX))),
            ("loss", self.loss.map(|it| time(it, Duration::MAX))),
            ("fastfail", self.fast_fail.map(|it| time(it, Duration::MAX))),
            ("quiesce", self.quiesce.map(|it| time(it, Duration::ZERO))),
        ];
        for (name, value) in options {
            if let Some(value) = value {
                write!(f, ",{name}={value}")?;
            }
        }
        Ok(())
    }
}

// Safe code on strings and bytes: nothing that Miri would see, and slow there.
#[cfg(all(test, not(miri)))]
mod tests {
    use super::super::Address;
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> TcpOptions {
        match text.parse() {
            Ok(Address::Tcp(options)) => options,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn documented_forms() {
        let options = parse("tcp://192.0.2.1:4421/nqn.2014-08.org.example:a");
        assert_eq!((options.host.as_str(), options.port_or_default()), ("192.0.2.1", 4421));
        assert_eq!(options.nqn.as_deref(), Some("nqn.2014-08.org.example:a"));
        let options = parse("tcp://[::1]");
        assert_eq!((options.host.as_str(), options.port_or_default()), ("::1", 4420));
        assert_eq!(parse("tcp://h/nqn.2014-08.org.nvmexpress.discovery").port_or_default(), 8009);
        for text in ["tcp://host?hdgst&ddgst=on&queues=4", "tcp://host,hdgst,ddgst,queues=4"] {
            let options = parse(text);
            assert!(options.header_digest && options.data_digest && options.queues == Some(4));
        }
        let options = parse("tcp://h,kato=1500ms,reconnect=off,loss=forever,fastfail=2,sqflow=off");
        assert_eq!(options.kato, Some(Duration::from_millis(1500)));
        assert_eq!((options.reconnect, options.loss), (Some(Duration::MAX), Some(Duration::MAX)));
        assert_eq!(options.fast_fail, Some(Duration::from_secs(2)));
        assert_eq!(options.flow_control, Some(false));
    }

    #[test]
    fn a_wrong_address_is_told_what_and_shown_a_right_one() {
        for (text, part) in [
            ("tcp:", "'//'"),
            ("tcp:host", "'//'"),
            ("tcp://", "''"),
            ("tcp://:4420", "''"),
            ("tcp://host:", "port ''"),
            ("tcp://host:0", "port '0'"),
            ("tcp://host:65536", "port '65536'"),
            ("tcp://::1", "brackets"),
            ("tcp://[::1", "']'"),
            ("tcp://[::1]4420", "'4420'"),
            ("tcp://[host]", "'host'"),
            ("tcp://host/nqm.x", "begins with nqn."),
            ("tcp://host,queues=0", "queues '0'"),
            ("tcp://host,queues", "'queues' has no value"),
            ("tcp://host,hdgst=maybe", "'maybe'"),
            ("tcp://host,hdgst,hdgst", "twice"),
            ("tcp://host,kato=5h", "kato '5h'"),
            ("tcp://host,hostid=1", "hostid '1'"),
            ("tcp://host,colour=red", "'colour'"),
        ] {
            let error = text.parse::<Address>().expect_err(text);
            let message = error.to_string();
            assert!(message.contains(part), "{text}: {message}");
            assert!(error.example().parse::<Address>().is_ok(), "{text}: {message}");
        }
    }

    proptest! {
        #[test]
        fn printing_gives_back_what_parses(
            text in "tcp://(host|1\\.2\\.3\\.4|\\[fe80::1\\])(:[1-9][0-9]{0,3})?(/nqn\\.[a-z,?%&:.]{1,9})?",
            digests in any::<(bool, bool, Option<bool>)>(),
            times in any::<[Option<u16>; 4]>(),
            queues in proptest::option::of(1u16..=0xfffe),
            id in proptest::option::of(1u128..),
        ) {
            let Ok(Address::Tcp(mut options)) = text.parse() else { return Ok(()) };
            (options.header_digest, options.data_digest, options.flow_control) = digests;
            let time = |it: Option<u16>| it.map(|it| Duration::from_millis(it.into()));
            [options.kato, options.reconnect, options.loss, options.quiesce] = times.map(time);
            (options.queues, options.host_id) = (queues, id.map(u128::to_be_bytes));
            let address = Address::Tcp(options);
            prop_assert_eq!(address.to_string().parse::<Address>(), Ok(address));
        }

        #[test]
        fn no_text_panics_and_what_parses_prints_and_parses(text in "tcp:(//)?\\PC*") {
            if let Ok(address) = text.parse::<Address>() {
                prop_assert_eq!(address.to_string().parse::<Address>(), Ok(address));
            }
        }
    }
}

//! Plans of faults as text: TOML, one `[[rule]]` after another (feature `fault-file`). `subsystem/server/faults.toml` has an
//! example of everything.
//!
//! ```
//! use doorbell_subsystem::fault::Plan;
//!
//! let plan: Plan = r#"
//!     seed = 42                        # of the dice; 0 where it is left out
//!
//!     [[rule]]
//!     name = "slow reads"              # in the counters; `rule 1` without it
//!     at = "completion"
//!     opcode = "read"
//!     blocks = [100, 199]
//!     probability = 0.01
//!     do = "delay"
//!     by = "5ms"
//!
//!     [[rule]]
//!     at = "completion"
//!     opcode = "write"
//!     queue = 1
//!     nth = 3
//!     do = "status"
//!     status = "2/80"
//!
//!     [[rule]]
//!     at = "read"
//!     register = "CSTS"
//!     after = 1000
//!     do = "fatal"
//!
//!     [[rule]]
//!     at = "identify-controller"
//!     field = "nn"
//!     value = 0xffff_ffff
//! "#
//! .parse()?;
//! assert_eq!(plan.counters().iter().count(), 4);
//! # Ok::<(), doorbell_subsystem::fault::PlanError>(())
//! ```
//!
//! # Where and what
//! | `at` | `do`, each with what it needs |
//! | --- | --- |
//! | `command` | `lose`, `hang`, `answer` (`status`, `result`), `short` (`bytes`), `corrupt` (`offset`, `flip`), `fatal`, `vanish` |
//! | `completion` | `lose`, `delay` (`by`), `duplicate`, `reorder`, `wrong-phase`, `half-written`, `rewritten`, `flood`, `status` (`status`), `cid` (`value`), `flip-cid` (`value`), `sqid` (`value`), `sqhd` (`value`), `result` (`value`), `fatal`, `vanish` |
//! | `read` (`register`) | `all-ones`, `value` (`value`), `set-bits` (`value`), `clear-bits` (`value`), `fatal`, `vanish` |
//! | `write` (`register`, `having`) | `lose`, `delay` (`by`), `fatal`, `vanish` |
//! | `never-ready` | nothing: CC.EN=1 is taken no notice of |
//! | `function-reset` | `lose` |
//! | `pdu` (`kind`, `from`) | `lose`, `delay` (`by`), `duplicate`, `reorder`, `corrupt` (`offset`, `flip`), `field` (`offset`, `flip`), `wrong-digest`, `truncate` (`bytes`), `half-written` (`bytes`, `by`), `close` (`bytes`) |
//! | `reply` | nothing: the data of the reply get `value` (bytes or text) at `offset` |
//! | `identify-controller`, `identify-namespace` (`nsid`) | nothing: `field` gets `value` (number, bytes or text) |
//! | `capabilities` | nothing: `field` of CAP gets `value` |
//!
//! # Which and when
//! - `opcode`: a name such as `"read"`, `"write-zeroes"`, `"identify"`, `"create-io-sq"`, or a number; with a number,
//!   say `queue` as well.
//!   Fabrics commands are picked by their names alone: `"connect"`, `"property-get"`, `"property-set"`, `"disconnect"`.
//! - `queue`: `"io"`, `"admin"`, a number, or the first and the last of several: `[1, 4]`.
//! - `cid`, `nsid`, `blocks = [first, last]`, `selector` (bits 7:0 of dword 10: CNS, LID or FID).
//! - `register`: a name such as `"CSTS"`, or an offset. `having = [mask, value]` narrows writes.
//! - `kind`, of PDUs over TCP: `"icreq"`, `"icresp"`, `"h2c-term-req"`, `"c2h-term-req"`, `"capsule-command"`,
//!   `"capsule-response"`, `"h2c-data"`, `"c2h-data"` or `"r2t"`; or all of them `from` the `"host"` or the `"port"`.
//! - `nth`, or `after` and `times`; `probability`, 0 to 1.
//! - `status` is type and code in hexadecimal, `"2/81"`, then ` dnr` and ` crd=1` as wanted. `by` is `"100us"`, `"5ms"`
//!   or `"2s"`.

use std::ops::Range;
use std::str::FromStr;
use std::time::Duration;

use doorbell_spec::admin::AdminOpcode;
use doorbell_spec::identify::Cns;
use doorbell_spec::status::Status;
use serde::Deserialize;
use toml::Spanned;

use super::Plan;
use super::commands::Commands;
use super::field::{self, Field};
use super::pdu::Pdus;
use super::rule::Rule;

/// Why a text is no plan.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// It is no TOML, or has a key that no plan has.
    #[error(transparent)]
    Syntax(#[from] toml::de::Error),
    /// A rule that makes no sense.
    #[error("line {line}, `{key}`: {what}")]
    Rule {
        /// Line, from 1.
        line: usize,
        /// The key.
        key: &'static str,
        /// What is wrong, and what would be right.
        what: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlanText {
    #[serde(default)]
    seed: u64,
    #[serde(default, rename = "rule")]
    rules: Vec<Spanned<RuleText>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleText {
    name: Option<String>,
    at: Spanned<String>,
    #[serde(rename = "do")]
    act: Option<Spanned<String>>,
    opcode: Option<Spanned<NameOrNumber>>,
    queue: Option<Spanned<Queues>>,
    cid: Option<u16>,
    nsid: Option<u32>,
    blocks: Option<[u64; 2]>,
    selector: Option<u8>,
    kind: Option<Spanned<String>>,
    from: Option<Spanned<String>>,
    register: Option<Spanned<NameOrNumber>>,
    having: Option<[u32; 2]>,
    nth: Option<Spanned<u64>>,
    after: Option<u64>,
    times: Option<u64>,
    probability: Option<Spanned<f64>>,
    by: Option<Spanned<String>>,
    status: Option<Spanned<String>>,
    result: Option<u64>,
    bytes: Option<usize>,
    offset: Option<usize>,
    flip: Option<Vec<u8>>,
    field: Option<Spanned<String>>,
    value: Option<Spanned<Value>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum NameOrNumber {
    Name(String),
    Number(u64),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Queues {
    Kind(String),
    One(u16),
    Several([u16; 2]),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Value {
    Number(u64),
    Text(String),
    Bytes(Vec<u8>),
}

impl FromStr for Plan {
    type Err = PlanError;

    fn from_str(text: &str) -> Result<Self, PlanError> {
        let PlanText { seed, rules } = toml::from_str(text)?;
        rules.iter().try_fold(Self::new(seed), |plan, rule| {
            let reader = Reader { text, whole: rule.span(), rule: rule.get_ref() };
            Ok(plan.rule(reader.rule()?))
        })
    }
}

/// One rule of a text, being understood.
struct Reader<'a> {
    text: &'a str,
    whole: Range<usize>,
    rule: &'a RuleText,
}

impl Reader<'_> {
    fn wrong(&self, span: Range<usize>, key: &'static str, what: impl Into<String>) -> PlanError {
        let before = self.text.get(..span.start).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        PlanError::Rule { line, key, what: what.into() }
    }

    fn missing(&self, key: &'static str, what: &str) -> PlanError {
        self.wrong(self.whole.clone(), key, format!("this rule needs it: {what}"))
    }

    fn rule(&self) -> Result<Rule, PlanError> {
        let text = self.rule;
        let mut rule = self.bare()?;
        rule.name.clone_from(&text.name);
        if let Some(nth) = &text.nth {
            if *nth.get_ref() == 0 || text.after.is_some() || text.times.is_some() {
                let what = "counts from 1, and stands alone: not with `after` or `times`";
                return Err(self.wrong(nth.span(), "nth", what));
            }
            rule = rule.nth(*nth.get_ref());
        }
        if let Some(after) = text.after {
            rule = rule.after(after);
        }
        if let Some(times) = text.times {
            rule = rule.times(times);
        }
        if let Some(probability) = &text.probability {
            if !(0.0..=1.0).contains(probability.get_ref()) {
                return Err(self.wrong(probability.span(), "probability", "is not from 0 to 1"));
            }
            rule = rule.probability(*probability.get_ref());
        }
        Ok(rule)
    }

    fn bare(&self) -> Result<Rule, PlanError> {
        let at = &self.rule.at;
        match at.get_ref().as_str() {
            "command" => self.command(),
            "completion" => self.completion(),
            "read" => self.read(),
            "write" => self.write(),
            "function-reset" => match self.act("lose")? {
                "lose" => Ok(Rule::function_reset()),
                _ => Err(self.no_act("lose")),
            },
            "never-ready" => Ok(Rule::never_ready()),
            "pdu" => self.pdu(),
            "reply" => {
                let (at, bytes) = (self.rule.offset.unwrap_or(0), self.bytes(None)?);
                Ok(Rule::reply(self.commands()?, move |page| put(page, at, &bytes)))
            }
            "identify-controller" => self.identify(Cns::CONTROLLER, field::of_controller),
            "identify-namespace" => self.identify(Cns::NAMESPACE, field::of_namespace),
            "capabilities" => {
                let (name, span) = self.field()?;
                let value = self.number()?;
                let (mask, cap) = field::of_capabilities(name, value).ok_or_else(|| {
                    let what = format!("CAP has no field '{name}' that can hold {value:#x}");
                    self.wrong(span, "field", what)
                })?;
                Ok(Rule::capabilities(mask, cap))
            }
            other => {
                let places = "command, completion, reply, read, write, never-ready, function-reset, pdu, identify-controller, identify-namespace, capabilities";
                Err(self.wrong(
                    at.span(),
                    "at",
                    format!("'{other}' is no place; there are {places}"),
                ))
            }
        }
    }

    fn act(&self, acts: &str) -> Result<&str, PlanError> {
        match &self.rule.act {
            Some(act) => Ok(act.get_ref()),
            None => Err(self.missing("do", &format!("one of {acts}"))),
        }
    }

    fn no_act(&self, acts: &str) -> PlanError {
        let span = self.rule.act.as_ref().map_or(self.whole.clone(), Spanned::span);
        let at = self.rule.at.get_ref();
        self.wrong(span, "do", format!("at '{at}' there are {acts}"))
    }

    fn command(&self) -> Result<Rule, PlanError> {
        const ACTS: &str = "lose, hang, answer, short, corrupt, fatal, vanish";
        let at = Rule::command(self.commands()?);
        Ok(match self.act(ACTS)? {
            "lose" => at.lose(),
            "hang" => at.hang(),
            "answer" => at.answer(self.status()?, self.rule.result.unwrap_or(0)),
            "short" => at.short(self.count()?),
            "corrupt" => at.corrupt(self.rule.offset.unwrap_or(0), self.flip()?),
            "fatal" => at.fatal(),
            "vanish" => at.vanish(),
            _ => return Err(self.no_act(ACTS)),
        })
    }

    fn count(&self) -> Result<usize, PlanError> {
        self.rule.bytes.ok_or_else(|| self.missing("bytes", "how many move"))
    }

    fn flip(&self) -> Result<Vec<u8>, PlanError> {
        let flip = self.rule.flip.clone();
        flip.ok_or_else(|| self.missing("flip", "bytes, as in [0x01, 0x80]"))
    }

    fn pdu(&self) -> Result<Rule, PlanError> {
        const ACTS: &str = "lose, delay, duplicate, reorder, corrupt, field, wrong-digest, truncate, half-written, close";
        let at = Rule::pdu(self.pdus()?);
        let offset = self.rule.offset.unwrap_or(0);
        Ok(match self.act(ACTS)? {
            "lose" => at.lose(),
            "delay" => at.delay(self.by()?),
            "duplicate" => at.duplicate(),
            "reorder" => at.reorder(),
            "corrupt" => at.corrupt(offset, self.flip()?),
            "field" => at.field(offset, self.flip()?),
            "wrong-digest" => at.wrong_digest(),
            "truncate" => at.truncate(self.count()?),
            "half-written" => at.half_written(self.count()?, self.by()?),
            "close" => at.close(self.rule.bytes.unwrap_or(0)),
            _ => return Err(self.no_act(ACTS)),
        })
    }

    fn pdus(&self) -> Result<Pdus, PlanError> {
        match (&self.rule.kind, &self.rule.from) {
            (None, None) => Ok(Pdus::any()),
            (Some(kind), None) => field::pdu(kind.get_ref()).map(Pdus::of).ok_or_else(|| {
                let what = format!("'{}' is no PDU; \"c2h-data\" is", kind.get_ref());
                self.wrong(kind.span(), "kind", what)
            }),
            (None, Some(from)) => match from.get_ref().as_str() {
                "host" => Ok(Pdus::of_host()),
                "port" => Ok(Pdus::of_port()),
                _ => Err(self.wrong(from.span(), "from", "is \"host\" or \"port\"")),
            },
            (Some(_), Some(from)) => {
                Err(self.wrong(from.span(), "from", "is not needed: a `kind` has one sender"))
            }
        }
    }

    fn completion(&self) -> Result<Rule, PlanError> {
        const ACTS: &str = "lose, delay, duplicate, reorder, wrong-phase, half-written, rewritten, flood, status, cid, flip-cid, sqid, sqhd, result, fatal, vanish";
        let at = Rule::completion(self.commands()?);
        Ok(match self.act(ACTS)? {
            "lose" => at.lose(),
            "delay" => at.delay(self.by()?),
            "duplicate" => at.duplicate(),
            "reorder" => at.reorder(),
            "wrong-phase" => at.wrong_phase(),
            "half-written" => at.half_written(),
            "rewritten" => at.rewritten(),
            "flood" => at.flood(),
            "status" => at.status(self.status()?),
            "cid" => at.cid(self.narrow()?),
            "flip-cid" => at.flip_cid(self.narrow()?),
            "sqid" => at.sqid(self.narrow()?),
            "sqhd" => at.sqhd(self.narrow()?),
            "result" => at.result(self.number()?),
            "fatal" => at.fatal(),
            "vanish" => at.vanish(),
            _ => return Err(self.no_act(ACTS)),
        })
    }

    fn read(&self) -> Result<Rule, PlanError> {
        const ACTS: &str = "all-ones, value, set-bits, clear-bits, fatal, vanish";
        let at = Rule::read(self.register()?);
        Ok(match self.act(ACTS)? {
            "all-ones" => at.all_ones(),
            "value" => at.value(self.number()?),
            "set-bits" => at.set_bits(self.number()?),
            "clear-bits" => at.clear_bits(self.number()?),
            "fatal" => at.fatal(),
            "vanish" => at.vanish(),
            _ => return Err(self.no_act(ACTS)),
        })
    }

    fn write(&self) -> Result<Rule, PlanError> {
        const ACTS: &str = "lose, delay, fatal, vanish";
        let [mask, value] = self.rule.having.unwrap_or_default();
        let at = Rule::write(self.register()?).having(mask, value);
        Ok(match self.act(ACTS)? {
            "lose" => at.lose(),
            "delay" => at.delay(self.by()?),
            "fatal" => at.fatal(),
            "vanish" => at.vanish(),
            _ => return Err(self.no_act(ACTS)),
        })
    }

    fn identify(&self, cns: Cns, find: impl Fn(&str) -> Option<Field>) -> Result<Rule, PlanError> {
        let (name, span) = self.field()?;
        let Field { at, len } = find(name).ok_or_else(|| {
            self.wrong(
                span,
                "field",
                format!("'{name}' is no field; as in the documents: \"mdts\""),
            )
        })?;
        let bytes = self.bytes(Some(len))?;
        let mut commands = Commands::admin(AdminOpcode::IDENTIFY).selector(cns.0);
        if let Some(nsid) = self.rule.nsid {
            commands = commands.nsid(nsid);
        }
        Ok(Rule::reply(commands, move |page| put(page, at, &bytes)))
    }

    fn commands(&self) -> Result<Commands, PlanError> {
        let text = self.rule;
        let mut commands =
            match text.opcode.as_ref().map(|opcode| (opcode.get_ref(), opcode.span())) {
                None => Commands::any(),
                Some((NameOrNumber::Name(name), span)) => match field::opcode(name) {
                    Some(field::Opcode::Io(opcode)) => Commands::io(opcode),
                    Some(field::Opcode::Admin(opcode)) => Commands::admin(opcode),
                    Some(field::Opcode::Fabrics(fctype)) => Commands::fabrics(fctype),
                    None => {
                        let what = format!(
                            "'{name}' is no command's name; a number will do, with `queue`"
                        );
                        return Err(self.wrong(span, "opcode", what));
                    }
                },
                Some((NameOrNumber::Number(number), span)) => {
                    let opcode = u8::try_from(*number);
                    Commands::any().opcode(
                        opcode.map_err(|_| self.wrong(span, "opcode", "is a number up to 0xff"))?,
                    )
                }
            };
        if let Some(queue) = &text.queue {
            commands = commands.queues(match queue.get_ref() {
                Queues::Kind(kind) if kind == "io" => 1..=u16::MAX,
                Queues::Kind(kind) if kind == "admin" => 0..=0,
                Queues::Kind(_) => {
                    let what = "is \"io\", \"admin\", a number, or [first, last]";
                    return Err(self.wrong(queue.span(), "queue", what));
                }
                Queues::One(queue) => *queue..=*queue,
                Queues::Several([first, last]) => *first..=*last,
            });
        }
        if let Some(cid) = text.cid {
            commands = commands.cid(cid);
        }
        if let Some(nsid) = text.nsid {
            commands = commands.nsid(nsid);
        }
        if let Some([first, last]) = text.blocks {
            commands = commands.blocks(first..=last);
        }
        if let Some(selector) = text.selector {
            commands = commands.selector(selector);
        }
        Ok(commands)
    }

    fn register(&self) -> Result<u64, PlanError> {
        let register = self.rule.register.as_ref();
        let register =
            register.ok_or_else(|| self.missing("register", "a name such as \"CSTS\""))?;
        match register.get_ref() {
            NameOrNumber::Number(offset) => Ok(*offset),
            NameOrNumber::Name(name) => field::register(name).ok_or_else(|| {
                let what = format!("'{name}' is no register; \"CSTS\" is, and an offset will do");
                self.wrong(register.span(), "register", what)
            }),
        }
    }

    fn field(&self) -> Result<(&str, Range<usize>), PlanError> {
        let field = self.rule.field.as_ref();
        let field = field.ok_or_else(|| self.missing("field", "a name such as \"mdts\""))?;
        Ok((field.get_ref(), field.span()))
    }

    fn value(&self) -> Result<&Spanned<Value>, PlanError> {
        self.rule.value.as_ref().ok_or_else(|| self.missing("value", "a number, text or bytes"))
    }

    fn number(&self) -> Result<u64, PlanError> {
        let value = self.value()?;
        match value.get_ref() {
            Value::Number(number) => Ok(*number),
            _ => Err(self.wrong(value.span(), "value", "is no number")),
        }
    }

    fn narrow(&self) -> Result<u16, PlanError> {
        let span = self.value()?.span();
        u16::try_from(self.number()?)
            .map_err(|_| self.wrong(span, "value", "is a number up to 0xffff"))
    }

    /// The value as bytes: all `len` of a field, where it is one.
    fn bytes(&self, len: Option<usize>) -> Result<Vec<u8>, PlanError> {
        let value = self.value()?;
        let wrong = |what: String| self.wrong(value.span(), "value", what);
        let mut bytes = match value.get_ref() {
            Value::Bytes(bytes) => bytes.clone(),
            Value::Text(text) => {
                let mut bytes = text.clone().into_bytes();
                // As the ASCII fields are.
                bytes.resize(len.unwrap_or(bytes.len()).max(bytes.len()), b' ');
                bytes
            }
            Value::Number(number) => {
                let Some(len) = len else { return Err(wrong("is text or bytes here".into())) };
                let bytes = number.to_le_bytes();
                if bytes.iter().skip(len).any(|byte| *byte != 0) {
                    return Err(wrong(format!("the field has {len} bytes")));
                }
                bytes.into_iter().take(len).collect()
            }
        };
        if let Some(len) = len {
            if bytes.len() > len {
                return Err(wrong(format!("the field has {len} bytes")));
            }
            bytes.resize(len, 0);
        }
        Ok(bytes)
    }

    fn by(&self) -> Result<Duration, PlanError> {
        let by = self.rule.by.as_ref();
        let by = by.ok_or_else(|| self.missing("by", "how long, as in \"5ms\""))?;
        duration(by.get_ref()).ok_or_else(|| {
            self.wrong(by.span(), "by", "is no time; \"100us\", \"5ms\", \"2s\" are")
        })
    }

    fn status(&self) -> Result<Status, PlanError> {
        let text = self.rule.status.as_ref();
        let text = text.ok_or_else(|| self.missing("status", "type and code, as in \"2/81\""))?;
        status(text.get_ref()).ok_or_else(|| {
            let what = "is no status; \"2/81\", \"0/02 dnr\" and \"0/82 crd=1\" are";
            self.wrong(text.span(), "status", what)
        })
    }
}

fn put(page: &mut [u8], at: usize, bytes: &[u8]) {
    for (to, from) in page.iter_mut().skip(at).zip(bytes) {
        *to = *from;
    }
}

fn duration(text: &str) -> Option<Duration> {
    let unit = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(unit);
    let number = number.parse().ok()?;
    match unit {
        "us" => Some(Duration::from_micros(number)),
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        _ => None,
    }
}

fn status(text: &str) -> Option<Status> {
    let mut words = text.split_whitespace();
    let (sct, sc) = words.next()?.split_once('/')?;
    let hex = |text| u8::from_str_radix(text, 16).ok();
    let sct = hex(sct).filter(|sct| *sct < 8)?;
    words.try_fold(Status::new(sct, hex(sc)?), |status, word| match word {
        "dnr" => Some(status.with_dnr()),
        "crd=0" => Some(status),
        "crd=1" => Some(status.with_crd(1)),
        "crd=2" => Some(status.with_crd(2)),
        "crd=3" => Some(status.with_crd(3)),
        _ => None,
    })
}

#[cfg(test)]
mod tests;

//! Changes while serving: one command a line on standard input, one answer a line on standard output (`--console`).

use std::io::{self, BufRead, Write};
use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result, bail};
use doorbell_subsystem::fabrics::{Referral, Target};
use doorbell_subsystem::{NamespaceSpec, Subsystem};

const HELP: &str = "\
add SPEC: a namespace | remove NSID | refer ADDR: point hosts to that discovery service | unrefer ADDR | \
allow NQN...: let in these hosts and no other, all with no NQN | usage: of the limits over TCP";

/// What the commands act upon.
pub(crate) struct Console {
    subsystem: Arc<Subsystem>,
    /// Where there is a port over TCP.
    target: Option<Arc<Target>>,
}

impl Console {
    /// Obeys from now on, on a thread of its own, until standard input ends.
    pub(crate) fn start(subsystem: &Arc<Subsystem>, target: Option<&Arc<Target>>) -> Result<()> {
        let console = Self { subsystem: Arc::clone(subsystem), target: target.cloned() };
        let run = move || {
            for line in io::stdin().lock().lines().map_while(Result::ok) {
                let answer = match console.obey(&line) {
                    Ok(answer) => answer,
                    Err(error) => format!("error: {error:#}"),
                };
                // Whoever gave the command may have stopped reading; it holds all the same.
                let _ = writeln!(io::stdout(), "{answer}");
            }
        };
        let thread = thread::Builder::new().name("console".into()).spawn(run);
        thread.map(drop).context("cannot start a thread")
    }

    fn obey(&self, line: &str) -> Result<String> {
        let mut words = line.split_whitespace();
        let verb = words.next().unwrap_or("help");
        let rest: Vec<&str> = words.collect();
        Ok(match (verb, &rest[..]) {
            ("add", [spec]) => {
                let spec: NamespaceSpec = spec.parse()?;
                let nsid = self.subsystem.add(spec.open().context(spec.to_string())?)?;
                format!("namespace {nsid}: {spec}")
            }
            ("remove", [nsid]) => {
                let nsid: u32 = nsid.parse().with_context(|| format!("'{nsid}' is no NSID"))?;
                let Some(namespace) = self.subsystem.remove(nsid) else {
                    bail!("there is no namespace {nsid}");
                };
                drop(namespace);
                format!("namespace {nsid}: removed")
            }
            ("refer", [address]) => {
                let referral: Referral = address.parse()?;
                self.target()?.refer(referral);
                format!("referral {address}: added")
            }
            ("unrefer", [address]) => {
                self.target()?.unrefer(&address.parse()?);
                format!("referral {address}: removed")
            }
            ("allow", []) => {
                self.target()?.allow(None)?;
                "every host is let in".to_owned()
            }
            ("allow", hosts) => {
                self.target()?.allow(Some(hosts.iter().map(ToString::to_string).collect()))?;
                format!("{} hosts are let in", hosts.len())
            }
            ("usage", []) => {
                let target = self.target()?;
                format!("{}; limits: {}", target.usage(), target.limits())
            }
            ("help", []) => HELP.to_owned(),
            _ => bail!("'{}' is none of: {HELP}", line.trim()),
        })
    }

    fn target(&self) -> Result<&Target> {
        self.target.as_deref().context("there is no port over TCP (--tcp)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use doorbell_subsystem::fabrics::Limits;

    fn console(tcp: bool) -> Console {
        let subsystem = Subsystem::builder().nqn("nqn.2014-08.org.example:console").build();
        let target = Target::new(Arc::clone(&subsystem), Limits::default()).expect("a target");
        Console { subsystem, target: tcp.then_some(target) }
    }

    #[test]
    fn namespaces_come_and_go() {
        let console = console(false);
        let says = |line: &str| console.obey(line).map_err(|error| format!("{error:#}"));
        assert_eq!(says("add memory:1MiB").unwrap(), "namespace 1: memory:1MiB");
        assert_eq!(
            says(" add  null:1GiB,block=4096 ").unwrap(),
            "namespace 2: null:1GiB,block=4096"
        );
        assert_eq!(says("remove 1").unwrap(), "namespace 1: removed");
        assert!(
            console.subsystem.namespace(1).is_none() && console.subsystem.namespace(2).is_some()
        );
        for (line, why) in [
            ("remove 1", "no namespace 1"),
            ("remove one", "'one' is no NSID"),
            ("add tape:1GiB", "tape"),
            ("add", "none of: add SPEC"),
            ("refer 192.0.2.1", "no port over TCP"),
            ("usage", "no port over TCP"),
            ("format 1", "none of"),
        ] {
            let error = says(line).unwrap_err();
            assert!(error.contains(why), "{line}: {error}");
        }
        assert!(says("").unwrap().contains("allow NQN"));
    }

    #[test]
    fn the_discovery_log_and_the_hosts_let_in_change() {
        let console = console(true);
        let target = console.target().unwrap();
        let before = target.generation();
        let done = |line: &str| console.obey(line).unwrap();
        done("refer 192.0.2.1");
        assert!(target.generation() > before);
        assert_eq!(
            done("allow nqn.2014-08.org.example:a nqn.2014-08.org.example:b"),
            "2 hosts are let in"
        );
        assert!(
            target.is_allowed("nqn.2014-08.org.example:b")
                && !target.is_allowed("nqn.2014-08.org.example:c")
        );
        assert!(console.obey("allow me").is_err() && !target.is_allowed("me"));
        done("allow");
        assert!(target.is_allowed("nqn.2014-08.org.example:c"));
        let after = target.generation();
        done("unrefer 192.0.2.1");
        assert!(target.generation() > after);
        let usage = done("usage");
        assert!(usage.starts_with("0 connections of 0 hosts"), "{usage}");
        assert!(
            usage.contains("limits: 1024 connections") && usage.contains("8192 bytes"),
            "{usage}"
        );
    }
}

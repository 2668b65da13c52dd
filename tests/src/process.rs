//! Processes under test: started, watched by what they print, killed, and never left behind.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long a process may take to say or do something.
pub const PATIENCE: Duration = Duration::from_secs(100);

/// A running process. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    lines: Receiver<String>,
}

impl Process {
    /// Starts `program`; what it prints can be read line by line.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start<S: AsRef<OsStr>>(program: impl AsRef<OsStr>, args: &[S]) -> Self {
        Self::spawn(Command::new(program).args(args))
    }

    /// Starts the program of this very test again, to run the ignored test `name` with `variables` set.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn again(name: &str, variables: &[(&str, &str)]) -> Self {
        let program = std::env::current_exe().expect("this program");
        let args = [name, "--exact", "--ignored", "--nocapture", "--test-threads=1"];
        Self::spawn(Command::new(program).args(args).envs(variables.iter().copied()))
    }

    fn spawn(command: &mut Command) -> Self {
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("a process");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let (send, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, lines }
    }

    /// The next line that it prints.
    ///
    /// # Panics
    /// If none comes.
    pub fn line(&self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("a line")
    }

    /// The next line that begins with `prefix`, without it.
    ///
    /// # Panics
    /// If none comes.
    pub fn line_after(&self, prefix: &str) -> String {
        loop {
            if let Some(rest) = self.line().strip_prefix(prefix) {
                return rest.to_owned();
            }
        }
    }

    /// The last of the lines printed so far that begin with `prefix`, without it.
    pub fn last_after(&self, prefix: &str) -> Option<String> {
        let lines = self.lines.iter();
        lines.filter_map(|line| line.strip_prefix(prefix).map(str::to_owned)).last()
    }

    /// Its process identifier.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = Pid::from_raw(self.child.id() as i32) {
            // It may have ended.
            let _ = kill_process(pid, signal);
        }
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// If it does not end.
    pub fn wait(&mut self) -> ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("wait") {
                return status;
            }
            assert!(started.elapsed() < PATIENCE, "the process does not end");
            std::thread::yield_now();
        }
    }

    /// SIGKILL, and its end.
    ///
    /// # Panics
    /// If it survives.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts `doorbell-subsystem` at `program` and waits until it listens.
///
/// # Panics
/// If it does not.
pub fn serve(program: &str, path: &Path, namespaces: &[&str]) -> Process {
    let socket = path.to_str().expect("a path in UTF-8");
    let mut args = vec!["--vfio-user", socket];
    for namespace in namespaces {
        args.extend(["--namespace", namespace]);
    }
    let process = Process::start(program, &args);
    assert_eq!(process.line(), format!("vfio-user:{socket}"));
    process
}

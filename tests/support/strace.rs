//! System calls that are watched, refused or deadly: `strace` around a command or onto a running
//! proxy.
#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "each test file uses a part; a test that cannot go on should panic"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::Workspace;

const TIMEOUT: Duration = Duration::from_secs(20);

/// A command as the last arguments of another one, with its folder, environment and pipes.
pub fn wrapped(inner: &Command, outer: &[&str]) -> Command {
    let mut command = Command::new(outer[0]);
    command.args(&outer[1..]).arg(inner.get_program()).args(inner.get_args()).env_clear();
    command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.current_dir(inner.get_current_dir().unwrap());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// True if strace is here and may trace; says so if not.
pub fn may_trace(test: &str) -> bool {
    let tried =
        Command::new("strace").args(["-o", "/dev/null", "-e", "trace=exit", "true"]).output();
    let allowed = tried.is_ok_and(|output| output.status.success());
    if !allowed {
        eprintln!(
            "SKIPPED {test}: it needs strace, and the right to trace (apt-get install strace)"
        );
    }
    allowed
}

/// Renames the account acme to beta and back, each time killed at one of these moments
/// (`CALL:when=N`), and calls `check` with the name that it has then. Returns the last name.
pub fn kill_renames(
    workspace: &Workspace,
    moments: &[&str],
    check: impl Fn(&str, &str),
) -> &'static str {
    let (mut here, mut there) = ("acme", "beta");
    let mut fates = [0, 0];
    for moment in moments {
        let (call, when) = moment.split_once(':').unwrap();
        let (trace, inject) =
            (format!("trace={call}"), format!("inject={call}:signal=KILL:{when}"));
        let command = workspace.command(&["accounts", "rename", here, there]);
        let deadly = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject];
        wrapped(&command, &deadly).output().unwrap();
        let is_moved = workspace.record(there).exists();
        assert_ne!(is_moved, workspace.record(here).exists(), "{moment}: under one name");
        fates[usize::from(is_moved)] += 1;
        if is_moved {
            (here, there) = (there, here);
        }
        check(here, moment);
    }
    assert!(fates[0] > 0 && fates[1] > 0, "before and after: {fates:?}");
    here
}

/// Faults in the system calls of a process that runs; it is rid of them when this is dropped.
pub struct Faulty {
    strace: Child,
    pub log: PathBuf,
}

impl Faulty {
    /// None, with the reason on stderr, where a running process may not be traced.
    pub fn attach(pid: u32, log: &Path, expressions: &[&str]) -> Option<Self> {
        Self::attach_to(pid, log, None, expressions)
    }

    /// The same for calls that have to do with one path only.
    pub fn attach_to(
        pid: u32,
        log: &Path,
        path: Option<&Path>,
        expressions: &[&str],
    ) -> Option<Self> {
        let mut command = Command::new("strace");
        if let Some(path) = path {
            command.arg("-P").arg(path);
        }
        command.args(["-f", "-y", "-s", "4096", "-o"]).arg(log).arg("-p").arg(pid.to_string());
        for expression in expressions {
            command.args(["-e", expression]);
        }
        let said = log.with_extension("said");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(&said).unwrap());
        let mut strace = command.spawn().ok()?;
        let start = Instant::now();
        while !fs::read_to_string(&said).unwrap().contains("attached") {
            if strace.try_wait().unwrap().is_some() {
                let why = fs::read_to_string(&said).unwrap();
                eprintln!("SKIPPED: strace may not attach to a running process here: {why}");
                return None;
            }
            assert!(start.elapsed() < TIMEOUT, "{}", fs::read_to_string(&said).unwrap());
            std::thread::sleep(Duration::from_millis(5));
        }
        Some(Self { strace, log: log.into() })
    }

    /// Lets the process go and returns what was seen.
    pub fn end(mut self) -> String {
        self.detach();
        fs::read_to_string(&self.log).unwrap()
    }

    fn detach(&mut self) {
        if self.strace.try_wait().unwrap().is_some() {
            return;
        }
        // SIGTERM: strace detaches; killed it would leave the fault in place for the call under
        // way.
        let _ = Command::new("kill").arg(self.strace.id().to_string()).status();
        let _ = self.strace.wait();
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        self.detach();
    }
}

//! Runs one command: without secrets, without input, for a bounded time, with its output in the log.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use super::edges::{Event, Occurrence};
use super::settings::HookCommand;
use crate::redaction::Redactor;

/// How long a command may take.
const LIMIT: Duration = Duration::from_secs(30);
/// Output that is kept, in bytes.
const MAX_OUTPUT: usize = 4096;
/// Longest reason that a command is given, in characters.
const MAX_REASON: usize = 500;
/// Variables that say what happened, besides `PLEO_PROXY_ENVIRONMENT` and `PLEO_PROXY_CONFIG`,
/// which are settings.
pub const VARIABLES: [&str; 4] =
    ["PLEO_PROXY_ACCOUNT", "PLEO_PROXY_EVENT", "PLEO_PROXY_REASON", "PLEO_PROXY_FIX"];
/// What a command inherits; secrets in other variables stay here.
const INHERITED: [&str; 13] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LANGUAGE",
    "TZ",
    "TMPDIR",
    "TERM",
    "DISPLAY",
    "WAYLAND_DISPLAY",
    "DBUS_SESSION_BUS_ADDRESS",
];
const INHERITED_PREFIXES: [&str; 2] = ["LC_", "XDG_"];

/// What commands are told about the process, and where they run.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// Their working folder; none: that of the process.
    pub folder: Option<PathBuf>,
    /// The configuration file, if there is one.
    pub config: Option<PathBuf>,
    /// The environment of Pleo.
    pub environment: &'static str,
    /// The command line that reads the same configuration, such as `pleo-proxy --config my.toml`.
    pub program: String,
}

/// Runs commands.
#[derive(Debug)]
pub(super) struct Runner {
    surroundings: Surroundings,
    redactor: Redactor,
    limit: Duration,
}

impl Runner {
    pub(super) fn new(surroundings: Surroundings, redactor: Redactor) -> Self {
        Self { surroundings, redactor, limit: LIMIT }
    }

    /// Runs a command to its end, or ends it with all that it started.
    pub(super) async fn run(&self, hook: &HookCommand, occurrence: &Occurrence) {
        let (account, event) = (&occurrence.account, occurrence.event.as_str());
        let began = Instant::now();
        let mut output = Output::default();
        let ended = self.ended(hook, occurrence, &mut output).await;
        let took = format!("{:.1} s", began.elapsed().as_secs_f64());
        let has_failed = !matches!(&ended, Ok(Some(status)) if status.success());
        match ended {
            Ok(Some(status)) if status.success() => {
                info!(%account, event, took, "the hook has run");
            }
            Ok(Some(status)) => warn!(%account, event, took, "the hook failed: {status}"),
            Ok(None) => warn!(%account, event, "the hook was ended after {:?}", self.limit),
            Err(error) => warn!(%account, event, "the hook cannot be run: {error}"),
        }
        let text = String::from_utf8_lossy(&output.kept);
        for line in self.redactor.text(&text).lines() {
            let line = printable(line);
            // The cause of a failure is as loud as the failure.
            if has_failed {
                warn!(%account, event, "hook: {line}");
            } else {
                info!(%account, event, "hook: {line}");
            }
        }
        if output.dropped > 0 {
            info!(%account, event, "hook: [{} more bytes]", output.dropped);
        }
    }

    /// How the command ended; none if it took too long.
    async fn ended(
        &self,
        hook: &HookCommand,
        occurrence: &Occurrence,
        output: &mut Output,
    ) -> io::Result<Option<ExitStatus>> {
        let (mut child, mut said) = self.spawn(hook, occurrence)?;
        let group = Group::of(&child);
        let work = async {
            let (status, ()) = tokio::join!(child.wait(), output.read(&mut said));
            status
        };
        let Ok(ended) = timeout(self.limit, work).await else {
            drop(group);
            // Reaped; it has been killed.
            let _ = child.wait().await;
            return Ok(None);
        };
        group.leave_alone();
        ended.map(Some)
    }

    /// Starts a command; its output comes from the pipe.
    fn spawn(
        &self,
        hook: &HookCommand,
        occurrence: &Occurrence,
    ) -> io::Result<(Child, pipe::Receiver)> {
        let (reader, writer) = io::pipe()?;
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(hook.as_str());
        command.env_clear().envs(inherited()).envs(self.variables(occurrence));
        if let Some(folder) = &self.surroundings.folder {
            command.current_dir(folder);
        }
        command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
        let child = command.process_group(0).kill_on_drop(true).spawn()?;
        // The command has its own ends of the pipe: `command` is dropped here with ours.
        Ok((child, pipe::Receiver::from_owned_fd(OwnedFd::from(reader))?))
    }

    fn variables(&self, occurrence: &Occurrence) -> Vec<(&'static str, OsString)> {
        let Surroundings { config, environment, program, .. } = &self.surroundings;
        let Occurrence { account, event, reason, login } = occurrence;
        let reason: String = self.redactor.text(reason).chars().take(MAX_REASON).collect();
        let login = login.as_ref().and_then(|login| login.strip_prefix("pleo-proxy"));
        let login = login.map(|rest| format!("{program}{rest}"));
        let fix = match event {
            Event::LoginRequired => login.unwrap_or_default(),
            Event::GrantAge => {
                login.unwrap_or_else(|| format!("{program} refresh {account} --force"))
            }
            Event::Recovered => String::new(),
        };
        let told = [account.to_string(), event.as_str().to_owned(), printable(&reason), fix];
        let mut variables: Vec<_> = VARIABLES.into_iter().zip(told.map(OsString::from)).collect();
        variables.push(("PLEO_PROXY_ENVIRONMENT", (*environment).into()));
        variables.extend(config.iter().map(|file| ("PLEO_PROXY_CONFIG", file.into())));
        variables
    }
}

/// The variables of this process that a command gets.
fn inherited() -> impl Iterator<Item = (OsString, OsString)> {
    std::env::vars_os().filter(|(name, _)| {
        name.to_str().is_some_and(|name| {
            INHERITED.contains(&name)
                || INHERITED_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        })
    })
}

fn printable(line: &str) -> String {
    line.chars().map(|character| if character.is_control() { ' ' } else { character }).collect()
}

/// The beginning of a command's output.
#[derive(Debug, Default)]
struct Output {
    kept: Vec<u8>,
    dropped: usize,
}

impl Output {
    /// Reads until every program that holds the other end has ended.
    async fn read(&mut self, from: &mut (impl AsyncRead + Unpin)) {
        let mut buffer = [0; 1024];
        while let Ok(read @ 1..) = from.read(&mut buffer).await {
            let kept = read.min(MAX_OUTPUT - self.kept.len());
            self.kept.extend_from_slice(&buffer[..kept]);
            self.dropped += read - kept;
        }
    }
}

/// The process group of a command, which is killed when this is dropped.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        Self(id.and_then(Pid::from_raw))
    }

    /// The command has ended; what it started on purpose goes on.
    fn leave_alone(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // Everything in it may have ended already.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn runner(folder: &Path, limit: Duration) -> Runner {
        let surroundings = Surroundings {
            folder: Some(folder.to_owned()),
            config: None,
            environment: "sandbox",
            program: "pleo-proxy".into(),
        };
        Runner { limit, ..Runner::new(surroundings, Redactor::default()) }
    }

    async fn ended(runner: &Runner, hook: &str) -> (Option<ExitStatus>, Output) {
        let occurrence = Occurrence {
            account: "acme".parse().unwrap(),
            event: Event::LoginRequired,
            reason: "it is gone".into(),
            login: None,
        };
        let mut output = Output::default();
        let ended = runner.ended(&hook.parse().unwrap(), &occurrence, &mut output).await;
        (ended.unwrap(), output)
    }

    #[tokio::test]
    async fn a_command_that_takes_too_long_is_killed_with_what_it_started() {
        let folder = tempfile::tempdir().unwrap();
        let runner = runner(folder.path(), Duration::from_millis(300));
        let hook = "sleep 1000 & echo $! > pid; echo begun; wait";
        let (status, output) = ended(&runner, hook).await;
        assert_eq!((status, output.kept.as_slice()), (None, b"begun\n".as_slice()));
        let pid = std::fs::read_to_string(folder.path().join("pid")).unwrap();
        let pid = Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
        let is_there = || {
            // Its parent is gone: whoever inherits it may not have reaped it yet.
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
            stat.is_ok_and(|stat| !stat.contains(") Z "))
        };
        while is_there() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test]
    async fn output_is_kept_up_to_its_bound_and_input_is_empty() {
        let folder = tempfile::tempdir().unwrap();
        let runner = runner(folder.path(), LIMIT);
        let hook = "cat; echo out; echo err >&2; head -c 100000 /dev/zero; exit 7";
        let (status, output) = ended(&runner, hook).await;
        assert_eq!(status.unwrap().code(), Some(7));
        assert!(output.kept.starts_with(b"out\nerr\n\0"));
        assert_eq!((output.kept.len(), output.dropped), (MAX_OUTPUT, 100_008 - MAX_OUTPUT));
    }

    #[tokio::test]
    async fn what_a_command_leaves_running_with_its_output_elsewhere_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let runner = runner(folder.path(), LIMIT);
        let hook = "mkfifo gate; (cat gate > done) >/dev/null 2>&1 & echo left";
        let (status, output) = ended(&runner, hook).await;
        assert!(status.unwrap().success());
        assert_eq!(output.kept, b"left\n");
        std::fs::write(folder.path().join("gate"), "x").unwrap();
        while std::fs::read(folder.path().join("done")).is_ok_and(|done| done != b"x") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

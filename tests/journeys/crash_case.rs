//! One case of the crash tests: a process killed at a system call, and what became of its account.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support::{self, strace};

use std::fmt;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::crash::{AT_WORK, UNDER_WAY};
use pleo_proxy::sandbox::{Counters, Sandbox};
use pleo_proxy::store::Record;
use serde_json::Value;
use support::{Workspace, client, sandbox, sandbox_config, text};
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, block_in_place};

/// No token is sent again before its intent is this old.
const SETTLED: Duration = Duration::from_secs(10);

/// For what the sandbox still does after its client is dead.
pub(super) const AFTERMATH: Duration = Duration::from_millis(300);

/// Looks at an account until it has settled.
const MOST_ATTEMPTS: usize = 4;

/// What is under way when the process is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deed {
    Refresh,
    /// Of an account that nobody can ask about: introspection is off.
    BlindRefresh,
    Login,
    Logout,
}

/// When it is killed.
#[derive(Clone, Debug)]
pub(super) enum Moment {
    /// Before a thread makes this call for the nth time.
    Call(&'static str, usize),
    /// Before the nth call of all threads together.
    Nth(usize),
}

/// How an account fared after a kill.
#[derive(Clone, Debug, Default)]
pub(super) struct Fate {
    pub(super) killed: bool,
    pub(super) new_pair: bool,
    pub(super) honest_login: bool,
    pub(super) logged_out: bool,
    pub(super) resends: u64,
    pub(super) replays: u64,
}

/// How an account is after the restart.
#[derive(Debug)]
enum End {
    Works,
    LoggedOut,
    /// A login is required, because a refresh was interrupted.
    Interrupted,
}

/// A row of the table.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) fates: Vec<Fate>,
    pub(super) broken: Vec<String>,
}

impl Tally {
    pub(super) async fn of(tasks: JoinSet<Result<Fate, String>>) -> Self {
        let mut tally = Self::default();
        for outcome in tasks.join_all().await {
            match outcome {
                Ok(fate) => tally.fates.push(fate),
                Err(broken) => tally.broken.push(broken),
            }
        }
        tally
    }

    pub(super) fn count(&self, wanted: impl Fn(&Fate) -> bool) -> usize {
        self.fates.iter().filter(|fate| fate.killed && wanted(fate)).count()
    }

    /// Prints the row; a broken rule fails the test.
    pub(super) fn judge(&self, what: &str) {
        println!("| {what:<26} {self} |");
        assert!(self.broken.is_empty(), "{what}:\n{}", self.broken.join("\n"));
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kills = self.count(|_| true) + self.broken.len();
        write!(
            f,
            "| kills {kills:>4} | loads {:>4} | old pair {:>4} | new pair {:>4} | logged out {:>3} | honest logins {:>3} \
             | re-sends {:>2} | replays {} | unexplained {}",
            self.count(|_| true),
            self.count(|fate| !fate.new_pair && !fate.logged_out),
            self.count(|fate| fate.new_pair),
            self.count(|fate| fate.logged_out),
            self.count(|fate| fate.honest_login),
            self.fates.iter().map(|fate| fate.resends).sum::<u64>(),
            self.fates.iter().map(|fate| fate.replays).sum::<u64>(),
            self.broken.len(),
        )
    }
}

pub(super) fn is_heavy() -> bool {
    std::env::var_os("PLEO_PROXY_HEAVY").is_some()
}

/// What all cases share.
#[derive(Clone)]
pub(super) struct Room {
    /// Makes its TLS settings once.
    pub(super) http: reqwest::Client,
    pub(super) at_work: Arc<Semaphore>,
    pub(super) under_way: Arc<Semaphore>,
}

impl Room {
    pub(super) fn new() -> Self {
        Self {
            http: client(),
            at_work: Arc::new(Semaphore::new(AT_WORK)),
            under_way: Arc::new(Semaphore::new(UNDER_WAY)),
        }
    }
}

/// An account of its own at a sandbox of its own, so that every count belongs to one kill.
pub(super) struct Case {
    pub(super) sandbox: Sandbox,
    pub(super) workspace: Workspace,
    pub(super) deed: Deed,
    pub(super) room: Room,
}

impl Case {
    pub(super) async fn new(deed: Deed, room: Room) -> Self {
        let sandbox = sandbox().await;
        let config = sandbox_config(&sandbox, "");
        let config = match deed {
            Deed::BlindRefresh => config.replace(&sandbox.introspect_url(), ""),
            _ => config,
        };
        let case = Self { workspace: Workspace::new(&config), sandbox, deed, room };
        let connected = case.login(case.workspace.command(&["login", "--paste"])).await;
        assert!(connected.status.success(), "{connected:?}");
        case
    }

    /// Kills it at a moment, starts it again, and tells how the account fared.
    pub(super) async fn run(self, moment: Moment) -> Result<Fate, String> {
        let working = self.room.at_work.clone().acquire_owned().await.unwrap();
        let (before, old) = (self.sandbox.counters(), self.refresh_token().unwrap());
        let ended = self.deed_killed_at(&moment).await;
        drop(working);
        tokio::time::sleep(AFTERMATH).await;
        let killed =
            matches!((ended.status.signal(), ended.status.code()), (Some(9), _) | (_, Some(137)));
        if !killed && !ended.status.success() {
            return Err(format!("{moment:?}: neither killed nor well: {ended:?}"));
        }
        let fate = self.aftermath(&before, &old).await;
        fate.map(|fate| Fate { killed, ..fate }).map_err(|why| {
            let record = fs::read_to_string(self.workspace.record("default")).unwrap_or_default();
            format!("{:?} at {moment:?}: {why}\n  {record}", self.deed)
        })
    }

    pub(super) async fn deed_killed_at(&self, moment: &Moment) -> Output {
        let arguments: &[&str] = match self.deed {
            Deed::Refresh | Deed::BlindRefresh => &["refresh", "--force"],
            Deed::Login => &["login", "--paste"],
            Deed::Logout => &["logout"],
        };
        let command = deadly(&self.workspace.command(arguments), moment);
        match self.deed {
            Deed::Login => self.login(command).await,
            _ => run(command),
        }
    }

    /// Runs a login that asks for the address to be pasted, with the part of the browser.
    pub(super) async fn login(&self, mut command: Command) -> Output {
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        let mut talk = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        while block_in_place(|| talk.read_line(&mut line)).is_ok_and(|read| read > 0) {
            if let Some(url) = Some(line.trim()).filter(|line| line.starts_with("http")) {
                let response = self.room.http.get(url).send().await.unwrap();
                let back = response.headers()["location"].to_str().unwrap().to_owned();
                // It may be dead by now.
                let _ = writeln!(child.stdin.take().unwrap(), "{back}");
                break;
            }
            line.clear();
        }
        block_in_place(|| {
            let _ = std::io::copy(&mut talk, &mut std::io::sink());
            child.wait_with_output().unwrap()
        })
    }

    pub(super) fn refresh_token(&self) -> Result<Option<String>, String> {
        let bytes = fs::read(self.workspace.record("default"))
            .map_err(|error| format!("no record: {error}"))?;
        let record =
            Record::decode(&bytes).map_err(|error| format!("it does not load: {error}"))?;
        Ok(record.grant.map(|grant| grant.refresh.expose().to_owned()))
    }

    /// True if the sandbox would accept this refresh token.
    pub(super) async fn is_good(&self, token: &str) -> bool {
        let form = [("token", token), ("token_type_hint", "refresh_token")];
        let request = self.room.http.post(self.sandbox.introspect_url()).form(&form);
        let response =
            request.basic_auth("sandbox-client", Some("sandbox-secret")).send().await.unwrap();
        response.json::<Value>().await.unwrap()["active"] == true
    }

    /// Holds the account to the rules, from what is on disk to a refresh that works again.
    pub(super) async fn aftermath(
        &self,
        before: &Counters,
        old: &Option<String>,
    ) -> Result<Fate, String> {
        let stored = self.refresh_token()?;
        let spent = match &stored {
            Some(token) => !self.is_good(token).await,
            None => false,
        };
        let refreshed = self.sandbox.counters().refreshes > before.refreshes;
        let new_pair = stored.is_some() && stored != *old;
        let is_refresh = matches!(self.deed, Deed::Refresh | Deed::BlindRefresh);
        if is_refresh && stored.is_none() || !is_refresh && refreshed {
            return Err(format!(
                "a pair went missing, or a refresh happened by itself: {stored:?}"
            ));
        }
        if is_refresh && spent != (refreshed && !new_pair) || !is_refresh && spent {
            return Err(format!(
                "the stored token is spent: {spent}; refreshed: {refreshed}; new pair: {new_pair}"
            ));
        }
        let mut fate = Fate { new_pair, ..Fate::default() };
        match self.restart().await? {
            End::LoggedOut if self.deed == Deed::Logout && stored.is_none() => {
                fate.logged_out = true
            }
            End::Interrupted if spent => fate.honest_login = true,
            End::Works if !spent && stored.is_some() => self.works()?,
            end => {
                return Err(format!("it ended as {end:?}, and the stored token is spent: {spent}"));
            }
        }
        fate.replays = self.sandbox.counters().refresh_replays - before.refresh_replays;
        if self.deed == Deed::BlindRefresh {
            // Nobody can be asked, so the token is tried once more: of a sole owner that costs
            // nothing.
            fate.resends = std::mem::take(&mut fate.replays);
        }
        match fate.replays == 0
            && fate.resends == u64::from(self.deed == Deed::BlindRefresh && spent)
        {
            true => Ok(fate),
            false => {
                Err(format!("{} replays, {} re-sends (spent: {spent})", fate.replays, fate.resends))
            }
        }
    }

    /// What a person would do: look, then refresh until there is an answer.
    async fn restart(&self) -> Result<End, String> {
        for _ in 0..MOST_ATTEMPTS {
            let working = self.room.at_work.clone().acquire_owned().await.unwrap();
            let account = self.status()?;
            if account["state"] == "login_required" {
                let why = text(&account["why"]);
                return match (why.contains("was interrupted"), why.contains("it was logged out")) {
                    (true, _) => Ok(End::Interrupted),
                    (_, true) => Ok(End::LoggedOut),
                    _ => Err(format!("lost, and no honest reason: {why}")),
                };
            }
            let (sent_at, posts) = (self.intent_sent_at(), self.sandbox.counters().token_posts);
            let output = run(self.workspace.command(&["refresh"]));
            if sent_at.is_some_and(|at| age(at) < SETTLED)
                && self.sandbox.counters().token_posts != posts
            {
                return Err(
                    "a token was sent again while its first copy could still be under way".into()
                );
            }
            drop(working);
            match output.status.code() {
                Some(0) => return Ok(End::Works),
                Some(1) if account["state"] == "uncertain" => {
                    let left = sent_at.map_or(Duration::ZERO, |at| SETTLED.saturating_sub(age(at)));
                    tokio::time::sleep(left.max(AFTERMATH)).await;
                }
                Some(3) => {}
                _ => return Err(format!("{account}: {output:?}")),
            }
        }
        Err("it did not come to an end".into())
    }

    pub(super) fn intent_sent_at(&self) -> Option<i64> {
        let record = Record::decode(&fs::read(self.workspace.record("default")).ok()?).ok()?;
        record.open_intent().map(|intent| intent.sent_at)
    }

    pub(super) fn status(&self) -> Result<Value, String> {
        let output = run(self.workspace.command(&["status", "--json"]));
        let status: Value =
            serde_json::from_slice(&output.stdout).map_err(|_| format!("no status: {output:?}"))?;
        match output.status.code() {
            Some(4) => Ok(status["accounts"][0].clone()),
            _ => Err(format!("{output:?}")),
        }
    }

    /// The account refreshes again, and nothing of the dead process is left.
    pub(super) fn works(&self) -> Result<(), String> {
        let output = run(self.workspace.command(&["refresh", "--force"]));
        if !output.status.success() {
            return Err(format!("it does not refresh any more: {output:?}"));
        }
        let left =
            fs::read_dir(self.workspace.state()).unwrap().map(|entry| entry.unwrap().file_name());
        let left: Vec<_> = left.filter(|name| name.to_str().unwrap().ends_with(".tmp")).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("left behind: {left:?}")) }
    }
}

/// Of a moment in milliseconds since 1970.
fn age(then: i64) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    now.saturating_sub(Duration::from_millis(u64::try_from(then).unwrap()))
}

pub(super) fn run(mut command: Command) -> Output {
    block_in_place(|| command.output().unwrap())
}

/// The command, to be killed at a moment.
pub(super) fn deadly(command: &Command, moment: &Moment) -> Command {
    match moment {
        Moment::Call(call, n) => {
            let (trace, inject) =
                (format!("trace={call}"), format!("inject={call}:signal=SIGKILL:when={n}"));
            strace::wrapped(
                command,
                &["strace", "-f", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject],
            )
        }
        Moment::Nth(n) => {
            let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/heavy/kill_at.py");
            strace::wrapped(command, &["python3", script, &n.to_string()])
        }
    }
}

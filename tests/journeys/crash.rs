//! `kill -9` at system calls: of a refresh, a login and a logout on the command line, and of a
//! proxy under load.
//!
//! Whatever the moment, the store loads, holds the old or the new pair, and the account works again
//! by itself; only where the sandbox itself calls the stored refresh token spent is
//! `login_required` the right answer.
//!
//! Usually a few moments are tried. `tests/heavy/crash.sh` tries all of them and prints a table.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support::{self, strace};

use std::fmt;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use pleo_proxy::sandbox::{Counters, Faults, Sandbox};
use pleo_proxy::store::Record;
use serde_json::Value;
use support::{PATIENCE, Place, Proxy, client, config_toward, problem, sandbox, text};
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, block_in_place};

/// No token is sent again before its intent is this old.
const SETTLED: Duration = Duration::from_secs(10);
/// For what the sandbox still does after its client is dead.
const AFTERMATH: Duration = Duration::from_millis(300);
/// Cases that are killed or judged at a time; those that wait for an intent to settle do not count.
const AT_WORK: usize = 4;
/// Cases that exist at a time.
const UNDER_WAY: usize = 300;
/// Looks at an account until it has settled.
const MOST_ATTEMPTS: usize = 4;
/// System calls before a process reaches its store, the same for every deed.
const PREAMBLE: usize = 150;
/// Further system calls than the counted ones: no two runs make quite the same.
const SLACK: usize = 25;
/// Calls that touch store, lock, intent and socket, and how often each thread makes them, as far as
/// the quick run goes.
const QUICK: [(&str, usize); 12] = [
    ("openat", 4),
    ("write", 6),
    ("fsync", 3),
    ("/^rename", 2),
    ("flock", 1),
    ("ftruncate", 3),
    ("lseek", 2),
    ("connect", 1),
    ("writev", 2),
    ("recvfrom", 3),
    ("shutdown", 1),
    ("exit_group", 1),
];

/// What is under way when the process is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deed {
    Refresh,
    /// Of an account that nobody can ask about: introspection is off.
    BlindRefresh,
    Login,
    Logout,
}

/// When it is killed.
#[derive(Clone, Debug)]
enum Moment {
    /// Before a thread makes this call for the nth time.
    Call(&'static str, usize),
    /// Before the nth call of all threads together.
    Nth(usize),
}

/// How an account fared after a kill.
#[derive(Clone, Debug, Default)]
struct Fate {
    killed: bool,
    new_pair: bool,
    honest_login: bool,
    logged_out: bool,
    resends: u64,
    replays: u64,
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
struct Tally {
    fates: Vec<Fate>,
    broken: Vec<String>,
}

impl Tally {
    async fn of(tasks: JoinSet<Result<Fate, String>>) -> Self {
        let mut tally = Self::default();
        for outcome in tasks.join_all().await {
            match outcome {
                Ok(fate) => tally.fates.push(fate),
                Err(broken) => tally.broken.push(broken),
            }
        }
        tally
    }

    fn count(&self, wanted: impl Fn(&Fate) -> bool) -> usize {
        self.fates.iter().filter(|fate| fate.killed && wanted(fate)).count()
    }

    /// Prints the row; a broken rule fails the test.
    fn judge(&self, what: &str) {
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

fn is_heavy() -> bool {
    std::env::var_os("PLEO_PROXY_HEAVY").is_some()
}

/// What all cases share.
#[derive(Clone)]
struct Room {
    /// Makes its TLS settings once.
    http: reqwest::Client,
    at_work: Arc<Semaphore>,
    under_way: Arc<Semaphore>,
}

impl Room {
    fn new() -> Self {
        Self {
            http: client(),
            at_work: Arc::new(Semaphore::new(AT_WORK)),
            under_way: Arc::new(Semaphore::new(UNDER_WAY)),
        }
    }
}

/// An account of its own at a sandbox of its own, so that every count belongs to one kill.
struct Case {
    sandbox: Sandbox,
    place: Place,
    deed: Deed,
    room: Room,
}

impl Case {
    async fn new(deed: Deed, room: Room) -> Self {
        let sandbox = sandbox().await;
        let config = config_toward(&sandbox, "");
        let config = match deed {
            Deed::BlindRefresh => config.replace(&sandbox.introspect_url(), ""),
            _ => config,
        };
        let case = Self { place: Place::new(&config), sandbox, deed, room };
        let connected = case.login(case.place.command(&["login", "--paste"])).await;
        assert!(connected.status.success(), "{connected:?}");
        case
    }

    /// Kills it at a moment, starts it again, and tells how the account fared.
    async fn run(self, moment: Moment) -> Result<Fate, String> {
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
            let record = fs::read_to_string(self.place.record("default")).unwrap_or_default();
            format!("{:?} at {moment:?}: {why}\n  {record}", self.deed)
        })
    }

    async fn deed_killed_at(&self, moment: &Moment) -> Output {
        let arguments: &[&str] = match self.deed {
            Deed::Refresh | Deed::BlindRefresh => &["refresh", "--force"],
            Deed::Login => &["login", "--paste"],
            Deed::Logout => &["logout"],
        };
        let command = deadly(&self.place.command(arguments), moment);
        match self.deed {
            Deed::Login => self.login(command).await,
            _ => run(command),
        }
    }

    /// Runs a login that asks for the address to be pasted, with the part of the browser.
    async fn login(&self, mut command: Command) -> Output {
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        let mut talk = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        while block_in_place(|| talk.read_line(&mut line)).is_ok_and(|read| read > 0) {
            if let Some(url) = Some(line.trim()).filter(|line| line.starts_with("http")) {
                let answer = self.room.http.get(url).send().await.unwrap();
                let back = answer.headers()["location"].to_str().unwrap().to_owned();
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

    fn refresh_token(&self) -> Result<Option<String>, String> {
        let bytes = fs::read(self.place.record("default"))
            .map_err(|error| format!("no record: {error}"))?;
        let record =
            Record::decode(&bytes).map_err(|error| format!("it does not load: {error}"))?;
        Ok(record.grant.map(|grant| grant.refresh.expose().to_owned()))
    }

    /// True if the sandbox would accept this refresh token.
    async fn is_good(&self, token: &str) -> bool {
        let form = [("token", token), ("token_type_hint", "refresh_token")];
        let request = self.room.http.post(self.sandbox.introspect_url()).form(&form);
        let answer =
            request.basic_auth("sandbox-client", Some("sandbox-secret")).send().await.unwrap();
        answer.json::<Value>().await.unwrap()["active"] == true
    }

    /// Holds the account to the rules, from what is on disk to a refresh that works again.
    async fn aftermath(&self, before: &Counters, old: &Option<String>) -> Result<Fate, String> {
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
            let output = run(self.place.command(&["refresh"]));
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

    fn intent_sent_at(&self) -> Option<i64> {
        let record = Record::decode(&fs::read(self.place.record("default")).ok()?).ok()?;
        record.open_intent().map(|intent| intent.sent_at)
    }

    fn status(&self) -> Result<Value, String> {
        let output = run(self.place.command(&["status", "--json"]));
        let status: Value =
            serde_json::from_slice(&output.stdout).map_err(|_| format!("no status: {output:?}"))?;
        match output.status.code() {
            Some(4) => Ok(status["accounts"][0].clone()),
            _ => Err(format!("{output:?}")),
        }
    }

    /// The account refreshes again, and nothing of the dead process is left.
    fn works(&self) -> Result<(), String> {
        let output = run(self.place.command(&["refresh", "--force"]));
        if !output.status.success() {
            return Err(format!("it does not refresh any more: {output:?}"));
        }
        let left =
            fs::read_dir(self.place.state()).unwrap().map(|entry| entry.unwrap().file_name());
        let left: Vec<_> = left.filter(|name| name.to_str().unwrap().ends_with(".tmp")).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("left behind: {left:?}")) }
    }
}

/// Of a moment in milliseconds since 1970.
fn age(then: i64) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    now.saturating_sub(Duration::from_millis(u64::try_from(then).unwrap()))
}

fn run(mut command: Command) -> Output {
    block_in_place(|| command.output().unwrap())
}

/// The command, to be killed at a moment.
fn deadly(command: &Command, moment: &Moment) -> Command {
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

/// The system calls that a deed makes if nobody disturbs it.
async fn length(deed: Deed) -> usize {
    let case = Case::new(deed, Room::new()).await;
    let report = case.place.path().join("calls");
    let arguments: &[&str] = match deed {
        Deed::Refresh | Deed::BlindRefresh => &["refresh", "--force"],
        Deed::Login => &["login", "--paste"],
        Deed::Logout => &["logout"],
    };
    let mut command = deadly(&case.place.command(arguments), &Moment::Nth(0));
    command.env("KILL_AT_REPORT", &report);
    let output = match deed {
        Deed::Login => case.login(command).await,
        _ => run(command),
    };
    assert!(output.status.success(), "{output:?}");
    fs::read_to_string(report).unwrap().parse().unwrap()
}

async fn all(deed: Deed, moments: impl Iterator<Item = Moment>) -> Tally {
    let (room, mut tasks) = (Room::new(), JoinSet::new());
    for moment in moments {
        let room = room.clone();
        tasks.spawn(async move {
            let _exists = room.under_way.clone().acquire_owned().await.unwrap();
            let case = {
                let _working = room.at_work.clone().acquire_owned().await.unwrap();
                Case::new(deed, room.clone()).await
            };
            case.run(moment).await
        });
    }
    Tally::of(tasks).await
}

/// All moments of a heavy run; of a quick one those of calls that matter.
async fn moments(
    deed: Deed,
    quick: impl Iterator<Item = Moment>,
) -> Box<dyn Iterator<Item = Moment>> {
    match is_heavy() {
        true if deed == Deed::Refresh => {
            Box::new((1..=length(deed).await + SLACK).map(Moment::Nth))
        }
        true => Box::new((PREAMBLE..=length(deed).await + SLACK).map(Moment::Nth)),
        false => Box::new(quick.collect::<Vec<_>>().into_iter()),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn a_refresh_that_is_killed_at_any_call_loses_nothing_unsaid() {
    if !strace::may_trace("kills during a refresh") {
        return;
    }
    let quick =
        QUICK.into_iter().flat_map(|(call, most)| (1..=most).map(move |n| Moment::Call(call, n)));
    let tally = all(Deed::Refresh, moments(Deed::Refresh, quick).await).await;
    tally.judge("refresh");
    if is_heavy() {
        let socket = (PREAMBLE..length(Deed::BlindRefresh).await).step_by(4).map(Moment::Nth);
        all(Deed::BlindRefresh, socket).await.judge("refresh, no introspection");
    }
    // The moments that matter were among them: before the new pair was there, and after.
    assert!(
        tally.count(|fate| fate.new_pair) > 0 && tally.count(|fate| fate.honest_login) > 0,
        "{tally}"
    );
    assert!(tally.count(|fate| !fate.new_pair && !fate.honest_login) > 0, "{tally}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn a_login_or_logout_that_is_killed_leaves_the_old_grant_or_the_new_state() {
    if !strace::may_trace("kills during a login and a logout") {
        return;
    }
    for deed in [Deed::Login, Deed::Logout] {
        let calls = [("/^rename", 1), ("fsync", 1), ("fsync", 2), ("ftruncate", 2), ("flock", 1)];
        let quick = calls.into_iter().map(|(call, n)| Moment::Call(call, n));
        let tally = all(deed, moments(deed, quick).await).await;
        tally.judge(if deed == Deed::Login { "login" } else { "logout" });
        assert!(tally.count(|fate| fate.new_pair || fate.logged_out) > 0, "{deed:?}: {tally}");
        assert!(tally.count(|fate| !fate.new_pair && !fate.logged_out) > 0, "{deed:?}: {tally}");
    }
}

/// A proxy under load, with one refresh after the other, is killed; its successor serves, or says
/// honestly why not.
async fn killed_under_load(room: Room) -> Result<Fate, String> {
    let working = room.at_work.clone().acquire_owned().await.unwrap();
    let case = Case::new(Deed::Refresh, room.clone()).await;
    case.sandbox.set_faults(Faults {
        token_latency_before_ms: 4,
        token_latency_after_ms: 12,
        ..Faults::default()
    });
    let proxy = block_in_place(|| case.place.serve());
    let mut load = JoinSet::new();
    for _ in 0..4 {
        load.spawn(requests(room.http.clone(), format!("{}/v1/companies", proxy.api)));
    }
    load.spawn(refreshes(room.http.clone(), proxy.admin.clone(), proxy.key.clone()));
    let start = Instant::now();
    while case.sandbox.counters().refreshes < 3 {
        assert!(start.elapsed() < PATIENCE, "no refresh\n{}", proxy.log());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::time::sleep(Duration::from_millis(random() % 200)).await;
    proxy.kill();
    let odd: Vec<_> = load.join_all().await.into_iter().flatten().collect();
    tokio::time::sleep(AFTERMATH).await;
    case.sandbox.set_faults(Faults::default());
    let before = case.sandbox.counters();
    if !odd.is_empty() || before.refresh_replays > 0 {
        return Err(format!("before the kill: {odd:?}, {before:?}"));
    }
    let stored = case.refresh_token()?.ok_or("the grant is gone")?;
    let (spent, was_noted) = (!case.is_good(&stored).await, case.intent_sent_at().is_some());
    let again = block_in_place(|| case.place.serve());
    drop(working);
    let served = first_answer(&again).await?;
    // An intent that nobody knows the outcome of is resolved without anybody's help.
    let wanted = if spent { "login_required" } else { "connected" };
    again.until("default", |account| account["state"] == wanted).await;
    let after = case.sandbox.counters();
    if served == spent || after.refresh_replays > 0 || spent && !was_noted {
        return Err(format!(
            "served: {served}, spent: {spent}, noted: {was_noted}, {after:?}\n{}",
            again.log()
        ));
    }
    let why = again.account("default").await["why"].as_str().unwrap_or_default().to_owned();
    if spent && !why.contains("was interrupted") {
        return Err(format!("the reason is not an honest one: {why}"));
    }
    Ok(Fate { killed: true, honest_login: spent, new_pair: !was_noted, ..Fate::default() })
}

/// Asks until the proxy is gone; what came back that should not.
async fn requests(http: reqwest::Client, url: String) -> Vec<String> {
    let mut odd = Vec::new();
    while let Ok(answer) = http.get(&url).send().await {
        if answer.status() != 200 {
            odd.push(format!("{} {}", answer.status(), answer.text().await.unwrap_or_default()));
        }
    }
    odd
}

/// Forces refreshes until the proxy is gone.
async fn refreshes(http: reqwest::Client, admin: String, key: String) -> Vec<String> {
    let forced =
        || http.post(format!("{admin}/api/accounts/default/refresh?force=true")).bearer_auth(&key);
    while forced().send().await.is_ok() {}
    Vec::new()
}

/// True if a request is served in the end, false if it needs a login; until then it may be told to
/// come back.
async fn first_answer(proxy: &Proxy) -> Result<bool, String> {
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        let answer = proxy.get("/v1/companies").await;
        let comes_back = answer.headers().contains_key("retry-after");
        match answer.status().as_u16() {
            200 => return Ok(true),
            _ => match problem(answer).await {
                (503, code) if code == "login_required" => return Ok(false),
                (503, code) if code == "auth_unreachable" && comes_back => {}
                other => return Err(format!("{other:?}\n{}", proxy.log())),
            },
        }
        tokio::time::sleep(AFTERMATH).await;
    }
    Err(format!("no answer\n{}", proxy.log()))
}

fn random() -> u64 {
    use std::hash::{BuildHasher as _, Hasher as _};
    std::hash::RandomState::new().build_hasher().finish()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn a_proxy_that_is_killed_under_load_has_an_honest_successor() {
    let (room, mut tasks) = (Room::new(), JoinSet::new());
    for _ in 0..if is_heavy() { 100 } else { 4 } {
        tasks.spawn(killed_under_load(room.clone()));
    }
    Tally::of(tasks).await.judge("serve, under load");
}

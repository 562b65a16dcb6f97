//! The database of replicas as it is in real life: a standby takes over, a pooler stands before it,
//! and the move of a store to it is killed.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use std::process::Stdio;
use std::time::{Duration, Instant};

use pleo_proxy::sandbox::{Faults, Sandbox};
use reqwest::Method;
use serde_json::Value;
use support::database::{Database, Pooler, Server};
use support::{NO_REFRESH_AHEAD, TIMEOUT, Workspace, access_lifetime, sandbox, text};
use tokio::time::sleep;

use crate::replicas::{call, replica_at, two, until_status};

fn assert_unharmed(sandbox: &Sandbox) {
    let counters = sandbox.counters();
    assert_eq!((counters.refresh_replays, counters.families_revoked), (0, 0), "{counters:?}");
}

fn until(server: &Server, sql: &str, wanted: &str) {
    let start = Instant::now();
    while server.psql("postgres", sql).trim() != wanted {
        assert!(start.elapsed() < TIMEOUT, "{sql} is not {wanted}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_takes_over_without_the_last_two_pairs_gets_the_newest_one_back() {
    const GENERATION: &str = "SELECT generation FROM pleo_proxy.account";
    let Some(primary) = Server::start() else { return };
    let standby = primary.standby();
    let sandbox = sandbox().await;
    let hosts = [&primary, &standby].map(|server| format!("host={}", server.folder().display()));
    let url = format!("postgresql:///postgres?{}&user=pleo", hosts.join("&"));
    let workspaces = [(); 3].map(|()| replica_at(&sandbox, &url, ""));
    let first = workspaces[0].serve();
    first.login("default").await;
    let second = workspaces[1].serve();
    until(&standby, "SELECT count(*) FROM pg_class WHERE relname = 'account'", "1");
    until(&standby, GENERATION, "1");
    // From here on it lags.
    standby.psql("postgres", "ALTER SYSTEM SET primary_conninfo = ''");
    standby.psql("postgres", "SELECT pg_reload_conf()");
    until(&standby, "SELECT count(*) FROM pg_stat_wal_receiver", "0");
    assert_eq!(first.force_refresh("default").await["outcome"], "refreshed");
    second.wait_for_account("default", |account| account["generation"] == 2).await;
    assert_eq!(second.force_refresh("default").await["outcome"], "refreshed");
    first.wait_for_account("default", |account| account["generation"] == 3).await;
    primary.kill();
    assert_eq!(standby.psql("postgres", GENERATION).trim(), "1");
    standby.psql("postgres", "SELECT pg_promote()");
    // Whoever uses the account looks whether it has changed.
    let start = Instant::now();
    while standby.psql("postgres", GENERATION).trim() != "3" {
        assert!(start.elapsed() < TIMEOUT, "{}\n{}", first.log(), second.log());
        first.get("/v1/companies").await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let third = workspaces[2].serve();
    for replica in [&third, &first, &second] {
        until_status(replica, 200).await;
        assert_eq!(replica.force_refresh("default").await["outcome"], "refreshed");
    }
    assert_unharmed(&sandbox);
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_behind_a_pooler_of_transactions_redeem_each_token_once() {
    let Some(database) = Database::create() else { return };
    let Some(pooler) = Pooler::start(&database) else { return };
    let sandbox = sandbox().await;
    let workspaces = [(); 2].map(|()| replica_at(&sandbox, &pooler.url, ""));
    sandbox.set_faults(access_lifetime(2000));
    let first = workspaces[0].serve();
    first.login("default").await;
    let second = workspaces[1].serve();
    until_status(&second, 200).await;
    let before = sandbox.counters();
    let odd = call([&first, &second], Duration::from_secs(5)).await;
    assert!(odd.is_empty(), "{odd:?}\n{}\n{}", first.log(), second.log());
    let counters = sandbox.counters();
    assert!(counters.refreshes > before.refreshes);
    let posts = counters.token_posts - before.token_posts;
    assert_eq!(posts, counters.refreshes - before.refreshes, "none was for nothing");
    assert_unharmed(&sandbox);
}

const ACCOUNTS: [&str; 4] = ["acme", "beta", "gamma", "delta"];

/// A store that is moved between files and a database.
struct Moving {
    workspace: Workspace,
    database: Database,
    config: String,
}

impl Moving {
    fn use_kind(&self, kind: &str) {
        let kind = format!("kind = \"{kind}\"");
        self.workspace.configure(&self.config.replace("kind = \"postgres\"", &kind));
    }

    /// The accounts that whoever uses this kind of store would use.
    fn used(&self, kind: &str) -> Vec<String> {
        self.use_kind(kind);
        let done = self.workspace.run(&["status", "--json"]);
        let status: Value = serde_json::from_slice(&done.stdout).unwrap();
        let accounts = status["accounts"].as_array().unwrap().iter();
        let used = accounts.filter(|account| account["can_serve"] == true);
        used.map(|account| support::text(&account["account"])).collect()
    }

    /// Moves what the one kind has to the other; killed after that time, if there is one. True if
    /// it came to its end.
    fn migrate(&self, from: &str, after: Option<Duration>) -> bool {
        self.use_kind(from);
        // Those of a move that was killed are over after 20 s.
        self.database.run("UPDATE pleo_proxy.account SET claim_until = NULL");
        let folder = format!("file:{}", self.workspace.path().join("state").display());
        let to = if from == "file" { "postgres" } else { &folder };
        let mut command = self.workspace.command(&["store", "migrate", "--to", to]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        if let Some(after) = after {
            std::thread::sleep(after);
            child.kill().unwrap();
        }
        let done = child.wait_with_output().unwrap();
        let said = [done.stdout, done.stderr].concat();
        println!("from {from}, killed after {after:?}:\n{}", String::from_utf8_lossy(&said));
        done.status.success()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_that_is_killed_goes_on_and_no_login_is_on_two_sides() {
    const KILLS: u32 = 30;
    let Some(database) = Database::create() else { return };
    let sandbox = sandbox().await;
    let workspace = replica_at(&sandbox, &database.url, NO_REFRESH_AHEAD);
    let config = std::fs::read_to_string(workspace.path().join("proxy.toml")).unwrap();
    let moving = Moving { workspace, database, config };
    let proxy = moving.workspace.serve();
    for account in ACCOUNTS {
        proxy.login(account).await;
    }
    proxy.kill();
    let (mut from, mut to) = ("postgres", "file");
    let start = Instant::now();
    assert!(moving.migrate(from, None));
    let whole = start.elapsed();
    let mut ends = 0;
    for kill in 0..KILLS {
        let used = (moving.used(from), moving.used(to));
        assert!(used.0.iter().all(|account| !used.1.contains(account)), "{kill}: {used:?}");
        // Spread over the time that a whole move takes, and more.
        if moving.migrate(from, Some(whole * (kill * 7 % KILLS) / (KILLS - 10))) {
            (from, to, ends) = (to, from, ends + 1);
        }
    }
    assert!(ends > 1, "nothing was moved");
    assert!(moving.migrate(from, None));
    assert_eq!((moving.used(from).len(), moving.used(to).len()), (0, ACCOUNTS.len()));
    moving.use_kind(to);
    let proxy = moving.workspace.serve();
    for account in ACCOUNTS {
        assert_eq!(proxy.force_refresh(account).await["outcome"], "refreshed");
    }
    assert_unharmed(&sandbox);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_is_renamed_or_removed_on_one_replica_is_gone_from_the_other_without_alarm()
{
    let Some(two) = two(NO_REFRESH_AHEAD, Faults::default()).await else { return };
    let other = "/api/accounts/default";
    let to = Some(serde_json::json!({"to": "acme"}));
    let rename = two.first.admin(Method::POST, &format!("{other}/rename"), to).await;
    assert_eq!(rename.status(), 200);
    let names = async || {
        let status: Value =
            two.second.admin(Method::GET, "/api/status", None).await.json().await.unwrap();
        let accounts = status["accounts"].as_array().unwrap();
        let account = |it: &Value| (text(&it["account"]), text(&it["state"]));
        accounts.iter().map(account).collect::<Vec<_>>()
    };
    let until = async |expected: &[(&str, &str)]| {
        let start = Instant::now();
        loop {
            let names = names().await;
            let shown: Vec<_> = names.iter().map(|(name, state)| (&**name, &**state)).collect();
            if shown == expected {
                return;
            }
            assert!(start.elapsed() < TIMEOUT, "{names:?}\n{}", two.second.log());
            sleep(Duration::from_millis(50)).await;
        }
    };
    until(&[("acme", "connected")]).await;
    assert_eq!(two.second.get("/v1/companies").await.status(), 200);
    let acme = "/api/accounts/acme";
    two.first.admin(Method::POST, &format!("{acme}/logout"), None).await;
    until(&[("acme", "login_required")]).await;
    assert_eq!(two.first.admin(Method::DELETE, acme, None).await.status(), 200);
    until(&[]).await;
    assert!(!two.second.log().contains("its record is gone"), "{}", two.second.log());
    two.assert_unharmed();
}

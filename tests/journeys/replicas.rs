//! Replicas on machines of their own that share their accounts in PostgreSQL: each has its own
//! configuration and state, and the same database and key.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use std::process::Command;
use std::time::{Duration, Instant};

use pleo_proxy::sandbox::{Counters, Faults, Introspection, Sandbox};
use reqwest::Method;
use serde_json::Value;
use support::database::Database;
use support::{
    NO_REFRESH_AHEAD, Proxy, TIMEOUT, Workspace, access_lifetime, begin_login, client, consent,
    problem, sandbox, slow_token_response, text, token_posts, visit, write_private,
};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;

const KEY: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

/// The configuration of a replica that comes to the database as this user.
fn replica(sandbox: &Sandbox, database: &Database, user: &str, more: &str) -> Workspace {
    replica_at(sandbox, &database.url_of(user), more)
}

/// The configuration of a replica of the database at this URL.
pub(super) fn replica_at(sandbox: &Sandbox, url: &str, more: &str) -> Workspace {
    let store = format!(
        "kind = \"postgres\"\nurl_file = \"database-url\"\nkey_file = \"store-key\"\n{more}"
    );
    let workspace = Workspace::for_sandbox(sandbox, &store);
    write_private(&workspace.path().join("database-url"), url);
    write_private(&workspace.path().join("store-key"), KEY);
    workspace
}

/// Two replicas whose account is connected; none without a server.
pub(super) struct Two {
    pub(super) sandbox: Sandbox,
    pub(super) database: Database,
    pub(super) first: Proxy,
    pub(super) second: Proxy,
    pub(super) workspaces: [Workspace; 2],
}

pub(super) async fn two(more: &str, faults: Faults) -> Option<Two> {
    let database = Database::create()?;
    let sandbox = sandbox().await;
    sandbox.set_faults(faults);
    let workspaces = ["first", "second"].map(|user| {
        let user = format!("{user}_{}", database.name);
        replica(&sandbox, &database, &user, more)
    });
    let first = workspaces[0].serve();
    first.login("default").await;
    let second = workspaces[1].serve();
    assert_eq!(second.get("/v1/companies").await.status(), 200);
    Some(Two { sandbox, database, first, second, workspaces })
}

impl Two {
    /// No superseded token was ever sent, and the server revoked nothing.
    pub(super) fn assert_unharmed(&self) {
        let counters = self.sandbox.counters();
        assert_eq!((counters.refresh_replays, counters.families_revoked), (0, 0), "{counters:?}");
    }

    /// The first replica cannot reach the database.
    pub(super) fn shut_out_first(&self) {
        self.database.shut_out(&format!("first_{}", self.database.name));
    }

    pub(super) fn let_in_first(&self) {
        self.database.let_in(&format!("first_{}", self.database.name));
    }

    /// A claim whose holder is gone, a while later.
    pub(super) fn end_claim(&self) {
        self.database.run(
            "UPDATE pleo_proxy.account SET claim_until = clock_timestamp() WHERE claim_until IS NOT NULL",
        );
    }

    /// The first replica has a pair that it cannot save, and its claim has ended.
    async fn leave_first_unsaved(&self, before: &Counters) {
        self.sandbox.set_faults(slow_token_response(1000));
        let refreshing = refresh(&self.first);
        until_posted(self, 1, before).await;
        self.shut_out_first();
        refreshing.await.unwrap();
        self.first.wait_for_account("default", |account| account["state"] == "unsaved").await;
        self.end_claim();
    }

    /// Waits until the row says so.
    async fn until_row(&self, condition: &str) {
        let start = Instant::now();
        let count = format!("SELECT count(*) FROM pleo_proxy.account WHERE {condition}");
        while self.database.run(&count).trim() != "1" {
            let rows = self.database.run("SELECT account, generation, claim_by, claim_until, intent_id FROM pleo_proxy.account");
            assert!(start.elapsed() < TIMEOUT, "{condition} is not so:\n{rows}");
            sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Begins a refresh on a task of its own.
pub(super) fn refresh(proxy: &Proxy) -> JoinHandle<Option<u16>> {
    let address = format!("{}/api/accounts/default/refresh?force=true", proxy.admin);
    let request = proxy.http.post(address).bearer_auth(&proxy.key);
    tokio::spawn(async move { Some(request.send().await.ok()?.status().as_u16()) })
}

pub(super) async fn until_posted(two: &Two, posts: u64, before: &Counters) {
    let start = Instant::now();
    while token_posts(&two.sandbox, before) < posts {
        assert!(start.elapsed() < TIMEOUT, "no token request came");
        sleep(Duration::from_millis(5)).await;
    }
}

pub(super) async fn until_status(proxy: &Proxy, status: u16) {
    let start = Instant::now();
    while proxy.get("/v1/companies").await.status() != status {
        assert!(start.elapsed() < TIMEOUT, "not {status}\n{}", proxy.log());
        sleep(Duration::from_millis(20)).await;
    }
}

pub(super) fn signal(proxy: &Proxy, name: &str) {
    let pid = proxy.child.id().to_string();
    assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap().success());
}

/// Calls both for that long; the answers that are not 200.
pub(super) async fn call(replicas: [&Proxy; 2], time: Duration) -> Vec<String> {
    let until = Instant::now() + time;
    let mut callers = JoinSet::new();
    for number in 0..8 {
        let api = &replicas[number % 2].api;
        let (http, address) = (client(), format!("{api}/v1/companies"));
        callers.spawn(async move {
            let mut odd = Vec::new();
            while Instant::now() < until {
                let response = http.get(&address).send().await.unwrap();
                if response.status() != 200 {
                    odd.push(response.text().await.unwrap_or_default());
                }
            }
            odd
        });
    }
    callers.join_all().await.into_iter().flatten().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_redeem_each_token_once_and_no_caller_notices() {
    const LIFE: u64 = 2000;
    let Some(two) = two("", access_lifetime(LIFE)).await else { return };
    let before = two.sandbox.counters();
    let odd = call([&two.first, &two.second], Duration::from_secs(8)).await;
    assert!(odd.is_empty(), "{odd:?}\n{}\n{}", two.first.log(), two.second.log());
    let counters = two.sandbox.counters();
    let refreshes = counters.refreshes - before.refreshes;
    assert!((2..=8).contains(&refreshes), "{refreshes}");
    assert_eq!(counters.token_posts - before.token_posts, refreshes, "none was for nothing");
    two.assert_unharmed();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_whose_replica_is_killed_is_resolved_by_another_when_its_claim_has_ended() {
    let Some(two) = two(NO_REFRESH_AHEAD, Faults::default()).await else { return };
    two.sandbox.set_faults(slow_token_response(60_000));
    let before = two.sandbox.counters();
    let refreshing = refresh(&two.first);
    until_posted(&two, 1, &before).await;
    let holder = two.first.child.id();
    signal(&two.first, "KILL");
    drop(refreshing);
    two.sandbox.set_faults(Faults::default());
    // The server has ended the old access token already.
    let (status, code) = problem(two.second.get("/v1/companies").await).await;
    assert_eq!(status, 503, "{code}");
    let named = format!("process {holder} on ");
    two.second.wait_for_account("default", |account| account.to_string().contains(&named)).await;
    assert_eq!(token_posts(&two.sandbox, &before), 1, "nothing is sent while the claim lives");
    two.end_claim();
    let start = Instant::now();
    while problem(two.second.get("/v1/companies").await).await.1 != "login_required" {
        assert!(start.elapsed() < TIMEOUT, "{}", two.second.log());
        sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(token_posts(&two.sandbox, &before), 1);
    two.second.login("default").await;
    until_status(&two.second, 200).await;
    two.assert_unharmed();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_the_server_has_not_looked_at_is_sent_again_by_another_replica() {
    let Some(two) = two(NO_REFRESH_AHEAD, Faults::default()).await else { return };
    two.sandbox.set_faults(Faults { token_latency_before_ms: 600_000, ..Faults::default() });
    let before = two.sandbox.counters();
    let refreshing = refresh(&two.first);
    until_posted(&two, 1, &before).await;
    signal(&two.first, "KILL");
    drop(refreshing);
    two.sandbox.set_faults(Faults::default());
    let report = two.second.force_refresh("default").await;
    assert!(report["outcome"] != "refreshed", "its claim is alive: {report}");
    two.database
        .run("UPDATE pleo_proxy.account SET intent_at = clock_timestamp() - interval '50 seconds'");
    two.end_claim();
    let start = Instant::now();
    while two.second.force_refresh("default").await["outcome"] != "refreshed" {
        assert!(start.elapsed() < TIMEOUT, "{}", two.second.log());
        sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(token_posts(&two.sandbox, &before), 2);
    assert_eq!(two.second.get("/v1/companies").await.status(), 200);
    two.assert_unharmed();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_login_of_an_account_that_was_removed_meanwhile_is_not_overwritten() {
    let Some(two) = two(NO_REFRESH_AHEAD, Faults::default()).await else { return };
    for _ in 0..2 {
        assert_eq!(two.first.force_refresh("default").await["outcome"], "refreshed");
    }
    two.second.wait_for_account("default", |account| account["generation"] == 3).await;
    // The second one is away while all of this happens.
    two.database.shut_out(&format!("second_{}", two.database.name));
    let account = "/api/accounts/default";
    two.first.admin(Method::POST, &format!("{account}/logout"), None).await;
    assert_eq!(two.first.admin(Method::DELETE, account, None).await.status(), 200);
    two.database.run("DELETE FROM pleo_proxy.account");
    // As one that has never seen the account.
    let third = replica(&two.sandbox, &two.database, "third", NO_REFRESH_AHEAD);
    let third = third.serve();
    third.login("default").await;
    two.until_row("generation = 1").await;
    two.database.let_in(&format!("second_{}", two.database.name));
    let start = Instant::now();
    while two.second.account("default").await["generation"] != 1 {
        assert!(start.elapsed() < TIMEOUT, "{}", two.second.log());
        two.second.force_refresh("default").await;
        two.until_row("generation < 3").await;
        sleep(Duration::from_millis(50)).await;
    }
    until_status(&two.second, 200).await;
    assert_eq!(two.second.force_refresh("default").await["outcome"], "refreshed");
    two.until_row("generation = 2").await;
    two.assert_unharmed();
}

#[tokio::test(flavor = "multi_thread")]
async fn how_long_ago_another_replica_sent_is_told_by_the_clock_of_the_database() {
    let untrusted = || Faults { introspect: Introspection::InactiveRefresh, ..Faults::default() };
    let Some(two) = two(NO_REFRESH_AHEAD, untrusted()).await else { return };
    // The server reads the request and has not looked at it when the replica dies.
    two.sandbox.set_faults(Faults { token_latency_before_ms: 600_000, ..untrusted() });
    let before = two.sandbox.counters();
    let refreshing = refresh(&two.first);
    two.until_row("intent_id IS NOT NULL").await;
    until_posted(&two, 1, &before).await;
    signal(&two.first, "KILL");
    drop(refreshing);
    two.database
        .run("UPDATE pleo_proxy.account SET intent_at = clock_timestamp() - interval '15 minutes'");
    two.end_claim();
    two.sandbox.set_faults(Faults { api_401: 1, ..untrusted() });
    two.second.get("/v1/companies").await;
    until_posted(&two, 2, &before).await;
    two.second.wait_for_account("default", |account| account["generation"] == 2).await;
    two.assert_unharmed();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_stands_still_between_intent_and_request_sends_nothing_when_it_goes_on() {
    let Some(two) = two(NO_REFRESH_AHEAD, Faults::default()).await else { return };
    let before = two.sandbox.counters();
    // A request on its way keeps the token request waiting after the intent is written.
    two.sandbox.set_faults(Faults { latency_ms: 1500, ..Faults::default() });
    let slow = tokio::spawn(two.first.http.get(format!("{}/v1/companies", two.first.api)).send());
    sleep(Duration::from_millis(100)).await;
    let refreshing = refresh(&two.first);
    two.until_row("intent_id IS NOT NULL").await;
    signal(&two.first, "STOP");
    assert_eq!(token_posts(&two.sandbox, &before), 0);
    two.sandbox.set_faults(Faults::default());
    two.end_claim();
    // Introspection calls the token active; once the intent is old enough it is sent.
    let start = Instant::now();
    while two.second.force_refresh("default").await["outcome"] != "refreshed" {
        assert!(start.elapsed() < TIMEOUT, "{}", two.second.log());
        sleep(Duration::from_millis(200)).await;
    }
    signal(&two.first, "CONT");
    assert!(slow.await.unwrap().is_ok());
    refreshing.await.unwrap();
    until_status(&two.first, 200).await;
    assert_eq!(token_posts(&two.sandbox, &before), 1, "{}", two.first.log());
    two.first.wait_for_account("default", |account| account["generation"] == 2).await;
    assert_eq!(two.first.metrics().await["pleo_proxy_held_up_refreshes_total"], 1.0);
    two.assert_unharmed();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pair_that_arrives_while_the_database_is_lost_serves_and_is_saved_when_it_is_back() {
    let Some(two) = two(NO_REFRESH_AHEAD, Faults::default()).await else { return };
    let before = two.sandbox.counters();
    two.sandbox.set_faults(slow_token_response(1000));
    let refreshing = refresh(&two.first);
    until_posted(&two, 1, &before).await;
    two.database.lose();
    refreshing.await.unwrap();
    two.first.wait_for_account("default", |account| account["state"] == "unsaved").await;
    assert_eq!(two.first.get("/v1/companies").await.status(), 200);
    two.database.restore();
    two.first.wait_for_account("default", |account| account["state"] == "connected").await;
    until_status(&two.second, 200).await;
    assert_eq!(token_posts(&two.sandbox, &before), 1);
    two.assert_unharmed();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_true_pair_takes_the_place_of_a_tombstone_that_another_replica_wrote_for_its_intent() {
    let Some(two) = two(NO_REFRESH_AHEAD, Faults::default()).await else { return };
    let before = two.sandbox.counters();
    two.leave_first_unsaved(&before).await;
    let start = Instant::now();
    while problem(two.second.get("/v1/companies").await).await.1 != "login_required" {
        assert!(start.elapsed() < TIMEOUT, "{}", two.second.log());
        sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(
        two.first.get("/v1/companies").await.status(),
        200,
        "the pair in hand is the true one"
    );
    two.let_in_first();
    two.first.wait_for_account("default", |account| account["state"] == "connected").await;
    until_status(&two.second, 200).await;
    two.second.wait_for_account("default", |account| account["generation"] == 3).await;
    assert_eq!(token_posts(&two.sandbox, &before), 1);
    assert_eq!(two.second.force_refresh("default").await["outcome"], "refreshed");
    two.assert_unharmed();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_of_a_person_stays_where_a_pair_could_not_be_saved() {
    let Some(two) = two(NO_REFRESH_AHEAD, Faults::default()).await else { return };
    let before = two.sandbox.counters();
    two.leave_first_unsaved(&before).await;
    two.sandbox.set_faults(Faults::default());
    two.second.login("default").await;
    two.let_in_first();
    two.first.wait_for_log("is dropped");
    until_status(&two.first, 200).await;
    two.until_row("generation = 2 AND intent_id IS NULL").await;
    assert_eq!(two.second.force_refresh("default").await["outcome"], "refreshed");
    two.assert_unharmed();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_has_lost_the_newest_pair_gets_it_back_from_the_replica_that_has_it() {
    let Some(two) = two("", Faults::default()).await else { return };
    two.database.run("CREATE TABLE old AS SELECT * FROM pleo_proxy.account");
    assert_eq!(two.first.force_refresh("default").await["outcome"], "refreshed");
    // As after a failover to a standby that lags: all of them find it so.
    two.database.run(
        "UPDATE pleo_proxy.account SET record = old.record, generation = old.generation, \
         version = nextval('pleo_proxy.version') FROM old",
    );
    two.until_row("generation = 2").await;
    until_status(&two.second, 200).await;
    assert_eq!(two.second.force_refresh("default").await["outcome"], "refreshed");
    two.until_row("generation = 3").await;
    two.assert_unharmed();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_database_nothing_starts_and_the_error_says_why_without_the_password() {
    let sandbox = sandbox().await;
    let workspace =
        Workspace::for_sandbox(&sandbox, "kind = \"postgres\"\nkey_file = \"store-key\"\n");
    write_private(&workspace.path().join("store-key"), KEY);
    let serve = |url: Option<&str>| {
        let mut command = workspace.command(&["serve"]);
        command.envs(url.map(|url| ("PLEO_PROXY_STORE_URL", url)));
        let done = command.output().unwrap();
        (done.status.code(), String::from_utf8(done.stderr).unwrap())
    };
    let refused = [
        (None, "store]: url_file", 2),
        (Some("postgresql://me:canary@127.0.0.1:9/pleo?sslmode=disable"), "without TLS", 2),
        // It may be there at the next start: a service manager is to try again.
        (
            Some("postgresql://me:canary@127.0.0.1:9/pleo"),
            "PostgreSQL at 127.0.0.1:9, database pleo as me",
            1,
        ),
        (Some("postgresql:///pleo?host=/nowhere&user=me&password=canary"), "/nowhere", 1),
    ];
    for (url, why, expected) in refused {
        let (code, said) = serve(url);
        assert_eq!(code, Some(expected), "{said}");
        assert!(said.contains(why) && !said.contains("canary"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_begins_on_one_replica_ends_on_another_once() {
    let Some(two) = two("", Faults::default()).await else { return };
    let login = two.first.admin(Method::POST, "/api/accounts/acme/login", None).await;
    let login: Value = login.json().await.unwrap();
    let kept = two.database.run("SELECT encode(content, 'escape') FROM pleo_proxy.login");
    assert!(!kept.contains("callback"), "it is sealed: {kept}");
    let back = consent(&text(&login["authorize_url"]).parse().unwrap()).await;
    let there = |proxy: &Proxy| {
        let mut back = back.clone();
        back.set_port(Some(proxy.admin.rsplit(':').next().unwrap().parse().unwrap())).unwrap();
        back
    };
    let before = two.sandbox.counters();
    let (second, again) = tokio::join!(visit(there(&two.second)), visit(there(&two.first)));
    assert_eq!((second.0, again.0), (200, 200), "{second:?} {again:?}");
    assert_eq!(token_posts(&two.sandbox, &before), 1, "a code is sent once");
    let state = format!("/api/logins/{}", text(&login["id"]));
    let state: Value = two.first.admin(Method::GET, &state, None).await.json().await.unwrap();
    assert_eq!(state["state"], "connected", "{state}");
    for proxy in [&two.first, &two.second] {
        proxy.wait_for_account("acme", |account| account["state"] == "connected").await;
    }
    // A logout on one cancels what is pending on the other.
    let login = begin_login(&two.first, "beta").await;
    two.second.admin(Method::POST, "/api/accounts/beta/logout", None).await;
    let back = consent(&login).await;
    assert_ne!(visit(back).await.0, 200);
    two.assert_unharmed();
}

/// A hundred of them with `PLEO_PROXY_HEAVY`.
#[tokio::test(flavor = "multi_thread")]
async fn every_login_that_begins_on_one_replica_can_end_on_the_other() {
    let Some(two) = two("", Faults::default()).await else { return };
    let rounds = if std::env::var_os("PLEO_PROXY_HEAVY").is_some() { 100 } else { 6 };
    let before = two.sandbox.counters();
    for round in 0..rounds {
        let (begins, ends) = match round % 2 {
            0 => (&two.first, &two.second),
            _ => (&two.second, &two.first),
        };
        let account = format!("company-{round}");
        let mut back = consent(&begin_login(begins, &account).await).await;
        back.set_port(Some(ends.admin.rsplit(':').next().unwrap().parse().unwrap())).unwrap();
        let (status, page) = visit(back).await;
        assert_eq!(status, 200, "{round}: {page}");
        begins.wait_for_account(&account, |account| account["state"] == "connected").await;
    }
    assert_eq!(token_posts(&two.sandbox, &before), rounds);
    two.assert_unharmed();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_that_leaves_while_its_login_is_taken_does_not_lose_it() {
    let Some(two) = two("", Faults::default()).await else { return };
    let login = two.first.admin(Method::POST, "/api/accounts/acme/login", None).await;
    let login: Value = login.json().await.unwrap();
    let mut back = consent(&text(&login["authorize_url"]).parse().unwrap()).await;
    back.set_port(Some(two.second.admin.rsplit(':').next().unwrap().parse().unwrap())).unwrap();
    let database = two.database.clone();
    let held = tokio::task::spawn_blocking(move || {
        database.run("BEGIN; LOCK pleo_proxy.login IN EXCLUSIVE MODE; SELECT pg_sleep(2); COMMIT")
    });
    let locks = |condition: &str| {
        let of = "relation = 'pleo_proxy.login'::regclass";
        let locks = two.database.run(&format!("SELECT 1 FROM pg_locks WHERE {of} AND {condition}"));
        !locks.is_empty()
    };
    while !locks("mode = 'ExclusiveLock' AND granted") {
        sleep(Duration::from_millis(5)).await;
    }
    let browser = tokio::spawn(visit(back));
    while !locks("NOT granted") {
        assert!(!held.is_finished(), "the login was not asked for");
        sleep(Duration::from_millis(5)).await;
    }
    browser.abort();
    held.await.unwrap();
    let address = format!("/api/logins/{}", text(&login["id"]));
    let start = Instant::now();
    loop {
        let state = two.first.admin(Method::GET, &address, None).await;
        let state: Value = state.json().await.unwrap();
        if state["state"] == "connected" {
            break;
        }
        assert!(start.elapsed() < TIMEOUT, "{state}\n{}", two.second.log());
        sleep(Duration::from_millis(20)).await;
    }
    two.assert_unharmed();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_whose_code_is_spent_is_saved_when_the_database_is_back() {
    let Some(two) = two(NO_REFRESH_AHEAD, Faults::default()).await else { return };
    let before = two.sandbox.counters();
    let back = consent(&begin_login(&two.first, "acme").await).await;
    two.sandbox.set_faults(slow_token_response(1000));
    let browser = tokio::spawn(visit(back));
    until_posted(&two, 1, &before).await;
    two.shut_out_first();
    two.first.wait_for_log("the tokens of the login are not saved yet");
    two.let_in_first();
    let (status, page) = browser.await.unwrap();
    assert_eq!(status, 200, "{page}");
    for proxy in [&two.first, &two.second] {
        proxy.wait_for_account("acme", |account| account["state"] == "connected").await;
    }
    assert_eq!(token_posts(&two.sandbox, &before), 1);
    two.assert_unharmed();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_whose_tokens_a_refresh_on_another_replica_has_ended_does_not_replace_the_good_ones()
 {
    let Some(two) = two(NO_REFRESH_AHEAD, Faults::default()).await else { return };
    let company = "urn:pleo:company:c0a1e5ce-0000-4000-8000-000000000001";
    two.sandbox.set_next_subject(Some(company.to_owned()));
    let back = consent(&begin_login(&two.second, "default").await).await;
    let before = two.sandbox.counters();
    two.sandbox.set_faults(Faults { token_latency_before_ms: 1500, ..Faults::default() });
    let refreshing = refresh(&two.first);
    until_posted(&two, 1, &before).await;
    two.sandbox.set_faults(Faults::default());
    // Its code is exchanged while the refresh waits for the server, which ends what it brought.
    let (status, page) = visit(back).await;
    refreshing.await.unwrap();
    assert!(status != 200 && page.contains("Begin again"), "{status} {page}");
    for proxy in [&two.first, &two.second] {
        until_status(proxy, 200).await;
        assert_eq!(proxy.force_refresh("default").await["outcome"], "refreshed");
    }
    two.assert_unharmed();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_cannot_be_opened_on_one_replica_is_left_to_the_others() {
    let Some(two) = two("", Faults::default()).await else { return };
    let login = two.first.admin(Method::POST, "/api/accounts/acme/login", None).await;
    let login: Value = login.json().await.unwrap();
    let back = consent(&text(&login["authorize_url"]).parse().unwrap()).await;
    let there = |proxy: &Proxy| {
        let mut back = back.clone();
        back.set_port(Some(proxy.admin.rsplit(':').next().unwrap().parse().unwrap())).unwrap();
        back
    };
    let other = replica(&two.sandbox, &two.database, "third", "");
    write_private(&other.path().join("store-key"), &KEY.replace("AAA=", "AAE="));
    let other = other.serve();
    let (status, page) = visit(there(&other)).await;
    assert!(status != 200 && page.contains("store key"), "{status} {page}");
    assert_eq!(visit(there(&two.second)).await.0, 200);
    two.second.wait_for_account("acme", |account| account["state"] == "connected").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_of_files_moves_to_the_database_and_back_and_its_proxy_must_be_stopped() {
    let Some(database) = Database::create() else { return };
    let sandbox = sandbox().await;
    let workspace = replica(&sandbox, &database, "pleo", NO_REFRESH_AHEAD);
    let config = std::fs::read_to_string(workspace.path().join("proxy.toml")).unwrap();
    let of_files = config.replace("kind = \"postgres\"", "kind = \"file\"");
    let migrate = |to: &str| {
        let done = workspace.run(&["store", "migrate", "--to", to]);
        let said = [done.stdout, done.stderr].concat();
        (done.status.code().unwrap(), String::from_utf8(said).unwrap())
    };
    workspace.configure(&of_files);
    let proxy = workspace.serve();
    proxy.login("default").await;
    let (code, said) = migrate("postgres");
    assert!(code == 2 && said.contains("stop it"), "{said}");
    proxy.kill();
    for expected in ["default  moved\n", "default  was moved before\n"] {
        let (code, said) = migrate("postgres");
        assert!(code == 0 && said.contains(expected), "{said}");
    }
    let proxy = workspace.serve();
    let (status, code) = problem(proxy.get("/@default/v1/companies").await).await;
    assert_eq!((status, code.as_str()), (503, "login_required"));
    proxy.kill();
    workspace.configure(&config);
    let place = format!("database {} as pleo", database.name);
    for command in ["status", "doctor"] {
        let said = String::from_utf8(workspace.run(&[command]).stdout).unwrap();
        assert!(said.contains(&place) && !said.contains("does not exist yet"), "{said}");
    }
    let proxy = workspace.serve();
    assert_eq!(proxy.get("/v1/companies").await.status(), 200);
    assert_eq!(proxy.force_refresh("default").await["outcome"], "refreshed");
    proxy.kill();
    database.run("UPDATE pleo_proxy.account SET claim_until = NULL");
    let (code, said) = migrate(&format!("file:{}", workspace.path().join("moved").display()));
    assert!(code == 0 && said.contains("default  moved"), "{said}");
    let record = std::fs::read(workspace.path().join("moved/sandbox/default.json")).unwrap();
    assert!(String::from_utf8(record).unwrap().contains("sealed"));
    let (code, said) = migrate("postgres:postgresql://me:canary@db/pleo");
    assert!(code == 2 && said.contains("--to postgres"), "{said}");
    let counters = sandbox.counters();
    assert_eq!((counters.refresh_replays, counters.families_revoked), (0, 0), "{counters:?}");
}

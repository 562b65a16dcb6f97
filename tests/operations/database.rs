//! What operators see of accounts in a database that replicas share.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use std::collections::BTreeSet;
use std::process::Command;

use pleo_proxy::sandbox::Sandbox;
use serde_json::Value;
use support::command::{DEGRADED, FAILED, SUCCESS, code, json_output, stdout};
use support::database::Database;
use support::{
    NO_REFRESH_AHEAD, Proxy, Workspace, sandbox, slow_token_response, token_posts, write_private,
};
use tokio::time::sleep;

const KEY: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
const STORE: &str = "pleo_proxy_store_";

/// A replica that comes to the database by this URL.
fn replica(sandbox: &Sandbox, url: &str, more: &str) -> Workspace {
    let store = format!(
        "kind = \"postgres\"\nurl_file = \"database-url\"\nkey_file = \"store-key\"\n{more}"
    );
    let workspace = Workspace::for_sandbox(sandbox, &store);
    write_private(&workspace.path().join("database-url"), url);
    write_private(&workspace.path().join("store-key"), KEY);
    workspace
}

fn refresh(proxy: &Proxy) -> tokio::task::JoinHandle<u16> {
    let address = format!("{}/api/accounts/default/refresh?force=true", proxy.admin);
    let request = proxy.http.post(address).bearer_auth(&proxy.key);
    tokio::spawn(async move { request.send().await.unwrap().status().as_u16() })
}

async fn store_metric(proxy: &Proxy, name: &str) -> f64 {
    let metrics = proxy.metrics().await;
    *metrics.get(&format!("{STORE}{name}")).unwrap_or_else(|| panic!("{name}: {metrics:#?}"))
}

/// The families of a store in the first column of their table, and in what a proxy says.
fn families(text: &str) -> BTreeSet<String> {
    let named = text.split(|it: char| !(it.is_ascii_lowercase() || it == '_'));
    named.filter(|name| name.starts_with(STORE) && *name != STORE).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_replicas_do_in_the_database_is_counted_and_documented() {
    let Some(database) = Database::create() else { return };
    let sandbox = sandbox().await;
    let user = format!("metrics_{}", database.name);
    let workspace = replica(&sandbox, &database.url_of(&user), "");
    let proxy = workspace.serve();
    proxy.login("default").await;
    // Accounts in use are polled every second.
    assert_eq!(proxy.get("/v1/companies").await.status(), 200);
    // Another replica is at work on the account.
    database.run(
        "UPDATE pleo_proxy.account SET claim_id = 'other', claim_by = 'process 7 on elsewhere', \
         claim_until = clock_timestamp() + interval '1 minute'",
    );
    let taken = store_metric(&proxy, "locks_total").await;
    let refreshing = refresh(&proxy);
    proxy.wait_for_metric(&format!("{STORE}lock_waits_total"), |waits| waits == 1.0).await;
    database.run("UPDATE pleo_proxy.account SET claim_until = clock_timestamp()");
    assert_eq!(refreshing.await.unwrap(), 200);
    assert!(store_metric(&proxy, "lock_wait_seconds_total").await > 0.0);
    assert_eq!(store_metric(&proxy, "locks_total").await, taken + 1.0);
    // It writes the row while ours waits for its pair.
    let before = sandbox.counters();
    sandbox.set_faults(slow_token_response(500));
    let refreshing = refresh(&proxy);
    while token_posts(&sandbox, &before) == 0 {
        sleep(std::time::Duration::from_millis(5)).await;
    }
    assert_eq!(store_metric(&proxy, "lost_writes_total").await, 0.0);
    database.run(
        "UPDATE pleo_proxy.account SET written_by = 'other', version = nextval('pleo_proxy.version')",
    );
    refreshing.await.unwrap();
    proxy.wait_for_metric(&format!("{STORE}lost_writes_total"), |lost| lost >= 1.0).await;
    proxy.wait_for_account("default", |account| account["state"] == "connected").await;

    let text = proxy.admin(reqwest::Method::GET, "/metrics", None).await.text().await.unwrap();
    let page = std::fs::read_to_string("docs/postgres.md").unwrap();
    let rows: String = page.lines().filter(|line| line.starts_with("| `pleo_proxy_")).collect();
    let samples: String = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| format!("{line}\n"))
        .collect();
    assert_eq!(families(&rows), families(&samples));

    assert_eq!(store_metric(&proxy, "connected").await, 1.0);
    assert!(store_metric(&proxy, "poll_age_seconds").await < 60.0);
    database.shut_out(&user);
    let failed = |name: &str| format!("{STORE}{name}_total{{outcome=\"failed\"}}");
    for name in ["polls", "connects"] {
        proxy.wait_for_metric(&failed(name), |count| count >= 1.0).await;
    }
    assert_eq!(store_metric(&proxy, "connected").await, 0.0);
    proxy.wait_for_log("the database of the accounts cannot be used");
    assert!(store_metric(&proxy, "statements_total{outcome=\"refused\"}").await >= 1.0);
    database.let_in(&user);
    proxy.wait_for_metric(&format!("{STORE}connected"), |connected| connected == 1.0).await;
    proxy.wait_for_log("the database of the accounts answers again");
    assert_eq!(proxy.log().matches("the database of the accounts cannot be used").count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_of_files_counts_its_locks_alone() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let proxy = workspace.serve();
    proxy.login("default").await;
    let metrics = proxy.metrics().await;
    let of_store: Vec<_> = metrics.keys().filter_map(|name| name.strip_prefix(STORE)).collect();
    assert_eq!(of_store, ["lock_wait_seconds_total", "lock_waits_total", "locks_total"]);
    assert!(store_metric(&proxy, "locks_total").await >= 1.0);
}

/// What `doctor` says of a check, and how it ends.
fn doctor(workspace: &Workspace) -> (Value, i32) {
    let output = workspace.run(&["doctor", "--json"]);
    (json_output(&output), code(&output))
}

fn problems(report: &Value) -> Vec<&Value> {
    let checks = report["checks"].as_array().unwrap();
    checks.iter().filter(|it| it["outcome"] == "warn" || it["outcome"] == "fail").collect()
}

/// It names what is wrong, and nothing else.
fn must_say(workspace: &Workspace, check: &str, parts: &[&str], exit: i32) {
    let (report, code) = doctor(workspace);
    let said = problems(&report);
    assert!(said.iter().all(|it| it["check"] == check), "{check}: {report:#}");
    let said = said.first().unwrap_or_else(|| panic!("{check}: {report:#}")).to_string();
    assert!(parts.iter().all(|part| said.contains(part)), "{check}: {said}");
    assert_eq!(code, exit, "{report:#}");
}

/// The tables and a role with few rights, as the owner makes them.
fn least_privilege(workspace: &Workspace, database: &Database) -> String {
    let script = stdout(&workspace.run(&["store", "sql"]));
    let sql: String = script
        .lines()
        .filter(|line| !line.starts_with('\\'))
        .map(|line| format!("{line}\n"))
        .collect();
    database.run(&sql);
    database.url.replace("user=pleo", "user=pleo_proxy")
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_finds_a_good_database_good_and_names_each_thing_that_is_wrong_with_it() {
    let Some(database) = Database::create() else { return };
    let sandbox = sandbox().await;
    let url = least_privilege(&Workspace::new(""), &database);
    let workspace = replica(&sandbox, &url, NO_REFRESH_AHEAD);
    let proxy = workspace.serve();
    proxy.login("default").await;
    let rows = || database.run("SELECT * FROM pleo_proxy.account");
    let (posts, before) = (sandbox.counters().token_posts, rows());
    let (report, exit) = doctor(&workspace);
    assert!(problems(&report).is_empty() && exit == SUCCESS, "{report:#}");
    let passed = |check: &str| {
        let all = report["checks"].as_array().unwrap().iter();
        all.filter(|it| it["check"] == check && it["outcome"] == "pass").count()
    };
    for check in ["database", "tables", "role", "durability", "locks"] {
        assert_eq!(passed(check), 1, "{check}: {report:#}");
    }
    let role = format!("ALTER ROLE pleo_proxy IN DATABASE {}", database.name);
    let cases: [(&str, &[&str], i32, &str, &str); 7] = [
        (
            "role",
            &["role pleo_proxy lacks", "GRANT SELECT, INSERT, UPDATE ON pleo_proxy.account TO"],
            FAILED,
            "REVOKE UPDATE ON pleo_proxy.account FROM pleo_proxy",
            "GRANT UPDATE ON pleo_proxy.account TO pleo_proxy",
        ),
        (
            "role",
            &["GRANT USAGE ON SEQUENCE pleo_proxy.version TO"],
            FAILED,
            "REVOKE USAGE ON SEQUENCE pleo_proxy.version FROM pleo_proxy",
            "GRANT USAGE ON SEQUENCE pleo_proxy.version TO pleo_proxy",
        ),
        (
            "role",
            &["GRANT USAGE ON SCHEMA pleo_proxy TO"],
            FAILED,
            "REVOKE USAGE ON SCHEMA pleo_proxy FROM pleo_proxy",
            "GRANT USAGE ON SCHEMA pleo_proxy TO pleo_proxy",
        ),
        (
            "tables",
            &["step 1 of 2", "store sql | psql"],
            DEGRADED,
            "DELETE FROM pleo_proxy.migration WHERE number = 2",
            "INSERT INTO pleo_proxy.migration (number) VALUES (2)",
        ),
        (
            "durability",
            &["synchronous_commit = off", "ALTER ROLE pleo_proxy SET"],
            DEGRADED,
            &format!("{role} SET synchronous_commit = off"),
            &format!("{role} RESET synchronous_commit"),
        ),
        (
            "database",
            &["takes no writes", "default_transaction_read_only"],
            FAILED,
            &format!("{role} SET default_transaction_read_only = on"),
            &format!("{role} RESET default_transaction_read_only"),
        ),
        (
            "locks",
            &["process 7 on elsewhere", "ends by itself in"],
            DEGRADED,
            "UPDATE pleo_proxy.account SET claim_id = 'other', claim_by = 'process 7 on elsewhere', \
             claim_until = clock_timestamp() + interval '40 seconds'",
            "UPDATE pleo_proxy.account SET claim_id = NULL, claim_by = NULL, claim_until = NULL",
        ),
    ];
    for (check, parts, exit, breaks, mends) in cases {
        database.run(breaks);
        must_say(&workspace, check, parts, exit);
        database.run(mends);
    }
    assert_eq!((sandbox.counters().token_posts, rows()), (posts, before));
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_says_which_host_does_not_answer_and_that_a_role_may_do_too_much() {
    let Some(database) = Database::create() else { return };
    let sandbox = sandbox().await;
    let two = database.url.replace("host=", "host=/nowhere&host=");
    let workspace = replica(&sandbox, &two, NO_REFRESH_AHEAD);
    let proxy = workspace.serve();
    proxy.login("default").await;
    let (report, exit) = doctor(&workspace);
    let said: Vec<_> = problems(&report).iter().map(ToString::to_string).collect();
    assert!(said.len() == 2 && exit == DEGRADED, "{report:#}");
    assert!(said[0].contains("/nowhere") && said[0].contains("take it out of the URL"), "{said:?}");
    assert!(said[1].contains("is a superuser"), "{said:?}");
    // Without any host, it is said once, and soon.
    write_private(
        &workspace.path().join("database-url"),
        "postgresql:///pleo?host=/nowhere&user=me&password=canary",
    );
    must_say(&workspace, "database", &["/nowhere", "store.url_file"], FAILED);
    let (report, _) = doctor(&workspace);
    assert!(!report.to_string().contains("canary"), "{report:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn status_says_that_replicas_share_the_accounts_and_which_one_it_is() {
    let Some(database) = Database::create() else { return };
    let sandbox = sandbox().await;
    let workspace = replica(&sandbox, &database.url, NO_REFRESH_AHEAD);
    let proxy = workspace.serve();
    proxy.login("default").await;
    let host = Command::new("uname").arg("-n").output().unwrap();
    let own = format!("process {} on {}", proxy.child.id(), stdout(&host).trim());
    let said = stdout(&workspace.run(&["status"]));
    assert!(said.contains("which replicas share") && said.contains(&own), "{said}");
    let said = json_output(&workspace.run(&["status", "--json"]));
    assert_eq!(said["replica"], *own, "{said:#}");
    let files = Workspace::for_sandbox(&sandbox, "");
    let _proxy = files.serve();
    assert!(json_output(&files.run(&["status", "--json"])).get("replica").is_none());
}

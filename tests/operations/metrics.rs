//! `/metrics`, and the alert rules in `examples/` that read it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use std::collections::BTreeSet;
use std::process::Command;

use reqwest::Method;
use support::{Proxy, Workspace, sandbox};

const RULES: &str = "examples/alerts.yml";

async fn metrics(proxy: &Proxy) -> String {
    proxy.admin(Method::GET, "/metrics", None).await.text().await.unwrap()
}

/// The names of our metrics that a text uses, without the endings that depend on their kind.
fn names(text: &str) -> BTreeSet<String> {
    let is_name = |character: char| character.is_ascii_lowercase() || character == '_';
    let words = text.split(|character| !is_name(character));
    let own = words.filter(|word| word.starts_with("pleo_proxy_"));
    own.map(|name| {
        let endings = ["_total", "_bucket", "_count", "_sum"];
        let ending = endings.iter().find(|ending| name.ends_with(**ending));
        name.trim_end_matches(ending.copied().unwrap_or_default()).to_owned()
    })
    .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_tell_of_requests_tokens_and_the_process() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let proxy = workspace.serve();
    proxy.login("acme").await;
    proxy.force_refresh("acme").await;
    for (path, status) in [("/v1/companies", 200), ("/@nobody/v1/companies", 404), ("/v9/x", 404)] {
        assert_eq!(proxy.get(path).await.status(), status, "{path}");
    }
    let text = metrics(&proxy).await;
    for line in [
        "pleo_proxy_requests_total{method=\"GET\",operation=\"/v1/companies\",class=\"2xx\",code=\"\"} 1",
        "pleo_proxy_requests_total{method=\"GET\",operation=\"other\",class=\"4xx\",code=\"\"} 1",
        "operation=\"/v1/companies\",class=\"4xx\",code=\"account_unknown\"} 1",
        "pleo_proxy_account_requests_total{account=\"acme\",class=\"2xx\"} 1",
        "pleo_proxy_request_duration_seconds_count 3",
        "pleo_proxy_refresh_duration_seconds_count",
        "pleo_proxy_rate_last_minute{account=\"acme\"} 2",
        "pleo_proxy_rate_limit 600",
        "pleo_proxy_token_expires_in_seconds{account=\"acme\"}",
        "pleo_proxy_refresh_token_age_seconds{account=\"acme\"} 0",
        "pleo_proxy_dropped_exchanges_total 0",
        "pleo_proxy_build_info{version=",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    let connections =
        text.lines().find_map(|line| line.strip_prefix("pleo_proxy_upstream_connections "));
    assert!(connections.unwrap().parse::<u32>().unwrap() >= 1, "{text}");
    assert!(text.ends_with("# EOF\n") && text.matches("# EOF").count() == 1, "{text}");
    if cfg!(target_os = "linux") {
        assert!(text.contains("process_resident_memory_bytes"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_alert_rules_read_metrics_that_exist() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let proxy = workspace.serve();
    proxy.login("acme").await;
    assert_eq!(proxy.get("/v1/companies").await.status(), 200);
    let mut known = names(&metrics(&proxy).await);
    // Those of a database, which has a test of its own, as its table says them.
    known.extend(names(&std::fs::read_to_string("docs/postgres.md").unwrap()));
    let used = names(&std::fs::read_to_string(RULES).unwrap());
    assert!(used.len() >= 6, "{used:?}");
    let unknown: Vec<_> = used.difference(&known).collect();
    assert!(unknown.is_empty(), "{unknown:?} of {known:?}");
    match Command::new("promtool").args(["check", "rules", RULES]).output() {
        Ok(checked) => assert!(checked.status.success(), "{checked:?}"),
        Err(_) => eprintln!("skipped: promtool is not here (apt-get install prometheus)"),
    }
}

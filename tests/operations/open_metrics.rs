//! `/metrics`: valid OpenMetrics that counts requests, and stays small whatever callers make up.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::thread;

use reqwest::Method;
use support::{Caller, Proxy, Upstream, Workspace, sandbox, setup};

/// Samples by name and labels.
type Samples = BTreeMap<String, f64>;

async fn metrics(proxy: &Proxy) -> Samples {
    let response = proxy.admin(Method::GET, "/metrics", None).await;
    let form = response.headers()["content-type"].to_str().unwrap().to_owned();
    assert!(form.starts_with("application/openmetrics-text; version=1.0.0"), "{form}");
    parse(&response.text().await.unwrap())
}

/// What a sample of this type may have behind the name of its family.
fn suffixes(kind: &str) -> &'static [&'static str] {
    match kind {
        "counter" => &["_total", "_created"],
        "gauge" | "unknown" => &[""],
        "info" => &["_info"],
        "histogram" => &["_bucket", "_count", "_sum", "_created"],
        other => panic!("no type: {other}"),
    }
}

fn is_name(name: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b':';
    !name.is_empty() && name.bytes().all(is_part) && !name.as_bytes()[0].is_ascii_digit()
}

/// Names and values.
type Labels = Vec<(String, String)>;

/// Labels of a sample, checked for their form.
fn labels(text: &str) -> Labels {
    let (mut found, mut rest) = (Vec::new(), text);
    while !rest.is_empty() {
        let (name, behind) = rest.split_once("=\"").unwrap_or_else(|| panic!("{text}"));
        assert!(is_name(name), "{text}");
        let (mut value, mut characters) = (String::new(), behind.char_indices());
        let end = loop {
            match characters.next().unwrap_or_else(|| panic!("{text}")) {
                (end, '"') => break end,
                (_, '\\') => {
                    let (_, escaped) = characters.next().unwrap();
                    assert!(matches!(escaped, '\\' | '"' | 'n'), "{text}");
                    value.push(escaped);
                }
                (_, character) => value.push(character),
            }
        };
        found.push((name.to_owned(), value));
        rest = &behind[end + 1..];
        rest = rest.strip_prefix(',').unwrap_or(rest);
    }
    let names: HashSet<_> = found.iter().map(|(name, _)| name).collect();
    assert_eq!(names.len(), found.len(), "a label twice: {text}");
    found
}

/// Reads the text as OpenMetrics 1.0 wants it, and panics where it departs.
fn parse(text: &str) -> Samples {
    let body = text.strip_suffix("# EOF\n").expect("it ends with # EOF");
    let (mut samples, mut families) = (Samples::new(), HashMap::new());
    let mut current = None::<(String, String)>;
    for line in body.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            let (what, family) = (words.next().unwrap(), words.next().unwrap().to_owned());
            let rest = words.next().unwrap_or_default().to_owned();
            assert!(is_name(&family), "{line}");
            match what {
                "TYPE" => {
                    let is_new = families.insert(family.clone(), rest.clone()).is_none();
                    assert!(is_new, "a family in two places: {line}");
                    current = Some((family, rest));
                }
                "UNIT" => assert!(family.ends_with(&format!("_{rest}")), "{line}"),
                "HELP" => assert!(rest.ends_with('.') && !rest.ends_with(".."), "{line}"),
                _ => panic!("{line}"),
            }
            continue;
        }
        let (sample, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
        let (name, inner) = match sample.split_once('{') {
            Some((name, rest)) => (name, rest.strip_suffix('}').unwrap()),
            None => (sample, ""),
        };
        let (family, kind) = current.as_ref().expect("a type comes first");
        let suffix = name.strip_prefix(family.as_str()).unwrap_or_else(|| panic!("{line}"));
        assert!(suffixes(kind).contains(&suffix), "{kind}: {line}");
        labels(inner);
        let value: f64 = value.parse().unwrap_or_else(|_| panic!("{line}"));
        assert!(samples.insert(sample.to_owned(), value).is_none(), "a sample twice: {line}");
    }
    check_histograms(&samples, &families);
    samples
}

/// Buckets only grow, and the last one holds all.
fn check_histograms(samples: &Samples, families: &HashMap<String, String>) {
    for family in families.iter().filter(|(_, kind)| *kind == "histogram").map(|(name, _)| name) {
        let prefix = format!("{family}_bucket{{");
        let mut series: HashMap<Labels, Vec<(f64, f64)>> = HashMap::new();
        for (sample, value) in samples.iter().filter(|(sample, _)| sample.starts_with(&prefix)) {
            let mut labels = labels(sample[prefix.len()..].strip_suffix('}').unwrap());
            let place = labels.iter().position(|(name, _)| name == "le").unwrap();
            let (_, bound) = labels.remove(place);
            series.entry(labels).or_default().push((bound.parse().unwrap(), *value));
        }
        for mut buckets in series.into_values() {
            buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
            assert!(buckets.is_sorted_by_key(|(_, count)| *count), "{family}: {buckets:?}");
            assert!(buckets.last().unwrap().0.is_infinite(), "{family}: {buckets:?}");
        }
        if let Some(count) = samples.get(&format!("{family}_count")) {
            assert_eq!(samples.get(&format!("{family}_bucket{{le=\"+Inf\"}}")), Some(count));
        }
    }
}

fn requests(samples: &Samples, labels: &str) -> f64 {
    samples.get(&format!("pleo_proxy_requests_total{{{labels}}}")).copied().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_counted_by_operation_class_and_code_in_valid_openmetrics() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "[guard]\nread_only = true\n");
    let proxy = workspace.serve();
    let before = metrics(&proxy).await;
    assert!(before.contains_key("pleo_proxy_rate_limit"), "{before:?}");
    proxy.login("default").await;
    let mut caller = Caller::of(&proxy);
    for _ in 0..3 {
        assert_eq!(caller.get("/v1/companies").status, 200);
    }
    assert_eq!(caller.request("POST", "/v1/vendors:search", &[], b"{}").status, 403);
    assert_eq!(caller.request("POST", "/v1/vendors", &[], b"{}").status, 403);
    assert_eq!(Caller::of(&proxy).get("/v1/no-such-path").status, 404);
    proxy.force_refresh("default").await;
    let now = metrics(&proxy).await;
    let of = |method: &str, operation: &str, class: &str, code: &str| {
        format!("method=\"{method}\",operation=\"{operation}\",class=\"{class}\",code=\"{code}\"")
    };
    for (count, labels) in [
        (3.0, of("GET", "/v1/companies", "2xx", "")),
        (1.0, of("POST", "/v1/vendors:search", "4xx", "")),
        (1.0, of("POST", "/v1/vendors", "4xx", "read_only")),
        (1.0, of("GET", "other", "4xx", "")),
    ] {
        assert_eq!(requests(&now, &labels), count, "{labels}: {now:#?}");
    }
    assert_eq!(now["pleo_proxy_request_duration_seconds_count"], 6.0);
    assert_eq!(now["pleo_proxy_request_upstream_head_seconds_count"], 5.0);
    assert_eq!(now["pleo_proxy_rate_last_minute{account=\"default\"}"], 5.0);
    assert!(now["pleo_proxy_token_expires_in_seconds{account=\"default\"}"] > 0.0);
    assert!(now["process_resident_memory_bytes"] > 0.0);
    assert_eq!(now["pleo_proxy_dropped_exchanges_total"], 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_that_make_things_up_make_no_more_series() {
    let upstream = Upstream::ok();
    let setup = setup(&upstream, "[inspect]\nrequests = 10\n").await;
    let proxy = &setup.proxy;
    let send = |from: usize| {
        let mut caller = Caller::of(proxy);
        for number in from..from + 2500 {
            let response = match number % 4 {
                0 => caller.request(&format!("MADE{number}"), "/v1/x", &[], b""),
                1 => caller.get(&format!("/v1/made-up-{number}/\"quoted\\n?a{number}=1")),
                2 => caller.get(&format!("/@made-up-{number}/v1/x")),
                _ => caller.request("GET", "/v1/x", &[&format!("User-Agent: made/{number}")], b""),
            };
            if response.header("connection") == Some("close") {
                caller = Caller::of(proxy);
            }
        }
    };
    send(0);
    let before = metrics(proxy).await;
    thread::scope(|scope| {
        for worker in 1..4 {
            scope.spawn(move || send(worker * 2500));
        }
    });
    let now = metrics(proxy).await;
    let counted: f64 = now
        .iter()
        .filter(|(name, _)| name.starts_with("pleo_proxy_requests_total"))
        .map(|(_, count)| count)
        .sum();
    assert_eq!(counted, 10_000.0);
    let new: Vec<_> = now.keys().filter(|name| !before.contains_key(*name)).collect();
    assert!(new.is_empty(), "{new:?}");
    let made_up: Vec<_> = now.keys().filter(|name| name.to_lowercase().contains("made")).collect();
    assert!(made_up.is_empty(), "{made_up:?}");
    assert!(now.len() < 400, "{}", now.len());
}

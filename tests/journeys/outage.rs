//! Times in which the token endpoint cannot be reached: nothing is lost, nobody knocks too often,
//! and the first request afterwards is served.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use pleo_proxy::sandbox::{Faults, Sandbox, TokenFault, TokenFaultKind};
use support::{Proxy, Workspace, client, problem, sandbox, sandbox_config, text};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// What stands between the proxy and the authorization server; it can be taken down.
#[derive(Clone)]
struct Line {
    address: String,
    down: Arc<AtomicBool>,
    /// Connections that came while it was down.
    knocks: Arc<AtomicUsize>,
    /// Connections that are open, and the most there ever were.
    open: Arc<AtomicUsize>,
    most_open: Arc<AtomicUsize>,
}

impl Line {
    async fn to(sandbox: &Sandbox) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let line = Self {
            address,
            down: Arc::default(),
            knocks: Arc::default(),
            open: Arc::default(),
            most_open: Arc::default(),
        };
        let (server, own) =
            (sandbox.api_origin().strip_prefix("http://").unwrap().to_owned(), line.clone());
        tokio::spawn(async move {
            while let Ok((caller, _)) = listener.accept().await {
                tokio::spawn(own.clone().carry(caller, server.clone()));
            }
        });
        line
    }

    async fn carry(self, mut caller: TcpStream, server: String) {
        if self.down.load(Ordering::SeqCst) {
            self.knocks.fetch_add(1, Ordering::SeqCst);
            return;
        }
        let mut server = TcpStream::connect(server).await.unwrap();
        let cut = async {
            while !self.down.load(Ordering::SeqCst) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let open = self.open.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_open.fetch_max(open, Ordering::SeqCst);
        tokio::select! { _ = tokio::io::copy_bidirectional(&mut caller, &mut server) => {}, () = cut => {} }
        self.open.fetch_sub(1, Ordering::SeqCst);
    }

    /// Down when this returns: connections that were open are closed.
    async fn set_down(&self, down: bool) {
        self.down.store(down, Ordering::SeqCst);
        while down && self.open.load(Ordering::SeqCst) > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// A place whose token and introspection endpoints are behind the line; the API is not.
    fn workspace(&self, sandbox: &Sandbox, more: &str) -> Workspace {
        let workspace = Workspace::for_sandbox(sandbox, more);
        let behind = |url: String| url.replace(&sandbox.api_origin(), &self.address);
        let config = sandbox_config(sandbox, more)
            .replace(
                &format!("token = \"{}\"", sandbox.token_url()),
                &format!("token = \"{}\"", behind(sandbox.token_url())),
            )
            .replace(
                &format!("introspect = \"{}\"", sandbox.introspect_url()),
                &format!("introspect = \"{}\"", behind(sandbox.introspect_url())),
            );
        support::write_private(&workspace.path().join("proxy.toml"), &config);
        workspace
    }
}

const NO_REFRESH_AHEAD: &str = "[tokens]\nkeep_warm = \"1ms\"\nhold = \"4s\"\n";

/// The end of a token that lives for a second.
async fn expire() {
    tokio::time::sleep(Duration::from_millis(1020)).await;
}

/// An account whose token has expired in an outage that has lasted so long that the next try is far
/// away.
async fn in_a_long_outage(sandbox: &Sandbox, line: &Line) -> (Workspace, Proxy) {
    sandbox.set_faults(Faults { access_life_ms: Some(1000), ..Faults::default() });
    let workspace = line.workspace(sandbox, NO_REFRESH_AHEAD);
    let proxy = workspace.serve();
    proxy.login("default").await;
    line.set_down(true).await;
    for _ in 0..7 {
        assert_eq!(text(&proxy.force_refresh("default").await["account"]["state"]), "retrying");
    }
    expire().await;
    sandbox.set_faults(Faults::default());
    (workspace, proxy)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_request_after_an_outage_is_served() {
    let sandbox = sandbox().await;
    let line = Line::to(&sandbox).await;
    let (_place, proxy) = in_a_long_outage(&sandbox, &line).await;
    let before = sandbox.counters().token_posts;
    let refused = proxy.get("/v1/companies").await;
    assert_eq!(refused.headers()["retry-after"], "1", "a later request may start a try");
    assert_eq!(problem(refused).await, (503, "auth_unreachable".into()));
    line.set_down(false).await;
    let served = proxy.get("/v1/companies").await;
    assert_eq!(served.status(), 200, "{}\n{}", served.text().await.unwrap(), proxy.log());
    assert_eq!(sandbox.counters().token_posts - before, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn in_an_outage_callers_cost_a_try_a_second() {
    let sandbox = sandbox().await;
    let line = Line::to(&sandbox).await;
    let (_place, proxy) = in_a_long_outage(&sandbox, &line).await;
    line.knocks.store(0, Ordering::SeqCst);
    let (start, http, mut callers) = (Instant::now(), client(), JoinSet::new());
    for _ in 0..50 {
        let request = http.get(format!("{}/v1/companies", proxy.api));
        callers.spawn(async move {
            while start.elapsed() < Duration::from_secs(2) {
                assert_eq!(request.try_clone().unwrap().send().await.unwrap().status(), 503);
            }
        });
    }
    callers.join_all().await;
    let most = start.elapsed().as_secs() as usize + 2;
    assert!(
        line.knocks.load(Ordering::SeqCst) <= most,
        "{} tries",
        line.knocks.load(Ordering::SeqCst)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_in_doubt_ends_with_the_first_request_too() {
    let sandbox = sandbox().await;
    let line = Line::to(&sandbox).await;
    sandbox.set_faults(Faults { access_life_ms: Some(1000), ..Faults::default() });
    let workspace = line.workspace(&sandbox, NO_REFRESH_AHEAD);
    let proxy = workspace.serve();
    proxy.login("default").await;
    let unclear = TokenFault { kind: TokenFaultKind::Html, ..TokenFault::default() };
    sandbox.set_faults(Faults { token_answer: Some(unclear), ..Faults::default() });
    assert_eq!(text(&proxy.force_refresh("default").await["account"]["state"]), "uncertain");
    line.set_down(true).await;
    for _ in 0..7 {
        assert_eq!(text(&proxy.force_refresh("default").await["account"]["state"]), "uncertain");
    }
    expire().await;
    sandbox.set_faults(Faults::default());
    line.set_down(false).await;
    let served = proxy.get("/v1/companies").await;
    assert_eq!(served.status(), 200, "{}\n{}", served.text().await.unwrap(), proxy.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn patience_that_the_server_asked_for_is_kept() {
    let sandbox = sandbox().await;
    let line = Line::to(&sandbox).await;
    let workspace = line.workspace(&sandbox, NO_REFRESH_AHEAD);
    let proxy = workspace.serve();
    sandbox.set_faults(Faults { access_life_ms: Some(1000), ..Faults::default() });
    proxy.login("default").await;
    let busy = TokenFault {
        kind: TokenFaultKind::Status,
        status: Some(429),
        retry_after: Some("60".into()),
        ..TokenFault::default()
    };
    sandbox.set_faults(Faults { token_answer: Some(busy), ..Faults::default() });
    assert_eq!(text(&proxy.force_refresh("default").await["account"]["state"]), "retrying");
    expire().await;
    let before = sandbox.counters().token_posts;
    let refused = proxy.get("/v1/companies").await;
    assert!(
        text(&refused.headers()["retry-after"].to_str().unwrap().into()).parse::<u64>().unwrap()
            > 30
    );
    assert_eq!((problem(refused).await.0, sandbox.counters().token_posts), (503, before));
}

/// Connects many accounts, eight at a time.
async fn connect(proxy: &Arc<Proxy>, names: &[String]) {
    let mut tasks = JoinSet::new();
    for first in 0..8 {
        let (proxy, names) =
            (proxy.clone(), names.iter().skip(first).step_by(8).cloned().collect::<Vec<_>>());
        tasks.spawn(async move {
            for name in names {
                proxy.login(&name).await;
            }
        });
    }
    tasks.join_all().await;
}

/// A request of each account at the same time; the statuses of the answers.
async fn ask_all(proxy: &Arc<Proxy>, names: &[String]) -> Vec<u16> {
    let mut tasks = JoinSet::new();
    for name in names {
        let request = proxy
            .http
            .get(format!("{}/v1/companies", proxy.api))
            .header("pleo-account", name.as_str());
        tasks.spawn(async move { request.send().await.unwrap().status().as_u16() });
    }
    tasks.join_all().await
}

#[tokio::test(flavor = "multi_thread")]
async fn many_accounts_that_expired_take_turns_at_the_token_endpoint_and_all_are_served() {
    let sandbox = sandbox().await;
    let line = Line::to(&sandbox).await;
    let workspace = line.workspace(&sandbox, "[tokens]\nkeep_warm = \"1ms\"\n");
    sandbox.set_faults(Faults { access_life_ms: Some(1000), ..Faults::default() });
    let proxy = Arc::new(workspace.serve());
    let names: Vec<_> = (0..100).map(|number| format!("company-{number}")).collect();
    connect(&proxy, &names).await;
    expire().await;
    sandbox.set_faults(Faults { token_latency_after_ms: 200, ..Faults::default() });
    let before = sandbox.counters().token_posts;
    let responses = ask_all(&proxy, &names).await;
    assert!(responses.iter().all(|status| *status == 200), "{responses:?}");
    let most = line.most_open.load(Ordering::SeqCst);
    assert!((8..=40).contains(&most), "{most} connections to the token endpoint at a time");
    // On a busy machine a token may have been refreshed as soon as its login had ended.
    let refreshes = sandbox.counters().token_posts - before;
    assert!((90..=100).contains(&refreshes), "{refreshes} for 100 accounts");
}

#[tokio::test(flavor = "multi_thread")]
async fn accounts_that_another_process_is_busy_with_take_no_place_from_others() {
    let sandbox = sandbox().await;
    let workspace =
        Workspace::for_sandbox(&sandbox, "[tokens]\nkeep_warm = \"1ms\"\nhold = \"5s\"\n");
    sandbox.set_faults(Faults { access_life_ms: Some(1000), ..Faults::default() });
    let proxy = Arc::new(workspace.serve());
    let names: Vec<_> = (0..41).map(|number| format!("company-{number}")).collect();
    connect(&proxy, &names).await;
    expire().await;
    sandbox.set_faults(Faults::default());
    let open = |name: &String| {
        std::fs::File::options().write(true).open(workspace.state().join(format!("{name}.lock")))
    };
    let locks: Vec<_> = names[1..].iter().map(|name| open(name).unwrap()).collect();
    for lock in &locks {
        lock.lock().unwrap();
    }
    let (own, busy) = (proxy.clone(), names[1..].to_vec());
    let waiting = tokio::spawn(async move { ask_all(&own, &busy).await });
    let held = format!("pleo_proxy_held_requests_total {}", names.len() - 1);
    while !proxy
        .admin(reqwest::Method::GET, "/metrics", None)
        .await
        .text()
        .await
        .unwrap()
        .contains(&held)
    {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(ask_all(&proxy, &names[..1]).await, [200]);
    drop(locks);
    let responses = waiting.await.unwrap();
    assert!(responses.iter().all(|status| *status == 200), "{responses:?}");
}

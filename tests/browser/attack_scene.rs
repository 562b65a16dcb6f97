//! The servers between a browser and Pleo: pages that attack, the API they must not reach, and a
//! control.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use std::sync::{Arc, Mutex};

use super::chromium::{Browser, within};
use pleo_proxy::sandbox::Sandbox;
use reqwest::Method;
use serde_json::{Value, json};
use support::{
    After, IncomingRequest, Proxy, Upstream, Workspace, client, config_with_api, sandbox, text,
};

/// In a host's place: the page is a file of the person's own.
pub(super) const FILE: &str = "file";

/// What no page may read.
pub(super) const DATA: &str = "the-data-of-the-company";

pub(super) fn say(incoming: &mut IncomingRequest, status: &str, fields: &str, body: &str) -> After {
    let length = body.len();
    incoming.respond(format!(
        "HTTP/1.1 {status}\r\nContent-Length: {length}\r\n{fields}Connection: close\r\n\r\n{body}"
    ));
    After::Close
}

/// Tells everybody everything, as an API that is careless about CORS.
pub(super) fn careless() -> Upstream {
    Upstream::start(|incoming| {
        let _ = incoming.body();
        let fields = "Content-Type: text/plain\r\nAccess-Control-Allow-Origin: *\r\nAccess-Control-Allow-Methods: *\r\n\
                      Access-Control-Allow-Headers: *\r\nAccess-Control-Allow-Private-Network: true\r\n";
        say(incoming, "200 OK", fields, DATA)
    })
}

/// What the server of pages serves.
#[derive(Default)]
pub(super) struct Plan {
    pub(super) page: String,
    pub(super) script: String,
    /// A session of the admin page, which the browser gets: cookies ignore ports.
    pub(super) cookie: String,
    pub(super) then: String,
}

/// The server of pages. `/begin/1` leads to `/begin/2` on localhost, that to the page; both set the
/// cookie.
pub(super) fn pages(plan: Arc<Mutex<Plan>>) -> Upstream {
    Upstream::start(move |incoming| {
        let _ = incoming.body();
        let plan = plan.lock().unwrap();
        let target = incoming.target().to_owned();
        let cookie = format!(
            "Set-Cookie: {}; HttpOnly; SameSite=Strict; Path=/\r\nCache-Control: no-store\r\n",
            plan.cookie
        );
        let port = incoming
            .head
            .to_ascii_lowercase()
            .split_once("\r\nhost:")
            .unwrap()
            .1
            .lines()
            .next()
            .unwrap()
            .rsplit(':')
            .next()
            .unwrap()
            .to_owned();
        match target.as_str() {
            "/begin/1" => say(
                incoming,
                "302 Found",
                &format!("{cookie}Location: http://localhost:{port}/begin/2\r\n"),
                "",
            ),
            "/begin/2" => {
                say(incoming, "302 Found", &format!("{cookie}Location: {}\r\n", plan.then), "")
            }
            "/page" => say(incoming, "200 OK", "Content-Type: text/html\r\n", &plan.page),
            "/attack.js" => {
                say(incoming, "200 OK", "Content-Type: text/javascript\r\n", &plan.script)
            }
            _ => say(incoming, "200 OK", "Content-Type: text/plain\r\n", "noted"),
        }
    })
}

/// What a page reported; none until it has.
pub(super) fn report(pages: &Upstream) -> Option<Value> {
    let sent = pages.requests().into_iter().find(|request| request.target() == "/report")?;
    serde_json::from_slice(&sent.body).ok()
}

/// Everything between the browser and Pleo.
pub(super) struct Scene {
    pub(super) api: Upstream,
    /// As careless, and without a proxy before it: what reaches it would have reached Pleo.
    pub(super) control: Upstream,
    pub(super) pages: Upstream,
    pub(super) plan: Arc<Mutex<Plan>>,
    pub(super) proxy: Proxy,
    pub(super) _place: Workspace,
    pub(super) _sandbox: Sandbox,
}

impl Scene {
    pub(super) async fn set() -> Self {
        let (sandbox, api, plan) =
            (sandbox().await, careless(), Arc::new(Mutex::new(Plan::default())));
        let pages = pages(plan.clone());
        let config = config_with_api(&sandbox, &api.origin, "");
        let workspace = Workspace::new(&config);
        let proxy = workspace.serve();
        proxy.login("default").await;
        proxy.terminate();
        // From here on the consent page is one that counts who is led to it and lets nobody pass.
        workspace.configure(
            &config.replace(&sandbox.authorize_url(), &format!("{}/authorize", pages.origin)),
        );
        let proxy = workspace.serve();
        plan.lock().unwrap().cookie = session(&proxy).await;
        Self { api, control: careless(), pages, plan, proxy, _place: workspace, _sandbox: sandbox }
    }

    /// What a page does to whom.
    pub(super) fn targets(&self) -> Value {
        let port = |address: std::net::SocketAddr| address.port();
        let hosts = ["127.0.0.1", "localhost", "[::1]", "0.0.0.0", "rebind.test"];
        let (data, admin) = (port(self.proxy.address()), port(self.proxy.admin_address()));
        let all = |hosts: &[&str], port: u16, paths: &[&str]| -> Vec<String> {
            hosts
                .iter()
                .flat_map(|host| {
                    paths.iter().map(move |path| format!("http://{host}:{port}{path}"))
                })
                .collect()
        };
        let changes =
            ["/api/accounts/default/logout", "/api/shutdown", "/api/accounts/victim/login"];
        let looks = ["/api/status", "/connect?account=victim"];
        let control = format!("{}/control", self.control.origin);
        let with_control =
            |lists: [Vec<String>; 2]| [lists.concat(), vec![control.clone()]].concat();
        let some = &hosts[..1];
        json!({
            "get": with_control([all(&hosts, data, &["/v1/companies"]), all(&hosts, admin, &looks)]),
            "post": with_control([all(&hosts, data, &["/v1/companies"]), all(&hosts, admin, &changes)]),
            "topGet": with_control([all(&hosts, data, &["/v1/companies"]), all(&hosts, admin, &["/api/status"])]),
            "topForm": with_control([all(&hosts, data, &["/v1/companies"]), all(some, admin, &changes)]),
            "framed": {
                "get": with_control([all(some, data, &["/v1/companies"]), all(some, admin, &looks)]),
                "post": with_control([all(some, data, &["/v1/companies"]), all(some, admin, &changes)]),
            },
        })
    }

    /// Opens a page of this host and waits for its report.
    pub(super) fn play(&self, program: &str, host: &str, script: &str) -> Value {
        let page = "<!doctype html><body><script src=/attack.js></script>".to_owned();
        let port = self.pages.address.port();
        {
            let mut plan = self.plan.lock().unwrap();
            (plan.page, plan.script, plan.then) =
                (page, script.into(), format!("http://{host}:{port}/page"));
        }
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("page.html");
        let source =
            format!("<!doctype html><body><script src=http://127.0.0.1:{port}/attack.js></script>");
        std::fs::write(&file, source).unwrap();
        let begin = match host {
            FILE => format!("file://{}", file.display()),
            _ => format!("http://127.0.0.1:{port}/begin/1"),
        };
        let browser = Browser::open(program, &[], &begin);
        within("the page reports", || report(&self.pages).is_some());
        drop(browser);
        report(&self.pages).unwrap()
    }

    /// How often the proxy refused for this reason.
    pub(super) async fn refused(&self, code: &str) -> u64 {
        let metrics = self.proxy.admin(Method::GET, "/metrics", None).await.text().await.unwrap();
        let begin = format!("pleo_proxy_refused_requests_total{{code=\"{code}\"}} ");
        metrics
            .lines()
            .find_map(|line| line.strip_prefix(&begin))
            .map_or(0, |count| count.parse().unwrap())
    }
}

/// A session cookie of the admin page.
async fn session(proxy: &Proxy) -> String {
    let link = link(proxy).await;
    let key = link.split_once("#key=").unwrap().1;
    let request =
        client().post(format!("{}/api/session", proxy.admin)).header("origin", &proxy.admin);
    let response = request.json(&json!({"key": key})).send().await.unwrap();
    let cookie = response.headers()["set-cookie"].to_str().unwrap();
    cookie.split(';').next().unwrap().to_owned()
}

async fn link(proxy: &Proxy) -> String {
    let link: Value = proxy.admin(Method::POST, "/api/session", None).await.json().await.unwrap();
    text(&link["url"])
}

/// What would show a change of the account, without what the clock changes.
pub(super) async fn grant(proxy: &Proxy) -> Value {
    let account = proxy.account("default").await;
    json!([
        account["state"],
        account["generation"],
        account["logged_in_at"],
        account["last_login"],
        account["last_login_error"]
    ])
}

/// Begins a login and returns its id.
pub(super) async fn begin(proxy: &Proxy, account: &str) -> String {
    let begun = proxy.admin(Method::POST, &format!("/api/accounts/{account}/login"), None).await;
    assert_eq!(begun.status(), 200);
    text(&begun.json::<Value>().await.unwrap()["id"])
}

pub(super) async fn is_pending(proxy: &Proxy, login: &str) -> bool {
    let state = proxy.admin(Method::GET, &format!("/api/logins/{login}"), None).await;
    state.status() == 200 && state.json::<Value>().await.unwrap()["state"] == "pending"
}

//! `pleo-proxy login`: in a running proxy or alone, with a browser or a pasted address.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::process::{Child, ChildStderr, Command, Stdio};

use super::login::{parameter, token_fault, with_client};
use super::login_callback::callback;
use pleo_proxy::sandbox::{Faults, Options, TokenFault, TokenFaultKind};
use reqwest::Method;
use support::{
    Workspace, begin_login, client, consent, sandbox, sandbox_config, sandbox_with, visit,
};
use url::Url;

/// `pleo-proxy login` that waits for its browser.
struct Waiting {
    child: Child,
    talk: BufReader<ChildStderr>,
    url: Url,
}

impl Waiting {
    fn start(workspace: &Workspace, arguments: &[&str]) -> Self {
        Self::of(workspace.command(arguments))
    }

    fn of(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let mut talk = BufReader::new(child.stderr.take().unwrap());
        let url = named_address(&mut talk);
        Self { child, talk, url }
    }

    /// Its exit code, and all it said since.
    fn end(mut self) -> (i32, String) {
        let mut said = String::new();
        self.talk.read_to_string(&mut said).unwrap();
        (self.child.wait().unwrap().code().unwrap(), said)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn named_address(talk: &mut impl BufRead) -> Url {
    let mut said = String::new();
    loop {
        let start = said.len();
        assert_ne!(talk.read_line(&mut said).unwrap(), 0, "it named no address: {said}");
        if let Ok(url) = said[start..].trim().parse() {
            return url;
        }
    }
}

/// A port that was free in both families a moment ago.
fn free_port() -> u16 {
    loop {
        let v4 = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = v4.local_addr().unwrap().port();
        if TcpListener::bind(("::1", port)).is_ok() {
            return port;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pasted_address_finishes_a_login_with_and_without_a_running_proxy() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let config = with_client(
        &sandbox_config(&sandbox, ""),
        "redirect_uri = \"http://127.0.0.1:9/callback\"",
    );
    workspace.configure(&config);
    for account in ["alone", "with-proxy"] {
        let proxy = (account == "with-proxy").then(|| workspace.serve());
        let (code, said) = paste(&workspace, account, |back| format!("  <{back}>\n")).await;
        assert_eq!(code, 0, "{account}: {said}");
        assert!(workspace.stored_json(account)["record"]["grant"].is_object(), "{account}");
        let (code, said) = paste(&workspace, account, |_| "https://example.com/\n".into()).await;
        assert_eq!(code, 1, "{account}: {said}");
        assert!(said.contains("no query"), "{account}: {said}");
        let (code, said) = paste(&workspace, account, |_| "\n".into()).await;
        assert_eq!(code, 1, "{account}: {said}");
        drop(proxy);
    }
}

/// `login --paste`, with what a person pastes made of the address that the browser was sent to.
async fn paste(
    workspace: &Workspace,
    account: &str,
    pasted: impl Fn(&Url) -> String,
) -> (i32, String) {
    let mut command = workspace.command(&["login", account, "--paste"]);
    command.stdin(Stdio::piped());
    let mut waiting = Waiting::of(command);
    let back = consent(&waiting.url).await;
    waiting.child.stdin.take().unwrap().write_all(pasted(&back).as_bytes()).unwrap();
    waiting.end()
}

#[tokio::test(flavor = "multi_thread")]
async fn pasting_works_while_another_program_has_the_port() {
    let sandbox = sandbox().await;
    let squatter = TcpListener::bind("127.0.0.1:0").unwrap();
    let uri = format!("http://{}/callback", squatter.local_addr().unwrap());
    let workspace = Workspace::new(&with_client(
        &sandbox_config(&sandbox, ""),
        &format!("redirect_uri = \"{uri}\""),
    ));
    let _proxy = workspace.serve();
    let (code, said) = paste(&workspace, "default", |back| format!("{back}\n")).await;
    assert_eq!(code, 0, "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_proxy_the_command_listens_itself() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let waiting = Waiting::start(&workspace, &["login", "acme", "--no-browser"]);
    let back = consent(&waiting.url).await;
    assert_eq!(
        visit(back.join("/").unwrap()).await.0,
        404,
        "it serves the callback and nothing else"
    );
    for method in [Method::HEAD, Method::POST, Method::OPTIONS] {
        assert_eq!(client().request(method, back.clone()).send().await.unwrap().status(), 405);
    }
    let prefetch =
        client().get(back.clone()).header("sec-purpose", "prefetch").send().await.unwrap();
    assert!(prefetch.status().is_client_error());
    let image = client()
        .get(back.clone())
        .header("sec-fetch-dest", "image")
        .header("sec-fetch-site", "cross-site");
    assert!(image.send().await.unwrap().status().is_client_error());
    let rebound = client().get(back.clone()).header("host", "rebind.test").send().await.unwrap();
    assert!(rebound.status().is_client_error());
    assert_eq!(sandbox.counters().token_posts, 0);
    let (status, page) = visit(back).await;
    assert_eq!(status, 200, "{page}");
    let (code, said) = waiting.end();
    assert_eq!(code, 0, "{said}");
    assert!(workspace.stored_json("acme")["record"]["grant"].is_object());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_login_is_not_reported_as_done_because_of_an_older_grant() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let first = Waiting::start(&workspace, &["login", "--no-browser"]);
    assert_eq!(visit(consent(&first.url).await).await.0, 200);
    assert_eq!(first.end().0, 0);
    let before = workspace.stored_json("default");

    let refused =
        TokenFault { error: Some("invalid_client".into()), ..token_fault(TokenFaultKind::Error) };
    let faults =
        Faults { token_answer: Some(refused), token_latency_before_ms: 1000, ..Faults::default() };
    sandbox.set_faults(faults);
    let second = Waiting::start(&workspace, &["login", "--no-browser"]);
    assert_eq!(visit(consent(&second.url).await).await.0, 400);
    let (code, said) = second.end();
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("invalid_client"), "{said}");
    assert_eq!(workspace.stored_json("default"), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denial_ends_the_command() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let waiting = Waiting::start(&workspace, &["login", "--no-browser"]);
    let back = format!("{}?error=access_denied&state=", parameter(&waiting.url, "redirect_uri"));
    assert_eq!(visit(format!("{back}wrong")).await.0, 400, "ignored");
    assert_eq!(visit(format!("{back}{}", parameter(&waiting.url, "state"))).await.0, 400);
    let (code, said) = waiting.end();
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("access_denied"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_proxy_does_the_commands_login() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let proxy = workspace.serve();
    for round in ["new", "again"] {
        let waiting = Waiting::start(&workspace, &["login", "acme", "--no-browser"]);
        assert_eq!(parameter(&waiting.url, "redirect_uri"), format!("{}/callback", proxy.admin));
        assert_eq!(visit(consent(&waiting.url).await).await.0, 200);
        let (code, said) = waiting.end();
        assert_eq!(code, 0, "{round}: {said}");
    }
    let waiting = Waiting::start(&workspace, &["login", "acme", "--no-browser"]);
    let state = parameter(&waiting.url, "state");
    visit(callback(&proxy, &format!("error=access_denied&state={state}"))).await;
    let (code, said) = waiting.end();
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("access_denied"), "{said}");
    assert_eq!(proxy.get("/@acme/v1/companies").await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_to_localhost_is_listened_for_in_both_families() {
    let sandbox = sandbox().await;
    let uri = format!("http://localhost:{}/back", free_port());
    let workspace = Workspace::new(&with_client(
        &sandbox_config(&sandbox, ""),
        &format!("redirect_uri = \"{uri}\""),
    ));
    for host in ["127.0.0.1", "[::1]"] {
        let waiting = Waiting::start(&workspace, &["login", "--no-browser"]);
        let back = consent(&waiting.url).await;
        assert!(back.as_str().starts_with(&uri), "{back}");
        assert_eq!(visit(back.as_str().replace("localhost", host)).await.0, 200, "{host}");
        assert_eq!(waiting.end().0, 0, "{host}");
    }
    // The running proxy does the same, also for logins in quick succession.
    let proxy = workspace.serve();
    for (account, host) in [("a", "127.0.0.1"), ("b", "[::1]"), ("c", "127.0.0.1")] {
        let back = consent(&begin_login(&proxy, account).await).await;
        let (status, page) = visit(back.as_str().replace("localhost", host)).await;
        assert_eq!(status, 200, "{account}: {page}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_port_that_somebody_else_has_is_named_and_the_login_not_begun() {
    let sandbox = sandbox().await;
    for squatted in ["127.0.0.1", "::1"] {
        let port = free_port();
        let squatter = TcpListener::bind((squatted, port)).unwrap();
        let config = sandbox_config(&sandbox, "");
        let workspace = Workspace::new(&with_client(
            &config,
            &format!("redirect_uri = \"http://localhost:{port}/callback\""),
        ));
        let done = workspace.run(&["login", "--no-browser"]);
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!(done.status.code(), Some(1), "{said}");
        assert!(said.contains(&squatter.local_addr().unwrap().to_string()), "{said}");
        assert!(!said.contains("/oauth/authorize"), "{said}");

        let proxy = workspace.serve();
        let response = proxy.admin(Method::POST, "/api/accounts/default/login", None).await;
        assert_eq!(response.status(), 409);
        assert!(response.text().await.unwrap().contains(&port.to_string()));
        let through = workspace.run(&["login", "--no-browser"]);
        assert_eq!(through.status.code(), Some(1));
    }
    assert_eq!(sandbox.counters().authorizations, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_to_another_machine_is_pasted() {
    let uri = "https://connector.example/pleo/back";
    let sandbox =
        sandbox_with(Options { redirect_uris: vec![uri.into()], ..Options::default() }).await;
    let workspace = Workspace::new(&with_client(
        &sandbox_config(&sandbox, ""),
        &format!("redirect_uri = \"{uri}\""),
    ));
    let done = workspace.run(&["login", "--no-browser"]);
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert_eq!(done.status.code(), Some(2), "{said}");
    assert!(said.contains("--paste"), "{said}");
    let (code, said) = paste(&workspace, "default", |back| format!("{back}\n")).await;
    assert_eq!(code, 0, "{said}");
    let _proxy = workspace.serve();
    let (code, said) = paste(&workspace, "default", |back| format!("{back}\n")).await;
    assert_eq!(code, 0, "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_that_start_programs_are_refused() {
    let sandbox = sandbox().await;
    let honest = format!("authorize = \"{}\"", sandbox.authorize_url());
    for hostile in
        ["file:///etc/passwd", "calc:", "smb://host/share", "http://evil.test/oauth/authorize"]
    {
        let config =
            sandbox_config(&sandbox, "").replace(&honest, &format!("authorize = \"{hostile}\""));
        let workspace = Workspace::new(&config);
        for arguments in [&["login"][..], &["serve"], &["config", "check"]] {
            let done = workspace.run(arguments);
            let said = String::from_utf8_lossy(&done.stderr).into_owned();
            assert_eq!(done.status.code(), Some(2), "{hostile} {arguments:?}: {said}");
            assert!(
                said.contains("endpoints.authorize") || said.contains("authorize ="),
                "{hostile}: {said}"
            );
        }
    }
}

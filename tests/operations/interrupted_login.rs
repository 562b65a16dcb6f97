//! `login` that fails, is interrupted, or loses its proxy.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use pleo_proxy::sandbox::{Faults, TokenFault, TokenFaultKind};
use support::command::{FAILED, SUCCESS};
use support::{KilledOnDrop, Workspace, client, sandbox};

/// A login that has begun in a browser.
pub(super) struct Login {
    pub(super) child: KilledOnDrop,
    pub(super) lines: std::io::Lines<BufReader<std::process::ChildStderr>>,
    pub(super) address: String,
}

impl Login {
    pub(super) fn begin(workspace: &Workspace, arguments: &[&str]) -> Self {
        let mut child = workspace
            .command(&[&["login"], arguments].concat())
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let address = lines
            .by_ref()
            .map(Result::unwrap)
            .find(|line| line.contains("/oauth/authorize?"))
            .unwrap();
        Self { child: KilledOnDrop(child), lines, address: address.trim().to_owned() }
    }

    /// Where the browser is sent back to if the person says no.
    pub(super) fn denied(&self) -> String {
        let address = url::Url::parse(&self.address).unwrap();
        let given =
            |name: &str| address.query_pairs().find(|(key, _)| key == name).unwrap().1.into_owned();
        format!("{}?error=access_denied&state={}", given("redirect_uri"), given("state"))
    }

    /// What it says from here on, and how it ends.
    pub(super) fn end(mut self) -> (Option<i32>, String) {
        let said: Vec<_> = self.lines.map(Result::unwrap).collect();
        (self.child.0.wait().unwrap().code(), said.join("\n"))
    }

    pub(super) fn signal(&self, name: &str) {
        let pid = self.child.0.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap().success());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_fails_ends_its_command_at_once_with_the_reason() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    for with_proxy in [true, false] {
        let proxy = with_proxy.then(|| workspace.serve());
        // The first login of an account that nobody knows yet.
        let denied = Login::begin(&workspace, &["--no-browser", "fresh"]);
        client().get(denied.denied()).send().await.unwrap();
        let (code, said) = denied.end();
        assert!(
            code == Some(FAILED) && said.contains("access_denied"),
            "{with_proxy} {code:?}: {said}"
        );
        assert!(!workspace.record("fresh").exists());

        let code = TokenFault {
            kind: TokenFaultKind::Error,
            error: Some("invalid_grant".into()),
            ..TokenFault::default()
        };
        sandbox.set_faults(Faults { token_answer: Some(code), ..Faults::default() });
        let refused = Login::begin(&workspace, &["--no-browser", "fresh"]);
        let consent = client().get(&refused.address).send().await.unwrap();
        client().get(consent.headers()["location"].to_str().unwrap()).send().await.unwrap();
        let (code, said) = refused.end();
        assert!(
            code == Some(FAILED) && said.contains("invalid_grant"),
            "{with_proxy} {code:?}: {said}"
        );
        sandbox.set_faults(Faults::default());
        drop(proxy);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_login_is_cancelled_at_the_proxy() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let proxy = workspace.serve();
    let patient = Login::begin(&workspace, &["--no-browser"]);
    // More than may be pending; with a paste awaited, and as a service manager ends things too.
    let ways = [
        ("--no-browser", "INT"),
        ("--paste", "INT"),
        ("--no-browser", "TERM"),
        ("--paste", "TERM"),
    ];
    for (how, signal) in ways.into_iter().chain(ways) {
        let given_up = Login::begin(&workspace, &[how]);
        given_up.signal(signal);
        let address = given_up.denied();
        let (code, said) = given_up.end();
        assert!(
            code == Some(FAILED) && said.contains("cancelled"),
            "{how} {signal} {code:?}: {said}"
        );
        let page = client().get(address).send().await.unwrap().text().await.unwrap();
        assert!(page.contains("not known"), "nobody waits for its callback any more: {page}");
    }
    let consent = client().get(&patient.address).send().await.unwrap();
    client().get(consent.headers()["location"].to_str().unwrap()).send().await.unwrap();
    let (code, said) = patient.end();
    assert_eq!(code, Some(SUCCESS), "one that was begun before all of them goes on: {said}");
    drop(proxy);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_whose_proxy_ends_says_so() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let proxy = workspace.serve();
    let login = Login::begin(&workspace, &["--no-browser"]);
    proxy.kill();
    let (code, said) = login.end();
    assert!(code == Some(FAILED) && said.contains("has ended in the meantime"), "{code:?}: {said}");
    assert!(!said.contains("os error"), "{said}");
}

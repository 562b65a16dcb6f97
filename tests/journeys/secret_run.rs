//! A proxy whose every output is recorded while its secrets are in use.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use std::fmt::Write as _;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output, Stdio};

use super::leak_search::{API_KEY, CALLERS, CLIENT_SECRET, LOCAL_KEY, Relay, STORE_KEY, Vault};
use pleo_proxy::sandbox::{Faults, GrantType, Options, Sandbox, TokenFault, TokenFaultKind};
use pleo_proxy::secret::StoreKey;
use pleo_proxy::store::{KeySource, Sealing, Store};
use reqwest::{Method, Response};
use serde_json::Value;
use support::{Proxy, Workspace, client, sandbox_config, sandbox_with, write_private};
use tokio::runtime::Handle;
use tokio::task::block_in_place;
use url::Url;

/// A proxy, all that was heard of it, and all that nobody may hear.
pub(super) struct Run {
    pub(super) sandbox: Sandbox,
    pub(super) relay: Relay,
    pub(super) workspace: Workspace,
    pub(super) proxy: Proxy,
    pub(super) vault: Vault,
    /// Where it was said, and what.
    pub(super) said: Vec<(String, String)>,
}

/// A command of the binary that has the secret from its variable and a browser that writes down
/// what it was given.
pub(super) fn command(workspace: &Workspace, arguments: &[&str]) -> Command {
    let mut command = workspace.command(&[&["--log", "trace"], arguments].concat());
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{}:{path}", workspace.path().join("bin").display()));
    command.env("PLEO_PROXY_CLIENT_SECRET", CLIENT_SECRET).env("RUST_LOG", "trace");
    command
}

/// The same begun by a shell, after what it is told.
pub(super) fn after(shell: &str, inner: &Command) -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("{shell}; exec \"$0\" \"$@\"")])
        .arg(inner.get_program())
        .args(inner.get_args());
    command.env_clear().envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.current_dir(inner.get_current_dir().unwrap());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// The tokens in a sealed store.
pub(super) fn tokens_in(workspace: &Workspace) -> Vec<(&'static str, String)> {
    let sealing = Sealing::new("sandbox", KeySource::Value(StoreKey::new(STORE_KEY))).unwrap();
    let store = Store::inspect(&workspace.state(), sealing).unwrap();
    let read = async {
        let mut tokens = Vec::new();
        for name in store.list().await.unwrap() {
            let Ok(Some((record, _))) = store.load(&name).await else { continue };
            let Some(grant) = record.grant else { continue };
            tokens.extend(grant.access.map(|token| ("access_token", token.expose().to_owned())));
            tokens.push(("refresh_token", grant.refresh.expose().to_owned()));
        }
        tokens
    };
    block_in_place(|| Handle::current().block_on(read))
}

fn browser_that_writes_down(workspace: &Workspace) {
    let bin = workspace.path().join("bin");
    fs::create_dir(&bin).unwrap();
    let script = format!(
        "#!/bin/sh\nenv >> '{0}/child.env'\necho \"$@\" >> '{0}/child.args'\n",
        bin.display()
    );
    for name in ["xdg-open", "gio", "wslview"] {
        fs::write(bin.join(name), &script).unwrap();
        fs::set_permissions(bin.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
}

pub(super) fn parameter(url: &str, name: &str) -> Option<String> {
    let url: Url = url.parse().unwrap();
    url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

pub(super) fn refresh_fault(kind: TokenFaultKind, work: bool) -> Faults {
    faulty(TokenFault {
        kind,
        work,
        only_grant: Some(GrantType::RefreshToken),
        ..TokenFault::default()
    })
}

pub(super) fn faulty(fault: TokenFault) -> Faults {
    Faults { token_answer: Some(TokenFault { count: Some(1), ..fault }), ..Faults::default() }
}

impl Run {
    pub(super) async fn start() -> Self {
        let sandbox =
            sandbox_with(Options { client_secret: CLIENT_SECRET.into(), ..Options::default() })
                .await;
        let relay = Relay::before(sandbox.auth);
        let through = |config: String, url: String| {
            config.replace(
                &format!("\"{url}\""),
                &format!(
                    "\"{}\"",
                    url.replace(&sandbox.auth.to_string(), &relay.address.to_string())
                ),
            )
        };
        let config = sandbox_config(
            &sandbox,
            "key_file = \"store-key\"\n[guard]\nlocal_key_file = \"local-key\"\n",
        );
        let config = through(through(config, sandbox.token_url()), sandbox.introspect_url());
        let workspace = Workspace::new(&config);
        write_private(&workspace.path().join("local-key"), LOCAL_KEY);
        write_private(&workspace.path().join("store-key"), STORE_KEY);
        browser_that_writes_down(&workspace);
        let serve = after("umask 000", &command(&workspace, &["--json"]));
        let proxy = Proxy::launch(serve, &workspace.state());
        let mut vault = Vault::default();
        vault.keep("client secret", CLIENT_SECRET);
        vault.keep("local key", LOCAL_KEY);
        vault.keep("store key", STORE_KEY);
        vault.keep("API key", API_KEY);
        vault.keep("admin key", &proxy.key);
        CALLERS.iter().for_each(|secret| vault.keep("caller's secret", secret));
        Self { sandbox, relay, workspace, proxy, vault, said: Vec::new() }
    }

    /// Keeps what was said. `needed` are the secrets that this very answer is there to hand over.
    pub(super) fn hear(&mut self, workspace: &str, text: &str, needed: &[&str]) {
        let text =
            needed.iter().fold(text.to_owned(), |text, secret| text.replace(secret, "(needed)"));
        self.said.push((workspace.to_owned(), text));
    }

    /// Keeps a whole answer and returns its status and body.
    pub(super) async fn answer(
        &mut self,
        workspace: &str,
        response: Response,
        needed: &[&str],
    ) -> (u16, String) {
        let status = response.status().as_u16();
        let mut all = String::new();
        for (name, value) in response.headers() {
            writeln!(all, "{name}: {}", String::from_utf8_lossy(value.as_bytes())).unwrap();
        }
        let body = response.text().await.unwrap_or_default();
        self.hear(workspace, &(all + &body), needed);
        self.harvest();
        (status, body)
    }

    pub(super) async fn admin(
        &mut self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> (u16, String) {
        let response = self.proxy.admin(method, path, body).await;
        self.answer(path, response, &[]).await
    }

    /// A request of a caller who has secrets too.
    pub(super) async fn ask(&mut self, path: &str, headers: &[(&str, &str)]) -> (u16, String) {
        let request = client().get(format!("{}{path}?token={}", self.proxy.api, CALLERS[1]));
        let request =
            request.bearer_auth(CALLERS[0]).header("cookie", format!("sid={}", CALLERS[2]));
        let request =
            headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let response = request.send().await.unwrap();
        // Pleo repeats a caller's query to that caller.
        let needed: &[&str] = if response.status() == 200 { &[CALLERS[1]] } else { &[] };
        self.answer(path, response, needed).await
    }

    pub(super) async fn served(&mut self, path: &str) -> u16 {
        self.ask(path, &[("pleo-proxy-key", LOCAL_KEY)]).await.0
    }

    /// Runs a command and keeps what it said.
    pub(super) fn command(&mut self, arguments: &[&str], input: &str) -> Output {
        let mut child = command(&self.workspace, arguments).stdin(Stdio::piped()).spawn().unwrap();
        // A command that reads nothing may be gone already.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let output = child.wait_with_output().unwrap();
        for (stream, bytes) in [("stdout", &output.stdout), ("stderr", &output.stderr)] {
            let link = self.link_in(bytes);
            let needed: Vec<&str> = link.iter().map(String::as_str).collect();
            self.hear(
                &format!("{stream} of {arguments:?}"),
                &String::from_utf8_lossy(bytes),
                &needed,
            );
        }
        self.harvest();
        output
    }

    /// The one-time key that `open` is there to print.
    pub(super) fn link_in(&mut self, bytes: &[u8]) -> Option<String> {
        let text = String::from_utf8_lossy(bytes);
        let key: String = text
            .split_once("#key=")?
            .1
            .chars()
            .take_while(|c| !c.is_whitespace() && *c != '"')
            .collect();
        self.vault.keep("link key", &key);
        Some(key)
    }

    /// The tokens that the store holds now.
    pub(super) fn harvest(&mut self) {
        for (kind, token) in tokens_in(&self.workspace) {
            self.vault.keep(kind, &token);
        }
    }

    /// The secrets of an authorize address: this address alone may hold them.
    pub(super) fn asked(&mut self, url: &str) -> Vec<String> {
        let values = ["state", "code_challenge"].map(|name| {
            let value = parameter(url, name).unwrap();
            self.vault.keep(name, &value);
            value
        });
        values.into()
    }

    /// Consents, and returns the address of the callback.
    pub(super) async fn consent(&mut self, url: &str) -> String {
        let response = client().get(url).send().await.unwrap();
        let location = response.headers()["location"].to_str().unwrap().to_owned();
        self.vault.keep("code", &parameter(&location, "code").unwrap());
        location
    }

    /// `/connect` up to the callback, which is left to the caller.
    pub(super) async fn connect(&mut self, account: &str) -> String {
        let page = format!("{}/connect?account={account}", self.proxy.admin);
        let response = client().get(page).send().await.unwrap();
        assert_eq!(response.status(), 302);
        let url = response.headers()["location"].to_str().unwrap().to_owned();
        let secrets = self.asked(&url);
        let needed: Vec<&str> = secrets.iter().map(String::as_str).collect();
        self.answer("/connect", response, &needed).await;
        self.consent(&url).await
    }

    pub(super) async fn visit(&mut self, url: &str) -> (u16, String) {
        let response = client().get(url).send().await.unwrap();
        self.answer("/callback", response, &[]).await
    }

    pub(super) async fn login(&mut self, account: &str) {
        let back = self.connect(account).await;
        let (status, page) = self.visit(&back).await;
        assert_eq!(status, 200, "{page}");
    }

    pub(super) async fn force(&mut self, account: &str) -> u16 {
        self.admin(Method::POST, &format!("/api/accounts/{account}/refresh?force=true"), None)
            .await
            .0
    }
}

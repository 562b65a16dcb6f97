//! No secret leaves but to where it belongs: every journey at the finest log level, and then every
//! 12 characters of every secret, in every usual writing, looked for in all that the process wrote.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use pleo_proxy::sandbox::{
    ApiFault, ApiFaultKind, Faults, GrantType, Options, Sandbox, TokenFault, TokenFaultKind,
};
use reqwest::{Method, Response};
use serde_json::{Value, json};
use support::upstream::eventually;
use support::{Place, Proxy, client, config_toward, sandbox_with, text, write_private};
use url::{Url, form_urlencoded};

const CLIENT_ID: &str = "sandbox-client";
/// Every writing of it differs from the others.
const CLIENT_SECRET: &str = "cl1ent+s3cret/with=every%25 kind&of<char>\"9Zk4'Tq";
const LOCAL_KEY: &str = "l0cal-key-Vt83nQpX27bLw5RzYh6JcKd9";
/// What callers say that is none of a log's business.
const CALLERS: [&str; 4] = [
    "callers-own-credential-8fQ2LmZx7V",
    "callers-query-value-b7Rk3WnP9cD",
    "callers-cookie-value-u5Gh1TyE4sA",
    "callers-wrong-admin-key-m2Jd6OxC0iN",
];
/// So many characters of a secret in a row are a leak.
const SLICE: usize = 12;

/// All secrets, by what they are.
#[derive(Default)]
struct Vault(BTreeMap<String, String>);

impl Vault {
    fn keep(&mut self, what: &str, secret: &str) {
        assert!(secret.len() >= SLICE, "{what} is too short to be looked for: {secret:?}");
        self.0.entry(secret.to_owned()).or_insert_with(|| what.to_owned());
    }

    fn count(&self, what: &str) -> usize {
        self.0.values().filter(|known| *known == what).count()
    }

    /// Every slice of every writing, and whose it is.
    fn slices(&self) -> HashMap<[u8; SLICE], &str> {
        let mut slices = HashMap::new();
        for (secret, what) in &self.0 {
            for writing in writings(secret) {
                slices.extend(
                    writing
                        .as_bytes()
                        .windows(SLICE)
                        .map(|slice| (slice.try_into().unwrap(), &**what)),
                );
            }
        }
        slices
    }
}

/// The ways in which a secret may be written; base64 at each of its three alignments.
fn writings(secret: &str) -> Vec<String> {
    let form = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let percent = utf8_percent_encode(secret, NON_ALPHANUMERIC).to_string();
    let html = secret
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;");
    let hex = secret.bytes().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").unwrap();
        hex
    });
    let mut all =
        vec![secret.to_owned(), form(secret), percent.to_ascii_lowercase(), percent, html, hex];
    all.extend(
        [json!(secret).to_string(), format!("{secret:?}")]
            .map(|quoted| quoted.trim_matches('"').to_owned()),
    );
    let pairs = [
        format!("{CLIENT_ID}:{secret}"),
        format!("{CLIENT_ID}:{}", form(secret)),
        format!("Bearer {secret}"),
    ];
    let shifted = (0..3).map(|shift| &secret[shift..]);
    for plain in shifted.chain(pairs.iter().map(String::as_str)) {
        all.extend([STANDARD.encode(plain), URL_SAFE_NO_PAD.encode(plain)]);
    }
    all
}

/// Where which secret shows in a text.
fn leaks(slices: &HashMap<[u8; SLICE], &str>, place: &str, text: &[u8]) -> Vec<String> {
    let hits =
        text.windows(SLICE).enumerate().filter_map(|(at, slice)| Some((at, slices.get(slice)?)));
    let around = |at: usize| {
        String::from_utf8_lossy(&text[at.saturating_sub(60)..(at + 60).min(text.len())])
    };
    hits.take(3).map(|(at, what)| format!("{what} in {place}: ...{}...", around(at))).collect()
}

/// Between the proxy and the authorization server: hands on what comes and keeps it, both ways.
struct Relay {
    address: SocketAddr,
    heard: Arc<Mutex<Vec<u8>>>,
}

impl Relay {
    fn before(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, heard) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(Vec::new())));
        let sink = heard.clone();
        std::thread::spawn(move || {
            for near in listener.incoming() {
                let (Ok(near), Ok(far)) = (near, TcpStream::connect(server)) else { continue };
                let ends = [(near.try_clone(), far.try_clone()), (Ok(far), Ok(near))];
                for (from, to) in ends {
                    let (from, to, sink) = (from.unwrap(), to.unwrap(), sink.clone());
                    std::thread::spawn(move || hand_on(from, to, &sink));
                }
            }
        });
        Self { address, heard }
    }

    /// All values between such a beginning and one of these ends.
    fn values(&self, begin: &str, ends: &[char]) -> Vec<String> {
        let heard = String::from_utf8_lossy(&self.heard.lock().unwrap()).into_owned();
        let parts = heard.split(begin).skip(1);
        parts.map(|part| part.split(ends).next().unwrap().to_owned()).collect()
    }
}

fn hand_on(mut from: TcpStream, mut to: TcpStream, sink: &Mutex<Vec<u8>>) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        sink.lock().unwrap().extend_from_slice(&buffer[..read]);
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

/// A proxy, all that was heard of it, and all that nobody may hear.
struct Run {
    sandbox: Sandbox,
    relay: Relay,
    place: Place,
    proxy: Proxy,
    vault: Vault,
    /// Where it was said, and what.
    said: Vec<(String, String)>,
}

/// A command of the binary that has the secret from its variable and a browser that writes down
/// what it was given.
fn command(place: &Place, arguments: &[&str]) -> Command {
    let mut command = place.command(&[&["--log", "trace"], arguments].concat());
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{}:{path}", place.path().join("bin").display()));
    command.env("PLEO_PROXY_CLIENT_SECRET", CLIENT_SECRET).env("RUST_LOG", "trace");
    command
}

/// The same begun by a shell, after what it is told.
fn after(shell: &str, inner: &Command) -> Command {
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

fn browser_that_writes_down(place: &Place) {
    let bin = place.path().join("bin");
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

fn parameter(url: &str, name: &str) -> Option<String> {
    let url: Url = url.parse().unwrap();
    url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

fn refresh_fault(kind: TokenFaultKind, work: bool) -> Faults {
    faulty(TokenFault {
        kind,
        work,
        only_grant: Some(GrantType::RefreshToken),
        ..TokenFault::default()
    })
}

fn faulty(fault: TokenFault) -> Faults {
    Faults { token_answer: Some(TokenFault { count: Some(1), ..fault }), ..Faults::default() }
}

impl Run {
    async fn start() -> Self {
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
        let config = config_toward(&sandbox, "[guard]\nlocal_key_file = \"local-key\"\n");
        let config = through(through(config, sandbox.token_url()), sandbox.introspect_url());
        let place = Place::new(&config);
        write_private(&place.path().join("local-key"), LOCAL_KEY);
        browser_that_writes_down(&place);
        let serve = after("umask 000", &command(&place, &["--json"]));
        let proxy = Proxy::launch(serve, &place.state());
        let mut vault = Vault::default();
        vault.keep("client secret", CLIENT_SECRET);
        vault.keep("local key", LOCAL_KEY);
        vault.keep("admin key", &proxy.key);
        CALLERS.iter().for_each(|secret| vault.keep("caller's secret", secret));
        Self { sandbox, relay, place, proxy, vault, said: Vec::new() }
    }

    /// Keeps what was said. `needed` are the secrets that this very answer is there to hand over.
    fn hear(&mut self, place: &str, text: &str, needed: &[&str]) {
        let text =
            needed.iter().fold(text.to_owned(), |text, secret| text.replace(secret, "(needed)"));
        self.said.push((place.to_owned(), text));
    }

    /// Keeps a whole answer and returns its status and body.
    async fn answer(&mut self, place: &str, response: Response, needed: &[&str]) -> (u16, String) {
        let status = response.status().as_u16();
        let mut all = String::new();
        for (name, value) in response.headers() {
            writeln!(all, "{name}: {}", String::from_utf8_lossy(value.as_bytes())).unwrap();
        }
        let body = response.text().await.unwrap_or_default();
        self.hear(place, &(all + &body), needed);
        self.harvest();
        (status, body)
    }

    async fn admin(&mut self, method: Method, path: &str, body: Option<Value>) -> (u16, String) {
        let response = self.proxy.admin(method, path, body).await;
        self.answer(path, response, &[]).await
    }

    /// A request of a caller who has secrets too.
    async fn ask(&mut self, path: &str, headers: &[(&str, &str)]) -> (u16, String) {
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

    async fn served(&mut self, path: &str) -> u16 {
        self.ask(path, &[("pleo-proxy-key", LOCAL_KEY)]).await.0
    }

    /// Runs a command and keeps what it said.
    fn command(&mut self, arguments: &[&str], input: &str) -> Output {
        let mut child = command(&self.place, arguments).stdin(Stdio::piped()).spawn().unwrap();
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
    fn link_in(&mut self, bytes: &[u8]) -> Option<String> {
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
    fn harvest(&mut self) {
        for entry in fs::read_dir(self.place.state()).unwrap().flatten() {
            let path = entry.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let record: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
            for kind in ["access_token", "refresh_token"] {
                if let Some(token) = record["record"]["grant"][kind].as_str() {
                    self.vault.keep(kind, token);
                }
            }
        }
    }

    /// The secrets of an authorize address: this address alone may hold them.
    fn asked(&mut self, url: &str) -> Vec<String> {
        let values = ["state", "code_challenge"].map(|name| {
            let value = parameter(url, name).unwrap();
            self.vault.keep(name, &value);
            value
        });
        values.into()
    }

    /// Consents, and returns the address of the callback.
    async fn consent(&mut self, url: &str) -> String {
        let answer = client().get(url).send().await.unwrap();
        let location = answer.headers()["location"].to_str().unwrap().to_owned();
        self.vault.keep("code", &parameter(&location, "code").unwrap());
        location
    }

    /// `/connect` up to the callback, which is left to the caller.
    async fn connect(&mut self, account: &str) -> String {
        let page = format!("{}/connect?account={account}", self.proxy.admin);
        let response = client().get(page).send().await.unwrap();
        assert_eq!(response.status(), 302);
        let url = response.headers()["location"].to_str().unwrap().to_owned();
        let secrets = self.asked(&url);
        let needed: Vec<&str> = secrets.iter().map(String::as_str).collect();
        self.answer("/connect", response, &needed).await;
        self.consent(&url).await
    }

    async fn visit(&mut self, url: &str) -> (u16, String) {
        let response = client().get(url).send().await.unwrap();
        self.answer("/callback", response, &[]).await
    }

    async fn login(&mut self, account: &str) {
        let back = self.connect(account).await;
        let (status, page) = self.visit(&back).await;
        assert_eq!(status, 200, "{page}");
    }

    async fn force(&mut self, account: &str) -> u16 {
        self.admin(Method::POST, &format!("/api/accounts/{account}/refresh?force=true"), None)
            .await
            .0
    }
}

/// Logins that end well, and all the ways in which they do not.
async fn logins(run: &mut Run) {
    run.login("default").await;
    assert_eq!(run.vault.count("access_token"), 1, "the record is read");
    let back = run.connect("failing").await;
    let state = parameter(&back, "state").unwrap();
    for wrong in [
        back.replace(&state, &state[1..]),
        format!("{back}&state={state}"),
        format!("{back}x&iss=y"),
    ] {
        assert_eq!(run.visit(&wrong).await.0, 400);
    }
    let denied = format!("{}/callback?error=access_denied&state={state}", run.proxy.admin);
    assert_eq!(run.visit(&denied).await.0, 400);
    use TokenFaultKind as Kind;
    for kind in
        [Kind::Truncated, Kind::Lost, Kind::Html, Kind::Status, Kind::Error, Kind::ErrorIn200]
    {
        run.sandbox.set_faults(faulty(TokenFault { kind, work: true, ..TokenFault::default() }));
        let back = run.connect("failing").await;
        assert_eq!(run.visit(&back).await.0, 400, "{kind:?}");
        assert_eq!(run.visit(&back).await.0, 400, "a code again");
    }
    run.sandbox.set_faults(Faults::default());
    // By the API, with the address brought by hand.
    let path = "/api/accounts/pasted/login";
    let response = run.proxy.admin(Method::POST, &format!("{path}?paste=true"), None).await;
    let begun: Value = response.json().await.unwrap();
    let url = text(&begun["authorize_url"]);
    let secrets = run.asked(&url);
    run.hear(path, &begun.to_string(), &[&secrets[0], &secrets[1]]);
    let back = run.consent(&url).await;
    let (wrong, right) = (
        json!({"redirected_url": &back[..back.len() - 8].replace("state=", "state=x")}),
        json!({"redirected_url": back}),
    );
    assert_eq!(run.admin(Method::POST, path, Some(wrong)).await.0, 400);
    assert_eq!(
        run.admin(Method::POST, path, Some(json!({"redirected_url": back, "x": 1}))).await.0,
        400
    );
    assert_eq!(run.admin(Method::POST, path, Some(right)).await.0, 200);
}

/// `login` with a browser, which is the one child that there is.
async fn login_by_command(run: &mut Run) {
    let mut child = command(&run.place, &["login", "by-command"]).spawn().unwrap();
    let mut talk = BufReader::new(child.stderr.take().unwrap());
    let (mut said, mut url) = (String::new(), None);
    while url.is_none() {
        let start = said.len();
        assert_ne!(talk.read_line(&mut said).unwrap(), 0, "{said}");
        url = said[start..].trim().parse::<Url>().ok();
    }
    let url = url.unwrap().to_string();
    let secrets = run.asked(&url);
    let back = run.consent(&url).await;
    assert_eq!(run.visit(&back).await.0, 200);
    talk.read_to_string(&mut said).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0), "{said}");
    run.hear("stderr of login", &said, &[&secrets[0], &secrets[1]]);
    let bin = run.place.path().join("bin");
    eventually("the browser was opened", || bin.join("child.args").exists());
    let arguments = fs::read_to_string(bin.join("child.args")).unwrap();
    assert!(arguments.contains(&secrets[0]), "the browser is sent there: {arguments}");
    run.hear("arguments of the browser", &arguments, &[&secrets[0], &secrets[1]]);
}

/// Refresh tokens from elsewhere, good and bad.
async fn imports(run: &mut Run) {
    let donor = Place::toward(&run.sandbox, "");
    let config = fs::read_to_string(run.place.path().join("proxy.toml")).unwrap();
    donor.configure(&config);
    write_private(&donor.path().join("local-key"), LOCAL_KEY);
    let mut lender = Proxy::launch(command(&donor, &["--json"]), &donor.state());
    lender.login("default").await;
    run.vault.keep("admin key", &lender.key);
    let ended = lender.admin(Method::POST, "/api/shutdown", None).await;
    assert_eq!(run.answer("/api/shutdown", ended, &[]).await.0, 202);
    assert!(lender.child.wait().unwrap().success());
    run.hear("log of one that was told to end", &lender.log(), &[]);
    let record: Value =
        serde_json::from_slice(&fs::read(donor.record("default")).unwrap()).unwrap();
    let token = text(&record["record"]["grant"]["refresh_token"]);
    run.vault.keep("refresh_token", &token);
    let done = run.command(&["login", "imported", "--import-refresh-token"], &format!("{token}\n"));
    assert_eq!(done.status.code(), Some(0), "{}", String::from_utf8_lossy(&done.stderr));
    let bad = "sbx-refresh-that-nobody-ever-issued-K3v9TzQ1";
    run.vault.keep("refused refresh token", bad);
    assert_eq!(
        run.command(&["login", "refused", "--import-refresh-token"], bad).status.code(),
        Some(1)
    );
    let path = "/api/accounts/refused/login";
    assert!(run.admin(Method::POST, path, Some(json!({"refresh_token": bad}))).await.0 >= 400);
    assert_eq!(
        run.admin(Method::POST, path, Some(json!({"refresh_token": bad, "redirected_url": ""})))
            .await
            .0,
        400
    );
    assert_eq!(run.admin(Method::POST, path, Some(json!({"refreshtoken": bad}))).await.0, 400);
}

/// Refreshes with every outcome.
async fn refreshes(run: &mut Run) {
    for account in ["lost", "denied"] {
        run.login(account).await;
    }
    let first = run.vault.count("refresh_token");
    assert_eq!(run.admin(Method::POST, "/api/accounts/default/refresh", None).await.0, 200);
    assert_eq!(run.vault.count("refresh_token"), first, "fresh tokens stay");
    assert_eq!(run.force("default").await, 200);
    assert_eq!(run.command(&["refresh", "--force"], "").status.code(), Some(0));
    assert_eq!(run.command(&["--json", "refresh"], "").status.code(), Some(0));
    assert_eq!(run.vault.count("refresh_token"), first + 2);
    use TokenFaultKind as Kind;
    for kind in [Kind::Html, Kind::ErrorIn200, Kind::Status] {
        run.sandbox.set_faults(refresh_fault(kind, false));
        run.force("default").await;
        run.proxy.until("default", |account| account["state"] == "connected").await;
        run.harvest();
    }
    for kind in [Kind::Truncated, Kind::Lost] {
        run.login("lost").await;
        run.sandbox.set_faults(refresh_fault(kind, true));
        run.force("lost").await;
        run.proxy.until("lost", |account| account["state"] == "login_required").await;
    }
    run.sandbox.set_faults(refresh_fault(Kind::Error, false));
    run.force("denied").await;
    run.proxy.until("denied", |account| account["state"] == "login_required").await;
    run.sandbox.set_faults(Faults::default());
    assert_eq!(run.command(&["refresh", "denied", "--force"], "").status.code(), Some(3));
}

/// Requests that are served, sent again and refused.
async fn requests(run: &mut Run) {
    assert_eq!(run.served("/v1/companies").await, 200);
    run.sandbox.set_faults(Faults { api_401: 1, ..Faults::default() });
    assert_eq!(run.served("/v1/companies").await, 200, "sent again");
    run.sandbox.set_faults(Faults { api_401: 2, ..Faults::default() });
    assert_eq!(run.served("/v1/companies").await, 401, "the second is the caller's");
    let broken = ApiFault { kind: ApiFaultKind::Drop, count: Some(2), ..ApiFault::default() };
    run.sandbox.set_faults(Faults { api_answer: Some(broken), ..Faults::default() });
    assert!(run.served("/v1/companies").await >= 500);
    run.sandbox.set_faults(Faults::default());
    let nothing: &[(&str, &str)] = &[];
    assert_eq!(run.ask("/v1/companies", nothing).await.0, 403);
    assert_eq!(run.ask("/v1/companies", &[("pleo-proxy-key", CALLERS[3])]).await.0, 403);
    for (name, value) in
        [("host", "rebind.test"), ("origin", "http://evil.test"), ("sec-fetch-site", "cross-site")]
    {
        assert_eq!(
            run.ask("/v1/companies", &[(name, value), ("pleo-proxy-key", LOCAL_KEY)]).await.0,
            403,
            "{name}"
        );
    }
    for (account, status) in
        [("nobody", 404), ("denied", 503), ("lost", 503), ("imported", 200), ("A", 400)]
    {
        let told = run.served(&format!("/@{account}/v1/companies")).await;
        assert!(told == status || account == "A" && told >= 400, "{account}: {told}");
    }
}

/// Every route of the admin listener, with and without the key.
async fn admin_routes(run: &mut Run) {
    for path in [
        "/",
        "/health",
        "/ready",
        "/metrics",
        "/api/status",
        "/callback",
        "/nothing",
        "/api/nothing",
    ] {
        run.admin(Method::GET, path, None).await;
        let request = client().get(format!("{}{path}", run.proxy.admin)).bearer_auth(CALLERS[3]);
        let response = request.send().await.unwrap();
        run.answer(path, response, &[]).await;
    }
    for path in ["refresh", "logout", "login"] {
        assert_eq!(run.admin(Method::POST, &format!("/api/accounts/No/{path}"), None).await.0, 404);
        assert_eq!(
            run.admin(Method::GET, &format!("/api/accounts/default/{path}"), None).await.0,
            405
        );
    }
    let session = "/api/session";
    let response = run.proxy.admin(Method::POST, session, None).await;
    let link: Value = response.json().await.unwrap();
    let key = run.link_in(link.to_string().as_bytes()).unwrap();
    run.hear(session, &link.to_string(), &[&key]);
    for status in [200, 401] {
        let request = client()
            .post(format!("{}{session}", run.proxy.admin))
            .header("origin", &run.proxy.admin);
        let response = request.json(&json!({"key": key})).send().await.unwrap();
        assert_eq!(response.status(), status);
        let cookie =
            response.headers().get("set-cookie").map(|cookie| cookie.to_str().unwrap().to_owned());
        let value = cookie
            .as_deref()
            .and_then(|cookie| cookie.split(['=', ';']).nth(1))
            .unwrap_or("(none)")
            .to_owned();
        if status == 200 {
            run.vault.keep("session cookie", &value);
        }
        run.answer(session, response, &[&value]).await;
        let request = client()
            .get(format!("{}/api/status", run.proxy.admin))
            .header("origin", &run.proxy.admin);
        let response = request.header("cookie", cookie.unwrap_or_default()).send().await.unwrap();
        run.answer("/api/status", response, &[]).await;
    }
    let wrong =
        client().post(format!("{}{session}", run.proxy.admin)).json(&json!({"key": CALLERS[3]}));
    let response = wrong.send().await.unwrap();
    run.answer(session, response, &[]).await;
}

/// What commands print. Those that only ask are the same with and without a proxy.
fn commands(run: &mut Run) {
    let asking: [&[&str]; 9] = [
        &["status"],
        &["--json", "status"],
        &["config", "show"],
        &["--json", "config", "show"],
        &["config", "check"],
        &["--help"],
        &["login", "--help"],
        &["status", "--set", "client.nonsense=1"],
        &["login", "default", "--import-refresh-token"],
    ];
    for arguments in asking {
        run.command(arguments, "");
    }
    let secret = run.place.path().join("bad-secret");
    let file = "client.secret_file=bad-secret";
    let lines = format!("{CLIENT_SECRET}\n\u{1}{CLIENT_SECRET}\n");
    for (mode, content) in [
        (0o644, CLIENT_SECRET),
        (0o600, &*lines),
        (0o600, "\n"),
        (0o600, &*CLIENT_SECRET.repeat(2000)),
    ] {
        fs::write(&secret, content).unwrap();
        fs::set_permissions(&secret, fs::Permissions::from_mode(mode)).unwrap();
        run.command(&["config", "check", "--set", file], "");
        run.command(&["config", "show", "--set", file], "");
        run.command(&["login", "--paste", "--import-refresh-token", "--set", file], "");
    }
    // The secret where it does not belong: a mistake that is pointed at, without being repeated.
    let path = run.place.path().join("proxy.toml");
    let config = fs::read_to_string(&path).unwrap();
    let quoted = json!(CLIENT_SECRET).to_string();
    write_private(
        &path,
        &config.replacen("[client]\n", &format!("[client]\nsecret = {quoted}\n"), 1),
    );
    let refused = run.command(&["config", "check"], "");
    assert_eq!(refused.status.code(), Some(2), "a secret in the configuration is refused");
    write_private(&path, &config);
}

/// What the system tells about the process, and its files.
fn files_and_process(run: &mut Run, when: &str) {
    let mut folders = vec![run.place.path().to_owned()];
    let own = [
        "proxy.toml",
        "admin.key",
        "local-key",
        "bad-secret",
        "xdg-open",
        "gio",
        "wslview",
        "child.args",
    ];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().flatten() {
            let (path, name) = (entry.path(), entry.file_name().into_string().unwrap());
            let metadata = fs::symlink_metadata(&path).unwrap();
            if path.starts_with(run.place.state()) {
                let wanted = if metadata.is_dir() { 0o700 } else { 0o600 };
                assert_eq!(metadata.mode() & 0o7777, wanted, "{} {when}", path.display());
            }
            let is_record = folder == run.place.state() && name.ends_with(".json");
            match metadata.is_dir() {
                true => folders.push(path),
                false if is_record || own.contains(&&*name) => {}
                false => {
                    let content = fs::read(&path).unwrap();
                    run.hear(
                        &format!("{} {when}", path.display()),
                        &String::from_utf8_lossy(&content),
                        &[],
                    );
                    run.hear("the names of files", &name, &[]);
                }
            }
        }
    }
}

fn arguments(run: &mut Run) {
    let process = PathBuf::from(format!("/proc/{}", run.proxy.child.id()));
    for file in ["cmdline", "comm", "status"] {
        let told = fs::read(process.join(file)).unwrap_or_default();
        run.hear(&format!("/proc/PID/{file}"), &String::from_utf8_lossy(&told), &[]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_in_anything_that_the_process_wrote() {
    let mut run = Run::start().await;
    logins(&mut run).await;
    imports(&mut run).await;
    refreshes(&mut run).await;
    requests(&mut run).await;
    admin_routes(&mut run).await;
    login_by_command(&mut run).await;
    run.command(&["open"], "");
    commands(&mut run);
    arguments(&mut run);
    files_and_process(&mut run, "while it runs");
    let (_, metrics) = run.admin(Method::GET, "/metrics", None).await;
    assert!(metrics.contains("pleo_proxy_refreshes_total"), "{metrics}");
    assert_eq!(run.admin(Method::POST, "/api/accounts/pasted/logout", None).await.0, 200);
    assert_eq!(run.command(&["logout", "imported"], "").status.code(), Some(0));

    run.proxy.signal("TERM");
    assert!(run.proxy.child.wait().unwrap().success());
    for arguments in [
        &["status"][..],
        &["refresh", "--force"],
        &["logout", "by-command"],
        &["login", "x", "--paste"],
    ] {
        let output = command(&run.place, arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let url = said.lines().find_map(|line| line.trim().parse::<Url>().ok());
        let secrets = url.map(|url| run.asked(url.as_str())).unwrap_or_default();
        let needed: Vec<&str> = secrets.iter().map(String::as_str).collect();
        run.hear(&format!("stderr of {arguments:?} alone"), &said, &needed);
        run.hear(
            &format!("stdout of {arguments:?} alone"),
            &String::from_utf8_lossy(&output.stdout),
            &needed,
        );
        run.harvest();
    }
    commands(&mut run);
    files_and_process(&mut run, "at the end");
    assert_clean(run);
}

/// Looks for everything in everything.
fn assert_clean(mut run: Run) {
    let quoted: &[char] = &['"', '\r', '\n'];
    let in_form: &[char] = &['&', ' ', '\r', '\n'];
    let from_wire: [(&str, &str, &[char]); 5] = [
        ("access_token", "\"access_token\":\"", quoted),
        ("refresh_token", "\"refresh_token\":\"", quoted),
        ("verifier", "code_verifier=", in_form),
        ("refresh_token", "refresh_token=", in_form),
        ("client proof", "asic ", quoted),
    ];
    for (what, begin, ends) in from_wire {
        let values = run.relay.values(begin, ends);
        assert!(!values.is_empty(), "the relay heard no {what}");
        values
            .iter()
            .filter(|value| value.len() >= SLICE)
            .for_each(|value| run.vault.keep(what, value));
    }
    for what in [
        "client secret",
        "local key",
        "admin key",
        "link key",
        "session cookie",
        "code",
        "state",
        "verifier",
    ] {
        assert!(run.vault.count(what) >= 1, "no {what} was collected");
    }
    let log = run.proxy.log();
    for told in [
        "connected account=default",
        "login failed",
        "refreshed account",
        "broke off",
        "logged out",
    ] {
        assert!(log.contains(told), "the log does not tell of {told:?}: {log}");
    }
    run.hear("log", &log, &[]);
    let browser = fs::read_to_string(run.place.path().join("bin/child.env")).unwrap();
    assert!(browser.contains("PATH="), "{browser}");

    let slices = run.vault.slices();
    let mut found: Vec<String> =
        run.said.iter().flat_map(|(place, text)| leaks(&slices, place, text.as_bytes())).collect();
    found.dedup();
    assert!(found.is_empty(), "{} leaks\n{}", found.len(), found.join("\n"));

    // The scan is no blind one: each secret, written in each way, would have been found in this
    // very log.
    for (secret, what) in &run.vault.0 {
        for writing in writings(secret) {
            let middle = (writing.len() - SLICE) / 2;
            let planted = format!("{log} path=/v1/x note={} ", &writing[middle..middle + SLICE]);
            assert!(
                !leaks(&slices, "log", &planted.as_bytes()[log.len()..]).is_empty(),
                "{what}: {writing}"
            );
        }
    }
}

/// True if the process may become another user; says so if not.
fn may_be_nobody() -> bool {
    let tried = Command::new("setpriv").args(NOBODY).arg("true").output();
    let allowed = tried.is_ok_and(|output| output.status.success());
    if !allowed {
        eprintln!("not root (or no setpriv): looked at as the same user");
    }
    allowed
}

const NOBODY: [&str; 3] = ["--reuid=65534", "--regid=65534", "--clear-groups"];

/// Hands a folder and all in it to nobody.
fn hand_over(folder: &Path) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        if entry.path().is_dir() {
            hand_over(&entry.path());
        }
        std::os::unix::fs::chown(entry.path(), Some(65534), Some(65534)).unwrap();
    }
    std::os::unix::fs::chown(folder, Some(65534), Some(65534)).unwrap();
}

/// What a user of the same id gets to see of a process.
fn look(path: &str, as_nobody: bool) -> bool {
    let mut command = match as_nobody {
        true => Command::new("setpriv"),
        false => Command::new("env"),
    };
    if as_nobody {
        command.args(NOBODY);
    }
    command.args(["head", "-c", "1", path]).output().unwrap().status.success()
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_looks_into_the_process_and_it_leaves_no_core() {
    let sandbox = sandbox_with(Options::default()).await;
    let place = Place::toward(&sandbox, "");
    let as_nobody = may_be_nobody();
    let inner = place.command(&["--json"]);
    let mut command = after("ulimit -c unlimited 2>/dev/null", &inner);
    if as_nobody {
        let program = place.path().join("pleo-proxy");
        fs::copy(inner.get_program(), &program).unwrap();
        hand_over(place.path());
        let nobody = format!(
            "ulimit -c unlimited 2>/dev/null; set -- setpriv {} {} --json; shift 0",
            NOBODY.join(" "),
            program.display()
        );
        command = after(&format!("{nobody}; exec \"$@\""), &inner);
    }
    let mut proxy = Proxy::launch(command, &place.state());
    let process = format!("/proc/{}", proxy.child.id());
    let control = format!("/proc/{}/environ", std::process::id());
    let status = fs::read_to_string(format!("{process}/status")).unwrap();
    assert!(status.contains("pleo-proxy"), "{status}");
    if as_nobody {
        assert!(status.contains("Uid:\t65534"), "{status}");
        assert!(look("/proc/self/environ", true), "a user sees a process of its own");
    } else {
        assert!(look(&control, false), "a user sees a process of its own");
    }
    if as_nobody || !is_root() {
        for file in ["environ", "mem", "maps", "auxv"] {
            let path = format!("{process}/{file}");
            assert!(!look(&path, as_nobody), "{file} is open to the same user");
            assert_eq!(fs::metadata(&path).unwrap().uid(), 0, "{file}");
        }
    }
    let limits = fs::read_to_string(format!("{process}/limits")).unwrap();
    let cores = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(cores.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{cores}");

    proxy.signal("SEGV");
    proxy.signal("ABRT");
    let ended = proxy.child.wait().unwrap();
    assert!(matches!(ended.signal(), Some(6 | 11)), "{ended}");
    assert!(!ended.core_dumped());
    let names = fs::read_dir(place.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let cores: Vec<String> = names.filter(|name| name.starts_with("core")).collect();
    assert!(cores.is_empty(), "{cores:?}");
}

fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}

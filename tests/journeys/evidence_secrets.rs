//! No secret is in anything that tells of requests: whoever sends it, in whatever writing, in
//! whatever place of a request or response. A table of secrets, of writings and of ways out.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use percent_encoding::{AsciiSet, CONTROLS, NON_ALPHANUMERIC, utf8_percent_encode};
use pleo_proxy::sandbox::Options;
use reqwest::Method;
use serde_json::{Value, json};
use support::{
    After, Caller, IncomingRequest, Proxy, RawResponse, Upstream, Workspace, begin_login, client,
    config_with_api, consent, sandbox_with, text, visit, write_private,
};

use super::evidence_search::{SLICE, Search};
use super::leak_search::{API_KEY, LOCAL_KEY, Relay};

/// Every character that some writing treats in its own way.
const CLIENT_SECRET: &str = "cl1ent+s3cret/with?every% kind&of=char\"9Zk4'Tq<Wb>";

/// Where only the name says that it is a secret, or its form does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Known to the proxy: it goes into every place.
    Known,
    /// Recognised by its form: into every place too.
    Webhook,
    ApiKey,
    Presigned,
    EndpointAuth,
    Cookie,
    Bearer,
}

/// Secrets that the proxy has never seen before.
const PLANTED: [(Kind, &str); 20] = [
    (Kind::Webhook, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
    (Kind::Webhook, "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"),
    (Kind::Webhook, "whsec_plJ3nmyCDGBKInavdOK15jsl"),
    (Kind::ApiKey, "pk_live_7Hq2Zx9RtV4mKc8W"),
    (Kind::ApiKey, "api-key-of-the-caller-31"),
    (Kind::ApiKey, "K3v9TzQ1m2Jd6O"),
    (Kind::Presigned, "aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"),
    (Kind::Presigned, "frJIUN8DYpKDtOLCwo2yllqDzg"),
    (Kind::Presigned, "NpgRqNeC7xGoXw8wMuPQ"),
    (Kind::EndpointAuth, "endpoint-user-name"),
    (Kind::EndpointAuth, "endpoint password 7"),
    (Kind::EndpointAuth, "endpoint-token-u5Gh1TyE4sA"),
    (Kind::EndpointAuth, "custom-header-value"),
    (Kind::Cookie, "cookie-value-8fQ2LmZx7V"),
    (Kind::Cookie, "s%3Aq0Zr4kLw9Tn2sVd"),
    (Kind::Cookie, "b7Rk3WnP9cDx"),
    (Kind::Bearer, "callers-own-credential"),
    (Kind::Bearer, "gX3bq0Zr4kLw9Tn2sVdq"),
    (Kind::Bearer, "m2Jd6OxC0iNt"),
    (Kind::Bearer, "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl"),
];

/// A secret and what it is.
struct Planted {
    kind: Kind,
    what: String,
    secret: String,
}

/// A way to write a secret, and its name.
type Writing = (&'static str, fn(&str) -> String);

/// The writings: how a secret stands in a request.
const WRITINGS: [Writing; 10] = [
    ("raw", str::to_owned),
    ("percent", percent),
    ("double percent", |secret| percent(&percent(secret))),
    ("base64", |secret| STANDARD.encode(secret)),
    ("base64url", |secret| URL_SAFE_NO_PAD.encode(secret)),
    ("hex", |secret| secret.bytes().map(|byte| format!("{byte:02x}")).collect()),
    ("HEX", |secret| secret.bytes().map(|byte| format!("{byte:02X}")).collect()),
    ("JSON", |secret| secret.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect()),
    ("HTML", |secret| secret.chars().map(|c| format!("&#{};", u32::from(c))).collect()),
    ("Basic", |secret| STANDARD.encode(format!("client-id:{secret}"))),
];

fn percent(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

/// As it may stand in a target.
fn in_target(text: &str) -> String {
    const REFUSED: &AsciiSet =
        &CONTROLS.add(b' ').add(b'"').add(b'<').add(b'>').add(b'\\').add(b'#');
    utf8_percent_encode(text, REFUSED).to_string()
}

/// In a text of JSON; what is written with its escapes stays as it is.
fn in_json(writing: &str, text: &str) -> String {
    match writing {
        "JSON" => text.to_owned(),
        _ => json!(text).to_string().trim_matches('"').to_owned(),
    }
}

fn is_token(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

/// A request, ready to be sent.
#[derive(Default)]
struct Planting {
    method: String,
    target: String,
    lines: Vec<String>,
    body: String,
}

impl Planting {
    fn new(method: &str, target: String, content_type: &str, body: String) -> Self {
        let lines =
            vec![format!("Pleo-Proxy-Key: {LOCAL_KEY}"), format!("Content-Type: {content_type}")];
        Self { method: method.to_owned(), target, lines, body }
    }

    fn with(mut self, line: String) -> Self {
        self.lines.push(line);
        self
    }

    fn send(&self, proxy: &Proxy) -> RawResponse {
        let lines: Vec<&str> = self.lines.iter().map(String::as_str).collect();
        Caller::of(proxy).request(&self.method, &self.target, &lines, self.body.as_bytes())
    }
}

const JSON: &str = "application/json";
const FORM: &str = "application/x-www-form-urlencoded";

/// All places of a request that a caller has.
fn everywhere(writing: &str, text: &str) -> Vec<Planting> {
    let (target, quoted) = (in_target(text), in_json(writing, text));
    let body = format!("{{\"note\":\"{quoted}\",\"items\":[{{\"{quoted}\":1}},\"x {quoted} y\"]}}");
    let path = format!("/v1/fail/{target}?{target}=1&limit={target}&{target}");
    let mut all = vec![
        Planting::new("POST", path, JSON, body)
            .with(format!("User-Agent: agent/1.0 ({text})"))
            .with(format!("traceparent: {text}"))
            .with(format!("X-Note: {text}")),
        Planting::new("PUT", format!("/v1/fine?{target}"), FORM, format!("note={text}&{text}=1"))
            .with(format!("X-Note: see https://x.example/?a={text}"))
            .with(format!("Pleo-Proxy-Key: {text}")),
    ];
    if is_token(text) {
        let media = format!("application/{text}");
        all.push(
            Planting::new(text, "/v1/fine".into(), &media, text.into()).with(format!("{text}: 1")),
        );
    }
    let is_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if text.bytes().all(is_name) {
        all.push(Planting::new("GET", format!("/@{text}/v1/fine"), JSON, String::new()));
        all.push(
            Planting::new("GET", "/v1/fine".into(), JSON, String::new())
                .with(format!("Pleo-Account: {text}")),
        );
    }
    all
}

/// The places in which such a secret stands.
fn places(kind: Kind, writing: &str, text: &str) -> Vec<Planting> {
    let (target, quoted) = (in_target(text), in_json(writing, text));
    let in_form = text.replace('%', "%25").replace('&', "%26");
    let post = |body: String| Planting::new("POST", "/v1/fail/x".into(), JSON, body);
    let get = |target: String| Planting::new("GET", target, JSON, String::new());
    match kind {
        Kind::Known | Kind::Webhook => everywhere(writing, text),
        Kind::ApiKey => vec![
            post(format!("{{\"apiKey\":\"{quoted}\",\"note\":\"?api_key={quoted}\"}}"))
                .with(format!("X-Api-Key: {text}")),
            get(format!("/v1/fine?api_key={}", target.replace('&', "%26"))),
            Planting::new("PUT", "/v1/fine".into(), FORM, format!("a=1&api_key={in_form}")),
        ],
        Kind::Presigned => {
            let query = format!(
                "X-Amz-Date=1&X-Amz-Signature={}&X-Amz-Credential={0}&Signature={0}",
                in_form
            );
            let url = format!("https://files.example/a.pdf?{query}");
            vec![
                post(format!("{{\"url\":\"{}\"}}", in_json(writing, &url)))
                    .with(format!("X-Note: {url}"))
                    .with(format!("Referer: {url}")),
                get(format!("/v1/fail/x?{}&url={}", in_target(&query), percent(&url))),
            ]
        }
        Kind::EndpointAuth => vec![post(format!(
            "{{\"customHeaders\":{{\"X-A\":\"{quoted}\"}},\"endpointAuth\":{{\"type\":\"BASIC\",\"credentials\":{{\"username\":\"{quoted}\",\"password\":\"{quoted}\",\"token\":\"{quoted}\"}}}}}}"
        ))],
        Kind::Cookie => vec![get("/v1/fine".into()).with(format!("Cookie: a=b; sid={text}"))],
        Kind::Bearer => {
            let scheme = if writing == "Basic" { "Basic" } else { "Bearer" };
            vec![
                get("/v1/fail/x".into()).with(format!("Authorization: {scheme} {text}")),
                get("/v1/fine".into()).with(format!("Proxy-Authorization: {scheme} {text}")),
            ]
        }
    }
}

/// Says again what came, in every place of a response.
fn echo(incoming: &mut IncomingRequest) -> After {
    let Ok(body) = incoming.body() else { return After::Close };
    let body = String::from_utf8_lossy(&body).into_owned();
    let field = |name: &str| {
        let line = incoming.head.lines().find(|line| line.to_ascii_lowercase().starts_with(name));
        line.map_or("-", |line| line[name.len()..].trim_start_matches(':').trim()).to_owned()
    };
    let (note, key, target) = (field("x-note"), field("x-api-key"), incoming.target().to_owned());
    let (status, kind, content) = match target.starts_with("/v1/fail") {
        true => {
            let said = json!({
                "type": note, "code": note, "message": format!("no {note} at {target}: {body}"),
                "headers": {"x-api-key": key}, "note": note,
            });
            ("403 Forbidden", JSON, said.to_string())
        }
        false if target.contains('?') => ("200 OK", "text/plain", format!("{target}\n{body}")),
        false => ("200 OK", FORM, body),
    };
    incoming.respond(format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nX-Echo: {note}\r\n\
         Set-Cookie: sid={key}; Path=/\r\nLocation: https://x.example{target}\r\n\r\n{content}",
        content.len()
    ));
    After::Keep
}

/// The proxy, all secrets, and all that was told.
struct Run {
    workspace: Workspace,
    proxy: Proxy,
    secrets: Vec<Planted>,
    told: Vec<(String, Vec<u8>)>,
}

impl Run {
    fn keep(&mut self, what: &str, secret: &str) {
        if self.secrets.iter().all(|known| known.secret != secret) {
            let (what, secret) = (what.to_owned(), secret.to_owned());
            self.secrets.push(Planted { kind: Kind::Known, what, secret });
        }
    }

    fn tell(&mut self, place: impl Into<String>, text: impl Into<Vec<u8>>) {
        self.told.push((place.into(), text.into()));
    }

    /// The tokens that the store holds now.
    fn harvest(&mut self, account: &str) {
        let grant = self.workspace.stored_json(account)["record"]["grant"].take();
        for kind in ["access_token", "refresh_token"] {
            self.keep(kind, &text(&grant[kind]));
        }
    }

    async fn login(&mut self, account: &str) {
        let url = begin_login(&self.proxy, account).await;
        let back = consent(&url).await;
        for (name, value) in back.query_pairs() {
            if ["code", "state"].contains(&&*name) {
                self.keep(&name, &value);
            }
        }
        assert_eq!(visit(back).await.0, 200);
        self.harvest(account);
    }

    async fn page_session(&mut self) {
        let link = self.proxy.admin(Method::POST, "/api/session", None).await;
        let link = link.text().await.unwrap();
        let key = link.split("#key=").nth(1).unwrap().split('"').next().unwrap().to_owned();
        let request = client().post(format!("{}/api/session", self.proxy.admin));
        let request = request.header("origin", &self.proxy.admin).json(&json!({"key": key}));
        let response = request.send().await.unwrap();
        let cookie = response.headers()["set-cookie"].to_str().unwrap().to_owned();
        self.keep("link key", &key);
        self.keep("page session", cookie.split(['=', ';']).nth(1).unwrap());
    }

    async fn get(&mut self, target: &str) -> String {
        let response = self.proxy.admin(Method::GET, target, None).await;
        let body = response.text().await.unwrap();
        let place = target.split(['?', '-']).next().unwrap();
        self.tell(place, body.clone());
        body
    }

    fn command(&mut self, arguments: &[&str]) -> Output {
        let mut command = self.workspace.command(arguments);
        let output = command.env("PLEO_PROXY_CLIENT_SECRET", CLIENT_SECRET).output().unwrap();
        self.tell(format!("stdout of {}", arguments.join(" ")), output.stdout.clone());
        self.tell(format!("stderr of {}", arguments.join(" ")), output.stderr.clone());
        output
    }

    /// What the proxy itself adds to a response. Its errors are for the caller alone, and repeat the
    /// name of an account that there is not.
    fn hear(&mut self, response: &RawResponse) {
        let own = |line: &&str| line.to_ascii_lowercase().starts_with("pleo-proxy-");
        let own: Vec<&str> = response.head.lines().filter(own).collect();
        self.tell("headers of the proxy", own.join("\n"));
    }
}

/// Sends every secret in every writing from every place; returns how many requests were answered.
fn send_all(run: &mut Run) -> usize {
    let mut answers = Vec::new();
    for planted in &run.secrets {
        for (writing, write) in WRITINGS {
            for planting in places(planted.kind, writing, &write(&planted.secret)) {
                answers.push(planting.send(&run.proxy));
            }
        }
    }
    let known = run.secrets.iter().filter(|it| it.kind == Kind::Known);
    // Three are enough: all are searched for in the same way.
    for planting in known.take(3).flat_map(|it| cut_inside(&it.secret)) {
        answers.push(planting.send(&run.proxy));
    }
    answers.iter().for_each(|answer| run.hear(answer));
    answers.len()
}

/// Requests so long that what is kept of them ends inside the secret.
fn cut_inside(secret: &str) -> Vec<Planting> {
    let (target, body) = (in_target(secret), "a".repeat(70_000) + secret);
    let padded = |max: usize| "a".repeat(max - SLICE - 3);
    let get = |target: String| Planting::new("GET", target, JSON, String::new());
    vec![
        get(format!("/v1/{}{target}", padded(4096 - 4))),
        get(format!("/v1/fine?{}{target}", padded(4096 - 9))),
        get("/v1/fine".into())
            .with(format!("User-Agent: {}{secret}", padded(256)))
            .with(format!("traceparent: {}{secret}", padded(256))),
        Planting::new(
            "POST",
            "/v1/fail/x".into(),
            JSON,
            format!("{{\"a\":\"{}\"}}", percent(&body)),
        ),
    ]
}

/// Events of the whole run so far, as a page that comes late gets them.
async fn events(run: &mut Run, name: &str, last: u64) {
    let target = format!("/api/events?last={name}.0");
    let mut response = run.proxy.admin(Method::GET, &target, None).await;
    let (mut stream, end) = (Vec::new(), format!("id: {name}.{last}"));
    let ended = |stream: &[u8]| String::from_utf8_lossy(stream).contains(&end);
    while !ended(&stream[stream.len().saturating_sub(600_000)..]) {
        let chunk = tokio::time::timeout(Duration::from_secs(60), response.chunk()).await;
        stream.extend_from_slice(&chunk.expect("events go on").unwrap().unwrap());
    }
    run.tell("/api/events", stream);
}

/// Waits until the log has all requests; the name of the run, and how many they are.
async fn all_noted(run: &Run, sent: usize) -> (String, u64) {
    for _ in 0..1200 {
        let target = "/api/requests?limit=1";
        let list = run.proxy.admin(Method::GET, target, None).await;
        let list: Value = list.json().await.unwrap();
        let last = list["last_seq"].as_u64().unwrap();
        if last >= sent as u64 {
            return (text(&list["run"]), last);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the log never had {sent} requests")
}

/// Everything that tells of requests.
async fn collect(run: &mut Run, sent: usize) {
    let (name, last) = all_noted(run, sent).await;
    run.get("/api/requests?limit=1000").await;
    events(run, &name, last).await;
    for number in 1..=last {
        let id = format!("{name}-{number}");
        let detail: Value =
            serde_json::from_str(&run.get(&format!("/api/requests/{id}")).await).unwrap();
        run.get(&format!("/api/curl/{id}")).await;
        if number % 50 == 0 {
            assert_eq!(detail["entry"]["captured"], true, "{detail}");
            run.command(&["why", &id]);
        }
    }
    for target in ["/api/har", "/api/har?pseudonyms=true"] {
        let archive: Value = serde_json::from_str(&run.get(target).await).unwrap();
        assert!(archive["log"]["entries"].as_array().unwrap().len() >= sent, "{target}");
    }
    for target in ["report", "rate", "stats", "status", "capture"] {
        run.get(&format!("/api/{target}")).await;
    }
    run.get("/metrics").await;
    for planted in 0..run.secrets.len() {
        let secret = percent(&run.secrets[planted].secret);
        run.get(&format!("/api/why?method=GET&path=/v1/{secret}")).await;
    }
    let count = (last + 1).to_string();
    for arguments in [
        &["--json", "logs", "-n", &count][..],
        &["logs", "-n", &count],
        &["--json", "status"],
        &["status"],
        &["--json", "report"],
        &["report"],
        &["har", "-o", "evidence.har", "--filter", "method:GET"],
        &["har", "-o", "pseudonyms.har", "--pseudonyms", "--filter", "method:PUT"],
    ] {
        let output = run.command(arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    for arguments in [&["doctor", "--bundle", "bundle.txt"][..], &["--json", "doctor"]] {
        let output = run.command(arguments);
        // The account may lack a scope that one of these requests needs.
        assert!([Some(0), Some(5)].contains(&output.status.code()), "{output:?}");
    }
}

/// Files that tell of requests, and those of the run: all are private. Returns their names.
fn files(run: &mut Run) -> String {
    let mut folders = vec![run.workspace.path().to_owned()];
    let mut names = String::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().flatten() {
            let (path, name) = (entry.path(), entry.file_name().into_string().unwrap());
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, 0o600, "{}", path.display());
            let is_record = ["default.json", "acme.json"].contains(&&*name);
            if !is_record && !["admin.key", "local-key", "api-key"].contains(&&*name) {
                run.tell(format!("file {name}"), fs::read(&path).unwrap());
            }
            writeln!(names, "{name}").unwrap();
        }
    }
    names
}

async fn start(upstream: &Upstream) -> (Run, Relay, pleo_proxy::sandbox::Sandbox) {
    let options = Options { client_secret: CLIENT_SECRET.into(), ..Options::default() };
    let sandbox = sandbox_with(options).await;
    let relay = Relay::before(sandbox.auth);
    let more = "[accounts.keyed]\napi_key_file = \"api-key\"\n\
                [guard]\nlocal_key_file = \"local-key\"\n[log]\nrequests = \"requests.jsonl\"\n\
                [inspect]\nrequests = 20000\nmemory = \"256MiB\"\n";
    let config = config_with_api(&sandbox, &upstream.origin, more);
    let through =
        sandbox.token_url().replace(&sandbox.auth.to_string(), &relay.address.to_string());
    let workspace = Workspace::new(&config.replace(&sandbox.token_url(), &through));
    write_private(&workspace.path().join("local-key"), LOCAL_KEY);
    write_private(&workspace.path().join("api-key"), API_KEY);
    let mut serve = workspace.command(&["--json", "--log", "trace"]);
    serve.env("PLEO_PROXY_CLIENT_SECRET", CLIENT_SECRET).env("RUST_LOG", "trace");
    let proxy = Proxy::launch(serve, &workspace.state());
    let planted = PLANTED.map(|(kind, secret)| Planted {
        kind,
        what: format!("{kind:?}"),
        secret: secret.to_owned(),
    });
    let mut run = Run { workspace, proxy, secrets: planted.into(), told: Vec::new() };
    run.keep("client secret", CLIENT_SECRET);
    run.keep("local key", LOCAL_KEY);
    run.keep("API key", API_KEY);
    run.keep("admin key", &run.proxy.key.clone());
    run.login("default").await;
    for _ in 0..2 {
        run.proxy.force_refresh("default").await;
        run.harvest("default");
    }
    run.login("acme").await;
    run.proxy.force_refresh("acme").await;
    run.harvest("acme");
    run.page_session().await;
    for verifier in relay.values("code_verifier=", &['&', ' ', '\r', '\n']) {
        run.keep("verifier", &verifier);
    }
    (run, relay, sandbox)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_in_any_writing_from_any_place_leaves_by_any_way() {
    let upstream = Upstream::start(echo);
    let (mut run, _relay, _sandbox) = start(&upstream).await;
    assert!(run.secrets.len() >= 40, "{} secrets", run.secrets.len());
    let capture = Some(json!({"for_s": 3600}));
    assert_eq!(run.proxy.admin(Method::POST, "/api/capture", capture).await.status(), 200);
    clean_curl_line(&run).await;
    let sent = send_all(&mut run);
    let arrived = upstream.requests().len();
    assert!(arrived * 2 > sent, "{arrived} of {sent} arrived");
    collect(&mut run, sent).await;
    files(&mut run);
    // The use of operations is saved at the end at the latest.
    run.proxy.signal("TERM");
    assert!(run.proxy.child.wait().unwrap().success());
    let names = files(&mut run);
    for wanted in
        ["requests.jsonl", "evidence.har", "pseudonyms.har", "operation_usage.json", "bundle.txt"]
    {
        assert!(names.contains(wanted), "{names}");
    }
    let log = run.proxy.log();
    run.tell("log", log);

    let search = Search::new(run.secrets.iter().map(|it| (&*it.what, &*it.secret)));
    let mut found = Vec::new();
    for (place, text) in &run.told {
        found.extend(search.hits(text).into_iter().map(|hit| format!("{place}: {hit}")));
    }
    found.sort();
    found.dedup();
    assert!(
        found.is_empty(),
        "{} leaks\n{}",
        found.len(),
        found[..found.len().min(400)].join("\n")
    );
    // The search is not blind: it finds each secret in each writing.
    for planted in &run.secrets {
        for (writing, write) in WRITINGS {
            let text = format!("path=/v1/x note={} ", write(&planted.secret));
            assert!(!search.hits(text.as_bytes()).is_empty(), "{}: {writing}", planted.what);
        }
    }
}

async fn clean_curl_line(run: &Run) {
    let sent = Planting::new("GET", "/v1/fine".into(), JSON, String::new()).send(&run.proxy);
    assert_eq!(sent.status, 200);
    let id = sent.header("pleo-proxy-request").unwrap();
    all_noted(run, 1).await;
    let line = run.proxy.admin(Method::GET, &format!("/api/curl/{id}"), None).await;
    let line = line.text().await.unwrap();
    let script = format!("{} -sS -o /dev/null -w '%{{http_code}}'", line.trim_end());
    let output = Command::new("sh").args(["-c", &script]).env("PLEO_PROXY_KEY", LOCAL_KEY).output();
    let output = output.unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "200", "{line}");
}

//! `doctor`: each broken set-up is named with what to do, good ones raise no alarm, and nothing is
//! changed or used up.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use std::any::Any;
use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pleo_proxy::sandbox::{Faults, Sandbox};
use pleo_proxy::store::Record;
use serde_json::Value;
use support::command::{
    DEGRADED, FAILED, LOGIN_REQUIRED, SUCCESS, USAGE, code, json_output, stderr, stdout,
};
use support::{
    IncomingRequest, TIMEOUT, Upstream, Workspace, certificate_for, config_with_api,
    expired_certificate_for, sandbox, write_private,
};

/// Milliseconds of a day.
const DAY: i64 = 86_400_000;

/// A set-up to be examined, and what must stay alive meanwhile.
struct Scene {
    workspace: Workspace,
    sandbox: Option<Sandbox>,
    command: Command,
    _held: Vec<Box<dyn Any>>,
}

/// What `doctor` must say about a set-up.
struct Expected {
    check: &'static str,
    code: &'static str,
    /// A part of what to do.
    fix: &'static str,
    exit: i32,
}

const fn expect(check: &'static str, code: &'static str, fix: &'static str, exit: i32) -> Expected {
    Expected { check, code, fix, exit }
}

impl Scene {
    fn new(workspace: Workspace, sandbox: Option<Sandbox>) -> Self {
        let command = workspace.command(&["doctor", "--json"]);
        Self { workspace, sandbox, command, _held: Vec::new() }
    }

    fn holding(mut self, held: impl Any) -> Self {
        self._held.push(Box::new(held));
        self
    }

    /// Runs `doctor`, which posts no token request and changes nothing.
    fn run(&mut self) -> Output {
        let posts = |sandbox: &Option<Sandbox>| {
            sandbox.as_ref().map(|sandbox| sandbox.counters().token_posts)
        };
        let before = (posts(&self.sandbox), snapshot(self.workspace.path()));
        let output = self.command.output().unwrap();
        let after = (posts(&self.sandbox), snapshot(self.workspace.path()));
        assert_eq!(before, after, "{}", stdout(&output));
        output
    }

    fn must_say(&mut self, name: &str, expected: &Expected) {
        let output = self.run();
        let report = json_output(&output);
        let said = problems(&report)
            .into_iter()
            .find(|problem| problem["check"] == expected.check && problem["code"] == expected.code);
        let said = said.unwrap_or_else(|| panic!("{name}: {report:#}"));
        let fix = said["fix"].as_str().unwrap();
        assert!(fix.contains(expected.fix), "{name}: {fix}");
        assert!(!said["title"].as_str().unwrap().is_empty(), "{name}: {said}");
        assert_eq!(code(&output), expected.exit, "{name}: {report:#}");
        assert_eq!(report["exit"], expected.exit, "{name}");
    }
}

/// All files below a folder with their content, mode and time of change.
fn snapshot(folder: &Path) -> BTreeMap<String, (u32, SystemTime, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().flatten() {
            // A proxy that runs saves its counters now and then.
            if entry.file_name() == "operation_usage.json" {
                continue;
            }
            let (path, metadata) = (entry.path(), entry.metadata().unwrap());
            let content = if metadata.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
            if metadata.is_dir() {
                folders.push(path.clone());
            }
            let mode = metadata.permissions().mode();
            found.insert(path.display().to_string(), (mode, metadata.modified().unwrap(), content));
        }
    }
    found
}

/// What is not well, without what only says that something was not looked at.
fn problems(report: &Value) -> Vec<Value> {
    let checks = report["checks"].as_array().unwrap();
    checks.iter().filter(|it| it["outcome"] == "warn" || it["outcome"] == "fail").cloned().collect()
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// A workspace whose account `default` was connected by a proxy that has ended.
async fn connected(more: &str) -> (Workspace, Sandbox) {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, more);
    let proxy = workspace.serve();
    proxy.login("default").await;
    let (ended, log) = proxy.terminate();
    assert!(ended.success(), "{log}");
    (workspace, sandbox)
}

async fn connected_scene() -> Scene {
    let (workspace, sandbox) = connected("").await;
    Scene::new(workspace, Some(sandbox))
}

/// The configuration of a connected account, changed.
async fn reconfigured(change: impl FnOnce(&str) -> String) -> Scene {
    let (workspace, sandbox) = connected("").await;
    let file = workspace.path().join("proxy.toml");
    workspace.configure(&change(&fs::read_to_string(file).unwrap()));
    Scene::new(workspace, Some(sandbox))
}

fn change_record(workspace: &Workspace, account: &str, change: impl FnOnce(&mut Record)) {
    let path = workspace.record(account);
    let mut record = Record::decode(&fs::read(&path).unwrap()).unwrap();
    change(&mut record);
    fs::write(&path, record.encode().as_slice()).unwrap();
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    i64::try_from(since.as_millis()).unwrap()
}

/// A configuration for an API of the test's own, with a client, and without an account.
async fn before_api(origin: &str, more: &str) -> Scene {
    let sandbox = sandbox().await;
    let workspace = Workspace::new(&config_with_api(&sandbox, origin, more));
    Scene::new(workspace, Some(sandbox))
}

/// The same with a server over TLS whose root is trusted or not.
async fn before_tls((root, config): (String, rustls::ServerConfig), is_trusted: bool) -> Scene {
    let upstream = Upstream::secure(config, IncomingRequest::respond_ok);
    let mut scene = before_api(&upstream.origin, "").await;
    if is_trusted {
        let file = scene.workspace.path().join("ca.pem");
        write_private(&file, &root);
        scene.command.args(["--set", &format!("endpoints.ca_file=\"{}\"", file.display())]);
    }
    scene.holding(upstream)
}

/// An outbound proxy that answers every request in one way.
fn outbound_proxy(response: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(response.as_bytes());
        }
    });
    origin
}

/// An address of this machine that no test listens at.
const UNUSED: &str = "127.0.0.78:9";

async fn every_case(cases: Vec<(&str, Scene, Expected)>) {
    for (name, mut scene, expected) in cases {
        scene.must_say(name, &expected);
    }
}

// --- Broken set-ups.

async fn lax_secret() -> Scene {
    let mut scene =
        reconfigured(|text| text.replace("[client]\n", "[client]\nsecret_file = \"hush\"\n")).await;
    let file = scene.workspace.path().join("hush");
    write_private(&file, "sandbox-secret");
    chmod(&file, 0o644);
    scene.command.env_remove("PLEO_PROXY_CLIENT_SECRET");
    scene
}

async fn no_secret() -> Scene {
    let mut scene = connected_scene().await;
    scene.command.env_remove("PLEO_PROXY_CLIENT_SECRET");
    scene
}

async fn readable_password() -> Scene {
    let more = "[upstream]\nproxy = \"http://user:hush@127.0.0.1:9\"\n";
    let scene = reconfigured(|text| format!("{text}{more}")).await;
    chmod(&scene.workspace.path().join("proxy.toml"), 0o644);
    scene
}

async fn few_files() -> Scene {
    let mut scene = connected_scene().await;
    let program = env!("CARGO_BIN_EXE_pleo-proxy");
    let mut shell = Command::new("sh");
    shell.args(["-c", "ulimit -n 128; exec \"$0\" doctor --json", program]);
    shell.current_dir(scene.workspace.path()).env("HOME", scene.workspace.path());
    shell.env("PLEO_PROXY_CLIENT_SECRET", "sandbox-secret");
    scene.command = shell;
    scene
}

async fn odd_roots() -> Scene {
    let mut scene = before_api("https://external.test.invalid", "").await;
    write_private(&scene.workspace.path().join("ca.pem"), "no certificate");
    scene.command.args(["--set", "endpoints.ca_file=\"ca.pem\""]);
    scene
}

async fn socks() -> Scene {
    let mut scene = before_api("https://external.test.invalid", "").await;
    scene.command.env("HTTPS_PROXY", "socks5://127.0.0.1:9");
    scene
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_in_the_configuration_are_named_with_their_fix() {
    let example = |text: &str| text.replace("sandbox-client", "your-client-id");
    let typing = |text: &str| text.replace("scopes =", "scops =");
    let production = |text: &str| text.replace("\"sandbox\"", "\"production\"");
    every_case(vec![
        (
            "lax secret",
            lax_secret().await,
            expect("client_secret", "client_secret", "chmod 600", USAGE),
        ),
        (
            "no secret",
            no_secret().await,
            expect("client_secret", "client_secret", "secret_file", USAGE),
        ),
        (
            "placeholder",
            reconfigured(example).await,
            expect("configuration", "placeholder", "the id that Pleo gave you", USAGE),
        ),
        (
            "unknown key",
            reconfigured(typing).await,
            expect("configuration", "unknown_name", "client.scopes", USAGE),
        ),
        (
            "password",
            readable_password().await,
            expect("config_file", "readable_password", "chmod 600", DEGRADED),
        ),
        (
            "redirect URI",
            reconfigured(production).await,
            expect("redirect_uri", "redirect_uri", "client.redirect_uri", LOGIN_REQUIRED),
        ),
        ("few files", few_files().await, expect("file_limit", "file_limit", "ulimit", DEGRADED)),
        (
            "roots that are none",
            odd_roots().await,
            expect("configuration", "file", "PEM certificates", USAGE),
        ),
        ("SOCKS", socks().await, expect("outbound_proxy", "outbound", "upstream.proxy", USAGE)),
    ])
    .await;
}

async fn port_taken() -> Scene {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut scene = connected_scene().await;
    scene.command.args(["--set", &format!("listen.api=\"{address}\"")]);
    scene.holding(listener)
}

/// By a proxy of another environment.
async fn port_taken_by_proxy() -> Scene {
    let (workspace, sandbox) = connected("").await;
    let text = fs::read_to_string(workspace.path().join("proxy.toml")).unwrap();
    write_private(
        &workspace.path().join("staging.toml"),
        &text.replace("\"sandbox\"", "\"staging\""),
    );
    let mut command = workspace.command(&["--json", "--config", "staging.toml"]);
    command.stdin(std::process::Stdio::null());
    let other = support::Proxy::launch(command, &workspace.path().join("state/staging"));
    let address = other.address();
    let mut scene = Scene::new(workspace, Some(sandbox));
    scene.command.args(["--set", &format!("listen.admin=\"{address}\"")]);
    scene.holding(other)
}

async fn stopped_proxy() -> Scene {
    let (workspace, sandbox) = connected("").await;
    let proxy = workspace.serve();
    proxy.signal("STOP");
    Scene::new(workspace, Some(sandbox)).holding(proxy)
}

async fn lax_folder() -> Scene {
    let scene = connected_scene().await;
    chmod(&scene.workspace.state(), 0o755);
    scene
}

async fn lax_key() -> Scene {
    let scene = connected_scene().await;
    chmod(&scene.workspace.state().join("admin.key"), 0o644);
    scene
}

async fn lax_record() -> Scene {
    let scene = connected_scene().await;
    chmod(&scene.workspace.record("default"), 0o644);
    scene
}

async fn damaged_record() -> Scene {
    let scene = connected_scene().await;
    let path = scene.workspace.record("default");
    let good = fs::read(&path).unwrap();
    fs::write(&path, &good[..good.len() / 2]).unwrap();
    scene
}

async fn held_lock() -> Scene {
    let scene = connected_scene().await;
    let lock =
        fs::File::options().write(true).open(scene.workspace.state().join("default.lock")).unwrap();
    lock.lock().unwrap();
    fs::write(scene.workspace.state().join("default.lock"), std::process::id().to_string())
        .unwrap();
    scene.holding(lock)
}

async fn odd_lock() -> Scene {
    let scene = connected_scene().await;
    let path = scene.workspace.state().join("default.lock");
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    scene
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_processes_and_the_store_are_named_with_their_fix() {
    every_case(vec![
        (
            "port taken",
            port_taken().await,
            expect("ports", "port_taken", "another address for listen.api", FAILED),
        ),
        (
            "port taken by a proxy",
            port_taken_by_proxy().await,
            expect("ports", "port_taken_by_proxy", "kill", FAILED),
        ),
        ("stopped proxy", stopped_proxy().await, expect("proxy", "unresponsive", "kill", FAILED)),
        ("lax folder", lax_folder().await, expect("store", "store_folder", "chmod 700", USAGE)),
        ("lax key", lax_key().await, expect("store", "store_folder", "chmod 600", USAGE)),
        ("lax record", lax_record().await, expect("record", "record", "chmod 600", FAILED)),
        (
            "damaged record",
            damaged_record().await,
            expect("record", "record", "log in again", FAILED),
        ),
        ("held lock", held_lock().await, expect("locks", "lock_held", "kill", DEGRADED)),
        ("odd lock", odd_lock().await, expect("locks", "lock_file", "rm ", FAILED)),
    ])
    .await;
}

/// The sandbox with its clock ten minutes ahead.
async fn wrong_clock() -> Scene {
    let scene = connected_scene().await;
    let faults = Faults { date_offset_s: 600, ..Faults::default() };
    scene.sandbox.as_ref().unwrap().set_faults(faults);
    scene
}

async fn through(proxy: &str) -> Scene {
    let more = format!("[upstream]\nproxy = \"{proxy}\"\n");
    before_api("https://external.test.invalid", &more).await
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_on_the_way_to_pleo_is_named_with_its_fix() {
    let wants_password =
        outbound_proxy("HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n");
    let refusing = format!("https://{UNUSED}");
    every_case(vec![
        (
            "unknown root",
            before_tls(certificate_for("127.0.0.1"), false).await,
            expect("tls", "unknown_issuer", "endpoints.ca_file", FAILED),
        ),
        (
            "expired certificate",
            before_tls(expired_certificate_for("127.0.0.1"), true).await,
            expect("tls", "certificate_expired", "clock", FAILED),
        ),
        (
            "wrong name",
            before_tls(certificate_for("other.example"), true).await,
            expect("tls", "wrong_name", "[endpoints]", FAILED),
        ),
        (
            "unknown name",
            before_api("https://external.test.invalid", "").await,
            expect("dns", "name_not_found", "name server", FAILED),
        ),
        (
            "refused connection",
            before_api(&refusing, "").await,
            expect("tcp", "connection_refused", "[endpoints]", FAILED),
        ),
        (
            "dead outbound proxy",
            through(&format!("http://{UNUSED}")).await,
            expect("outbound_proxy", "proxy_unreachable", "host and port of the proxy", FAILED),
        ),
        (
            "outbound proxy with a password",
            through(&wants_password).await,
            expect("outbound_proxy", "proxy_credentials", "password", FAILED),
        ),
        ("wrong clock", wrong_clock().await, expect("clock", "clock", "NTP", DEGRADED)),
    ])
    .await;
}

async fn revoked() -> Scene {
    let scene = connected_scene().await;
    scene.sandbox.as_ref().unwrap().revoke_all();
    scene
}

/// A copy of the store refreshes the grant.
async fn copied_store() -> Scene {
    let (workspace, sandbox) = connected("").await;
    let copy = Workspace::for_sandbox(&sandbox, "");
    fs::create_dir_all(copy.state()).unwrap();
    for folder in [copy.path().join("state"), copy.state()] {
        chmod(&folder, 0o700);
    }
    write_private(
        &copy.record("default"),
        &fs::read_to_string(workspace.record("default")).unwrap(),
    );
    let refreshed = copy.run(&["refresh", "--force"]);
    assert_eq!(code(&refreshed), SUCCESS, "{}", stderr(&refreshed));
    Scene::new(workspace, Some(sandbox)).holding(copy)
}

async fn aged(days: i64) -> Scene {
    let scene = connected_scene().await;
    change_record(&scene.workspace, "default", |record| {
        record.grant.as_mut().unwrap().refreshed_at = now() - days * DAY;
    });
    scene
}

/// Its operations need scopes that its login does not have.
async fn lacking_scopes() -> Scene {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let proxy = workspace.serve();
    proxy.login("default").await;
    assert_eq!(proxy.get("/v3/export-jobs").await.status(), 403);
    let (ended, log) = proxy.terminate();
    assert!(ended.success(), "{log}");
    Scene::new(workspace, Some(sandbox))
}

async fn same_company_twice() -> Scene {
    let scene = connected_scene().await;
    let record = fs::read_to_string(scene.workspace.record("default")).unwrap();
    write_private(&scene.workspace.record("twin"), &record);
    scene
}

async fn refused_secret() -> Scene {
    let mut scene = connected_scene().await;
    scene.command.env("PLEO_PROXY_CLIENT_SECRET", "another-secret");
    scene
}

async fn logged_out() -> Scene {
    let scene = connected_scene().await;
    let out = scene.workspace.run(&["logout"]);
    assert_eq!(code(&out), SUCCESS, "{}", stderr(&out));
    scene
}

async fn never_connected() -> Scene {
    let sandbox = sandbox().await;
    Scene::new(Workspace::for_sandbox(&sandbox, ""), Some(sandbox))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_an_account_is_named_with_its_fix() {
    let wanting =
        |text: &str| text.replace("[\"companies:read\"]", "[\"companies:read\", \"users:read\"]");
    every_case(vec![
        (
            "revoked",
            revoked().await,
            expect("grant", "grant_inactive", "login default", LOGIN_REQUIRED),
        ),
        (
            "copied store",
            copied_store().await,
            expect("grant", "grant_inactive", "a copy of the store", LOGIN_REQUIRED),
        ),
        (
            "55 days",
            aged(55).await,
            expect("refresh_token", "grant_age", "refresh default", DEGRADED),
        ),
        ("the future", aged(-2).await, expect("clock", "clock", "set the clock", DEGRADED)),
        (
            "scopes needed",
            lacking_scopes().await,
            expect("scopes", "scopes_needed", "client.scopes", DEGRADED),
        ),
        (
            "scopes not granted",
            reconfigured(wanting).await,
            expect("scopes", "scopes_not_granted", "login default", DEGRADED),
        ),
        (
            "company twice",
            same_company_twice().await,
            expect("owner", "second_owner", "logout twin", FAILED),
        ),
        (
            "refused secret",
            refused_secret().await,
            expect("grant", "client_secret", "client.secret_file", USAGE),
        ),
        (
            "logged out",
            logged_out().await,
            expect("account", "login_required", "login default", LOGIN_REQUIRED),
        ),
        (
            "never connected",
            never_connected().await,
            expect("account", "login_required", "pleo-proxy login", LOGIN_REQUIRED),
        ),
    ])
    .await;
}

// --- Good set-ups.

fn must_be_content(name: &str, scene: &mut Scene) {
    let output = scene.run();
    let report = json_output(&output);
    assert_eq!(problems(&report), Vec::<Value>::new(), "{name}");
    assert_eq!((code(&output), report["outcome"].as_str()), (SUCCESS, Some("fine")), "{name}");
    assert!(report["counts"]["pass"].as_u64().unwrap() > 8, "{report:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn good_set_ups_raise_no_alarm() {
    let any =
        "[listen]\napi = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\n[store]\npath = \"state\"\n";
    let workspace = Workspace::new(&format!("environment = \"sandbox\"\n{any}"));
    let proxy = workspace.serve();
    assert_eq!(proxy.get("/v1/companies").await.status(), 200);
    must_be_content("embedded sandbox", &mut Scene::new(workspace, None).holding(proxy));

    let external = sandbox().await;
    let workspace = Workspace::for_sandbox(&external, "");
    let proxy = workspace.serve();
    proxy.login("default").await;
    assert_eq!(proxy.get("/v1/companies").await.status(), 200);
    let mut scene = Scene::new(workspace, Some(external)).holding(proxy);
    must_be_content("a proxy that runs", &mut scene);

    let mut scene = connected_scene().await;
    scene.command.args(["--set", "listen.api=\"127.0.0.77:8088\""]);
    must_be_content("another port, and no proxy", &mut scene);
}

// --- The command itself.

#[tokio::test(flavor = "multi_thread")]
async fn the_report_is_text_for_people_and_json_for_programs() {
    let mut scene = connected_scene().await;
    scene.sandbox.as_ref().unwrap().revoke_all();
    let output = scene.workspace.run(&["doctor"]);
    let text = stdout(&output);
    assert_eq!(code(&output), LOGIN_REQUIRED, "{text}");
    for line in [
        "pass  configuration: ",
        "pass  account default: connected as Harbour Coffee ApS\n",
        "fail  grant default: the authorization server does not accept",
        "\n      fix: stop what else uses this client",
        " passed, 0 warned, 1 failed, ",
    ] {
        assert!(text.contains(line), "{line} is not in:\n{text}");
    }
    let report = json_output(&scene.run());
    let failed = &problems(&report)[0];
    assert_eq!(
        (&failed["about"], &failed["outcome"], &failed["place"]),
        (&"default".into(), &"fail".into(), &Value::Null)
    );
    let nobody = scene.workspace.run(&["doctor", "--account", "nobody"]);
    assert_eq!(code(&nobody), USAGE);
    assert!(stderr(&nobody).contains("no account nobody"), "{}", stderr(&nobody));
    let named = scene.workspace.run(&["doctor", "--account", "default", "--json"]);
    assert_eq!(problems(&json_output(&named)).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mistake_in_the_file_is_shown_with_its_place() {
    let scene = reconfigured(|text| text.replace("scopes =", "scops =")).await;
    let output = scene.workspace.run(&["doctor"]);
    let text = stdout(&output);
    assert!(text.contains("unknown key `client.scops` (proxy.toml:7:1)"), "{text}");
    assert!(text.contains("\nskip  account: the configuration must be mended first"), "{text}");
    let file = scene.workspace.path().join("bundle.txt");
    let output = scene.workspace.run(&["doctor", "--bundle", "bundle.txt"]);
    assert_eq!(code(&output), USAGE);
    assert!(fs::read_to_string(file).unwrap().contains("client.scops"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_has_everything_and_is_private_and_replaces_nothing() {
    let external = sandbox().await;
    let workspace = Workspace::for_sandbox(&external, "");
    let proxy = workspace.serve();
    proxy.login("default").await;
    assert_eq!(proxy.get("/v1/companies?note=blue").await.status(), 200);
    let written = workspace.run(&["doctor", "--bundle", "bundle.txt", "--json"]);
    assert_eq!(code(&written), SUCCESS, "{}", stdout(&written));
    assert_eq!(json_output(&written)["bundle"], "bundle.txt");
    let file = workspace.path().join("bundle.txt");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let text = fs::read_to_string(&file).unwrap();
    for part in [
        "== version\npleo-proxy 0.1.0 ",
        "== system\nLinux ",
        "== checks\npass  configuration: ",
        "== configuration\n# from ",
        "== status\n{",
        "\"state\": \"connected\"",
        "== latest requests\n{",
        "/v1/companies",
        "== report\n{",
        "GET /v1/companies",
        "== metrics\n",
        "pleo_proxy_",
    ] {
        assert!(text.contains(part), "{part} is not in:\n{text}");
    }
    let record = workspace.stored_json("default")["record"]["grant"].take();
    for secret in ["access_token", "refresh_token"] {
        assert!(!text.contains(record[secret].as_str().unwrap()));
    }
    assert!(!text.contains(&proxy.key) && !text.contains("sandbox-secret"));

    fs::write(&file, "mine").unwrap();
    let refused = workspace.run(&["doctor", "--bundle", "bundle.txt"]);
    assert_eq!(code(&refused), USAGE);
    assert!(stderr(&refused).contains("--force"), "{}", stderr(&refused));
    assert_eq!(fs::read_to_string(&file).unwrap(), "mine");
    let forced = workspace.run(&["doctor", "--bundle", "bundle.txt", "--force"]);
    assert_eq!(code(&forced), SUCCESS);
    assert!(fs::read_to_string(&file).unwrap().contains("== checks"));
    let unwritable = workspace.run(&["doctor", "--bundle", "nowhere/bundle.txt"]);
    assert_eq!(code(&unwritable), FAILED);
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_in_a_wrong_setting_are_not_in_a_bundle_in_any_writing() {
    let secret = "q7Lm-client-secret_4711Xz";
    let hidden = [
        secret.to_owned(),
        STANDARD.encode(secret),
        secret.bytes().map(|byte| format!("%{byte:02x}")).collect(),
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_owned(),
    ];
    let scopes: Vec<_> = hidden.iter().map(|hidden| format!("\"{hidden}\"")).collect();
    let (workspace, _sandbox) = connected("").await;
    let text = fs::read_to_string(workspace.path().join("proxy.toml")).unwrap();
    workspace.configure(&text.replace("\"companies:read\"", &scopes.join(", ")));
    let mut command = workspace.command(&["doctor", "--bundle", "bundle.txt"]);
    let output = command.env("PLEO_PROXY_CLIENT_SECRET", secret).output().unwrap();
    assert!(code(&output) != SUCCESS, "the secret is not the sandbox's");
    let bundle = fs::read_to_string(workspace.path().join("bundle.txt")).unwrap();
    for hidden in hidden {
        assert!(!bundle.contains(&hidden), "{hidden} is in\n{bundle}");
    }
    assert!(bundle.contains("scopes = ["), "{bundle}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_record_that_was_put_back_is_named_while_the_proxy_knows_the_newer_one() {
    let external = sandbox().await;
    let workspace = Workspace::for_sandbox(&external, "");
    let proxy = workspace.serve();
    proxy.login("default").await;
    let old = fs::read_to_string(workspace.record("default")).unwrap();
    proxy.force_refresh("default").await;
    // The proxy saves the newer one over it as soon as it gets the lock.
    let lock = fs::File::open(workspace.record("default").with_extension("lock")).unwrap();
    lock.lock().unwrap();
    write_private(&workspace.record("default"), &old);
    let mut scene = Scene::new(workspace, Some(external)).holding(proxy);
    let expected = expect("owner", "second_owner", "never restore the store", FAILED);
    scene.must_say("older record", &expected);
}

#[test]
fn without_a_network_everything_is_answered_soon() {
    let config = "environment = \"staging\"\n[client]\nid = \"client\"\nscopes = [\"companies:read\"]\n\
                  [store]\npath = \"state\"\n";
    let workspace = Workspace::new(config);
    let isolated = |program: &str, arguments: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(["-rn", program]).args(arguments).current_dir(workspace.path());
        command.env("HOME", workspace.path()).env("PLEO_PROXY_CLIENT_SECRET", "hush-hush");
        command.output()
    };
    if !isolated("true", &[]).is_ok_and(|output| output.status.success()) {
        eprintln!(
            "SKIPPED: a machine without a network needs unshare (util-linux) and its permission"
        );
        return;
    }
    let began = Instant::now();
    let output = isolated(env!("CARGO_BIN_EXE_pleo-proxy"), &["doctor", "--json"]).unwrap();
    // It takes well under five seconds; a busy machine may take longer.
    assert!(began.elapsed() < TIMEOUT + Duration::from_secs(1));
    let report = json_output(&output);
    assert_eq!(code(&output), FAILED, "{report:#}");
    let names: Vec<_> =
        problems(&report).into_iter().filter(|problem| problem["check"] == "dns").collect();
    assert_eq!(names.len(), 2, "{report:#}");
    assert!(names.iter().all(|problem| problem["code"] == "name_not_found"), "{report:#}");
}

//! The command line: what each command says where, how it ends, and how it finds the proxy that
//! runs.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use pleo_proxy::sandbox::{Faults, Sandbox, TokenFault, TokenFaultKind};
use reqwest::Method;
use serde_json::{Value, json};
use support::command::{
    DEGRADED, FAILED, FINE, LOGIN_REQUIRED, NOT_RUNNING, USAGE, answer, code, stderr, stdout,
};
use support::{
    PATIENCE, Place, Proxy, client, config_toward, problem, sandbox, text, write_private,
};

/// Connects an account and ends the proxy again.
async fn connect(place: &Place, account: &str) {
    let proxy = place.serve();
    proxy.login(account).await;
    assert_eq!(proxy.terminate().0.code(), Some(FINE));
}

fn record(place: &Place, account: &str) -> Value {
    serde_json::from_slice(&fs::read(place.record(account)).unwrap()).unwrap()
}

fn until(what: &str, done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Everything below a folder with its mode, sockets and all.
fn modes(folder: &Path) -> Vec<(PathBuf, bool, u32)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let metadata = fs::symlink_metadata(&path).unwrap();
        found.push((path.clone(), metadata.is_dir(), metadata.mode() & 0o7777));
        if metadata.is_dir() {
            found.extend(modes(&path));
        }
    }
    found
}

#[test]
fn help_names_the_commands_and_the_exit_codes() {
    let place = Place::new("environment = \"sandbox\"\n");
    let help = place.run(&["--help"]);
    assert_eq!(code(&help), FINE);
    for said in
        ["Exit codes: 0 fine, 1 failed, 2 usage", "3 login required", "4 not running", "5 degraded"]
    {
        assert!(stdout(&help).replace('\n', " ").contains(said), "{said}: {}", stdout(&help));
    }
    for command in
        ["serve", "login", "logout", "status", "refresh", "open", "stop", "sandbox", "config"]
    {
        assert!(stdout(&help).contains(command), "{command}");
    }
    assert_eq!(code(&place.run(&["--version"])), FINE);
    for wrong in
        [&["nonsense"][..], &["--nonsense"], &["status", "extra"], &["--log", "loud"], &["config"]]
    {
        let refused = place.run(wrong);
        assert_eq!(code(&refused), USAGE, "{wrong:?}");
        assert_eq!(stdout(&refused), "", "{wrong:?}");
        assert!(!stderr(&refused).is_empty(), "{wrong:?}");
    }
    let both = place.run(&["login", "--import-refresh-token", "--paste"]);
    assert_eq!(code(&both), USAGE);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mistyped_key_is_pointed_at_without_color() {
    let sandbox = sandbox().await;
    let place = Place::new(&config_toward(&sandbox, "[tokens]\ndrian = \"2s\"\n"));
    for arguments in [&["config", "check"][..], &["serve"], &["status"], &["login"], &["stop"]] {
        let refused = place.command(arguments).env("NO_COLOR", "1").output().unwrap();
        let said = stderr(&refused);
        assert_eq!(code(&refused), USAGE, "{arguments:?}: {said}");
        assert!(
            said.contains("drian") && said.contains("drain") && said.contains("proxy.toml:"),
            "{said}"
        );
        assert!(!said.contains('\u{1b}'), "{said:?}");
        assert_eq!(stdout(&refused), "");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_configuration_is_checked_and_shown_without_its_secret() {
    let sandbox = sandbox().await;
    let place = Place::toward(&sandbox, "");
    let checked = place.run(&["config", "check"]);
    assert_eq!(code(&checked), FINE, "{}", stderr(&checked));
    let shown = place.run(&["config", "show"]);
    assert_eq!(code(&shown), FINE);
    assert!(stdout(&shown).contains("sandbox-client"));
    assert!(stdout(&shown).contains("PLEO_PROXY_CLIENT_SECRET"), "{}", stdout(&shown));
    for output in [&checked, &shown] {
        assert!(!stdout(output).contains("sandbox-s") && !stderr(output).contains("sandbox-s"));
    }
    let lax = place.path().join("secret");
    fs::write(&lax, "hush-hush-hush").unwrap();
    set_mode(&lax, 0o644);
    let refused = place.run(&["config", "check", "--set", "client.secret_file=secret"]);
    assert_eq!(code(&refused), USAGE);
    assert!(
        stderr(&refused).contains("chmod 600") && !stderr(&refused).contains("hush"),
        "{}",
        stderr(&refused)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_client_secret_the_setting_is_named() {
    let sandbox = sandbox().await;
    let place = Place::toward(&sandbox, "");
    let without = |arguments: &[&str]| {
        place.command(arguments).env_remove("PLEO_PROXY_CLIENT_SECRET").output().unwrap()
    };
    for arguments in [&["login", "--no-browser"][..], &["login", "--paste"]] {
        let refused = without(arguments);
        assert_eq!(code(&refused), USAGE, "{}", stderr(&refused));
        assert!(stderr(&refused).contains("client.secret_file"), "{}", stderr(&refused));
        assert!(!stderr(&refused).contains("/oauth/authorize"), "nobody is sent off in vain");
    }
    connect(&place, "default").await;
    let refused = without(&["refresh", "--force"]);
    assert_eq!(code(&refused), FAILED, "{}", stderr(&refused));
    assert!(stderr(&refused).contains("client.secret_file"), "{}", stderr(&refused));
    assert_eq!(code(&without(&["status"])), NOT_RUNNING, "looking needs no secret");
    assert!(record(&place, "default")["record"]["grant"].is_object());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ready_line_names_both_addresses() {
    let sandbox = sandbox().await;
    let place = Place::toward(&sandbox, "");
    let proxy = place.serve();
    until("the ready line", || proxy.log().contains("pleo-proxy is ready"));
    let log = proxy.log();
    let lines: Vec<_> = log.lines().filter(|line| line.contains("is ready")).collect();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains(&proxy.api) && lines[0].contains(&proxy.admin), "{lines:?}");
    assert!(!proxy.log().contains("#key="), "stderr is no terminal");
    assert!(!proxy.log().contains('\u{1b}'));
    let log = proxy.terminate();
    assert_eq!(log.0.code(), Some(FINE));
}

#[tokio::test(flavor = "multi_thread")]
async fn status_tells_running_and_stored_accounts_and_exits_by_the_worst() {
    let sandbox = sandbox().await;
    let place = Place::toward(&sandbox, "");
    let nothing = place.run(&["status", "--json"]);
    assert_eq!(code(&nothing), NOT_RUNNING);
    assert_eq!(
        (&answer(&nothing)["running"], &answer(&nothing)["accounts"]),
        (&json!(false), &json!([]))
    );

    let mut proxy = place.serve();
    assert_eq!(code(&place.run(&["status"])), LOGIN_REQUIRED, "nobody is connected");
    proxy.login("default").await;
    let fine = place.run(&["status", "--json"]);
    assert_eq!(code(&fine), FINE, "{}", stderr(&fine));
    let status = answer(&fine);
    assert_eq!((&status["running"], &status["pid"]), (&json!(true), &json!(proxy.child.id())));
    assert_eq!(status["accounts"][0]["state"], "connected");
    let human = stdout(&place.run(&["status"]));
    assert!(human.contains("running (sandbox") && human.contains("default: connected"), "{human}");

    // Trouble with one account, then with its login.
    let down =
        TokenFault { kind: TokenFaultKind::Status, status: Some(503), ..TokenFault::default() };
    sandbox.set_faults(Faults { token_answer: Some(down), ..Faults::default() });
    assert_eq!(code(&place.run(&["refresh", "--force"])), FAILED);
    assert_eq!(code(&place.run(&["status"])), DEGRADED);
    sandbox.set_faults(Faults::default());
    assert_eq!(code(&place.run(&["logout"])), FINE);
    assert_eq!(code(&place.run(&["status"])), LOGIN_REQUIRED);

    let stopped = place.run(&["stop", "--json"]);
    assert_eq!(code(&stopped), FINE, "{}", stderr(&stopped));
    assert_eq!(
        (&answer(&stopped)["outcome"], &answer(&stopped)["pid"]),
        (&json!("stopped"), &json!(proxy.child.id()))
    );
    assert_eq!(proxy.child.wait().unwrap().code(), Some(FINE));
    let after = place.run(&["status", "--json"]);
    assert_eq!(code(&after), NOT_RUNNING);
    assert_eq!(answer(&after)["accounts"][0]["state"], "login_required", "the store's view");
    for command in ["stop", "open"] {
        let refused = place.run(&[command]);
        assert_eq!(code(&refused), NOT_RUNNING, "{command}");
        assert_eq!(stdout(&refused), "");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn open_prints_a_link_that_works_once() {
    let sandbox = sandbox().await;
    let place = Place::toward(&sandbox, "");
    let proxy = place.serve();
    // No program to open it with.
    let opened = place.command(&["open", "--json"]).env("PATH", "").output().unwrap();
    assert_eq!(code(&opened), FINE, "{}", stderr(&opened));
    let url = text(&answer(&opened)["url"]);
    let (page, key) = url.split_once("#key=").unwrap();
    assert_eq!(page, format!("{}/", proxy.admin));
    let trade = client()
        .post(format!("{}/api/session", proxy.admin))
        .json(&json!({"key": key}))
        .send()
        .await
        .unwrap();
    assert_eq!(trade.status(), 200);
    let human = place.command(&["open"]).env("PATH", "").output().unwrap();
    assert!(stdout(&human).starts_with(&proxy.admin));
}

#[tokio::test(flavor = "multi_thread")]
async fn refresh_works_with_and_without_a_running_proxy() {
    let sandbox = sandbox().await;
    let place = Place::toward(&sandbox, "");
    connect(&place, "default").await;
    for with_proxy in [false, true] {
        let proxy = with_proxy.then(|| place.serve());
        let before = sandbox.counters().refreshes;
        let fresh = place.run(&["refresh", "--json"]);
        assert_eq!(
            (code(&fresh), &answer(&fresh)["outcome"]),
            (FINE, &json!("fresh")),
            "{}",
            stderr(&fresh)
        );
        assert_eq!(sandbox.counters().refreshes, before);
        let forced = place.run(&["refresh", "default", "--force", "--json"]);
        assert_eq!(
            (code(&forced), &answer(&forced)["outcome"]),
            (FINE, &json!("refreshed")),
            "{}",
            stderr(&forced)
        );
        assert_eq!(sandbox.counters().refreshes, before + 1);
        assert_eq!(
            answer(&forced)["account"]["generation"],
            record(&place, "default")["record"]["generation"]
        );
        drop(proxy);
    }
    sandbox.revoke_all();
    for _ in 0..2 {
        let posts = sandbox.counters().token_posts;
        let over = place.run(&["refresh", "--force"]);
        assert_eq!(code(&over), LOGIN_REQUIRED, "{}", stderr(&over));
        assert!(stderr(&over).contains("pleo-proxy login default"), "{}", stderr(&over));
        assert!(sandbox.counters().token_posts <= posts + 1);
    }
    assert_eq!(sandbox.counters().refresh_replays, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_is_not_there_is_told_so() {
    let sandbox = sandbox().await;
    let place = Place::toward(&sandbox, "");
    for with_proxy in [false, true] {
        let proxy = with_proxy.then(|| place.serve());
        for command in ["refresh", "logout"] {
            let unknown = place.run(&[command, "nobody"]);
            assert_eq!(code(&unknown), USAGE, "{command}: {}", stderr(&unknown));
            assert!(stderr(&unknown).contains("nobody"), "{}", stderr(&unknown));
        }
        for name in ["UPPER", "../x", "-x", ""] {
            let bad = place.run(&["refresh", "--", name]);
            assert_eq!(code(&bad), USAGE, "{name}");
        }
        let fallback = place.run(&["refresh"]);
        assert_eq!(
            code(&fallback),
            LOGIN_REQUIRED,
            "default is always known: {}",
            stderr(&fallback)
        );
        drop(proxy);
    }
    assert!(!place.record("nobody").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_logout_reaches_a_proxy_that_runs_later_and_one_that_cannot_be_asked() {
    let sandbox = sandbox().await;
    let place = Place::toward(&sandbox, "");
    connect(&place, "default").await;
    let out = place.run(&["logout", "--json"]);
    assert_eq!(
        (code(&out), &answer(&out)["outcome"]),
        (FINE, &json!("logged_out")),
        "{}",
        stderr(&out)
    );
    let proxy = place.serve();
    assert_eq!(problem(proxy.get("/v1/companies").await).await, (503, "login_required".into()));
    proxy.terminate();

    connect(&place, "default").await;
    let mut deaf = Ended(place.command(&["--json", "--set", "listen.admin=off"]).spawn().unwrap());
    let ready = first_line(&mut deaf.0);
    assert_eq!(ready["admin"], Value::Null);
    let companies = format!("{}/v1/companies", text(&ready["api"]));
    let ask = || client().get(&companies).send();
    assert_eq!(ask().await.unwrap().status(), 200);
    assert_eq!(code(&place.run(&["logout"])), FINE);
    let start = Instant::now();
    while ask().await.unwrap().status() != 503 {
        assert!(start.elapsed() < PATIENCE, "it never looked at the store");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_in_use_are_told_with_their_holder() {
    let sandbox = sandbox().await;
    let place = Place::toward(&sandbox, "");
    let proxy = place.serve();
    let taken = |setting: &str, address: &str| {
        place.run(&["serve", "--set", &format!("{setting}={address}")])
    };
    for (setting, address) in
        [("listen.api", proxy.address()), ("listen.admin", proxy.admin_address())]
    {
        let refused = taken(setting, &address.to_string());
        let said = stderr(&refused);
        assert_eq!(code(&refused), FAILED, "{said}");
        assert!(
            said.contains(&proxy.child.id().to_string()) && said.contains("pleo-proxy stop"),
            "{said}"
        );
        assert!(said.contains(setting), "{said}");
    }
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let refused = taken("listen.api", &other.local_addr().unwrap().to_string());
    assert_eq!(code(&refused), FAILED);
    let said = stderr(&refused);
    assert!(
        said.contains("stop the program")
            && said.contains("listen.api")
            && !said.contains("(process"),
        "{said}"
    );
    // The other family counts too: `localhost` must not lead to somebody else.
    let sixth = TcpListener::bind("[::1]:0").unwrap();
    let twin = format!("127.0.0.1:{}", sixth.local_addr().unwrap().port());
    assert_eq!(code(&taken("listen.api", &twin)), FAILED);
    assert_eq!(
        proxy.http.get(format!("{}/health", proxy.admin)).send().await.unwrap().status(),
        200
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lax_folder_stops_the_start_and_a_lax_record_its_account_only() {
    let sandbox = sandbox().await;
    let place = Place::toward(&sandbox, "");
    connect(&place, "default").await;
    connect(&place, "other").await;
    set_mode(&place.state(), 0o755);
    for arguments in [&["serve"][..], &["status"], &["login", "--paste"], &["refresh"]] {
        let refused = place.run(arguments);
        assert_eq!(code(&refused), USAGE, "{arguments:?}: {}", stderr(&refused));
        assert!(stderr(&refused).contains("chmod 700"), "{}", stderr(&refused));
    }
    set_mode(&place.state(), 0o700);

    set_mode(&place.record("default"), 0o644);
    let proxy = place.serve();
    assert_eq!(
        problem(proxy.get("/@default/v1/companies").await).await,
        (503, "store_error".into())
    );
    assert_eq!(proxy.get("/@other/v1/companies").await.status(), 200);
    let status = place.run(&["status", "--json"]);
    assert_eq!(code(&status), DEGRADED);
    assert!(text(&proxy.account("default").await["why"]).contains("chmod 600"));
    let before = fs::read(place.record("default")).unwrap();
    let login = proxy.admin(Method::POST, "/api/accounts/default/login", None).await;
    let begun: Value = login.json().await.unwrap();
    let consent = proxy.http.get(text(&begun["authorize_url"])).send().await.unwrap();
    let page =
        proxy.http.get(consent.headers()["location"].to_str().unwrap()).send().await.unwrap();
    assert_eq!(page.status(), 400, "a record that may be somebody else's doing is not replaced");
    assert_eq!(fs::read(place.record("default")).unwrap(), before);
    set_mode(&place.record("default"), 0o600);
    proxy.until("default", |account| account["state"] == "connected").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_corrupt_record_stays_until_a_login_puts_it_aside() {
    let sandbox = sandbox().await;
    let place = Place::toward(&sandbox, "");
    connect(&place, "default").await;
    let whole = fs::read(place.record("default")).unwrap();
    fs::write(place.record("default"), &whole[..whole.len() / 2]).unwrap();
    let stored = place.run(&["status", "--json"]);
    assert_eq!(answer(&stored)["accounts"][0]["state"], "store_error");
    let proxy = place.serve();
    assert_eq!(problem(proxy.get("/v1/companies").await).await, (503, "store_error".into()));
    assert_eq!(code(&place.run(&["refresh", "--force"])), FAILED);
    assert_eq!(
        fs::read(place.record("default")).unwrap(),
        whole[..whole.len() / 2],
        "it stays where it is"
    );

    proxy.login("default").await;
    assert_eq!(proxy.get("/v1/companies").await.status(), 200);
    let names = modes(&place.state()).into_iter().map(|(path, ..)| path);
    let aside: Vec<_> =
        names.filter(|path| path.to_string_lossy().contains("default.json.corrupt-")).collect();
    assert_eq!(aside.len(), 1, "{aside:?}");
    assert_eq!(fs::read(&aside[0]).unwrap(), whole[..whole.len() / 2]);
    let suffix = aside[0].to_str().unwrap().rsplit('-').next().unwrap();
    assert!(suffix.parse::<u64>().is_ok_and(|time| time > 1_700_000_000), "{suffix}");
}

/// A request that never ends, and the proxy that waits for it.
async fn busy(
    place: &Place,
    sandbox: &Sandbox,
) -> (Proxy, tokio::task::JoinHandle<reqwest::Result<reqwest::Response>>) {
    let proxy = place.serve();
    proxy.login("default").await;
    sandbox.set_faults(Faults { latency_ms: 60_000, ..Faults::default() });
    let requests = sandbox.counters().api_requests;
    let request = tokio::spawn(client().get(format!("{}/v1/companies", proxy.api)).send());
    until("the request is under way", || sandbox.counters().api_requests > requests);
    (proxy, request)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_at_once_and_says_what_may_be_lost() {
    let sandbox = sandbox().await;
    let place = Place::toward(&sandbox, "");
    for (first, second) in [("TERM", "TERM"), ("INT", "TERM")] {
        let (mut proxy, request) = busy(&place, &sandbox).await;
        sandbox.set_faults(Faults { latency_ms: 60_000, ..Faults::default() });
        proxy.signal(first);
        until("it drains", || proxy.log().contains("ending"));
        // Twice in the same moment is once.
        tokio::time::sleep(Duration::from_millis(150)).await;
        proxy.signal(second);
        assert_eq!(proxy.child.wait().unwrap().code(), Some(FAILED));
        until("its last word", || proxy.log().contains("may need a login"));
        assert!(modes(&place.state().join("run")).is_empty(), "the run file is gone");
        assert!(request.await.unwrap().is_err());
        sandbox.set_faults(Faults::default());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_request_that_was_sent_is_waited_for_and_saved() {
    let sandbox = sandbox().await;
    let place = Place::toward(&sandbox, "");
    let mut proxy = place.serve();
    proxy.login("default").await;
    sandbox.set_faults(Faults { token_latency_after_ms: 700, ..Faults::default() });
    let posts = sandbox.counters().token_posts;
    let url = format!("{}/api/accounts/default/refresh?force=true", proxy.admin);
    let asked = tokio::spawn(client().post(url).bearer_auth(&proxy.key).send());
    until("the token request is sent", || sandbox.counters().token_posts > posts);
    proxy.signal("TERM");
    assert_eq!(proxy.child.wait().unwrap().code(), Some(FINE), "{}", proxy.log());
    drop(asked);
    assert_eq!(record(&place, "default")["record"]["generation"], 2);
    assert_eq!(record(&place, "default")["record"]["intent"], Value::Null);
    sandbox.set_faults(Faults::default());
    assert_eq!(place.serve().get("/v1/companies").await.status(), 200);
    assert_eq!(sandbox.counters().refresh_replays, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_private_whatever_the_umask() {
    let sandbox = sandbox().await;
    let place = Place::toward(&sandbox, "");
    let open = |arguments: &str| {
        let mut command = Command::new("sh");
        let script = format!("umask 000; exec {} {arguments}", env!("CARGO_BIN_EXE_pleo-proxy"));
        command
            .args(["-c", &script])
            .current_dir(place.path())
            .env("PLEO_PROXY_CLIENT_SECRET", "sandbox-secret");
        command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::piped());
        command.stderr(std::process::Stdio::null());
        command
    };
    let mut child = Ended(open("--json").spawn().unwrap());
    let ready = first_line(&mut child.0);
    let key = fs::read_to_string(place.state().join("admin.key")).unwrap();
    let admin = text(&ready["admin"]);
    let begin =
        client().post(format!("{admin}/api/accounts/default/login")).bearer_auth(key.trim());
    let begun: Value = begin.send().await.unwrap().json().await.unwrap();
    let consent = client().get(text(&begun["authorize_url"])).send().await.unwrap();
    let back = consent.headers()["location"].to_str().unwrap();
    assert_eq!(client().get(back).send().await.unwrap().status(), 200);
    assert_eq!(open("refresh --force").status().unwrap().code(), Some(FINE));
    let found = modes(&place.path().join("state"));
    assert!(found.len() >= 6, "{found:?}");
    for (path, is_folder, mode) in found {
        assert_eq!(mode, if is_folder { 0o700 } else { 0o600 }, "{}", path.display());
    }
    assert_eq!(fs::metadata(place.path().join("state")).unwrap().mode() & 0o777, 0o700);
}

/// A child that does not outlive its test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn first_line(child: &mut Child) -> Value {
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_sandbox_serves_at_once_and_on_every_run() {
    let place = Place::new("environment = \"sandbox\"\n");
    let start = || {
        let arguments = [
            "--json",
            "--set",
            "listen.api=127.0.0.1:0",
            "--set",
            "listen.admin=127.0.0.1:0",
            "--log",
            "info",
        ];
        let mut command = place.command(&arguments);
        command.env_remove("PLEO_PROXY_CLIENT_SECRET").stderr(std::process::Stdio::null());
        let mut child = Ended(command.spawn().unwrap());
        let ready = first_line(&mut child.0);
        (child, text(&ready["api"]))
    };
    let set: [&str; 4] = ["--set", "listen.api=127.0.0.1:0", "--set", "listen.admin=127.0.0.1:0"];
    let alone = place.run(&["login"]);
    assert_eq!(code(&alone), NOT_RUNNING, "{}", stderr(&alone));
    for command in ["refresh", "logout"] {
        assert_eq!(code(&place.run(&[command])), NOT_RUNNING, "{command}");
    }
    for _ in 0..2 {
        let (mut child, api) = start();
        let companies = client().get(format!("{api}/v1/companies")).send().await.unwrap();
        assert_eq!(companies.status(), 200);
        assert_eq!(companies.headers().get("pleo-proxy-error"), None);
        let status = place.run(&[&["status", "--json"][..], &set].concat());
        assert_eq!(code(&status), FINE, "{}", stdout(&status));
        assert_eq!(answer(&status)["accounts"][0]["account"], "default");
        let temporary = PathBuf::from(text(&answer(&status)["store"]));
        assert!(temporary.is_dir());
        // A second one beside it finds other ports for its sandbox.
        let (_second, other) = start();
        assert_eq!(
            client().get(format!("{other}/v1/companies")).send().await.unwrap().status(),
            200
        );
        drop(_second);
        assert_eq!(code(&place.run(&["stop"])), FINE);
        assert_eq!(child.0.wait().unwrap().code(), Some(FINE));
        assert!(!temporary.exists(), "its accounts are gone with it");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sandbox_runs_alone() {
    let place = Place::new("this is no configuration, and the sandbox needs none");
    let free = ["sandbox", "--listen", "127.0.0.1:0", "--files", "127.0.0.1:0", "--json"];
    let arguments = [&free[..], &["--client-id", "mine", "--auto-consent"]].concat();
    let mut command = place.command(&arguments);
    command.stderr(std::process::Stdio::null());
    let mut child = Ended(command.spawn().unwrap());
    let ready = first_line(&mut child.0);
    assert_eq!((&ready["version"], &ready["event"]), (&json!(1), &json!("ready")));
    let api = text(&ready["api"]);
    assert_eq!(text(&ready["authorize"]), format!("{api}/oauth/authorize"));
    for name in ["token", "introspect", "files"] {
        assert!(text(&ready[name]).starts_with("http://127.0.0.1:"), "{name}");
    }
    assert_eq!(client().get(format!("{api}/v1/companies")).send().await.unwrap().status(), 401);
    let port = api.strip_prefix("http://").unwrap().to_owned();
    let taken = place.run(&["sandbox", "--listen", &port, "--files", "127.0.0.1:0"]);
    assert_eq!(code(&taken), FAILED);
    assert!(stderr(&taken).contains(&port), "{}", stderr(&taken));
    assert_eq!(code(&place.run(&["sandbox", "--faults", "{\"nonsense\": 1}"])), USAGE);
    let pid = child.0.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    assert_eq!(child.0.wait().unwrap().code(), Some(FINE));
    assert!(TcpStream::connect(port).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_went_away_changes_nothing_but_what_is_read() {
    let sandbox = sandbox().await;
    let place = Place::toward(&sandbox, "");
    for (command, code) in [(["status"].as_slice(), 4), (&["config", "show"], 0), (&["stop"], 4)] {
        let nobody = || std::io::pipe().unwrap().1;
        let status = place.command(command).stdout(nobody()).stderr(nobody()).status().unwrap();
        assert_eq!(status.code(), Some(code), "{command:?}");
    }
}

/// A login that has begun in a browser.
struct Login {
    child: Ended,
    lines: std::io::Lines<BufReader<std::process::ChildStderr>>,
    address: String,
}

impl Login {
    fn begin(place: &Place, arguments: &[&str]) -> Self {
        let mut child =
            place.command(&[&["login"], arguments].concat()).stdin(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let address = lines
            .by_ref()
            .map(Result::unwrap)
            .find(|line| line.contains("/oauth/authorize?"))
            .unwrap();
        Self { child: Ended(child), lines, address: address.trim().to_owned() }
    }

    /// Where the browser is sent back to if the person says no.
    fn denied(&self) -> String {
        let address = url::Url::parse(&self.address).unwrap();
        let given =
            |name: &str| address.query_pairs().find(|(key, _)| key == name).unwrap().1.into_owned();
        format!("{}?error=access_denied&state={}", given("redirect_uri"), given("state"))
    }

    /// What it says from here on, and how it ends.
    fn end(mut self) -> (Option<i32>, String) {
        let said: Vec<_> = self.lines.map(Result::unwrap).collect();
        (self.child.0.wait().unwrap().code(), said.join("\n"))
    }

    fn signal(&self, name: &str) {
        let pid = self.child.0.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap().success());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_fails_ends_its_command_at_once_with_the_reason() {
    let sandbox = sandbox().await;
    let place = Place::toward(&sandbox, "");
    for with_proxy in [true, false] {
        let proxy = with_proxy.then(|| place.serve());
        // The first login of an account that nobody knows yet.
        let denied = Login::begin(&place, &["--no-browser", "fresh"]);
        client().get(denied.denied()).send().await.unwrap();
        let (code, said) = denied.end();
        assert!(
            code == Some(FAILED) && said.contains("access_denied"),
            "{with_proxy} {code:?}: {said}"
        );
        assert!(!place.record("fresh").exists());

        let code = TokenFault {
            kind: TokenFaultKind::Error,
            error: Some("invalid_grant".into()),
            ..TokenFault::default()
        };
        sandbox.set_faults(Faults { token_answer: Some(code), ..Faults::default() });
        let refused = Login::begin(&place, &["--no-browser", "fresh"]);
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
async fn a_login_that_is_broken_off_is_given_back() {
    let sandbox = sandbox().await;
    let place = Place::toward(&sandbox, "");
    let proxy = place.serve();
    let patient = Login::begin(&place, &["--no-browser"]);
    // More than may be pending; with a paste awaited, and as a service manager ends things too.
    let ways = [
        ("--no-browser", "INT"),
        ("--paste", "INT"),
        ("--no-browser", "TERM"),
        ("--paste", "TERM"),
    ];
    for (how, signal) in ways.into_iter().chain(ways) {
        let given_up = Login::begin(&place, &[how]);
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
    assert_eq!(code, Some(FINE), "one that was begun before all of them goes on: {said}");
    drop(proxy);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_whose_proxy_ends_says_so() {
    let sandbox = sandbox().await;
    let place = Place::toward(&sandbox, "");
    let proxy = place.serve();
    let login = Login::begin(&place, &["--no-browser"]);
    proxy.kill();
    let (code, said) = login.end();
    assert!(code == Some(FAILED) && said.contains("has ended in the meantime"), "{code:?}: {said}");
    assert!(!said.contains("os error"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn data_that_cannot_be_written_is_an_error() {
    let sandbox = sandbox().await;
    let place = Place::toward(&sandbox, "");
    let proxy = place.serve();
    proxy.login("default").await;
    let full = || fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let telling: [&[&str]; 11] = [
        &["status"],
        &["status", "--json"],
        &["config", "show"],
        &["config", "check"],
        &["config", "show", "--json"],
        &["config", "check", "--json"],
        &["open"],
        &["refresh", "--json"],
        &["sandbox", "--listen", "127.0.0.1:0", "--files", "127.0.0.1:0", "--json"],
        &["--help"],
        &["--version"],
    ];
    for command in telling {
        let ended = place.command(command).env("PATH", "").stdout(full()).output().unwrap();
        assert_eq!(code(&ended), FAILED, "{command:?}: {}", stderr(&ended));
        let said = stderr(&ended);
        assert!(
            command[0].starts_with("--") || said.contains("stdout cannot be written"),
            "{command:?}: {said}"
        );
    }
    drop(proxy);
    let unheard = place.command(&["--json"]).stdout(full()).output().unwrap();
    assert_eq!(code(&unheard), FAILED, "nobody would learn where it listens: {}", stderr(&unheard));
    assert!(modes(&place.state().join("run")).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_answers_in_json() {
    let sandbox = sandbox().await;
    let place = Place::toward(&sandbox, "");
    let failing: [(&[&str], i32); 7] = [
        (&["stop", "--json"], NOT_RUNNING),
        (&["open", "--json"], NOT_RUNNING),
        (&["refresh", "nobody", "--json"], USAGE),
        (&["logout", "nobody", "--json"], USAGE),
        (&["login", "NOBODY", "--json"], USAGE),
        (&["login", "--import-refresh-token", "--json"], FAILED),
        (&["status", "--json", "--set", "nonsense=1"], USAGE),
    ];
    // What serves prints one line, when it is ready.
    let not_ready: [(&[&str], i32); 2] = [
        (
            &[
                "serve",
                "--json",
                "--set",
                "listen.api=192.0.2.1:1",
                "--set",
                "guard.local_key_file=none",
            ],
            USAGE,
        ),
        (&["sandbox", "--json", "--listen", "192.0.2.1:1"], FAILED),
    ];
    for (command, exit) in not_ready {
        let failed = place.run(command);
        assert_eq!((code(&failed), failed.stdout.is_empty()), (exit, true), "{command:?}");
    }
    for (command, exit) in failing {
        let failed = place.run(command);
        let told = answer(&failed);
        assert_eq!(
            (code(&failed), &told["outcome"], &told["exit"]),
            (exit, &json!("failed"), &json!(exit)),
            "{told}"
        );
        assert!(stderr(&failed).contains(&text(&told["why"])), "{command:?}: {told}");
    }
    let check = answer(&place.run(&["config", "check", "--json"]));
    assert_eq!(check["outcome"], "fine");
    assert!(text(&check["file"]).ends_with("proxy.toml"));
    let show = answer(&place.run(&["config", "show", "--json", "--set", "tokens.hold=20s"]));
    assert_eq!(show["settings"]["tokens.hold"], json!({"value": "20s", "origin": "flag"}));
    assert!(text(&show["settings"]["client.scopes"]["origin"]).contains("proxy.toml:"));
    assert!(!show.to_string().contains("sandbox-secret"), "{show}");
    let faulty =
        place.run(&["config", "check", "--json", "--set", "client.id=", "--set", "client.scopes="]);
    assert_eq!((code(&faulty), &answer(&faulty)["outcome"]), (USAGE, &json!("faulty")));
    assert_eq!(answer(&faulty)["problems"].as_array().unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_start_says_what_is_missing_in_words_that_can_be_pasted() {
    let sandbox = sandbox().await;
    let place = Place::toward(&sandbox, "");
    fs::rename(place.path().join("proxy.toml"), place.path().join("my own.toml")).unwrap();
    write_private(&place.path().join("proxy.toml"), "environment = \"sandbox\"\n");
    let mine = ["--config", "my own.toml", "--set", "default_account=acme"];
    let proxy = place.serve_with(&mine);
    let advice = "pleo-proxy --config 'my own.toml' --set default_account=acme login acme";
    until("the advice", || proxy.log().contains(advice));
    assert!(!ready_fix(&proxy).await.is_null());
    let nobody = place.run(&[&["status"], &mine[..]].concat());
    assert!(stdout(&nobody).contains("pleo-proxy --config 'my own.toml'"), "{}", stdout(&nobody));
    proxy.login("acme").await;
    assert!(ready_fix(&proxy).await.is_null());
    assert_eq!(code(&place.run(&[&["logout", "acme"], &mine[..]].concat())), FINE);
    drop(proxy);
    // What a login ended as is more than that one is missing.
    let again = place.serve_with(&mine);
    until("the account's reason", || {
        again.log().contains("No account can serve requests: account acme needs a login")
    });
    assert!(again.log().contains(advice), "{}", again.log());
    drop(again);
    let served = place.serve_with(&[&mine[..], &["--set", "client.id="]].concat());
    until("the setting", || served.log().contains("client.id is not set"));
    assert!(
        !served.log().contains("is connected yet"),
        "a login is not the next step: {}",
        served.log()
    );
}

async fn ready_fix(proxy: &Proxy) -> Value {
    let ready: Value =
        client().get(format!("{}/ready", proxy.admin)).send().await.unwrap().json().await.unwrap();
    ready["fix"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_windows_editors_are_read_as_they_are_meant() {
    let sandbox = sandbox().await;
    let place = Place::toward(&sandbox, "");
    let config = fs::read_to_string(place.path().join("proxy.toml")).unwrap();
    let config = config.replace("[client]\n", "[client]\nsecret_file = \"secret\"\n");
    let config =
        format!("\u{feff}{config}[guard]\nlocal_key_file = \"key\"\n").replace('\n', "\r\n");
    write_private(&place.path().join("proxy.toml"), &config);
    write_private(&place.path().join("secret"), "\u{feff}sandbox-secret\r\n");
    write_private(&place.path().join("key"), "\u{feff}a-long-local-key\r\n");
    let without = |arguments: &[&str]| {
        let mut command = place.command(arguments);
        command.env_remove("PLEO_PROXY_CLIENT_SECRET");
        command
    };
    let proxy = Proxy::launch(without(&["--json"]), &place.state());
    proxy.login("default").await;
    let get = |key: &'static str| {
        client().get(format!("{}/v1/companies", proxy.api)).header("pleo-proxy-key", key).send()
    };
    assert_eq!(get("a-long-local-key").await.unwrap().status(), 200);
    assert_eq!(problem(get("").await.unwrap()).await, (403, "local_key_required".into()));
    let admin_key = place.state().join("admin.key");
    let key = fs::read_to_string(&admin_key).unwrap();
    write_private(&admin_key, &format!("\u{feff}{}\r\n", key.trim()));
    assert_eq!(code(&without(&["status"]).output().unwrap()), FINE);

    // What is pasted or piped in: the address at the end of a login, and a token.
    let mut paste = Login::begin(&place, &["--paste", "pasted"]);
    let consent = client().get(&paste.address).send().await.unwrap();
    let back = consent.headers()["location"].to_str().unwrap().to_owned();
    paste
        .child
        .0
        .stdin
        .take()
        .unwrap()
        .write_all(format!("\u{feff}{back}\r\n").as_bytes())
        .unwrap();
    let (exit, said) = paste.end();
    assert_eq!(exit, Some(FINE), "{said}");
    let token = text(&record(&place, "pasted")["record"]["grant"]["refresh_token"]);
    assert_eq!(code(&place.run(&["logout", "pasted"])), FINE);
    let import = place.run_with(
        &["login", "imported", "--import-refresh-token"],
        &format!("\u{feff}{token}\r\n"),
    );
    assert_eq!(code(&import), FINE, "{}", stderr(&import));
    let utf_16 =
        place.run_with(&["login", "imported", "--import-refresh-token"], "t\0o\0k\0e\0n\0");
    assert!(code(&utf_16) == FAILED && stderr(&utf_16).contains("UTF-16"), "{}", stderr(&utf_16));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sandbox_prints_a_configuration_that_works() {
    let place = Place::new("");
    let arguments = [
        "sandbox",
        "--listen",
        "127.0.0.1:0",
        "--files",
        "127.0.0.1:0",
        "--client-id",
        "it's \"mine\"",
    ];
    let mut child =
        Ended(place.command(&[&arguments[..], &["--auto-consent"]].concat()).spawn().unwrap());
    let mut printed = String::new();
    for line in BufReader::new(child.0.stdout.take().unwrap()).lines().map(Result::unwrap) {
        printed += &format!("{line}\n");
        if line.starts_with("api = ") {
            break;
        }
    }
    write_private(
        &place.path().join("proxy.toml"),
        &format!("{printed}[store]\npath = \"state\"\n"),
    );
    let set = ["--set", "listen.api=127.0.0.1:0", "--set", "listen.admin=127.0.0.1:0"];
    let check = place.run(&["config", "check"]);
    assert_eq!(code(&check), FINE, "{printed}{}", stderr(&check));
    let proxy = place.serve_with(&set);
    proxy.login("default").await;
    assert_eq!(proxy.get("/v1/companies").await.status(), 200);

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for (option, other) in [("--listen", "--files"), ("--files", "--listen")] {
        let refused = place.run(&["sandbox", option, &taken, other, "127.0.0.1:0"]);
        let said = stderr(&refused);
        assert_eq!(code(&refused), FAILED, "{said}");
        assert!(
            said.contains(&taken) && said.contains(&format!("with {option} 127.0.0.1:0")),
            "{said}"
        );
    }
}

//! The command line: what each command says where, how it ends, and how it finds the proxy that runs.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod support;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::time::{Duration, Instant};

use pleo_proxy::sandbox::{Faults, Sandbox, TokenFault, TokenFaultKind};
use reqwest::Method;
use serde_json::{Value, json};
use support::{PATIENCE, Place, Proxy, client, config_toward, problem, sandbox, text, write_private};

const FINE: i32 = 0;
const FAILED: i32 = 1;
const USAGE: i32 = 2;
const LOGIN_REQUIRED: i32 = 3;
const NOT_RUNNING: i32 = 4;
const DEGRADED: i32 = 5;

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The one line of JSON on stdout, of the known version.
fn answer(output: &Output) -> Value {
    let out = stdout(output);
    let answer: Value = serde_json::from_str(&out).unwrap_or_else(|_| panic!("{out:?}\n{}", stderr(output)));
    assert_eq!(answer["version"], 1, "{answer}");
    answer
}

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
    for said in ["Exit codes: 0 fine, 1 failed, 2 usage", "3 login required", "4 not running", "5 degraded"] {
        assert!(stdout(&help).replace('\n', " ").contains(said), "{said}: {}", stdout(&help));
    }
    for command in ["serve", "login", "logout", "status", "refresh", "open", "stop", "sandbox", "config"] {
        assert!(stdout(&help).contains(command), "{command}");
    }
    assert_eq!(code(&place.run(&["--version"])), FINE);
    for wrong in [&["nonsense"][..], &["--nonsense"], &["status", "extra"], &["--log", "loud"], &["config"]] {
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
        assert!(said.contains("drian") && said.contains("drain") && said.contains("proxy.toml:"), "{said}");
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
    assert!(stderr(&refused).contains("chmod 600") && !stderr(&refused).contains("hush"), "{}", stderr(&refused));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_client_secret_the_setting_is_named() {
    let sandbox = sandbox().await;
    let place = Place::toward(&sandbox, "");
    let without =
        |arguments: &[&str]| place.command(arguments).env_remove("PLEO_PROXY_CLIENT_SECRET").output().unwrap();
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
    assert_eq!((&answer(&nothing)["running"], &answer(&nothing)["accounts"]), (&json!(false), &json!([])));

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
    let down = TokenFault { kind: TokenFaultKind::Status, status: Some(503), ..TokenFault::default() };
    sandbox.set_faults(Faults { token_answer: Some(down), ..Faults::default() });
    assert_eq!(code(&place.run(&["refresh", "--force"])), FAILED);
    assert_eq!(code(&place.run(&["status"])), DEGRADED);
    sandbox.set_faults(Faults::default());
    assert_eq!(code(&place.run(&["logout"])), FINE);
    assert_eq!(code(&place.run(&["status"])), LOGIN_REQUIRED);

    let stopped = place.run(&["stop", "--json"]);
    assert_eq!(code(&stopped), FINE, "{}", stderr(&stopped));
    assert_eq!((&answer(&stopped)["outcome"], &answer(&stopped)["pid"]), (&json!("stopped"), &json!(proxy.child.id())));
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
async fn a_key_that_does_not_fit_is_no_stopped_proxy() {
    let sandbox = sandbox().await;
    let place = Place::toward(&sandbox, "");
    let _proxy = place.serve();
    write_private(&place.state().join("admin.key"), &"k".repeat(43));
    for command in ["status", "stop", "open", "refresh"] {
        let refused = place.run(&[command]);
        assert_eq!(code(&refused), FAILED, "{command}: {}{}", stdout(&refused), stderr(&refused));
        assert!(!stdout(&refused).contains("not running"), "{command}");
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
    let trade = client().post(format!("{}/api/session", proxy.admin)).json(&json!({"key": key})).send().await.unwrap();
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
        assert_eq!((code(&fresh), &answer(&fresh)["outcome"]), (FINE, &json!("fresh")), "{}", stderr(&fresh));
        assert_eq!(sandbox.counters().refreshes, before);
        let forced = place.run(&["refresh", "default", "--force", "--json"]);
        assert_eq!((code(&forced), &answer(&forced)["outcome"]), (FINE, &json!("refreshed")), "{}", stderr(&forced));
        assert_eq!(sandbox.counters().refreshes, before + 1);
        assert_eq!(answer(&forced)["account"]["generation"], record(&place, "default")["record"]["generation"]);
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
        assert_eq!(code(&fallback), LOGIN_REQUIRED, "default is always known: {}", stderr(&fallback));
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
    assert_eq!((code(&out), &answer(&out)["outcome"]), (FINE, &json!("logged_out")), "{}", stderr(&out));
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
    let taken = |setting: &str, address: &str| place.run(&["serve", "--set", &format!("{setting}={address}")]);
    for (setting, address) in [("listen.api", proxy.address()), ("listen.admin", proxy.admin_address())] {
        let refused = taken(setting, &address.to_string());
        let said = stderr(&refused);
        assert_eq!(code(&refused), FAILED, "{said}");
        assert!(said.contains(&proxy.child.id().to_string()) && said.contains("pleo-proxy stop"), "{said}");
        assert!(said.contains(setting), "{said}");
    }
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let refused = taken("listen.api", &other.local_addr().unwrap().to_string());
    assert_eq!(code(&refused), FAILED);
    let said = stderr(&refused);
    assert!(said.contains("end the program") && said.contains("listen.api") && !said.contains("(process"), "{said}");
    // The other family counts too: `localhost` must not lead to somebody else.
    let sixth = TcpListener::bind("[::1]:0").unwrap();
    let twin = format!("127.0.0.1:{}", sixth.local_addr().unwrap().port());
    assert_eq!(code(&taken("listen.api", &twin)), FAILED);
    assert_eq!(proxy.http.get(format!("{}/health", proxy.admin)).send().await.unwrap().status(), 200);
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
    assert_eq!(problem(proxy.get("/@default/v1/companies").await).await, (503, "store_error".into()));
    assert_eq!(proxy.get("/@other/v1/companies").await.status(), 200);
    let status = place.run(&["status", "--json"]);
    assert_eq!(code(&status), DEGRADED);
    assert!(text(&proxy.account("default").await["why"]).contains("chmod 600"));
    let before = fs::read(place.record("default")).unwrap();
    let login = proxy.admin(Method::POST, "/api/accounts/default/login", None).await;
    let begun: Value = login.json().await.unwrap();
    let consent = proxy.http.get(text(&begun["authorize_url"])).send().await.unwrap();
    let page = proxy.http.get(consent.headers()["location"].to_str().unwrap()).send().await.unwrap();
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
    assert_eq!(fs::read(place.record("default")).unwrap(), whole[..whole.len() / 2], "it stays where it is");

    proxy.login("default").await;
    assert_eq!(proxy.get("/v1/companies").await.status(), 200);
    let names = modes(&place.state()).into_iter().map(|(path, ..)| path);
    let aside: Vec<_> = names.filter(|path| path.to_string_lossy().contains("default.json.corrupt-")).collect();
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
async fn the_run_file_names_the_process_and_counts_only_while_it_lives() {
    let sandbox = sandbox().await;
    let place = Place::toward(&sandbox, "");
    let run = place.state().join("run");
    let proxy = place.serve();
    let file = run.join(format!("{}.json", proxy.child.id()));
    let named: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    assert_eq!((&named["pid"], &named["api"]), (&json!(proxy.child.id()), &json!(proxy.api)));
    assert_eq!((&named["admin"], named["store"].is_string()), (&json!(proxy.admin), true));
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
    proxy.terminate();
    assert!(!file.exists());

    let killed = place.serve();
    let left = run.join(format!("{}.json", killed.child.id()));
    killed.kill();
    assert!(left.exists(), "kill -9 leaves it behind");
    assert_eq!(code(&place.run(&["status"])), NOT_RUNNING);
    assert_eq!(code(&place.run(&["stop"])), NOT_RUNNING);

    // A process that lives and does not listen there, as after its id was given to another program.
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let stale = json!({"pid": std::process::id(), "api": "http://127.0.0.1:1", "admin": format!("http://{nobody}"),
                       "store": place.state().canonicalize().unwrap()});
    write_private(&run.join(format!("{}.json", std::process::id())), &stale.to_string());
    write_private(&run.join("1.json"), "not JSON");
    assert_eq!(code(&place.run(&["status"])), NOT_RUNNING);
    let next = place.serve();
    assert_eq!(answer(&place.run(&["status", "--json"]))["pid"], next.child.id());
}

#[tokio::test(flavor = "multi_thread")]
async fn another_store_is_another_proxy() {
    let sandbox = sandbox().await;
    let place = Place::toward(&sandbox, "");
    let _proxy = place.serve();
    let elsewhere = place.run(&["status", "--json", "--set", "store.path=elsewhere"]);
    assert_eq!(code(&elsewhere), NOT_RUNNING);
    assert_eq!(answer(&elsewhere)["running"], false);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_private_whatever_the_umask() {
    let sandbox = sandbox().await;
    let place = Place::toward(&sandbox, "");
    let open = |arguments: &str| {
        let mut command = Command::new("sh");
        let script = format!("umask 000; exec {} {arguments}", env!("CARGO_BIN_EXE_pleo-proxy"));
        command.args(["-c", &script]).current_dir(place.path()).env("PLEO_PROXY_CLIENT_SECRET", "sandbox-secret");
        command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::piped());
        command.stderr(std::process::Stdio::null());
        command
    };
    let mut child = Ended(open("--json").spawn().unwrap());
    let ready = first_line(&mut child.0);
    let key = fs::read_to_string(place.state().join("admin.key")).unwrap();
    let admin = text(&ready["admin"]);
    let begin = client().post(format!("{admin}/api/accounts/default/login")).bearer_auth(key.trim());
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
        let arguments =
            ["--json", "--set", "listen.api=127.0.0.1:0", "--set", "listen.admin=127.0.0.1:0", "--log", "info"];
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
        assert_eq!(client().get(format!("{other}/v1/companies")).send().await.unwrap().status(), 200);
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

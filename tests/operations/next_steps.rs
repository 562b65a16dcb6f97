//! What a message says to do next: a command that works where the reader stands, or a word that was
//! meant.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::TcpListener;
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::interrupted_login::Login;
use serde_json::Value;
use support::command::{
    DEGRADED, FAILED, LOGIN_REQUIRED, NOT_RUNNING, SUCCESS, USAGE, code, json_output, stderr,
    stdout,
};
use support::{KilledOnDrop, TIMEOUT, Workspace, client, sandbox, text};

fn must_say(output: &std::process::Output, exit: i32, words: &[&str]) {
    let said = stderr(output);
    assert_eq!(code(output), exit, "{said}");
    for word in words {
        assert!(said.contains(word), "{word:?} is not in: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_setting_that_changed_in_the_file_is_noticed_while_the_proxy_has_the_old_one() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let proxy = workspace.serve();
    proxy.login("default").await;
    let proxy_check = || {
        let report = json_output(&workspace.run(&["doctor", "--json"]));
        let checks = report["checks"].as_array().unwrap().clone();
        checks.into_iter().find(|check| check["check"] == "proxy").unwrap()
    };
    assert_eq!(proxy_check()["outcome"], "pass", "{}", proxy_check());

    let file = workspace.path().join("proxy.toml");
    let config = fs::read_to_string(&file).unwrap();
    let more = config.replace("[\"companies:read\"]", "[\"companies:read\", \"users:read\"]");
    workspace.configure(&more);
    let found = proxy_check();
    assert_eq!((&found["outcome"], &found["code"]), (&"warn".into(), &"outdated".into()));
    assert!(text(&found["title"]).ends_with(": client.scopes"), "{found}");
    assert!(text(&found["fix"]).contains("pleo-proxy stop"), "{found}");
    let warned = workspace.run(&["doctor"]);
    assert_eq!(code(&warned), DEGRADED);

    let login = workspace.run_with(&["login", "--paste"], "nonsense\n");
    must_say(&login, FAILED, &["other client.scopes", "pleo-proxy stop", "?code="]);
    workspace.configure(&config);
    assert_eq!(proxy_check()["outcome"], "pass");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mistyped_account_is_corrected_and_not_connected() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let proxy = workspace.serve();
    proxy.login("harbour").await;
    let told: Value = proxy.get("/@harbuor/v1/companies").await.json().await.unwrap();
    let fix = text(&told["fix"]);
    assert!(fix.contains("harbour") && !fix.contains("login"), "{fix}");
    let waited = workspace.run(&["wait", "--account", "harbuor", "--timeout", "0s"]);
    must_say(&waited, LOGIN_REQUIRED, &["Name harbour instead"]);
    assert!(!stderr(&waited).contains("login harbuor"), "{}", stderr(&waited));
    must_say(
        &workspace.run(&["doctor", "--account", "harbuor"]),
        USAGE,
        &["did you mean harbour?"],
    );
    // What reads like another name may be a new one.
    let told: Value = proxy.get("/@elsewhere/v1/companies").await.json().await.unwrap();
    let fix = text(&told["fix"]);
    let login = format!("`{} login elsewhere`", workspace.program());
    assert!(fix.contains("harbour") && fix.contains(&login), "{fix}");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_no_proxy_runs_the_others_of_this_user_are_named() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let proxy = workspace.serve();
    let pid = format!("process {} (sandbox, tools {}", proxy.child.id(), proxy.api);
    // The same place of stores, another environment.
    let other = ["--environment", "staging"];
    for command in
        [&["logs"][..], &["stop"], &["api", "/v1/companies"], &["wait", "--timeout", "0s"]]
    {
        let said = workspace.run(&[command, &other].concat());
        must_say(&said, NOT_RUNNING, &[&pid, "runs with other settings"]);
    }
    let logs = workspace.run(&[&["logs"][..], &other].concat());
    must_say(&logs, NOT_RUNNING, &["start it with: pleo-proxy --environment staging serve"]);
    // A store that is nowhere known.
    let elsewhere = Workspace::new("environment = \"staging\"\n");
    let folder = fs::canonicalize(workspace.path()).unwrap();
    let started =
        format!("process {} (started in {} as: pleo-proxy)", proxy.child.id(), folder.display());
    must_say(&elsewhere.run(&["logs"]), NOT_RUNNING, &[&started]);
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let admin = format!("listen.admin=127.0.0.1:{port}");
    let health = workspace.run(&[&["health", "--set", &admin][..], &other].concat());
    must_say(&health, NOT_RUNNING, &["start it with: pleo-proxy", "serve", &pid]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_holds_the_port_is_named() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let admin = format!("listen.admin=127.0.0.1:{port}");
    let waiting = Login::begin(&workspace, &["--no-browser", "--set", &admin]);
    let kill = format!("kill {}", waiting.child.0.id());
    for command in [&["serve"][..], &["health"], &["login", "--no-browser"]] {
        let said = workspace.run(&[command, &["--set", &admin]].concat());
        assert_ne!(code(&said), SUCCESS);
        must_say(&said, code(&said), &["waits there for its browser", &kill]);
    }
    waiting.signal("TERM");
    waiting.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_that_follow_end_with_their_reader() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let proxy = workspace.serve();
    proxy.login("default").await;
    proxy.get("/v1/companies").await;
    let mut logs = KilledOnDrop(workspace.command(&["logs", "--follow"]).spawn().unwrap());
    let mut line = String::new();
    BufReader::new(logs.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("/v1/companies"), "{line}");
    // No request comes any more.
    let mut ended = None;
    let start = Instant::now();
    while ended.is_none() && start.elapsed() < TIMEOUT {
        ended = logs.0.try_wait().unwrap();
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(ended.unwrap().code(), Some(SUCCESS));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_that_cannot_run_is_warned_of_before_it_has_to() {
    let sandbox = sandbox().await;
    let hooks = "[hooks]\non_login_required = \"./tell.sh\"\non_recovered = \"echo well\"\n";
    let workspace = Workspace::for_sandbox(&sandbox, hooks);
    let missing = workspace.run(&["config", "check"]);
    must_say(&missing, SUCCESS, &["hooks.on_login_required", "./tell.sh does not exist"]);
    fs::write(workspace.path().join("tell.sh"), "exit 7\n").unwrap();
    must_say(&workspace.run(&["config", "check"]), SUCCESS, &["is not executable"]);
    super::start_and_stop::set_mode(&workspace.path().join("tell.sh"), 0o755);
    let fine = workspace.run(&["config", "check"]);
    assert!(!stderr(&fine).contains("hooks."), "{}", stderr(&fine));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_of_pleo_on_the_admin_port_leads_to_the_data_port() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let proxy = workspace.serve();
    let asked = client().get(format!("{}/v1/companies", proxy.admin)).send().await.unwrap();
    assert_eq!(asked.status(), 404);
    let told: Value = asked.json().await.unwrap();
    assert!(text(&told["fix"]).contains(&proxy.api), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_of_the_proxy_itself_is_said_on_stderr_too() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let proxy = workspace.serve();
    let refused = workspace.run(&["api", "/v1/companies"]);
    let login = format!("fix: Run `{} login`", workspace.program());
    must_say(&refused, LOGIN_REQUIRED, &["no account is connected", &login]);
    let body: Value = serde_json::from_str(&stdout(&refused)).unwrap();
    assert_eq!(body["code"], "login_required");
    proxy.login("default").await;
    // An error of Pleo is the body's alone.
    let pleo = workspace.run(&["api", "GET", "/v1/vendors"]);
    assert_eq!(code(&pleo), FAILED);
    assert!(!stderr(&pleo).contains("fix: "), "{}", stderr(&pleo));
    assert_eq!(code(&workspace.run(&["api", "GET", "/v1/companies"])), SUCCESS);
    let one = workspace.run(&["api", "/v1/companies", "--all"]);
    must_say(&one, SUCCESS, &["1 item."]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sandbox_takes_free_ports_together_and_prints_what_the_proxy_takes() {
    let workspace = Workspace::new("");
    let start = |listen: &str| {
        let mut child = workspace
            .command(&["sandbox", "--listen", listen])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let mut printed = String::new();
        while !printed.contains("# path = ") {
            printed += &format!("{}\n", lines.next().unwrap());
        }
        (KilledOnDrop(child), printed)
    };
    let (_first, one) = start(":0");
    let (_second, other) = start("0.0.0.0:0");
    assert_ne!(one, other);
    assert!(other.contains("api = \"http://127.0.0.1:"), "{other}");
    workspace.configure(&other);
    must_say(&workspace.run(&["config", "check"]), SUCCESS, &[]);
    let elsewhere = workspace.run(&["sandbox", "--listen", "192.0.2.1:8090"]);
    must_say(&elsewhere, USAGE, &["--listen 127.0.0.1:8090"]);
}

#[test]
fn what_cannot_be_used_says_what_was_expected() {
    let workspace = Workspace::new("environment = \"sandbox\"\n");
    for (arguments, expected) in [
        (&["sandbox", "--replay", "gone.har"][..], "exec --record FILE"),
        (&["sandbox", "--listen", "8090x"], "such as 127.0.0.1:8090"),
        (&["sandbox", "--faults", "latency"], "'{\"latency_ms\": 200}'"),
        (&["api", "/v1/x", "-d", "@gone.json"], "or @- for stdin"),
        (&["status", "--config", "gone.toml"], "init --config FILE"),
        (&["wait", "--timeout", "5"], "write 5s for seconds"),
        (&["api", "/v1/a", "/v1/b"], "write one path"),
    ] {
        must_say(&workspace.run(arguments), USAGE, &[expected]);
    }
    let pages = workspace.run(&["man", "--out", "/proc/nothing"]);
    must_say(&pages, FAILED, &["choose a folder that you may write to"]);
    let help = stdout(&workspace.run(&["sandbox", "--help"]));
    assert!(help.contains("PLEO_PROXY_CLIENT_SECRET=sandbox-secret pleo-proxy --config"), "{help}");
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_beside_a_proxy_print_no_log_of_their_own() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let proxy = workspace.serve();
    proxy.login("default").await;
    proxy.terminate();
    for command in [&["status"][..], &["doctor"], &["accounts", "list"], &["report"]] {
        let said = stderr(&workspace.run(command));
        assert!(!said.contains("INFO"), "{command:?}: {said}");
    }
    let asked = stderr(&workspace.run(&["status", "--log", "info"]));
    assert!(asked.contains("INFO"), "{asked}");
}

#[test]
fn the_program_that_exec_becomes_has_no_manual() {
    let workspace = Workspace::new("");
    assert_eq!(code(&workspace.run(&["man", "--out", "pages"])), SUCCESS);
    let pages = workspace.path().join("pages");
    assert!(pages.join("pleo-proxy-exec.1").exists());
    assert!(!pages.join("pleo-proxy-launch.1").exists());
    let mut main = String::new();
    fs::File::open(pages.join("pleo-proxy.1")).unwrap().read_to_string(&mut main).unwrap();
    assert!(!main.contains("launch"), "{main}");
}

//! The sandbox, embedded and as a command of its own.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use std::io::{BufRead as _, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command};

use pleo_proxy::sandbox::COMPANY_ID;
use reqwest::StatusCode;
use serde_json::{Value, json};
use support::command::{FAILED, NOT_RUNNING, SUCCESS, USAGE, code, json_output, stderr, stdout};
use support::{KilledOnDrop, Workspace, client, text, write_private};

pub(super) fn first_line(child: &mut Child) -> Value {
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_sandbox_serves_at_once_and_on_every_run() {
    let workspace = Workspace::new("environment = \"sandbox\"\n");
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
        let mut command = workspace.command(&arguments);
        command.env_remove("PLEO_PROXY_CLIENT_SECRET").stderr(std::process::Stdio::null());
        let mut child = KilledOnDrop(command.spawn().unwrap());
        let ready = first_line(&mut child.0);
        (child, text(&ready["api"]))
    };
    let set: [&str; 4] = ["--set", "listen.api=127.0.0.1:0", "--set", "listen.admin=127.0.0.1:0"];
    let alone = workspace.run(&["login"]);
    assert_eq!(code(&alone), NOT_RUNNING, "{}", stderr(&alone));
    for command in ["refresh", "logout"] {
        assert_eq!(code(&workspace.run(&[command])), NOT_RUNNING, "{command}");
    }
    for _ in 0..2 {
        let (mut child, api) = start();
        let companies = client().get(format!("{api}/v1/companies")).send().await.unwrap();
        assert_eq!(companies.status(), 200);
        assert_eq!(companies.headers().get("pleo-proxy-error"), None);
        let status = workspace.run(&[&["status", "--json"][..], &set].concat());
        assert_eq!(code(&status), SUCCESS, "{}", stdout(&status));
        assert_eq!(json_output(&status)["accounts"][0]["account"], "default");
        let temporary = PathBuf::from(text(&json_output(&status)["store"]));
        assert!(temporary.is_dir());
        // A second one beside it finds other ports for its sandbox.
        let (_second, other) = start();
        assert_eq!(
            client().get(format!("{other}/v1/companies")).send().await.unwrap().status(),
            200
        );
        drop(_second);
        assert_eq!(code(&workspace.run(&["stop"])), SUCCESS);
        assert_eq!(child.0.wait().unwrap().code(), Some(SUCCESS));
        assert!(!temporary.exists(), "its accounts are gone with it");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sandbox_runs_alone() {
    let workspace = Workspace::new("this is no configuration, and the sandbox needs none");
    let free = ["sandbox", "--listen", "127.0.0.1:0", "--files", "127.0.0.1:0", "--json"];
    let arguments = [&free[..], &["--client-id", "mine", "--auto-consent"]].concat();
    let mut command = workspace.command(&arguments);
    command.stderr(std::process::Stdio::null());
    let mut child = KilledOnDrop(command.spawn().unwrap());
    let ready = first_line(&mut child.0);
    assert_eq!((&ready["version"], &ready["event"]), (&json!(1), &json!("ready")));
    let api = text(&ready["api"]);
    assert_eq!(text(&ready["authorize"]), format!("{api}/oauth/authorize"));
    for name in ["token", "introspect", "files"] {
        assert!(text(&ready[name]).starts_with("http://127.0.0.1:"), "{name}");
    }
    assert_eq!(client().get(format!("{api}/v1/companies")).send().await.unwrap().status(), 401);
    let port = api.strip_prefix("http://").unwrap().to_owned();
    let taken = workspace.run(&["sandbox", "--listen", &port, "--files", "127.0.0.1:0"]);
    assert_eq!(code(&taken), FAILED);
    assert!(stderr(&taken).contains(&port), "{}", stderr(&taken));
    assert_eq!(code(&workspace.run(&["sandbox", "--faults", "{\"nonsense\": 1}"])), USAGE);
    let pid = child.0.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    assert_eq!(child.0.wait().unwrap().code(), Some(SUCCESS));
    assert!(TcpStream::connect(port).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sandbox_prints_a_configuration_that_works() {
    let workspace = Workspace::new("");
    let arguments = [
        "sandbox",
        "--listen",
        "127.0.0.1:0",
        "--files",
        "127.0.0.1:0",
        "--client-id",
        "it's \"mine\"",
    ];
    let mut child = KilledOnDrop(
        workspace.command(&[&arguments[..], &["--auto-consent"]].concat()).spawn().unwrap(),
    );
    let mut printed = String::new();
    for line in BufReader::new(child.0.stdout.take().unwrap()).lines().map(Result::unwrap) {
        printed += &format!("{line}\n");
        if line.starts_with("api = ") {
            break;
        }
    }
    write_private(
        &workspace.path().join("proxy.toml"),
        &format!("{printed}[store]\npath = \"state\"\n"),
    );
    let set = ["--set", "listen.api=127.0.0.1:0", "--set", "listen.admin=127.0.0.1:0"];
    let check = workspace.run(&["config", "check"]);
    assert_eq!(code(&check), SUCCESS, "{printed}{}", stderr(&check));
    let proxy = workspace.serve_with(&set);
    proxy.login("default").await;
    assert_eq!(proxy.get("/v1/companies").await.status(), 200);

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for (option, other) in [("--listen", "--files"), ("--files", "--listen")] {
        let refused = workspace.run(&["sandbox", option, &taken, other, "127.0.0.1:0"]);
        let said = stderr(&refused);
        assert_eq!(code(&refused), FAILED, "{said}");
        assert!(
            said.contains(&taken) && said.contains(&format!("with {option} 127.0.0.1:0")),
            "{said}"
        );
    }
}

/// A sandbox of its own process; the ready line says where it is.
pub(super) fn alone(workspace: &Workspace, more: &[&str]) -> (KilledOnDrop, Value) {
    let free = ["sandbox", "--listen", "127.0.0.1:0", "--files", "127.0.0.1:0", "--json"];
    let arguments = [&free[..], &["--auto-consent"], more].concat();
    let mut command = workspace.command(&arguments);
    command.stderr(std::process::Stdio::null());
    let mut child = KilledOnDrop(command.spawn().unwrap());
    let ready = first_line(&mut child.0);
    (child, ready)
}

/// The configuration of a proxy before a sandbox.
fn behind(sandbox: &Value) -> String {
    format!(
        "environment = \"sandbox\"\n[listen]\napi = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\n\
         [client]\nid = \"sandbox-client\"\nscopes = [\"users:read\"]\n\
         [endpoints]\nauthorize = {}\ntoken = {}\nintrospect = {}\napi = {}\n[store]\npath = \"state\"\n",
        sandbox["authorize"], sandbox["token"], sandbox["introspect"], sandbox["api"],
    )
}

/// Statuses of this many requests through a proxy before the sandbox, each with its count.
async fn statuses(workspace: &Workspace, sandbox: &Value, requests: usize) -> (usize, usize) {
    workspace.configure(&behind(sandbox));
    let proxy = workspace.serve();
    proxy.login("default").await;
    let (mut served, mut limited) = (0, 0);
    for _ in 0..requests {
        let response = proxy.get("/v2/employees").await;
        match response.status().as_u16() {
            200 => served += 1,
            429 => {
                let wait = response.headers()["retry-after"].to_str().unwrap().parse::<u64>();
                assert!((1..=60).contains(&wait.unwrap()));
                limited += 1;
            }
            other => panic!("{other}"),
        }
    }
    (served, limited)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sandbox_limits_requests_as_pleo_does_unless_told_otherwise() {
    let workspace = Workspace::new("");
    let (_child, sandbox) = alone(&workspace, &[]);
    let (served, limited) = statuses(&workspace, &sandbox, 610).await;
    // A login asks the API too, and a slow machine may begin a new minute.
    assert!(served >= 590 && limited > 0, "{served} served, {limited} limited");
    for (limit, expected) in [("3", false), ("0", true)] {
        let workspace = Workspace::new("");
        let (_child, sandbox) = alone(&workspace, &["--rate-limit", limit]);
        let (served, _) = statuses(&workspace, &sandbox, 20).await;
        assert_eq!(served == 20, expected, "--rate-limit {limit}: {served} served");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_sandbox_enforces_scopes_and_the_rate_limit() {
    let workspace = Workspace::new("environment = \"sandbox\"\n");
    let vendor = json!({ "companyId": COMPANY_ID, "name": "Mill", "defaultCurrency": "DKK" });
    for (scopes, expected) in [(Some("[\"users:read\"]"), 403), (None, 201)] {
        let scopes = scopes.map(|scopes| format!("client.scopes={scopes}"));
        let mut arguments =
            vec!["--json", "--set", "listen.api=127.0.0.1:0", "--set", "listen.admin=127.0.0.1:0"];
        arguments.extend(scopes.iter().flat_map(|scopes| ["--set", scopes]));
        let mut command = workspace.command(&arguments);
        command.env_remove("PLEO_PROXY_CLIENT_SECRET").stderr(std::process::Stdio::null());
        let mut child = KilledOnDrop(command.spawn().unwrap());
        let api = text(&first_line(&mut child.0)["api"]);
        let made = client().post(format!("{api}/v1/vendors")).json(&vendor).send().await.unwrap();
        assert_eq!(made.status(), expected, "{scopes:?}");
        let mut limited = false;
        for _ in 0..610 {
            let response = client().get(format!("{api}/v2/employees")).send().await.unwrap();
            limited |= response.status() == 429;
        }
        assert!(limited, "610 requests in a row, and no limit");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recording_is_replayed_without_a_credential_and_behind_a_proxy() {
    let exchange = |url: &str, status: u16, body: &str| {
        json!({
            "request": {"method": "GET", "url": format!("https://external.pleo.io{url}")},
            "response": {
                "status": status, "headers": [],
                "content": {"size": body.len(), "mimeType": "application/json", "text": body},
            },
        })
    };
    let har = json!({"log": {"version": "1.2", "entries": [
        exchange("/v1/companies?limit=1&page=2", 200, "{\"recorded\":1}"),
        exchange("/v1/companies?limit=1&page=2", 429, "{\"recorded\":2}"),
    ]}});
    let workspace = Workspace::new("");
    let file = workspace.path().join("recorded.har");
    std::fs::write(&file, har.to_string()).unwrap();
    let (_sandbox, ready) = alone(&workspace, &["--replay", file.to_str().unwrap()]);
    let url = format!("{}/v1/companies?page=2&limit=1", text(&ready["api"]));
    let first = client().get(&url).send().await.unwrap();
    assert_eq!(
        (first.status(), &first.headers()["content-type"]),
        (StatusCode::OK, &"application/json".parse().unwrap())
    );
    assert_eq!(first.text().await.unwrap(), "{\"recorded\":1}");
    assert_eq!(client().get(&url).send().await.unwrap().status(), 429);

    workspace.configure(&behind(&ready));
    let proxy = workspace.serve();
    proxy.login("default").await;
    let again = proxy.get("/v1/companies?limit=1&page=2").await;
    assert_eq!(again.status(), 429, "the last answer again");
    let unknown = proxy.get("/v1/companies?limit=2").await;
    assert_eq!(unknown.status(), 501);
    let said = unknown.text().await.unwrap();
    assert!(said.contains("the nearest is GET /v1/companies?limit=1&page=2"), "{said}");
}

#[test]
fn a_recording_that_cannot_be_read_is_refused_with_its_place() {
    let workspace = Workspace::new("");
    let file = workspace.path().join("recorded.har");
    let replay = || {
        let output = workspace.run(&["sandbox", "--replay", file.to_str().unwrap()]);
        assert_eq!(code(&output), USAGE);
        stderr(&output)
    };
    assert!(replay().contains("recorded.har cannot be read"), "{}", replay());
    std::fs::write(&file, "{\"log\": {\"entries\": [{}]}}").unwrap();
    assert!(replay().contains("log.entries[0].request"), "{}", replay());
}

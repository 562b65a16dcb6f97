//! The sandbox, embedded and as a command of its own.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use std::io::{BufRead as _, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command};

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

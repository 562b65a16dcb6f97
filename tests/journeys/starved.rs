//! Hostile surroundings: nobody reads the log, every place is taken, files are few, a second signal
//! comes.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use pleo_proxy::sandbox::{Faults, Sandbox};
use reqwest::Method;
use serde_json::Value;
use support::{Proxy, TIMEOUT, Workspace, as_nobody, connected, raw, sandbox, text, wait_until};

/// Writes of a request whose body never ends: its place stays taken.
const SLOW_UPLOAD: &str =
    "POST /v1/vendors HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\nContent-Length: 100000\r\n\r\nx";

fn request(proxy: &Proxy, template: &str) -> Vec<u8> {
    template.replace("PORT", &proxy.address().port().to_string()).into_bytes()
}

fn connect(proxy: &Proxy) -> TcpStream {
    let stream = TcpStream::connect(proxy.address()).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    stream
}

/// Takes every place with uploads that go on.
fn fill(proxy: &Proxy, places: usize) -> Vec<TcpStream> {
    let slow = || {
        let mut stream = connect(proxy);
        stream.write_all(&request(proxy, SLOW_UPLOAD)).unwrap();
        stream
    };
    (0..places).map(|_| slow()).collect()
}

/// One answer, whole, or what came before the connection broke.
fn read_response(stream: &mut TcpStream) -> String {
    let (mut response, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return String::from_utf8_lossy(&response).into_owned(),
            Ok(read) => response.extend_from_slice(&buffer[..read]),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unread_stderr_blocks_no_request_refresh_or_shutdown() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    // Full from the start: not even the first line finds room.
    let (_reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(&vec![b'.'; 64 * 1024]).unwrap();
    let mut command = workspace.command(&["--json", "--log", "debug"]);
    command.stderr(Stdio::from(writer));
    let proxy = Proxy::launch(command, &workspace.state());
    proxy.login("default").await;
    for _ in 0..20 {
        let forced =
            proxy.admin(Method::POST, "/api/accounts/default/refresh?force=true", None).await;
        assert!(forced.status().is_success() || forced.status() == 503, "{}", forced.status());
        assert_eq!(proxy.get("/v1/companies").await.status(), 200);
    }
    let (status, _) = proxy.terminate();
    assert_eq!(status.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_data_listener_responds_503_and_leaves_the_admin_listener_free() {
    let sandbox = sandbox().await;
    let (workspace, proxy) = connected(&sandbox, "").await;
    drop(proxy);
    workspace.configure(
        &support::sandbox_config(&sandbox, "").replace("[client]", "max_connections = 8\n[client]"),
    );
    let proxy = workspace.serve();
    let held = fill(&proxy, 8);
    let get = request(&proxy, "GET /v1/companies HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\n\r\n");
    // More at once than are told at once: the rest waits its turn.
    let mut callers: Vec<_> = (0..60).map(|_| connect(&proxy)).collect();
    for caller in &mut callers {
        caller.write_all(&get).unwrap();
    }
    for caller in &mut callers {
        let response = read_response(caller);
        assert!(
            response.starts_with("HTTP/1.1 503")
                && response.contains("pleo-proxy-error: overloaded"),
            "{response:?}"
        );
        assert!(response.ends_with('}') && response.contains("retry-after: 1"), "{response:?}");
    }
    assert_eq!(
        proxy.http.get(format!("{}/health", proxy.admin)).send().await.unwrap().status(),
        200
    );
    assert_eq!(workspace.run(&["status"]).status.code(), Some(0));
    drop(held);
    let start = Instant::now();
    while proxy.get("/v1/companies").await.status() != 200 {
        assert!(start.elapsed() < TIMEOUT, "{}", proxy.log());
    }
    assert_eq!(workspace.run(&["stop"]).status.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_are_closed_for_new_ones_also_with_few_descriptors() {
    let sandbox = sandbox().await;
    let (workspace, proxy) = connected(&sandbox, "").await;
    drop(proxy);
    let mut few = Command::new("prlimit");
    few.args(["--nofile=256:256", env!("CARGO_BIN_EXE_pleo-proxy"), "--json", "--log", "debug"]);
    few.current_dir(workspace.path()).env_clear().env("HOME", workspace.path());
    few.env("PLEO_PROXY_CLIENT_SECRET", "sandbox-secret")
        .env("PATH", std::env::var_os("PATH").unwrap_or_default());
    few.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    if Command::new("prlimit").arg("--version").output().is_err() {
        return println!("skipped: prlimit is missing");
    }
    let proxy = Proxy::launch(few, &workspace.state());
    let mut resting = Vec::new();
    for number in 0..300 {
        let mut caller = connect(&proxy);
        caller
            .write_all(&request(
                &proxy,
                "GET /v1/companies HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\n\r\n",
            ))
            .unwrap();
        let mut head = [0; 12];
        caller
            .read_exact(&mut head)
            .unwrap_or_else(|error| panic!("caller {number}: {error}\n{}", proxy.log()));
        assert_eq!(&head, b"HTTP/1.1 200", "caller {number}");
        resting.push(caller);
    }
    assert!(!proxy.log().contains("could not be accepted"), "{}", proxy.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn other_users_are_refused_without_filling_the_log_or_the_connection_limit() {
    let sandbox = sandbox().await;
    let (_place, proxy) = connected(&sandbox, "").await;
    let url = format!("{}/v1/companies?[1-300]", proxy.api);
    let told = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code} ", "--noproxy", "*", &url];
    let Some(mut told) = as_nobody(told[0], &told[1..]) else { return };
    let codes = String::from_utf8(told.output().unwrap().stdout).unwrap();
    assert_eq!(codes.matches("403 ").count(), 300, "{codes}");
    proxy.wait_for_log("a program of another user was turned away");
    let lines = proxy.log().matches("a program of another user was turned away").count();
    assert!((1..10).contains(&lines), "{lines} lines of 300");
    let silent =
        "for i in {1..100}; do exec {fd}<>/dev/tcp/127.0.0.1/$0; done; echo; exec sleep 60";
    let mut silent =
        as_nobody("bash", &["-c", silent, &proxy.address().port().to_string()]).unwrap();
    let mut silent = silent.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    silent.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    assert_eq!(proxy.get("/v1/companies").await.status(), 200);
    silent.kill().unwrap();
    silent.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_is_reported_and_a_second_signal_ends_it_at_once() {
    let sandbox = sandbox().await;
    let (workspace, mut proxy) = connected(&sandbox, "").await;
    sandbox.set_faults(Faults { latency_ms: 60_000, ..Faults::default() });
    let mut held = connect(&proxy);
    held.write_all(&request(&proxy, "GET /v1/companies HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\n\r\n"))
        .unwrap();
    wait_until("the request is under way", || sandbox.counters().api_requests > 0);
    proxy.signal("TERM");
    proxy.wait_for_log("ending");
    let ready = proxy.http.get(format!("{}/ready", proxy.admin)).send().await.unwrap();
    assert_eq!(
        (ready.status().as_u16(), text(&ready.json::<Value>().await.unwrap()["status"])),
        (503, "ending".into())
    );
    assert_eq!(proxy.status().await["ending"], true);
    tokio::time::sleep(Duration::from_millis(150)).await;
    let second = Instant::now();
    proxy.signal("TERM");
    assert_eq!(proxy.child.wait().unwrap().code(), Some(1));
    assert!(second.elapsed() < pleo_proxy::server::DRAIN / 2, "it waited for the drain");
    proxy.wait_for_log("ended at once");
    assert_eq!(
        std::fs::read_dir(workspace.state().join("run")).unwrap().count(),
        0,
        "the run file is gone"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_repeated_at_once_counts_as_one() {
    let sandbox = sandbox().await;
    let (_place, mut proxy) = connected(&sandbox, "").await;
    sandbox.set_faults(Faults { latency_ms: 500, ..Faults::default() });
    let requests = sandbox.counters().api_requests;
    let request = tokio::spawn(support::client().get(format!("{}/v1/companies", proxy.api)).send());
    wait_until("the request is under way", || sandbox.counters().api_requests > requests);
    // As `timeout` does it: to the process, and to its group.
    let pid = proxy.child.id().to_string();
    let kill = format!("kill -TERM {pid}; sleep 0.01; kill -TERM {pid}");
    assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    assert_eq!(request.await.unwrap().unwrap().status(), 200);
    assert_eq!(proxy.child.wait().unwrap().code(), Some(0), "{}", proxy.log());
}

/// Runs `login` with a redirect URI of its own while `ask` asks its port something.
fn beside_a_login<T>(workspace: &Workspace, sandbox: &Sandbox, ask: impl FnOnce(u16) -> T) -> T {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let own = format!("[client]\nredirect_uri = \"http://127.0.0.1:{port}/back\"");
    workspace.configure(&support::sandbox_config(sandbox, "").replace("[client]", &own));
    let mut login = workspace.command(&["login", "--no-browser"]).spawn().unwrap();
    let address = format!("127.0.0.1:{port}").parse().unwrap();
    wait_until("the login listens", || TcpStream::connect_timeout(&address, TIMEOUT).is_ok());
    let response = ask(port);
    login.kill().unwrap();
    login.wait().unwrap();
    response
}

#[tokio::test(flavor = "multi_thread")]
async fn a_logins_own_listener_has_the_same_guard_and_peer_check() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let ask = |fields: &str| {
        beside_a_login(&workspace, &sandbox, |port| {
            let head = format!(
                "GET /back?code=c&state=s HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{fields}\r\n"
            );
            raw(
                format!("127.0.0.1:{port}").parse().unwrap(),
                head.as_bytes(),
                Duration::from_secs(2),
            )
        })
    };
    let person =
        "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\n";
    let response = ask(person);
    assert!(
        response.starts_with("HTTP/1.1 400") && response.contains("<title>"),
        "a person is let in: {response:?}"
    );
    for (fields, code) in [
        ("Origin: https://evil.example\r\n", "forbidden_origin"),
        (
            "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors\r\nSec-Fetch-Dest: image\r\n",
            "forbidden_origin",
        ),
        ("Host: evil.example\r\n", "bad_request"),
    ] {
        let response = ask(fields);
        assert!(
            response.contains(&format!("pleo-proxy-error: {code}")),
            "{fields:?}: {response:?}"
        );
    }
    let others = beside_a_login(&workspace, &sandbox, |port| {
        let url = format!("http://127.0.0.1:{port}/back?code=c&state=s");
        Some(as_nobody("curl", &["-s", "-i", "--noproxy", "*", &url])?.output().unwrap().stdout)
    });
    let Some(response) = others.map(|response| String::from_utf8(response).unwrap()) else {
        return;
    };
    assert!(response.contains("pleo-proxy-error: forbidden_peer"), "{response:?}");
}

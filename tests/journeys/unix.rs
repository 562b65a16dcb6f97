//! The unix socket: the same proxy for whoever may open the file, and for nobody else.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use pleo_proxy::sandbox::Sandbox;
use support::{Proxy, TIMEOUT, Workspace, sandbox};

/// A place beside its sandbox, and the socket's path in it.
async fn workspace() -> (Sandbox, Workspace, PathBuf) {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let socket = workspace.path().join("door/api.sock");
    (sandbox, workspace, socket)
}

/// `--set` for a socket whose path is relative to the folder that commands run in.
const SOCKET: [&str; 2] = ["--set", "listen.api=\"unix:door/api.sock\""];

/// One request on a connection of its own; the whole answer as text.
fn ask(socket: &Path, head: &str) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    stream.write_all(format!("{head}\r\nConnection: close\r\n\r\n").as_bytes()).unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    response
}

fn companies(socket: &Path) -> String {
    ask(socket, "GET /v1/companies HTTP/1.1\r\nHost: localhost")
}

async fn connected(workspace: &Workspace) -> Proxy {
    let proxy = workspace.serve_with(&SOCKET);
    proxy.login("default").await;
    proxy
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unix_socket_serves_behind_the_same_guard_and_is_gone_afterwards() {
    let (sandbox, workspace, socket) = workspace().await;
    let proxy = connected(&workspace).await;
    assert!(
        proxy.api.starts_with("unix:/") && proxy.api.ends_with("door/api.sock"),
        "{}",
        proxy.api
    );
    assert_eq!(proxy.status().await["api"], proxy.api.as_str());
    let response = companies(&socket);
    assert!(response.starts_with("HTTP/1.1 200") && response.contains("\"data\""), "{response}");
    let told = format!("process={} program=\"", std::process::id());
    proxy.wait_for_log(&told);
    let before = sandbox.counters().api_requests;
    for (head, code) in [
        ("GET /v1/companies HTTP/1.1\r\nHost: evil.example", "forbidden_host"),
        ("GET /v1/companies HTTP/1.1\r\nHost: localhost:8088", "forbidden_host"),
        (
            "GET /v1/companies HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost",
            "forbidden_origin",
        ),
        ("GET /v1/../x HTTP/1.1\r\nHost: localhost", "bad_request"),
    ] {
        let response = ask(&socket, head);
        assert!(response.contains(&format!("\"code\":\"{code}\"")), "{head}: {response}");
    }
    assert_eq!(sandbox.counters().api_requests, before, "nothing that was refused reached the API");
    let (status, log) = proxy.terminate();
    assert!(status.success(), "{log}");
    assert!(!socket.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_socket_of_a_killed_process_is_taken_over_and_a_live_one_is_not() {
    let (_sandbox, workspace, socket) = workspace().await;
    connected(&workspace).await.kill();
    assert!(socket.exists(), "a killed process cleans nothing up");
    let proxy = workspace.serve_with(&SOCKET);
    assert!(companies(&socket).starts_with("HTTP/1.1 200"));
    let second = workspace.run(&SOCKET);
    let words = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(1), "{words}");
    assert!(
        words.contains(&format!("process {}", proxy.child.id()))
            && words.contains("pleo-proxy stop"),
        "{words}"
    );
    assert!(companies(&socket).starts_with("HTTP/1.1 200"), "the first one goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_others_may_enter_or_own_is_refused() {
    let (_sandbox, workspace, socket) = workspace().await;
    let folder = socket.parent().unwrap();
    fs::create_dir(folder).unwrap();
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
    let refused = workspace.run(&SOCKET);
    let words = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{words}");
    assert!(words.contains("0755") && words.contains("chmod 700"), "{words}");
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).unwrap();
    if !rustix::process::geteuid().is_root() {
        return eprintln!("SKIPPED: what belongs to another user; giving things away needs root");
    }
    drop(UnixListener::bind(&socket).unwrap());
    std::os::unix::fs::chown(&socket, Some(65534), Some(65534)).unwrap();
    let refused = workspace.run(&SOCKET);
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("another user's socket"),
        "{refused:?}"
    );
    assert_eq!(fs::symlink_metadata(&socket).unwrap().uid(), 65534, "and it is left alone");
    std::os::unix::fs::chown(folder, Some(65534), Some(65534)).unwrap();
    let refused = workspace.run(&SOCKET);
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("belongs to user 65534"),
        "{refused:?}"
    );
}

/// The modes keep others out; should somebody widen them, the kernel's word about the caller still
/// does.
#[tokio::test(flavor = "multi_thread")]
async fn another_user_is_refused_even_where_the_modes_would_let_it_in() {
    if !rustix::process::geteuid().is_root()
        || Command::new("setpriv").arg("--version").output().is_err()
    {
        return eprintln!(
            "SKIPPED: acting as another user needs root and setpriv (Debian package util-linux)"
        );
    }
    let (sandbox, workspace, socket) = workspace().await;
    let proxy = connected(&workspace).await;
    let as_nobody = || {
        let mut command = Command::new("setpriv");
        command.args([
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "curl",
            "-s",
            "-i",
            "-m",
            "10",
        ]);
        command.arg("--unix-socket").arg(&socket).arg("http://localhost/v1/companies");
        String::from_utf8_lossy(&command.output().unwrap().stdout).into_owned()
    };
    assert_eq!(as_nobody(), "", "the file cannot be opened");
    for path in [workspace.path(), socket.parent().unwrap(), &socket] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
    }
    let before = sandbox.counters().api_requests;
    let response = as_nobody();
    assert!(
        response.starts_with("HTTP/1.1 403") && response.contains("forbidden_peer"),
        "{response}"
    );
    assert_eq!(sandbox.counters().api_requests, before);
    proxy.wait_for_log("uid=65534");
}

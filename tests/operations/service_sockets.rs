//! A service manager that holds the sockets: restarts that refuse nobody, and what it is told.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use std::fs;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use support::command::{SUCCESS, USAGE};
use support::{KilledOnDrop, TIMEOUT, Workspace, client, sandbox, wait_until};

/// A command that serves on two sockets, passed as a service manager passes them.
fn passing(workspace: &Workspace, sockets: [OwnedFd; 2], names: &str) -> Command {
    // What a child inherits without unsafe code are its standard streams.
    let script = "exec 3<&0 4<&1 0</dev/null 1>/dev/null; LISTEN_PID=$$ LISTEN_FDS=2 exec \"$@\"";
    let mut command = Command::new("sh");
    let plain = workspace.command(&[]);
    command.args(["-c", script, "sh", env!("CARGO_BIN_EXE_pleo-proxy"), "serve"]);
    command.current_dir(workspace.path()).env_clear();
    for (name, value) in plain.get_envs() {
        command.env(name, value.unwrap());
    }
    command.env("LISTEN_FDNAMES", names);
    let [first, second] = sockets;
    let log = fs::File::options().create(true).append(true).open(workspace.path().join("log"));
    command.stdin(Stdio::from(first)).stdout(Stdio::from(second)).stderr(log.unwrap());
    command
}

fn log(workspace: &Workspace) -> String {
    fs::read_to_string(workspace.path().join("log")).unwrap()
}

fn any_port() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

fn held(socket: &TcpListener) -> OwnedFd {
    socket.try_clone().unwrap().into()
}

fn end(child: &mut Child) {
    let sent = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    assert_eq!(child.wait().unwrap().code(), Some(SUCCESS));
}

/// Asks again and again, each time on a new connection, until it is told to stop; how often.
async fn ask(url: String, answered: Arc<AtomicUsize>, done: Arc<AtomicBool>) {
    let client = client();
    while !done.load(Ordering::SeqCst) {
        let answer = client.get(&url).header("connection", "close").send().await;
        let answer = answer.unwrap_or_else(|error| panic!("refused or cut: {error:?}"));
        assert_eq!(answer.status(), 200);
        answer.bytes().await.unwrap();
        answered.fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn restarts_with_sockets_of_a_service_manager_refuse_and_cut_nobody() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let proxy = workspace.serve();
    proxy.login("default").await;
    proxy.terminate();
    let (api, admin) = (any_port(), any_port());
    let url = format!("http://{}/v1/companies", api.local_addr().unwrap());
    let (answered, done) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let callers: Vec<_> =
        (0..4).map(|_| tokio::spawn(ask(url.clone(), answered.clone(), done.clone()))).collect();
    // Nothing runs yet: the callers wait for what is started now.
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    for _ in 0..4 {
        let mut command = passing(&workspace, [held(&api), held(&admin)], "api:admin");
        let mut child = KilledOnDrop(command.spawn().unwrap());
        let before = answered.load(Ordering::SeqCst);
        let enough = || answered.load(Ordering::SeqCst) >= before + 40;
        let has_failed = || callers.iter().any(tokio::task::JoinHandle::is_finished);
        wait_until("callers are answered", || enough() || has_failed());
        end(&mut child.0);
    }
    let mut command = passing(&workspace, [held(&api), held(&admin)], "api:admin");
    let mut child = KilledOnDrop(command.spawn().unwrap());
    done.store(true, Ordering::SeqCst);
    for caller in callers {
        caller.await.unwrap();
    }
    let admin = format!("http://{}/health", admin.local_addr().unwrap());
    assert_eq!(client().get(admin).send().await.unwrap().status(), 200);
    end(&mut child.0);
    assert_eq!(sandbox.counters().refresh_replays, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unix_socket_may_be_passed_and_stays_when_the_process_ends() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let path = workspace.path().join("api.sock");
    let (socket, admin) = (UnixListener::bind(&path).unwrap(), any_port());
    for _ in 0..2 {
        let sockets = [socket.try_clone().unwrap().into(), held(&admin)];
        let mut child =
            KilledOnDrop(passing(&workspace, sockets, "pleo-proxy.socket:x").spawn().unwrap());
        let answer = tokio::task::spawn_blocking({
            let path = path.clone();
            move || get_by(&path)
        });
        let answer = answer.await.unwrap();
        assert!(
            answer.contains("login_required") || answer.contains("unknown_account"),
            "{answer}"
        );
        end(&mut child.0);
        assert!(path.exists(), "it belongs to the service manager");
    }
    assert!(log(&workspace).contains(&format!("unix:{}", path.display())), "{}", log(&workspace));
}

/// What a request by a unix socket is answered.
fn get_by(path: &Path) -> String {
    use std::io::{Read as _, Write as _};
    let mut stream = std::os::unix::net::UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    let request = b"GET /v1/companies HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(request).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn passed_sockets_are_checked_like_configured_ones() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let open = TcpListener::bind(SocketAddr::from(([0, 0, 0, 0], 0))).unwrap();
    let datagrams = UdpSocket::bind("127.0.0.1:0").unwrap();
    for (first, said) in [
        (OwnedFd::from(open), "guard.local_key_file"),
        (OwnedFd::from(datagrams), "stream sockets"),
    ] {
        let mut command = passing(&workspace, [first, held(&any_port())], "api:admin");
        let status = command.status().unwrap();
        assert_eq!(status.code(), Some(USAGE), "{}", log(&workspace));
        assert!(log(&workspace).contains(said), "{}", log(&workspace));
        fs::remove_file(workspace.path().join("log")).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_manager_is_told_what_happens() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let path = workspace.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(TIMEOUT)).unwrap();
    let mut command = workspace.command(&["--json"]);
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "100000");
    let proxy = support::Proxy::launch(command, &workspace.state());
    let next = || {
        let mut message = [0; 1024];
        let length = manager.recv(&mut message).unwrap();
        String::from_utf8(message[..length].to_vec()).unwrap()
    };
    let until =
        |words: &str| std::iter::repeat_with(next).find(|message| message.contains(words)).unwrap();
    let ready = until("READY=1");
    assert!(ready.contains("STATUS="), "{ready}");
    until("WATCHDOG=1");
    proxy.login("default").await;
    let well = until("1 account");
    assert!(well.starts_with("WATCHDOG=1\nSTATUS="), "{well}");
    let (status, _) = tokio::task::spawn_blocking(|| proxy.terminate()).await.unwrap();
    assert_eq!(status.code(), Some(SUCCESS));
    assert!(until("STOPPING=1").contains("STATUS=ending"));
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_for_another_process_are_left_alone() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let mut command = workspace.command(&["--json"]);
    command.env("LISTEN_PID", "1").env("LISTEN_FDS", "2").env("LISTEN_FDNAMES", "api:admin");
    let proxy = support::Proxy::launch(command, &workspace.state());
    assert_eq!(
        proxy.http.get(format!("{}/health", proxy.admin)).send().await.unwrap().status(),
        200
    );
}

//! Attacks of programs of this machine on a login, the key and the ports; and honest tools, who
//! must not be taken for one.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use std::cell::RefCell;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};
use std::thread;

use reqwest::Method;
use rustix::net::sockopt::set_socket_linger;
use serde_json::{Value, json};
use support::{
    After, Caller, KilledOnDrop, Upstream, Workspace, begin_login, consent, sandbox,
    sandbox_config, setup, setup_without_account, visit, wait_until,
};
use url::Url;

// --- T28: honest tools.

/// Tools and how they fetch `URL`, first with GET and then with a body; each prints the answer.
const TOOLS: [(&str, &[&str]); 9] = [
    ("curl", &["-s", "URL"]),
    ("curl", &["-s", "-d", "{}", "URL"]),
    ("wget", &["-q", "-O", "-", "URL"]),
    ("wget", &["-q", "-O", "-", "--post-data={}", "URL"]),
    (
        "python3",
        &[
            "-c",
            "import sys, urllib.request as u; print(u.urlopen(sys.argv[1]).read().decode())",
            "URL",
        ],
    ),
    (
        "python3",
        &[
            "-c",
            "import sys, urllib.request as u; print(u.urlopen(sys.argv[1], b'{}').read().decode())",
            "URL",
        ],
    ),
    (
        "python3",
        &[
            "-c",
            "import sys, http.client as h, urllib.parse as p; at = p.urlsplit(sys.argv[1]);\n\
             c = h.HTTPConnection(at.netloc); c.request('PUT', at.path, body=iter([b'{', b'}']), encode_chunked=True,\n\
             headers={'Transfer-Encoding': 'chunked'}); print(c.getresponse().read().decode())",
            "URL",
        ],
    ),
    (
        "node",
        &[
            "-e",
            "fetch(process.argv[1], {method: 'POST', body: '{}'}).then(a => a.text()).then(console.log)",
            "URL",
        ],
    ),
    ("perl", &["-MHTTP::Tiny", "-e", "print HTTP::Tiny->new->get($ARGV[0])->{content}", "URL"]),
];

#[tokio::test(flavor = "multi_thread")]
async fn installed_http_tools_are_served() {
    let upstream = Upstream::ok();
    let setup = setup(&upstream, "").await;
    let mut served = 0;
    for (tool, arguments) in TOOLS {
        if Command::new(tool).arg("--version").output().is_err() {
            eprintln!("SKIPPED {tool}: it is not here");
            continue;
        }
        let url = format!("{}/v1/x", setup.proxy.api);
        let before = upstream.requests().len();
        let mut command = Command::new(tool);
        command
            .args(arguments.iter().map(|it| it.replace("URL", &url)))
            .current_dir(setup.workspace.path());
        let done = command.env("no_proxy", "*").output().unwrap();
        let said = String::from_utf8_lossy(&done.stdout).into_owned();
        assert_eq!(
            said.trim(),
            "fine",
            "{tool} {arguments:?}: {}",
            String::from_utf8_lossy(&done.stderr)
        );
        assert_eq!(upstream.requests().len(), before + 1, "{tool} {arguments:?}");
        assert!(upstream.last().token().starts_with("Bearer "));
        served += 1;
    }
    assert!(served > 0, "there is no tool at all");
}

// --- T84: whose token.

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_parallel_requests_of_three_accounts_each_use_their_own_token() {
    const AT_ONCE: usize = 250;
    let upstream = Upstream::start(|incoming| {
        let (token, target) = (incoming.token(), incoming.target().to_owned());
        let said = format!("{token} {target}");
        incoming
            .respond(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{said}", said.len()));
        After::Keep
    });
    let setup = setup_without_account(&upstream, "").await;
    let mut tokens = Vec::new();
    for name in ["a", "b", "c"] {
        setup.proxy.login(name).await;
        tokens.push(
            setup.caller().get(&format!("/@{name}/")).text().trim_end_matches(" /").to_owned(),
        );
    }
    assert!(tokens[0] != tokens[1] && tokens[1] != tokens[2] && tokens[0] != tokens[2]);
    let mut callers: Vec<Caller> = (0..AT_ONCE).map(|_| setup.caller()).collect();
    for round in 0..4 {
        let ask = |number: usize| (round + number) % 3;
        for (number, caller) in callers.iter_mut().enumerate() {
            let name = ["a", "b", "c"][ask(number)];
            match number % 2 {
                0 => caller.send_head(
                    "GET",
                    &format!("/v1/{round}/{number}"),
                    &[&format!("Pleo-Account: {name}")],
                ),
                _ => caller.send_head("GET", &format!("/@{name}/v1/{round}/{number}"), &[]),
            }
        }
        for (number, caller) in callers.iter_mut().enumerate() {
            assert_eq!(
                caller.read_response().text(),
                format!("{} /v1/{round}/{number}", tokens[ask(number)])
            );
        }
    }
}

// --- T87, T95, T99: a login.

#[tokio::test(flavor = "multi_thread")]
async fn a_callback_for_one_account_never_connects_another() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let proxy = workspace.serve();
    proxy.login("victim").await;
    let before = fs::read(workspace.record("victim")).unwrap();
    let back = consent(&begin_login(&proxy, "attacker").await).await;
    begin_login(&proxy, "victim").await;
    let body = json!({"redirected_url": back.as_str()});
    let response = proxy.admin(Method::POST, "/api/accounts/victim/login", Some(body)).await;
    assert_eq!(response.status(), 502);
    let told: Value = response.json().await.unwrap();
    assert!(told.to_string().contains("attacker"), "it says whose answer that was: {told}");
    assert_eq!(fs::read(workspace.record("victim")).unwrap(), before);
    assert_eq!(visit(back.clone()).await.0, 200, "whoever loads the page again reads how it ended");
    assert_eq!(sandbox.counters().token_posts, 2, "an answer is good once");
}

/// Sits there, leaves in the middle, or breaks off: nothing of it is an answer to a login.
fn disturb(address: SocketAddr) -> Vec<TcpStream> {
    for round in 0..50 {
        let mut stream = TcpStream::connect(address).unwrap();
        if round % 2 == 0 {
            stream.write_all(b"GET /callback?code=a&st").unwrap();
        }
        // A reset, not an end.
        set_socket_linger(&stream, Some(std::time::Duration::ZERO)).unwrap();
    }
    let mut idle: Vec<_> = (0..20).map(|_| TcpStream::connect(address).unwrap()).collect();
    idle[0].write_all(b"GET /callback HTTP/1.1\r\n").unwrap();
    idle
}

/// `pleo-proxy login` and the address that it names.
fn login_command(workspace: &Workspace, arguments: &[&str]) -> (KilledOnDrop, Url) {
    let mut child = KilledOnDrop(workspace.command(arguments).spawn().unwrap());
    let mut lines = BufReader::new(child.0.stderr.take().unwrap()).lines().map_while(Result::ok);
    let url = lines.find_map(|line| line.trim().parse().ok()).expect("it names an address");
    // It goes on talking, and somebody has to listen.
    thread::spawn(move || lines.for_each(drop));
    (child, url)
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_or_aborted_callback_connections_do_not_block_a_login() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let (child, url) = login_command(&workspace, &["login", "acme", "--no-browser"]);
    let back = consent(&url).await;
    let idle = disturb(back.socket_addrs(|| None).unwrap()[0]);
    for path in ["/favicon.ico", "/", "/callback/", "/Callback"] {
        assert_eq!(visit(back.join(path).unwrap()).await.0, 404, "{path}");
    }
    assert_eq!(visit(back.clone()).await.0, 200);
    let child = RefCell::new(child);
    wait_until("the command ends though some sit there still", || {
        child.borrow_mut().0.try_wait().unwrap().is_some()
    });
    assert_eq!(child.borrow_mut().0.wait().unwrap().code(), Some(0));
    drop(idle);

    let proxy = workspace.serve();
    let back = consent(&begin_login(&proxy, "other").await).await;
    let idle = disturb(proxy.admin_address());
    assert_eq!(visit(back.clone()).await.0, 200);
    drop(idle);
    assert_eq!(sandbox.counters().token_posts, 2);
}

/// A folder whose `xdg-open` writes down how it was called.
fn recording_browser(workspace: &Workspace) -> std::path::PathBuf {
    let folder = workspace.path().join("bin");
    fs::create_dir(&folder).unwrap();
    let script = "#!/bin/sh\nprintf '%s\\n' \"$#\" \"$@\" > called.new && mv called.new called\n";
    fs::write(folder.join("xdg-open"), script).unwrap();
    fs::set_permissions(folder.join("xdg-open"), fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn the_authorize_url_reaches_the_browser_as_one_argument_without_a_shell() {
    let sandbox = sandbox().await;
    let hostile = "a=$(touch%20pwned)&b=`touch${IFS}pwned`&c=;touch${IFS}pwned;&d=|calc&e=%25USERPROFILE%25&f=-n";
    let config = sandbox_config(&sandbox, "");
    let honest = sandbox.authorize_url();
    let workspace = Workspace::new(&config.replace(&honest, &format!("{honest}?{hostile}")));
    let mut path = recording_browser(&workspace).into_os_string();
    path.push(":/usr/bin:/bin");
    let mut command = workspace.command(&["login"]);
    let _login = KilledOnDrop(command.env("PATH", path).stderr(Stdio::null()).spawn().unwrap());
    let record = workspace.path().join("called");
    wait_until("the browser is called", || record.exists());
    let called = fs::read_to_string(record).unwrap();
    let (count, address) = called.trim_end().split_once('\n').unwrap();
    assert_eq!(count, "1", "{called}");
    assert!(
        address.starts_with(&honest) && address.contains(hostile) && !address.contains('\n'),
        "{called}"
    );
    assert!(!workspace.path().join("pwned").exists());
}

// --- T142: the port is somebody else's.

/// A listener of user 65534 and its port; none if this is not root, who alone can start one.
fn squatter(host: &str) -> Option<(KilledOnDrop, u16)> {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root || Command::new("setpriv").arg("--version").output().is_err() {
        eprintln!(
            "SKIPPED: acting as another user needs root and setpriv (Debian package util-linux)"
        );
        return None;
    }
    let script = "use IO::Socket::IP; $| = 1; my $s = IO::Socket::IP->new(LocalHost => $ARGV[0], Listen => 9, \
                  LocalPort => 0) or die $!; print $s->sockport, \"\\n\"; sleep 600;";
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "perl", "-e", script, host]);
    let mut child = KilledOnDrop(command.stdout(Stdio::piped()).spawn().unwrap());
    let mut port = String::new();
    BufReader::new(child.0.stdout.take().unwrap()).read_line(&mut port).unwrap();
    Some((child, port.trim().parse().unwrap()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_another_user_has_stops_the_start_in_either_family() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    for host in ["127.0.0.1", "::1"] {
        let Some((_sits, port)) = squatter(host) else { return };
        for setting in ["listen.api", "listen.admin"] {
            let done = workspace.run(&["serve", "--set", &format!("{setting}=127.0.0.1:{port}")]);
            let said = String::from_utf8_lossy(&done.stderr).into_owned();
            assert_eq!(done.status.code(), Some(1), "{host} {setting}: {said}");
            assert!(said.contains(setting) && said.contains(&port.to_string()), "{said}");
        }
    }
}

// --- T146: guesses.

/// Sends wrong keys one after another on one connection, and returns each status.
fn guess(
    address: SocketAddr,
    count: usize,
    request: impl Fn(usize) -> (String, String),
) -> Vec<u16> {
    let mut caller = Caller::to(address);
    let ask = |number| {
        let (line, body) = request(number);
        caller
            .request(
                "POST",
                "/api/session",
                &[&line, "Content-Type: application/json"],
                body.as_bytes(),
            )
            .status
    };
    (0..count).map(ask).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_key_guesses_fail_and_lock_nobody_out() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let proxy = workspace.serve();
    let (address, key) = (proxy.admin_address(), proxy.key.clone());
    let near = move |number: usize| {
        let at = number % key.len();
        let flipped = if key.as_bytes()[at] == b'A' { "B" } else { "A" };
        format!("{}{flipped}{}", &key[..at], &key[at + 1..])
    };
    let guessing = thread::spawn(move || {
        let bearer = guess(address, 500, |number| {
            (format!("Authorization: Bearer {}", near(number)), String::new())
        });
        let link = guess(address, 500, |number| {
            ("X-A: b".into(), json!({"key": near(number)}).to_string())
        });
        [bearer, link].concat()
    });
    let mut asked = 0;
    while !guessing.is_finished() || asked == 0 {
        assert_eq!(proxy.status().await["running"], true, "who has the key is served meanwhile");
        asked += 1;
    }
    let seen = guessing.join().unwrap();
    assert!(seen.iter().all(|status| matches!(status, 400 | 401 | 429)), "{seen:?}");
    assert!(seen.iter().filter(|status| **status != 429).count() <= 60, "{seen:?}");
    assert_eq!(proxy.admin(Method::POST, "/api/session", None).await.status(), 201);
}

//! How commands find the proxy that runs, what they say when it cannot be asked, and to whom they
//! never give the key.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use support::command::{
    FAILED, LOGIN_REQUIRED, NOT_RUNNING, SUCCESS, USAGE, code, json_output, stderr, stdout,
};
use support::{Proxy, Workspace, sandbox, sandbox_config, text, write_private};

/// Names, times and contents of everything below a folder.
fn everything(folder: &Path) -> Vec<(PathBuf, i64, i64, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, metadata) = (entry.path(), entry.metadata().unwrap());
        let content = if metadata.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
        found.push((path.clone(), metadata.mtime(), metadata.mtime_nsec(), content));
        found.extend(everything(&path));
    }
    found.sort();
    found
}

fn run_files(workspace: &Workspace) -> Vec<PathBuf> {
    fs::read_dir(workspace.state().join("run"))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect()
}

/// The run file of the only proxy.
fn run_file(workspace: &Workspace) -> (PathBuf, Value) {
    let [file] = &run_files(workspace)[..] else { panic!("{:?}", run_files(workspace)) };
    (file.clone(), serde_json::from_slice(&fs::read(file).unwrap()).unwrap())
}

/// What a run file would say if its process were this test.
fn of_this_process(mut named: Value) -> Value {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let started = stat.rsplit_once(')').unwrap().1.split_ascii_whitespace().nth(19).unwrap();
    named["pid"] = std::process::id().into();
    named["started"] = started.parse::<u64>().unwrap().into();
    named
}

fn plant(workspace: &Workspace, name: &str, named: &Value) -> PathBuf {
    let path = workspace.state().join("run").join(name);
    fs::create_dir_all(workspace.state().join("run")).unwrap();
    write_private(&path, &named.to_string());
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn the_run_file_names_the_process_and_counts_only_while_it_lives() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let proxy = workspace.serve();
    let (file, named) = run_file(&workspace);
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let name = format!("{}-{}.json", boot.trim(), proxy.child.id());
    assert_eq!(file.file_name().unwrap().to_str().unwrap(), name);
    assert_eq!((&named["pid"], &named["boot_id"]), (&json!(proxy.child.id()), &json!(boot.trim())));
    assert_eq!((&named["api"], &named["admin"]), (&json!(proxy.api), &json!(proxy.admin)));
    assert_eq!(
        named["pid_namespace"],
        fs::read_link("/proc/self/ns/pid").unwrap().to_str().unwrap()
    );
    assert!(named["store"].is_string() && named["started"].as_u64().unwrap() > 0);
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
    proxy.terminate();
    assert!(!file.exists());

    let killed = workspace.serve();
    let (left, _) = run_file(&workspace);
    killed.kill();
    assert!(left.exists(), "kill -9 leaves it behind");
    assert_eq!(code(&workspace.run(&["status"])), NOT_RUNNING);
    assert_eq!(code(&workspace.run(&["stop"])), NOT_RUNNING);
    assert!(left.exists(), "looking removes nothing");
    plant(&workspace, "1.json", &json!("not a run file"));
    let next = workspace.serve();
    assert!(!left.exists(), "a start removes what its dead predecessor left");
    assert_eq!(json_output(&workspace.run(&["status", "--json"]))["pid"], next.child.id());
}

#[tokio::test(flavor = "multi_thread")]
async fn status_names_the_proxies_of_other_environments_and_stores_and_whether_they_serve() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let own = workspace.serve();
    own.login("default").await;
    let staging = workspace.command(&["--json", "--environment", "staging"]);
    let staging = Proxy::launch(staging, &workspace.path().join("state/staging"));
    // One whose store is where no `store.path` is set.
    let unnamed = sandbox_config(&sandbox, "").replace("[store]\npath = \"state\"\n", "");
    write_private(&workspace.path().join("unnamed.toml"), &unnamed);
    let unnamed = workspace.command(&["--json", "--config", "unnamed.toml"]);
    let unnamed = Proxy::launch(unnamed, &workspace.path().join(".local/state/pleo-proxy/sandbox"));
    unnamed.login("default").await;

    let status = workspace.run(&["status", "--json"]);
    assert_eq!(code(&status), SUCCESS, "the others change nothing: {}", stderr(&status));
    let status = json_output(&status);
    assert_eq!(status["pid"], own.child.id());
    let others: Vec<_> = status["others"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| json!([it["pid"], it["environment"], it["api"], it["ready"]]))
        .collect();
    let expected = [
        json!([staging.child.id(), "staging", staging.api, "unavailable"]),
        json!([unnamed.child.id(), "sandbox", unnamed.api, "ok"]),
    ];
    assert_eq!(others, expected);
    let human = stdout(&workspace.run(&["status"]));
    for proxy in [&staging, &unnamed] {
        let line = format!("process {}): tools {} (", proxy.child.id(), proxy.api);
        assert!(human.contains(&line), "{human}");
    }
    let elsewhere = json_output(&workspace.run(&["status", "--json", "--config", "unnamed.toml"]));
    assert_eq!((&elsewhere["pid"], &elsewhere["others"]), (&json!(unnamed.child.id()), &json!([])));
    unnamed.terminate();
    assert_eq!(
        json_output(&workspace.run(&["status", "--json"]))["others"].as_array().unwrap().len(),
        1
    );
}

/// A program that took the port of a proxy that was killed, and what it heard. Challenges it hands
/// on to `relay`.
fn stranger(address: SocketAddr, relay: Option<SocketAddr>) -> Arc<Mutex<String>> {
    let listener = TcpListener::bind(address).unwrap();
    let heard = Arc::new(Mutex::new(String::new()));
    let sink = heard.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut buffer = [0; 8192];
            while let Ok(read @ 1..) = stream.read(&mut buffer) {
                let asked = String::from_utf8_lossy(&buffer[..read]).into_owned();
                sink.lock().unwrap().push_str(&asked);
                let told = match relay {
                    Some(relay) => {
                        let mut real = TcpStream::connect(relay).unwrap();
                        let own = asked.replace(&address.port().to_string(), &relay.port().to_string());
                        real.write_all(own.as_bytes()).unwrap();
                        let read = real.read(&mut buffer).unwrap();
                        buffer[..read].to_vec()
                    }
                    None => b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 15\r\n\r\n\
                              {\"status\":\"ok\"}"
                        .to_vec(),
                };
                let _ = stream.write_all(&told);
            }
        }
    });
    heard
}

const TALKING: [&[&str]; 6] = [
    &["status"],
    &["stop"],
    &["open"],
    &["refresh", "--force"],
    &["logout"],
    &["login", "--import-refresh-token"],
];

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_on_the_port_never_gets_the_key() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let proxy = workspace.serve();
    proxy.login("default").await;
    let (file, named) = run_file(&workspace);
    let (key, address) = (proxy.key.clone(), proxy.admin_address());
    proxy.kill();
    let heard = stranger(address, None);

    // The id of the process belongs to another program of this user by now: for sure it is not the
    // proxy.
    let mut reused = of_this_process(named.clone());
    reused["started"] = json!(reused["started"].as_u64().unwrap() + 1);
    write_private(&file, &reused.to_string());
    for command in [&["status"][..], &["stop"], &["open"]] {
        assert_eq!(code(&workspace.run(command)), NOT_RUNNING, "{command:?}");
    }
    assert_eq!(*heard.lock().unwrap(), "", "nobody was even asked");

    // Worse than can happen: the run file is true to the letter, and the listener is of this user.
    write_private(&file, &of_this_process(named).to_string());
    for command in TALKING {
        let refused = workspace.run_with(command, "refresh-token\n");
        assert_eq!(code(&refused), FAILED, "{command:?}: {}{}", stdout(&refused), stderr(&refused));
        let said = format!("{}{}", stdout(&refused), stderr(&refused));
        assert!(
            said.contains("does not know the key") && said.contains(&address.to_string()),
            "{said}"
        );
    }
    let heard = heard.lock().unwrap().to_lowercase();
    assert!(heard.contains("pleo-proxy-challenge: "), "{heard}");
    assert!(!heard.contains(&key.to_lowercase()) && !heard.contains("authorization"), "{heard}");
    assert!(!heard.contains("refresh-token"), "{heard}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_gains_nothing_by_asking_the_real_proxy() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let killed = workspace.serve();
    let (file, named) = run_file(&workspace);
    let address = killed.admin_address();
    killed.kill();
    let real = workspace.serve();
    let heard = stranger(address, Some(real.admin_address()));
    // Newer than the real one's, so it is asked first.
    write_private(&file, &of_this_process(named).to_string());
    let status = workspace.run(&["status", "--json"]);
    assert_eq!(
        (code(&status), &json_output(&status)["pid"]),
        (LOGIN_REQUIRED, &json!(real.child.id()))
    );
    let heard = heard.lock().unwrap().to_lowercase();
    assert!(heard.contains("challenge") && !heard.contains("authorization"), "{heard}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_of_another_user_never_gets_the_key_even_if_it_knows_it() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: acting as another user needs root");
        return;
    }
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let proxy = workspace.serve();
    let key = proxy.key.clone();
    // The same challenge, answered rightly by a proxy that runs as another user with a copy of the
    // key.
    let copy = Workspace::for_sandbox(&sandbox, "");
    let (_, mut named) = run_file(&workspace);
    proxy.kill();
    let lent = copy.serve();
    drop(lent);
    write_private(&copy.state().join("admin.key"), &key);
    for path in [
        copy.path().to_owned(),
        copy.path().join("proxy.toml"),
        copy.path().join("state"),
        copy.state(),
    ] {
        std::os::unix::fs::chown(&path, Some(65534), Some(65534)).unwrap();
    }
    for entry in fs::read_dir(copy.state()).unwrap() {
        std::os::unix::fs::chown(entry.unwrap().path(), Some(65534), Some(65534)).unwrap();
    }
    let mut command = copy.command(&["--json", "--set", "guard.peer_check=off"]);
    command.uid(65534).gid(65534);
    let theirs = Proxy::launch(command, &copy.state());
    named["admin"] = json!(theirs.admin);
    let file = workspace.state().join("run/theirs.json");
    write_private(&file, &of_this_process(named).to_string());
    let refused = workspace.run(&["stop"]);
    assert_eq!(code(&refused), FAILED, "{}", stderr(&refused));
    assert!(stderr(&refused).contains("a program of user 65534 listens"), "{}", stderr(&refused));
    assert_eq!(
        support::client().get(format!("{}/health", theirs.admin)).send().await.unwrap().status(),
        200
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_does_not_fit_is_no_stopped_proxy() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let _proxy = workspace.serve();
    write_private(&workspace.state().join("admin.key"), &"k".repeat(43));
    for command in TALKING {
        let refused = workspace.run_with(command, "refresh-token\n");
        assert_eq!(code(&refused), FAILED, "{command:?}: {}{}", stdout(&refused), stderr(&refused));
        assert!(!stdout(&refused).contains("not running"), "{command:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hanging_proxy_is_not_reported_as_not_running() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let proxy = workspace.serve();
    proxy.login("default").await;
    proxy.signal("STOP");
    let status = workspace.run(&["status", "--json"]);
    assert_eq!(code(&status), FAILED, "{}", stderr(&status));
    let told = json_output(&status);
    assert_eq!((&told["running"], &told["answers"]), (&json!(true), &json!(false)));
    assert_eq!(
        (&told["pid"], &told["accounts"][0]["account"]),
        (&json!(proxy.child.id()), &json!("default"))
    );
    let human = stdout(&workspace.run(&["status"]));
    assert!(
        human.contains("not responding") && human.contains(&format!("kill {}", proxy.child.id())),
        "{human}"
    );
    let stop = workspace.run(&["stop"]);
    assert_eq!(code(&stop), FAILED);
    assert!(stderr(&stop).contains(&format!("kill {}", proxy.child.id())), "{}", stderr(&stop));
    proxy.signal("CONT");
    assert_eq!(code(&workspace.run(&["status"])), SUCCESS);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_admin_listener_a_proxy_still_runs() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let first = workspace.serve();
    first.login("default").await;
    first.terminate();
    let deaf = Proxy::launch(
        workspace.command(&["--json", "--set", "listen.admin=off"]),
        &workspace.state(),
    );
    let status = workspace.run(&["status", "--json"]);
    let told = json_output(&status);
    assert_eq!(
        (code(&status), &told["running"], &told["admin"]),
        (SUCCESS, &json!(true), &Value::Null),
        "{told}"
    );
    assert_eq!((&told["pid"], &told["api"]), (&json!(deaf.child.id()), &json!(deaf.api)));
    let stop = workspace.run(&["stop"]);
    assert_eq!(code(&stop), FAILED);
    assert!(stderr(&stop).contains(&format!("kill {}", deaf.child.id())), "{}", stderr(&stop));
}

#[tokio::test(flavor = "multi_thread")]
async fn run_files_of_other_places_are_left_alone_and_said() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let proxy = workspace.serve();
    let (_, named) = run_file(&workspace);
    let own = workspace.state().join("run").join(run_file(&workspace).0);
    proxy.terminate();
    let other = |key: &str, value: &str| {
        let mut named = named.clone();
        (named[key], named["host"]) = (value.into(), "box-of-theirs".into());
        named
    };
    // In the container its process has an id that is free here, and the very name that a file of
    // ours would have.
    let container = plant(
        &workspace,
        own.file_name().unwrap().to_str().unwrap(),
        &other("pid_namespace", "pid:[1]"),
    );
    let machine = plant(&workspace, "machine.json", &other("boot_id", "another"));
    for _ in 0..2 {
        let status = workspace.run(&["status"]);
        assert_eq!(code(&status), NOT_RUNNING);
        let said = stdout(&status);
        assert!(said.contains("not running here") && said.contains("box-of-theirs"), "{said}");
        assert_eq!(
            json_output(&workspace.run(&["status", "--json"]))["elsewhere"]
                .as_array()
                .unwrap()
                .len(),
            2
        );
        assert!(stderr(&workspace.run(&["stop"])).contains("box-of-theirs"));
        let next = workspace.serve();
        assert_eq!(json_output(&workspace.run(&["status", "--json"]))["pid"], next.child.id());
        next.terminate();
        assert!(container.exists() && machine.exists());
    }
    let before = other("boot_id", "another");
    let before = json!({"host": named["host"], "boot_id": "another"})
        .as_object()
        .unwrap()
        .iter()
        .fold(before, |mut all, (key, value)| {
            all[key] = value.clone();
            all
        });
    fs::remove_file(container).unwrap();
    write_private(&machine, &before.to_string());
    let said = stdout(&workspace.run(&["status"]));
    assert!(
        said.starts_with("not running (") && machine.exists(),
        "before a restart of this machine: {said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_commands_change_nothing() {
    let sandbox = sandbox().await;
    let looking: [&[&str]; 7] = [
        &["status"],
        &["status", "--json"],
        &["stop"],
        &["open"],
        &["config", "check"],
        &["config", "show"],
        &["status", "--environment", "staging"],
    ];
    let fresh = Workspace::for_sandbox(&sandbox, "");
    let used = Workspace::for_sandbox(&sandbox, "");
    let killed = used.serve();
    killed.login("default").await;
    killed.kill();
    // What a process that died in the middle of a save leaves; it is removed under the account's
    // lock only.
    write_private(&used.state().join(".default.abcdefghijkl.tmp"), "half a record");
    for workspace in [&fresh, &used] {
        let before = everything(workspace.path());
        for command in looking {
            let looked = workspace.run(command);
            assert!(
                [SUCCESS, USAGE, NOT_RUNNING].contains(&code(&looked)),
                "{command:?}: {}",
                stderr(&looked)
            );
            assert_eq!(everything(workspace.path()), before, "{command:?}");
        }
    }
    let embedded = Workspace::new("environment = \"sandbox\"\n");
    let before = everything(embedded.path());
    let status = embedded.command(&["status"]).env("TMPDIR", "/nowhere").output().unwrap();
    assert_eq!(code(&status), NOT_RUNNING, "{}", stderr(&status));
    assert!(stdout(&status).contains("start it with: pleo-proxy"), "{}", stdout(&status));
    assert!(
        !stdout(&status).contains("login"),
        "there is nothing to log in to yet: {}",
        stdout(&status)
    );
    assert_eq!(everything(embedded.path()), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn proxies_of_other_environments_and_stores_are_listed() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let proxy = workspace.serve();
    let status = workspace.run(&["status", "--json", "--environment", "staging"]);
    let told = json_output(&status);
    assert_eq!((code(&status), &told["running"]), (NOT_RUNNING, &json!(false)));
    let other = &told["others"][0];
    assert_eq!(
        (&other["pid"], &other["environment"]),
        (&json!(proxy.child.id()), &json!("sandbox"))
    );
    assert_eq!((&other["api"], &other["admin"]), (&json!(proxy.api), &json!(proxy.admin)));
    let human = stdout(&workspace.run(&["status", "--environment", "staging"]));
    assert!(
        human.contains(&format!("also running (sandbox, process {})", proxy.child.id())),
        "{human}"
    );

    // Of another folder's configuration: nothing here names it, but it answers where ours would.
    let admin = format!("listen.admin={}", proxy.admin_address());
    let elsewhere =
        workspace.run(&["status", "--json", "--set", "store.path=elsewhere", "--set", &admin]);
    assert_eq!(code(&elsewhere), NOT_RUNNING);
    let note = text(&json_output(&elsewhere)["note"]);
    assert!(note.contains("a pleo-proxy of user") && note.contains(&proxy.admin), "{note}");
    let taken = workspace.run(&[
        "serve",
        "--environment",
        "staging",
        "--set",
        &format!("listen.api={}", proxy.address()),
    ]);
    assert!(stderr(&taken).contains(&format!("kill {}", proxy.child.id())), "{}", stderr(&taken));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_users_state_is_told_from_a_broken_one() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: acting as another user needs root");
        return;
    }
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let proxy = workspace.serve();
    // Out of reach, because the folder above is closed; then in reach, and still not theirs.
    for mode in [0o700, 0o755] {
        fs::set_permissions(workspace.path().join("state"), fs::Permissions::from_mode(mode))
            .unwrap();
        fs::set_permissions(workspace.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(workspace.path().join("proxy.toml"), fs::Permissions::from_mode(0o644))
            .unwrap();
        for command in [&["status"][..], &["stop"], &["refresh"], &["login", "--paste"]] {
            let refused = workspace.command(command).uid(65534).gid(65534).output().unwrap();
            let said = stderr(&refused);
            assert_eq!(code(&refused), USAGE, "{command:?}: {said}");
            assert!(
                said.contains("belongs to user 0") && said.contains("run this as user 0"),
                "{command:?}: {said}"
            );
            assert!(!said.contains("cannot be made") && !said.contains("chown"), "{said}");
        }
    }
    drop(proxy);
}

//! `pleo-proxy exec`: what its program gets, what it may do, and what is said of it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;

use pleo_proxy::sandbox::{COMPANY_ID, SECOND_COMPANY_ID};
use reqwest::Method;
use serde_json::{Value, json};
use support::command::{
    DEGRADED, LOGIN_REQUIRED, NOT_RUNNING, SUCCESS, USAGE, code, json_output, stderr, stdout,
};
use support::{
    KilledOnDrop, NO_REFRESH_AHEAD, Workspace, access_lifetime, connected, connected_store, expire,
    sandbox,
};

/// The last line of stderr.
fn last_line(text: &str) -> &str {
    text.lines().last().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_calls_pleo_without_a_proxy_that_runs() {
    let sandbox = sandbox().await;
    let workspace = connected_store(&sandbox, "").await;
    let script =
        "curl -sS $PLEO_BASE_URL/v1/companies; curl -sS -o /dev/null $PLEO_BASE_URL/v1/nowhere";
    let ran = workspace.exec_script(&[], script);
    assert_eq!(code(&ran), SUCCESS, "{}", stderr(&ran));
    let companies: Value = serde_json::from_str(&stdout(&ran)).unwrap();
    assert_eq!(companies["data"][0]["id"], COMPANY_ID, "stdout is the program's alone");
    let expected = "pleo-proxy: 2 requests as default (sandbox), 1 failed, 0 refreshes";
    assert_eq!(last_line(&stderr(&ran)), expected);

    let quiet = workspace.exec_script(&["--log", "error"], "exit 0");
    assert_eq!((stdout(&quiet), stderr(&quiet)), (String::new(), String::new()));
    let told = workspace.exec_script(&["--json"], "exit 4");
    let line: Value = serde_json::from_str(last_line(&stderr(&told))).unwrap();
    let expected = json!({"version": 1, "outcome": "ended", "exit": 4, "account": "default",
        "requests": 0, "failed": 0, "refreshes": 0});
    assert_eq!((code(&told), line, stdout(&told)), (4, expected, String::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_is_started_with_a_token_that_works_or_not_at_all() {
    let sandbox = sandbox().await;
    sandbox.set_faults(access_lifetime(1000));
    let workspace = connected_store(&sandbox, NO_REFRESH_AHEAD).await;
    expire(1000).await;
    sandbox.set_faults(access_lifetime(600_000));
    let before = sandbox.counters();
    let ran = workspace.exec_script(&[], "exit 0");
    assert!(stderr(&ran).contains(", 1 refresh\n"), "{}", stderr(&ran));
    assert_eq!(sandbox.counters().token_posts - before.token_posts, 1);

    let started = workspace.path().join("started");
    let script = format!("touch {}", started.display());
    let refused = |flags: &[&str]| {
        let refused = workspace.exec_script(flags, &script);
        assert!(!started.exists(), "the program was started");
        assert_eq!(stdout(&refused), "");
        (code(&refused), stderr(&refused))
    };
    let (exit, why) = refused(&["--account", "acme"]);
    assert_eq!(exit, LOGIN_REQUIRED, "{why}");
    assert!(why.contains("account acme is not connected; run: pleo-proxy login acme"), "{why}");
    assert_eq!(code(&workspace.run(&["logout"])), SUCCESS);
    let (exit, why) = refused(&["--json"]);
    assert_eq!(exit, LOGIN_REQUIRED, "{why}");
    assert!(why.contains("pleo-proxy login default"), "{why}");
    let failure: Value = serde_json::from_str(last_line(&why)).unwrap();
    assert_eq!((&failure["outcome"], &failure["exit"]), (&json!("failed"), &json!(3)));

    fs::write(workspace.record("default"), "damaged").unwrap();
    let (exit, why) = refused(&[]);
    assert_eq!(exit, DEGRADED, "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_go_to_one_account_only() {
    let sandbox = sandbox().await;
    let (workspace, proxy) = connected(&sandbox, "").await;
    sandbox.set_next_subject(Some(format!("urn:pleo:company:{SECOND_COMPANY_ID}")));
    proxy.login("acme").await;
    let whose = "curl -sS $PLEO_BASE_URL/v1/introspect";
    for (flags, company) in [(&[][..], COMPANY_ID), (&["--account", "acme"][..], SECOND_COMPANY_ID)]
    {
        let ran = workspace.exec_script(flags, whose);
        assert!(stdout(&ran).contains(company), "{flags:?}: {}{}", stdout(&ran), stderr(&ran));
    }
    let script = "curl -sS $PLEO_BASE_URL/@acme/v1/introspect; echo
        curl -sS -H 'Pleo-Account: acme' $PLEO_BASE_URL/v1/introspect; echo
        curl -sS -H 'pleo-account: acme' -x $PLEO_BASE_URL $API/v1/introspect; echo
        curl -sS $PLEO_BASE_URL/@default/v1/introspect";
    let mut command = workspace.exec(&[], &["sh", "-c", script]);
    let ran = command.env("API", sandbox.api_origin()).output().unwrap();
    let out = stdout(&ran);
    let answers: Vec<&str> = out.lines().collect();
    assert_eq!(answers.len(), 4, "{out}");
    for refused in &answers[..3] {
        let problem: Value = serde_json::from_str(refused).unwrap();
        assert_eq!(
            (&problem["code"], &problem["status"]),
            (&json!("forbidden_account"), &json!(403))
        );
    }
    assert!(answers[3].contains(COMPANY_ID), "{}", answers[3]);

    workspace.configure(&support::sandbox_config(&sandbox, "").replace(
        "environment = \"sandbox\"",
        "environment = \"sandbox\"\ndefault_account = \"acme\"",
    ));
    assert!(stdout(&workspace.exec_script(&[], whose)).contains(SECOND_COMPANY_ID));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_default_among_several_accounts_is_a_question() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let proxy = workspace.serve();
    for (account, company) in [("acme", COMPANY_ID), ("mill", SECOND_COMPANY_ID)] {
        sandbox.set_next_subject(Some(format!("urn:pleo:company:{company}")));
        proxy.login(account).await;
    }
    let asked = workspace.exec_script(&[], "exit 0");
    assert_eq!(code(&asked), USAGE);
    let why = stderr(&asked);
    assert!(why.contains("(acme, mill); choose one with --account"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn read_only_cannot_be_passed_by() {
    let sandbox = sandbox().await;
    let scopes = "client.scopes=[\"vendors:read\", \"vendors:write\", \"users:read\"]";
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let proxy = workspace.serve_with(&["--set", scopes]);
    proxy.login("default").await;
    let vendor =
        json!({"companyId": COMPANY_ID, "name": "Mill", "defaultCurrency": "DKK"}).to_string();
    let before = sandbox.counters().api_requests;
    // Each is a write in some disguise.
    let writes = [
        "-X POST $U/v1/vendors",
        "-X POST $U/@default/v1/vendors",
        "-X POST $U/v1/%76endors",
        "-X POST $U/v1/vendors/",
        "-X POST $U//v1/vendors",
        "-X POST '$U/v1/vendors;:search'",
        "-X POST '$U/v1/vendors?x=:search'",
        "-X PUT $U/v1/vendors/8a",
        "-X PATCH $U/v1/vendors/8a",
        "-X DELETE $U/v1/vendors/8a",
        "-X POST -x $U $API/v1/vendors",
        "-X POST -p -x $U $API/v1/vendors",
        "-X POST -H 'X-HTTP-Method-Override: GET' $U/v1/vendors",
        "-X DELETE $U/v1/installations/me",
    ];
    let one = |write: &str| {
        format!(
            "curl -sS -o /dev/null -w '%header{{pleo-proxy-error}}\\n' -H 'content-type: application/json' -d \"$V\" {write}\n"
        )
    };
    // The single quotes above keep `;` and `?` from the shell, but not the address.
    let script: String = writes.iter().map(|write| one(&write.replace('\'', "\""))).collect();
    let mut command =
        workspace.exec(&["--read-only"], &["sh", "-c", &format!("U=$PLEO_BASE_URL\n{script}")]);
    let ran = command.env("API", sandbox.api_origin()).env("V", &vendor).output().unwrap();
    let out = stdout(&ran);
    let told: Vec<&str> = out.lines().collect();
    assert_eq!(told.len(), writes.len(), "{out}{}", stderr(&ran));
    for (write, told) in writes.iter().zip(told) {
        let expected =
            if write.contains("installations") { "protected_operation" } else { "read_only" };
        assert_eq!(told, expected, "{write}");
    }
    // A method that only a header names is a read here and at Pleo: the header is not passed on.
    let reads = "U=$PLEO_BASE_URL
        curl -sS -o /dev/null -w '%{http_code}\\n' $U/v2/employees
        curl -sS -o /dev/null -w '%{http_code}\\n' -X POST -H 'content-type: application/json' -d '{}' \"$U/v1/vendors:search?company_id=$C\"
        curl -sS -o /dev/null -w '%{http_code}\\n' -H 'X-HTTP-Method-Override: DELETE' -H 'X-Method-Override: POST' $U/v2/employees";
    let ran = workspace
        .exec(&["--read-only"], &["sh", "-c", reads])
        .env("C", COMPANY_ID)
        .output()
        .unwrap();
    assert_eq!(stdout(&ran), "200\n200\n200\n", "{}", stderr(&ran));
    assert_eq!(sandbox.counters().api_requests - before, 3, "no write has reached Pleo");
    let wrote = format!("U=$PLEO_BASE_URL\n{}", one("-X POST $U/v1/vendors"));
    let ran = workspace.exec(&[], &["sh", "-c", &wrote]).env("V", &vendor).output().unwrap();
    assert_eq!(stdout(&ran), "\n", "without --read-only it is a write that works");
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_below_exec_is_refused() {
    let sandbox = sandbox().await;
    let workspace = connected_store(&sandbox, "").await;
    let own = env!("CARGO_BIN_EXE_pleo-proxy");
    let nested =
        workspace.exec(&["--read-only"], &[own, "exec", "--", "touch", "inner"]).output().unwrap();
    assert_eq!(code(&nested), USAGE);
    let why = stderr(&nested);
    assert!(why.contains("below another pleo-proxy exec already (process "), "{why}");
    assert!(!workspace.path().join("inner").exists());
    // Other commands work below it.
    let status = workspace.exec(&[], &[own, "status"]).output().unwrap();
    assert!(
        stdout(&status).contains("default: connected"),
        "{}{}",
        stdout(&status),
        stderr(&status)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_exec_is_seen_and_never_taken_for_the_proxy() {
    let sandbox = sandbox().await;
    let workspace = connected_store(&sandbox, "").await;
    let script = "echo $PLEO_BASE_URL; read line";
    let child = workspace.exec(&[], &["sh", "-c", script]).stdin(Stdio::piped()).spawn().unwrap();
    let mut running = KilledOnDrop(child);
    let mut base = String::new();
    BufReader::new(running.0.stdout.as_mut().unwrap()).read_line(&mut base).unwrap();
    let pid = running.0.id();
    let runs = fs::read_dir(workspace.state().join("run")).unwrap();
    let [file] = &runs.map(|entry| entry.unwrap().path()).collect::<Vec<_>>()[..] else { panic!() };
    assert!(file.to_str().unwrap().ends_with(&format!("-{pid}.json")), "{}", file.display());
    assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
    let named: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    assert_eq!((&named["exec"], &named["api"]), (&json!("sh"), &json!(base.trim())));

    for command in ["stop", "open", "logs", "health"] {
        assert_eq!(code(&workspace.run(&[command])), NOT_RUNNING, "{command}");
    }
    let status = workspace.run(&["status"]);
    assert_eq!(code(&status), NOT_RUNNING);
    let line = format!("also running (sandbox, process {pid}): exec of sh {}", base.trim());
    assert!(stdout(&status).contains(&line), "{}", stdout(&status));
    assert_eq!(json_output(&workspace.run(&["status", "--json"]))["others"][0]["exec"], "sh");
    let refreshed = workspace.run(&["refresh", "--force"]);
    assert_eq!(code(&refreshed), SUCCESS, "{}", stderr(&refreshed));

    let proxy = workspace.serve();
    assert_eq!(json_output(&workspace.run(&["status", "--json"]))["pid"], proxy.child.id());
    assert_eq!(code(&workspace.run(&["stop"])), SUCCESS);
    running.0.stdin.take().unwrap().write_all(b"\n").unwrap();
    assert_eq!(running.0.wait().unwrap().code(), Some(SUCCESS));
    assert!(!file.exists(), "its run file is gone with it");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_labelled_with_the_program() {
    let sandbox = sandbox().await;
    let workspace = connected_store(&sandbox, "").await;
    let set = ["--set", "log.requests=requests.jsonl"];
    let ran = workspace.exec_script(&set, "curl -sS -o /dev/null $PLEO_BASE_URL/v1/companies");
    assert_eq!(code(&ran), SUCCESS, "{}", stderr(&ran));
    let lines = fs::read_to_string(workspace.path().join("requests.jsonl")).unwrap();
    let entry: Value = serde_json::from_str(lines.lines().last().unwrap()).unwrap();
    assert_eq!((&entry["label"], &entry["account"]), (&json!("sh"), &json!("default")), "{entry}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_built_in_sandbox_is_started_or_shared_with_the_proxy_that_runs() {
    let workspace = Workspace::new("environment = \"sandbox\"\n");
    let script = "curl -sS $PLEO_BASE_URL/v1/companies";
    let exec = |script: &str| {
        let mut command = workspace.exec(&[], &["sh", "-c", script]);
        command.env_remove("PLEO_PROXY_CLIENT_SECRET").output().unwrap()
    };
    let alone = exec(script);
    assert_eq!(code(&alone), SUCCESS, "{}", stderr(&alone));
    assert!(stdout(&alone).contains("Harbour Coffee"), "{}", stdout(&alone));

    let mut command = workspace.command(&[
        "--json",
        "--set",
        "listen.api=127.0.0.1:0",
        "--set",
        "listen.admin=127.0.0.1:0",
    ]);
    command.env_remove("PLEO_PROXY_CLIENT_SECRET").stderr(Stdio::null());
    let mut proxy = KilledOnDrop(command.spawn().unwrap());
    let ready = super::sandbox_command::first_line(&mut proxy.0);
    let made = json!({"companyId": COMPANY_ID, "name": "Only Here", "defaultCurrency": "DKK"});
    let api = ready["api"].as_str().unwrap();
    let made =
        support::client().post(format!("{api}/v1/vendors")).json(&made).send().await.unwrap();
    assert_eq!(made.status(), 201);
    let shared = exec(&format!(
        "curl -sS -X POST -H 'content-type: application/json' -d '{{}}' \"$PLEO_BASE_URL/v1/vendors:search?company_id={COMPANY_ID}\""
    ));
    assert!(stdout(&shared).contains("Only Here"), "{}{}", stdout(&shared), stderr(&shared));
    let other = workspace
        .exec(&["--account", "acme"], &["true"])
        .env_remove("PLEO_PROXY_CLIENT_SECRET")
        .output()
        .unwrap();
    assert_eq!(code(&other), LOGIN_REQUIRED, "{}", stderr(&other));
}

/// An `exec` that waits for a line before its script goes on, with its first line.
fn waiting(workspace: &Workspace, flags: &[&str], script: &str) -> KilledOnDrop {
    let script = format!("echo ready; read line; {script}");
    let mut command = workspace.exec(flags, &["sh", "-c", &script]);
    let mut child = KilledOnDrop(command.stdin(Stdio::piped()).spawn().unwrap());
    assert_eq!(support::running_exec::line(&mut child.0), "ready");
    child
}

/// Lets it go on; what it prints, as JSON.
fn go_on(mut child: KilledOnDrop) -> Value {
    child.0.stdin.take().unwrap().write_all(b"\n").unwrap();
    let mut out = String::new();
    child.0.stdout.take().unwrap().read_to_string(&mut out).unwrap();
    serde_json::from_str(&out).unwrap_or_else(|_| panic!("{out}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_passes_to_another_company_is_not_served() {
    let sandbox = sandbox().await;
    let (workspace, proxy) = connected(&sandbox, "").await;
    sandbox.set_next_subject(Some(format!("urn:pleo:company:{SECOND_COMPANY_ID}")));
    proxy.login("acme").await;
    proxy.terminate();
    // Until it notices, it goes on with the token that it has, or has none for a moment.
    let ask = "for i in $(seq 300); do
            out=$(curl -sS $PLEO_BASE_URL/v1/introspect)
            case $out in *forbidden_account*|*subjectURN*COMPANY*) break;; esac
            sleep 0.1
        done; echo $out"
        .replace("COMPANY", SECOND_COMPANY_ID);
    let child = waiting(&workspace, &["--account", "default"], &ask);
    let other = waiting(&workspace, &["--account", "acme"], "");

    // A rename would take the account from its program.
    let refused = workspace.run(&["accounts", "rename", "default", "old"]);
    assert_eq!(code(&refused), 1);
    let why = stderr(&refused);
    let user = format!("in use by pleo-proxy exec of sh (process {}),", child.0.id());
    assert!(why.contains(&user) && why.contains("--force"), "{why}");
    assert!(!why.contains(&other.0.id().to_string()), "{why}");
    let proxy = workspace.serve();
    let api = |body| proxy.admin(Method::POST, "/api/accounts/default/rename", Some(body));
    let refused = api(json!({"to": "old"})).await;
    assert_eq!(refused.status(), 409);
    let refused: Value = refused.json().await.unwrap();
    assert!(refused["detail"].as_str().unwrap().contains(&user), "{refused}");
    let through_proxy = workspace.run(&["accounts", "rename", "default", "old"]);
    assert!(stderr(&through_proxy).contains(&user), "{}", stderr(&through_proxy));
    for (there, back) in [("default", "old"), ("old", "default")] {
        let path = format!("/api/accounts/{there}/rename");
        let forced = json!({"to": back, "force": true});
        assert_eq!(proxy.admin(Method::POST, &path, Some(forced)).await.status(), 200);
    }
    proxy.terminate();
    drop(other);
    for (from, to) in [("default", "old"), ("acme", "default")] {
        let renamed = workspace.run(&["accounts", "rename", from, to, "--force"]);
        assert_eq!(code(&renamed), SUCCESS, "{}", stderr(&renamed));
    }
    let problem = go_on(child);
    assert_eq!(problem["code"], "forbidden_account", "the other company was served: {problem}");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("another company"), "{detail}");
    assert!(detail.contains(COMPANY_ID) && detail.contains(SECOND_COMPANY_ID), "{detail}");

    let renamed = workspace.run(&["accounts", "rename", "old", "acme"]);
    assert_eq!(code(&renamed), SUCCESS, "nobody uses it: {}", stderr(&renamed));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_is_renamed_while_exec_begins_starts_no_program() {
    let sandbox = sandbox().await;
    let workspace = connected_store(&sandbox, "").await;
    let lock =
        fs::File::options().write(true).open(workspace.record("default").with_extension("lock"));
    let lock = lock.unwrap();
    lock.lock().unwrap();
    let mut exec = workspace.exec(&[], &["sh", "-c", "touch started"]);
    let exec = exec.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let run = workspace.state().join("run");
    support::wait_until("its run file is there", || {
        fs::read_dir(&run).is_ok_and(|files| {
            files.flatten().any(|file| {
                fs::read_to_string(file.path()).is_ok_and(|text| text.contains("\"exec\":\"sh\""))
            })
        })
    });
    // As a rename does that had looked for users before.
    fs::rename(workspace.record("default"), workspace.record("old")).unwrap();
    lock.unlock().unwrap();
    let ended = exec.wait_with_output().unwrap();
    assert_eq!(code(&ended), LOGIN_REQUIRED, "{}", stderr(&ended));
    assert!(stderr(&ended).contains("pleo-proxy accounts list"), "{}", stderr(&ended));
    assert!(!workspace.path().join("started").exists());
    assert_eq!(fs::read_dir(&run).unwrap().count(), 0, "its run file is removed");
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_below_exec_use_its_listener() {
    let sandbox = sandbox().await;
    let (workspace, proxy) = connected(&sandbox, "").await;
    sandbox.set_next_subject(Some(format!("urn:pleo:company:{SECOND_COMPANY_ID}")));
    proxy.login("acme").await;
    support::write_private(&workspace.path().join("key"), "a-key-of-some-length");
    let keyed = ["--set", "guard.local_key_file=key", "--account", "acme", "--read-only"];
    let own = env!("CARGO_BIN_EXE_pleo-proxy");
    // The proxy that runs would serve another account, and writes.
    let run = |flags: &[&str], arguments: &[&str]| {
        let program = [&[own], arguments].concat();
        workspace.exec(flags, &program).output().unwrap()
    };
    for flags in [&keyed[..], &keyed[2..]] {
        let called = run(flags, &["api", "/v1/introspect"]);
        assert!(stdout(&called).contains(SECOND_COMPANY_ID), "{flags:?}: {}", stdout(&called));
        let write = run(flags, &["api", "/v1/vendors", "-d", "{}"]);
        assert!(stdout(&write).contains("\"read_only\""), "{}{}", stdout(&write), stderr(&write));
        let other = run(flags, &["api", "/v1/introspect", "--account", "default"]);
        assert!(stdout(&other).contains("forbidden_account"), "{}", stdout(&other));
    }
    let ready = json_output(&run(&keyed, &["wait", "--json"]));
    assert_eq!((&ready["outcome"], &ready["account"]), (&json!("ready"), &json!("acme")));
    assert_ne!(ready["api"], format!("http://{}", proxy.address()));
    let other = run(&keyed, &["wait", "--account", "default"]);
    assert_eq!(code(&other), USAGE);
    assert!(stderr(&other).contains("serves account acme only, not default"), "{}", stderr(&other));
    proxy.terminate();
    let health = run(&keyed, &["health"]);
    assert_eq!((code(&health), &*stdout(&health)), (SUCCESS, "ok\n"), "{}", stderr(&health));

    let script = format!("unset PLEO_BASE_URL; {own} api /v1/companies");
    let lost = workspace.exec_script(&[], &script);
    let why = stderr(&lost);
    assert!(code(&lost) == USAGE && why.contains("PLEO_BASE_URL does not name"), "{why}");
}

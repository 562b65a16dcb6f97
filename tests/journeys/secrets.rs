//! No secret leaves but to where it belongs: every journey at the finest log level, and then every
//! 12 characters of every secret, in every usual writing, looked for in all that the process wrote.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use std::fs;
use std::io::{BufRead as _, BufReader, Read};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;

use super::leak_search::{
    API_KEY, CALLERS, CLIENT_SECRET, LOCAL_KEY, SLICE, STORE_KEY, leaks, writings,
};
use super::secret_run::{Run, command, faulty, parameter, refresh_fault, tokens_in};
use pleo_proxy::sandbox::{ApiFault, ApiFaultKind, Faults, StaticKey, TokenFault, TokenFaultKind};
use reqwest::Method;
use serde_json::{Value, json};
use support::{Proxy, Workspace, client, text, wait_until, write_private};
use url::Url;

/// Logins that end well, and all the ways in which they do not.
async fn logins(run: &mut Run) {
    run.login("default").await;
    assert_eq!(run.vault.count("access_token"), 1, "the record is read");
    let back = run.connect("failing").await;
    let state = parameter(&back, "state").unwrap();
    for wrong in [
        back.replace(&state, &state[1..]),
        format!("{back}&state={state}"),
        format!("{back}x&iss=y"),
    ] {
        assert_eq!(run.visit(&wrong).await.0, 400);
    }
    let denied = format!("{}/callback?error=access_denied&state={state}", run.proxy.admin);
    assert_eq!(run.visit(&denied).await.0, 400);
    use TokenFaultKind as Kind;
    for kind in
        [Kind::Truncated, Kind::Lost, Kind::Html, Kind::Status, Kind::Error, Kind::ErrorIn200]
    {
        run.sandbox.set_faults(faulty(TokenFault { kind, work: true, ..TokenFault::default() }));
        let back = run.connect("failing").await;
        assert_eq!(run.visit(&back).await.0, 400, "{kind:?}");
        assert_eq!(run.visit(&back).await.0, 400, "a code again");
    }
    run.sandbox.set_faults(Faults::default());
    // By the API, with the address brought by hand.
    let path = "/api/accounts/pasted/login";
    let response = run.proxy.admin(Method::POST, &format!("{path}?paste=true"), None).await;
    let begun: Value = response.json().await.unwrap();
    let url = text(&begun["authorize_url"]);
    let secrets = run.asked(&url);
    run.hear(path, &begun.to_string(), &[&secrets[0], &secrets[1]]);
    let back = run.consent(&url).await;
    let (wrong, right) = (
        json!({"redirected_url": &back[..back.len() - 8].replace("state=", "state=x")}),
        json!({"redirected_url": back}),
    );
    assert_eq!(run.admin(Method::POST, path, Some(wrong)).await.0, 400);
    assert_eq!(
        run.admin(Method::POST, path, Some(json!({"redirected_url": back, "x": 1}))).await.0,
        400
    );
    assert_eq!(run.admin(Method::POST, path, Some(right)).await.0, 200);
}

/// `login` with a browser, which is the one child that there is.
async fn login_by_command(run: &mut Run) {
    let mut child = command(&run.workspace, &["login", "by-command"]).spawn().unwrap();
    let mut talk = BufReader::new(child.stderr.take().unwrap());
    let (mut said, mut url) = (String::new(), None);
    while url.is_none() {
        let start = said.len();
        assert_ne!(talk.read_line(&mut said).unwrap(), 0, "{said}");
        url = said[start..].trim().parse::<Url>().ok();
    }
    let url = url.unwrap().to_string();
    let secrets = run.asked(&url);
    let back = run.consent(&url).await;
    assert_eq!(run.visit(&back).await.0, 200);
    talk.read_to_string(&mut said).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0), "{said}");
    run.hear("stderr of login", &said, &[&secrets[0], &secrets[1]]);
    let bin = run.workspace.path().join("bin");
    wait_until("the browser was opened", || bin.join("child.args").exists());
    let arguments = fs::read_to_string(bin.join("child.args")).unwrap();
    assert!(arguments.contains(&secrets[0]), "the browser is sent there: {arguments}");
    run.hear("arguments of the browser", &arguments, &[&secrets[0], &secrets[1]]);
}

/// Refresh tokens from elsewhere, good and bad.
async fn imports(run: &mut Run) {
    let donor = Workspace::for_sandbox(&run.sandbox, "");
    let config = fs::read_to_string(run.workspace.path().join("proxy.toml")).unwrap();
    donor.configure(&config);
    write_private(&donor.path().join("local-key"), LOCAL_KEY);
    write_private(&donor.path().join("store-key"), STORE_KEY);
    let mut lender = Proxy::launch(command(&donor, &["--json"]), &donor.state());
    lender.login("default").await;
    run.vault.keep("admin key", &lender.key);
    let ended = lender.admin(Method::POST, "/api/shutdown", None).await;
    assert_eq!(run.answer("/api/shutdown", ended, &[]).await.0, 202);
    assert!(lender.child.wait().unwrap().success());
    run.hear("log of one that was told to end", &lender.log(), &[]);
    let tokens = tokens_in(&donor);
    let token = tokens.into_iter().find(|(kind, _)| *kind == "refresh_token").unwrap().1;
    run.vault.keep("refresh_token", &token);
    let done = run.command(&["login", "imported", "--import-refresh-token"], &format!("{token}\n"));
    assert_eq!(done.status.code(), Some(0), "{}", String::from_utf8_lossy(&done.stderr));
    let bad = "sbx-refresh-that-nobody-ever-issued-K3v9TzQ1";
    run.vault.keep("refused refresh token", bad);
    assert_eq!(
        run.command(&["login", "refused", "--import-refresh-token"], bad).status.code(),
        Some(1)
    );
    let path = "/api/accounts/refused/login";
    assert!(run.admin(Method::POST, path, Some(json!({"refresh_token": bad}))).await.0 >= 400);
    assert_eq!(
        run.admin(Method::POST, path, Some(json!({"refresh_token": bad, "redirected_url": ""})))
            .await
            .0,
        400
    );
    assert_eq!(run.admin(Method::POST, path, Some(json!({"refreshtoken": bad}))).await.0, 400);
}

/// API keys that Pleo takes and refuses, and what looks after the store's key.
async fn keys(run: &mut Run) {
    let key = StaticKey { key: API_KEY.into(), ..StaticKey::default() };
    run.sandbox.set_api_keys(vec![key.clone()]);
    let login = ["login", "keyed", "--api-key", "--expires", "2027-01-31"];
    assert_eq!(run.command(&login, API_KEY).status.code(), Some(0));
    assert_eq!(run.served("/@keyed/v1/companies").await, 200);
    run.sandbox.set_api_keys(Vec::new());
    assert_eq!(run.command(&["login", "other", "--api-key"], API_KEY).status.code(), Some(1));
    let path = "/api/accounts/other/login";
    assert_eq!(run.admin(Method::POST, path, Some(json!({"api_key": API_KEY}))).await.0, 502);
    let wrong = json!({"api_key": format!("Basic {API_KEY}")});
    assert_eq!(run.admin(Method::POST, path, Some(wrong)).await.0, 400);
    assert_eq!(run.served("/@keyed/v1/companies").await, 401);
    run.proxy.wait_for_account("keyed", |account| account["state"] == "login_required").await;
    assert_eq!(run.served("/@keyed/v1/companies").await, 503);
    assert_eq!(run.command(&["refresh", "keyed"], "").status.code(), Some(3));
    run.sandbox.set_api_keys(vec![key]);
    assert_eq!(run.force("keyed").await, 200);
    assert_eq!(run.served("/@keyed/v1/companies").await, 200);
    for command in ["check", "seal", "rekey"] {
        assert_eq!(run.command(&["store", command], "").status.code(), Some(0), "{command}");
    }
    let bad = run.workspace.path().join("bad-secret");
    write_private(&bad, &format!("{STORE_KEY}{STORE_KEY}"));
    let set = ["store", "check", "--set", "store.key_file=bad-secret"];
    assert_eq!(run.command(&set, "").status.code(), Some(2));
    run.command(&["doctor"], "");
}

/// Refreshes with every outcome.
async fn refreshes(run: &mut Run) {
    for account in ["lost", "denied"] {
        run.login(account).await;
    }
    let first = run.vault.count("refresh_token");
    assert_eq!(run.admin(Method::POST, "/api/accounts/default/refresh", None).await.0, 200);
    assert_eq!(run.vault.count("refresh_token"), first, "fresh tokens stay");
    assert_eq!(run.force("default").await, 200);
    assert_eq!(run.command(&["refresh", "--force"], "").status.code(), Some(0));
    assert_eq!(run.command(&["--json", "refresh"], "").status.code(), Some(0));
    assert_eq!(run.vault.count("refresh_token"), first + 2);
    use TokenFaultKind as Kind;
    for kind in [Kind::Html, Kind::ErrorIn200, Kind::Status] {
        run.sandbox.set_faults(refresh_fault(kind, false));
        run.force("default").await;
        run.proxy.wait_for_account("default", |account| account["state"] == "connected").await;
        run.harvest();
    }
    for kind in [Kind::Truncated, Kind::Lost] {
        run.login("lost").await;
        run.sandbox.set_faults(refresh_fault(kind, true));
        run.force("lost").await;
        run.proxy.wait_for_account("lost", |account| account["state"] == "login_required").await;
    }
    run.sandbox.set_faults(refresh_fault(Kind::Error, false));
    run.force("denied").await;
    run.proxy.wait_for_account("denied", |account| account["state"] == "login_required").await;
    run.sandbox.set_faults(Faults::default());
    assert_eq!(run.command(&["refresh", "denied", "--force"], "").status.code(), Some(3));
}

/// Requests that are served, sent again and refused.
async fn requests(run: &mut Run) {
    assert_eq!(run.served("/v1/companies").await, 200);
    run.sandbox.set_faults(Faults { api_401: 1, ..Faults::default() });
    assert_eq!(run.served("/v1/companies").await, 200, "sent again");
    run.sandbox.set_faults(Faults { api_401: 2, ..Faults::default() });
    assert_eq!(run.served("/v1/companies").await, 401, "the second is the caller's");
    let broken = ApiFault { kind: ApiFaultKind::Drop, count: Some(2), ..ApiFault::default() };
    run.sandbox.set_faults(Faults { api_answer: Some(broken), ..Faults::default() });
    assert!(run.served("/v1/companies").await >= 500);
    run.sandbox.set_faults(Faults::default());
    let nothing: &[(&str, &str)] = &[];
    assert_eq!(run.ask("/v1/companies", nothing).await.0, 403);
    assert_eq!(run.ask("/v1/companies", &[("pleo-proxy-key", CALLERS[3])]).await.0, 403);
    for (name, value) in
        [("host", "rebind.test"), ("origin", "http://evil.test"), ("sec-fetch-site", "cross-site")]
    {
        assert_eq!(
            run.ask("/v1/companies", &[(name, value), ("pleo-proxy-key", LOCAL_KEY)]).await.0,
            403,
            "{name}"
        );
    }
    for (account, status) in
        [("nobody", 404), ("denied", 503), ("lost", 503), ("imported", 200), ("A", 400)]
    {
        let told = run.served(&format!("/@{account}/v1/companies")).await;
        assert!(told == status || account == "A" && told >= 400, "{account}: {told}");
    }
}

/// Every route of the admin listener, with and without the key.
async fn admin_routes(run: &mut Run) {
    for path in [
        "/",
        "/health",
        "/ready",
        "/metrics",
        "/api/status",
        "/api/stats",
        "/api/rate",
        "/api/report",
        "/api/capture",
        "/callback",
        "/nothing",
        "/api/nothing",
    ] {
        run.admin(Method::GET, path, None).await;
        let request = client().get(format!("{}{path}", run.proxy.admin)).bearer_auth(CALLERS[3]);
        let response = request.send().await.unwrap();
        run.answer(path, response, &[]).await;
    }
    for path in ["refresh", "logout", "login"] {
        assert_eq!(run.admin(Method::POST, &format!("/api/accounts/No/{path}"), None).await.0, 404);
        assert_eq!(
            run.admin(Method::GET, &format!("/api/accounts/default/{path}"), None).await.0,
            405
        );
    }
    let session = "/api/session";
    let response = run.proxy.admin(Method::POST, session, None).await;
    let link: Value = response.json().await.unwrap();
    let key = run.link_in(link.to_string().as_bytes()).unwrap();
    run.hear(session, &link.to_string(), &[&key]);
    for status in [200, 401] {
        let request = client()
            .post(format!("{}{session}", run.proxy.admin))
            .header("origin", &run.proxy.admin);
        let response = request.json(&json!({"key": key})).send().await.unwrap();
        assert_eq!(response.status(), status);
        let cookie =
            response.headers().get("set-cookie").map(|cookie| cookie.to_str().unwrap().to_owned());
        let value = cookie
            .as_deref()
            .and_then(|cookie| cookie.split(['=', ';']).nth(1))
            .unwrap_or("(none)")
            .to_owned();
        if status == 200 {
            run.vault.keep("session cookie", &value);
        }
        run.answer(session, response, &[&value]).await;
        let request = client()
            .get(format!("{}/api/status", run.proxy.admin))
            .header("origin", &run.proxy.admin);
        let response = request.header("cookie", cookie.unwrap_or_default()).send().await.unwrap();
        run.answer("/api/status", response, &[]).await;
    }
    let wrong =
        client().post(format!("{}{session}", run.proxy.admin)).json(&json!({"key": CALLERS[3]}));
    let response = wrong.send().await.unwrap();
    run.answer(session, response, &[]).await;
}

/// What was captured of requests, in every form in which it leaves.
async fn evidence(run: &mut Run) {
    let (_, all) = run.admin(Method::GET, "/api/requests?limit=1000", None).await;
    let all: Value = serde_json::from_str(&all).unwrap();
    let captured: Vec<_> =
        all["entries"].as_array().unwrap().iter().filter(|it| it["captured"] == true).collect();
    assert!(captured.len() >= 5, "{captured:?}");
    for entry in captured {
        for path in ["requests", "curl"] {
            let path = format!("/api/{path}/{}", text(&entry["id"]));
            assert!(run.admin(Method::GET, &path, None).await.0 < 500);
        }
    }
    for target in ["/api/har", "/api/har?pseudonyms=true"] {
        let (status, archive) = run.admin(Method::GET, target, None).await;
        assert_eq!(status, 200);
        assert!(archive.contains("\"authorization\",\"value\":\"[redacted]\""), "{archive}");
    }
    run.command(&["har", "-o", "evidence.har"], "");
}

/// What commands print. Those that only ask are the same with and without a proxy.
fn commands(run: &mut Run) {
    let asking: [&[&str]; 9] = [
        &["status"],
        &["--json", "status"],
        &["config", "show"],
        &["--json", "config", "show"],
        &["config", "check"],
        &["--help"],
        &["login", "--help"],
        &["status", "--set", "client.nonsense=1"],
        &["login", "default", "--import-refresh-token"],
    ];
    for arguments in asking {
        run.command(arguments, "");
    }
    let secret = run.workspace.path().join("bad-secret");
    let file = "client.secret_file=bad-secret";
    let lines = format!("{CLIENT_SECRET}\n\u{1}{CLIENT_SECRET}\n");
    for (mode, content) in [
        (0o644, CLIENT_SECRET),
        (0o600, &*lines),
        (0o600, "\n"),
        (0o600, &*CLIENT_SECRET.repeat(2000)),
    ] {
        fs::write(&secret, content).unwrap();
        fs::set_permissions(&secret, fs::Permissions::from_mode(mode)).unwrap();
        run.command(&["config", "check", "--set", file], "");
        run.command(&["config", "show", "--set", file], "");
        run.command(&["login", "--paste", "--import-refresh-token", "--set", file], "");
    }
    // The secret where it does not belong: a mistake that is pointed at, without being repeated.
    let path = run.workspace.path().join("proxy.toml");
    let config = fs::read_to_string(&path).unwrap();
    let quoted = json!(CLIENT_SECRET).to_string();
    write_private(
        &path,
        &config.replacen("[client]\n", &format!("[client]\nsecret = {quoted}\n"), 1),
    );
    let refused = run.command(&["config", "check"], "");
    assert_eq!(refused.status.code(), Some(2), "a secret in the configuration is refused");
    write_private(&path, &config);
}

/// What the system tells about the process, and its files.
fn files_and_process(run: &mut Run, when: &str) {
    let mut folders = vec![run.workspace.path().to_owned()];
    let own = [
        "proxy.toml",
        "admin.key",
        "local-key",
        "store-key",
        "bad-secret",
        "xdg-open",
        "gio",
        "wslview",
        "child.args",
    ];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().flatten() {
            let (path, name) = (entry.path(), entry.file_name().into_string().unwrap());
            let metadata = fs::symlink_metadata(&path).unwrap();
            if path.starts_with(run.workspace.state()) {
                let wanted = if metadata.is_dir() { 0o700 } else { 0o600 };
                assert_eq!(metadata.mode() & 0o7777, wanted, "{} {when}", path.display());
            }
            match metadata.is_dir() {
                true => folders.push(path),
                // Records are sealed, so they are searched like any other file.
                false if own.contains(&&*name) => {}
                false => {
                    let content = fs::read(&path).unwrap();
                    run.hear(
                        &format!("{} {when}", path.display()),
                        &String::from_utf8_lossy(&content),
                        &[],
                    );
                    run.hear("the names of files", &name, &[]);
                }
            }
        }
    }
}

fn arguments(run: &mut Run) {
    let process = PathBuf::from(format!("/proc/{}", run.proxy.child.id()));
    for file in ["cmdline", "comm", "status"] {
        let told = fs::read(process.join(file)).unwrap_or_default();
        run.hear(&format!("/proc/PID/{file}"), &String::from_utf8_lossy(&told), &[]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_in_anything_that_the_process_wrote() {
    let mut run = Run::start().await;
    logins(&mut run).await;
    imports(&mut run).await;
    refreshes(&mut run).await;
    let capture = Some(json!({"for_s": 3600}));
    assert_eq!(run.admin(Method::POST, "/api/capture", capture).await.0, 200);
    requests(&mut run).await;
    keys(&mut run).await;
    admin_routes(&mut run).await;
    evidence(&mut run).await;
    login_by_command(&mut run).await;
    run.command(&["open"], "");
    commands(&mut run);
    arguments(&mut run);
    files_and_process(&mut run, "while it runs");
    let (_, metrics) = run.admin(Method::GET, "/metrics", None).await;
    assert!(metrics.contains("pleo_proxy_refreshes_total"), "{metrics}");
    assert_eq!(run.admin(Method::POST, "/api/accounts/pasted/logout", None).await.0, 200);
    assert_eq!(run.command(&["logout", "imported"], "").status.code(), Some(0));

    run.proxy.signal("TERM");
    assert!(run.proxy.child.wait().unwrap().success());
    for arguments in [
        &["status"][..],
        &["refresh", "--force"],
        &["logout", "by-command"],
        &["login", "x", "--paste"],
    ] {
        let output = command(&run.workspace, arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let url = said.lines().find_map(|line| line.trim().parse::<Url>().ok());
        let secrets = url.map(|url| run.asked(url.as_str())).unwrap_or_default();
        let needed: Vec<&str> = secrets.iter().map(String::as_str).collect();
        run.hear(&format!("stderr of {arguments:?} alone"), &said, &needed);
        run.hear(
            &format!("stdout of {arguments:?} alone"),
            &String::from_utf8_lossy(&output.stdout),
            &needed,
        );
        run.harvest();
    }
    commands(&mut run);
    files_and_process(&mut run, "at the end");
    assert_clean(run);
}

/// Looks for everything in everything.
fn assert_clean(mut run: Run) {
    let quoted: &[char] = &['"', '\r', '\n'];
    let in_form: &[char] = &['&', ' ', '\r', '\n'];
    let from_wire: [(&str, &str, &[char]); 5] = [
        ("access_token", "\"access_token\":\"", quoted),
        ("refresh_token", "\"refresh_token\":\"", quoted),
        ("verifier", "code_verifier=", in_form),
        ("refresh_token", "refresh_token=", in_form),
        ("client proof", "asic ", quoted),
    ];
    for (what, begin, ends) in from_wire {
        let values = run.relay.values(begin, ends);
        assert!(!values.is_empty(), "the relay heard no {what}");
        values
            .iter()
            .filter(|value| value.len() >= SLICE)
            .for_each(|value| run.vault.keep(what, value));
    }
    for what in [
        "client secret",
        "local key",
        "store key",
        "API key",
        "admin key",
        "link key",
        "session cookie",
        "code",
        "state",
        "verifier",
    ] {
        assert!(run.vault.count(what) >= 1, "no {what} was collected");
    }
    let log = run.proxy.log();
    for told in [
        "connected account=default",
        "login failed",
        "refreshed account",
        "broke off",
        "logged out",
    ] {
        assert!(log.contains(told), "the log does not tell of {told:?}: {log}");
    }
    run.hear("log", &log, &[]);
    let browser = fs::read_to_string(run.workspace.path().join("bin/child.env")).unwrap();
    assert!(browser.contains("PATH="), "{browser}");

    let slices = run.vault.slices();
    let mut found: Vec<String> = run
        .said
        .iter()
        .flat_map(|(workspace, text)| leaks(&slices, workspace, text.as_bytes()))
        .collect();
    found.dedup();
    assert!(found.is_empty(), "{} leaks\n{}", found.len(), found.join("\n"));

    // The scan is no blind one: each secret, written in each way, would have been found in this
    // very log.
    for (secret, what) in &run.vault.0 {
        for writing in writings(secret) {
            let middle = (writing.len() - SLICE) / 2;
            let planted = format!("{log} path=/v1/x note={} ", &writing[middle..middle + SLICE]);
            assert!(
                !leaks(&slices, "log", &planted.as_bytes()[log.len()..]).is_empty(),
                "{what}: {writing}"
            );
        }
    }
}

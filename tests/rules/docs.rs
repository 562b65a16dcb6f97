//! README and examples are true: what can be run is run, what can be loaded is loaded, every table
//! is complete.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use pleo_proxy::config::{Config, Environment, Flags, load};
use pleo_proxy::sandbox::{SECOND_COMPANY_ID, Sandbox};
use serde_json::Value;
use support::{Proxy, Workspace, sandbox, text};

pub(super) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub(super) fn readme() -> String {
    fs::read_to_string(root().join("README.md")).unwrap()
}

fn example(name: &str) -> PathBuf {
    root().join("examples").join(name)
}

/// What stands before a block says what is done with it.
#[derive(Clone, Debug, PartialEq)]
enum Mark {
    None,
    /// `<!-- not run: why -->`
    NotRun,
    /// `<!-- runs: TEXT -->`: ends well and prints TEXT.
    Runs(String),
    /// `<!-- runs, refused: CODE -->`: every answer is a refusal of the proxy with this code.
    Refused(String),
    /// `<!-- runs alone -->`: on a proxy of its own.
    Alone,
}

#[derive(Debug)]
struct Block {
    line: usize,
    language: String,
    mark: Mark,
    code: String,
}

fn blocks() -> Vec<Block> {
    let readme = readme();
    let mut found: Vec<Block> = Vec::new();
    let mut mark = Mark::None;
    let mut open = false;
    for (number, line) in readme.lines().enumerate() {
        match (open, line.strip_prefix("```")) {
            (false, Some(language)) => {
                let mark = std::mem::replace(&mut mark, Mark::None);
                found.push(Block {
                    line: number + 1,
                    language: language.into(),
                    mark,
                    code: String::new(),
                });
                open = true;
            }
            (true, Some(_)) => open = false,
            (true, None) => writeln!(found.last_mut().unwrap().code, "{line}").unwrap(),
            (false, None) if line.starts_with("<!--") => mark = parse_mark(line),
            (false, None) => mark = Mark::None,
        }
    }
    assert!(found.len() > 25, "only {} blocks were found", found.len());
    found
}

fn parse_mark(line: &str) -> Mark {
    let inner = line.strip_prefix("<!-- ").and_then(|rest| rest.strip_suffix(" -->")).unwrap();
    match inner.split_once(": ") {
        Some(("not run", _)) => Mark::NotRun,
        Some(("runs", text)) => Mark::Runs(text.into()),
        Some(("runs, refused", code)) => Mark::Refused(code.into()),
        None if inner == "runs alone" => Mark::Alone,
        _ => panic!("what does {line} mean?"),
    }
}

/// The scopes that the requests in the documents need.
const SCOPES: &str = "client.scopes=[\"companies:read\", \"users:read\", \"export-jobs:read\", \
                      \"vendors:read\", \"vendors:write\"]";

/// Two accounts, `default` and `acme`, of two companies.
struct Setup {
    workspace: Workspace,
    proxy: Proxy,
    sandbox: Sandbox,
}

impl Setup {
    async fn new() -> Self {
        let sandbox = sandbox().await;
        let workspace = Workspace::for_sandbox(&sandbox, "");
        let proxy = workspace.serve_with(&["--set", SCOPES]);
        proxy.login("default").await;
        sandbox.set_next_subject(Some(format!("urn:pleo:company:{SECOND_COMPANY_ID}")));
        proxy.login("acme").await;
        Self { workspace, proxy, sandbox }
    }

    /// A text of the README with the addresses of this stage.
    fn here(&self, code: &str) -> String {
        let bare = |origin: &str| origin.strip_prefix("http://").unwrap().to_owned();
        let addresses = [
            ("8088", bare(&self.proxy.api)),
            ("8089", bare(&self.proxy.admin)),
            ("8090", bare(&self.sandbox.api_origin())),
        ];
        addresses.iter().fold(code.to_owned(), |code, (port, here)| {
            code.replace(&format!("127.0.0.1:{port}"), here)
        })
    }

    /// A command in the folder of the proxy, with `pleo-proxy` on the path.
    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let binary = Path::new(env!("CARGO_BIN_EXE_pleo-proxy")).parent().unwrap();
        let mut paths = vec![binary.to_owned()];
        paths.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap()));
        let mut command = Command::new(program);
        command
            .args(arguments)
            .current_dir(self.workspace.path())
            .env("PATH", std::env::join_paths(paths).unwrap());
        command
            .env("PLEO_PROXY_CLIENT_SECRET", "sandbox-secret")
            .env("PLEO_BASE_URL", &self.proxy.api);
        command.stdin(Stdio::null());
        command
    }

    fn shell(&self, code: &str) -> Output {
        let at_socket =
            || self.workspace.serve_with(&["--set", "listen.api=\"unix:run/api.sock\""]);
        let _second = code.contains("--unix-socket").then(at_socket);
        // A refusal must be an error, and its body must be seen.
        let script = format!(
            "curl() {{ command curl --fail-with-body -sS \"$@\" && echo; }}\n{}",
            self.here(code)
        );
        self.command("sh", &["-eu", "-c", &script]).output().unwrap()
    }
}

fn shown(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Past the capturing of the test runner: a skipped check is to be seen.
fn skipped(what: &str, how: &str) {
    let _ = std::io::stderr().write_all(format!("\nSKIPPED: {what}; {how}\n").as_bytes());
}

fn is_there(program: &str) -> bool {
    Command::new(program)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| s.success())
}

#[test]
fn every_block_says_whether_it_runs() {
    for block in blocks() {
        let runnable = matches!(block.language.as_str(), "sh" | "python" | "js");
        let known = runnable || matches!(block.language.as_str(), "toml" | "csharp" | "nginx");
        assert!(known, "README.md:{}: no rule for ```{}", block.line, block.language);
        assert_eq!(
            runnable,
            block.mark != Mark::None,
            "README.md:{}: {:?}",
            block.line,
            block.mark
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shell_blocks_do_what_they_say() {
    assert!(is_there("curl"), "the README's examples need curl: apt-get install curl");
    let setup = Setup::new().await;
    let mut ran = 0;
    for block in blocks().iter().filter(|block| block.language == "sh") {
        let output = match &block.mark {
            Mark::Runs(_) | Mark::Refused(_) => setup.shell(&block.code),
            Mark::Alone => Setup::new().await.shell(&block.code),
            Mark::NotRun | Mark::None => continue,
        };
        let said = shown(&output);
        let at = format!("README.md:{}\n{}\n{said}\n{}", block.line, block.code, setup.proxy.log());
        match &block.mark {
            Mark::Refused(code) => {
                assert!(
                    !output.status.success() && said.contains(&format!("\"code\":\"{code}\"")),
                    "{at}"
                );
            }
            Mark::Runs(wanted) => assert!(output.status.success() && said.contains(wanted), "{at}"),
            _ => assert!(output.status.success(), "{at}"),
        }
        ran += 1;
    }
    assert!(ran >= 12, "only {ran} blocks were run");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_and_javascript_blocks_do_what_they_say() {
    let setup = Setup::new().await;
    let interpreters =
        [("python", "python3", vec!["-c"]), ("js", "node", vec!["--input-type=module", "-e"])];
    for (language, program, arguments) in &interpreters {
        let blocks: Vec<_> =
            blocks().into_iter().filter(|block| block.language == *language).collect();
        assert!(!blocks.is_empty(), "the README has no {language} block");
        if !is_there(program) {
            skipped(
                &format!("the README's {language} examples"),
                &format!("install {program} to check them"),
            );
            continue;
        }
        for block in blocks {
            let Mark::Runs(wanted) = &block.mark else { panic!("README.md:{}", block.line) };
            let code = setup.here(&block.code);
            let output = setup
                .command(program, &[arguments.as_slice(), &[&code]].concat())
                .output()
                .unwrap();
            let said = shown(&output);
            assert!(
                output.status.success() && said.contains(wanted),
                "README.md:{}\n{said}",
                block.line
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_clients_read_all_pages() {
    let setup = Setup::new().await;
    for (program, file, needed) in [
        ("sh", "client.sh", "curl"),
        ("python3", "client.py", "python3"),
        ("node", "client.mjs", "node"),
    ] {
        if !is_there(needed) {
            skipped(&format!("examples/{file}"), &format!("install {needed} to check it"));
            continue;
        }
        let path = example(file);
        let output = setup.command(program, &[path.to_str().unwrap()]).output().unwrap();
        let said = shown(&output);
        assert!(output.status.success(), "{file}: {said}");
        match file {
            "client.sh" => assert_eq!(said.matches("\"performedAt\"").count(), 45, "{said}"),
            _ => assert!(said.contains("45 entries"), "{file}: {said}"),
        }
        let refused =
            setup.command(program, &[path.to_str().unwrap(), "no-company"]).output().unwrap();
        assert!(
            !refused.status.success() && shown(&refused).contains("ACCESS_DENIED"),
            "{file}: {}",
            shown(&refused)
        );
    }
    skipped("examples/Client.cs is not run", "with the .NET SDK: dotnet run examples/Client.cs");
    assert!(fs::read_to_string(example("Client.cs")).unwrap().contains("http://127.0.0.1:8088"));
}

#[test]
fn the_quickstart_runs_and_ends() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .args(["run", "--quiet", "--example", "quickstart"])
        .current_dir(root())
        .stdin(Stdio::null());
    let output = command.output().unwrap();
    let said = shown(&output);
    assert!(output.status.success(), "{said}");
    for wanted in
        ["Harbour Coffee", "The account default: refreshed", "default: connected", "subjectURN"]
    {
        assert!(said.contains(wanted), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_postman_collection_works_against_the_sandbox() {
    let setup = Setup::new().await;
    let file = fs::read_to_string(example("pleo-proxy.postman_collection.json")).unwrap();
    let collection: Value = serde_json::from_str(&file).unwrap();
    assert!(text(&collection["info"]["schema"]).contains("/v2.1.0/"));
    assert_eq!(collection["auth"]["type"], "noauth");
    let mut variables = BTreeMap::new();
    for variable in collection["variable"].as_array().unwrap() {
        variables.insert(text(&variable["key"]), text(&variable["value"]));
    }
    assert_eq!(variables["baseUrl"], "http://127.0.0.1:8088");
    variables.insert("baseUrl".into(), setup.proxy.api.clone());
    let mut requests = Vec::new();
    collect_requests(&collection["item"], &mut requests);
    assert!(requests.len() >= 12, "only {} requests", requests.len());
    for request in requests {
        assert!(request["auth"].is_null(), "{request}");
        let method = text(&request["method"]).parse().unwrap();
        let mut sent =
            setup.proxy.http.request(method, filled(&text(&request["url"]["raw"]), &variables));
        for header in request["header"].as_array().unwrap() {
            sent = sent.header(text(&header["key"]), text(&header["value"]));
        }
        if let Some(body) = request["body"]["raw"].as_str() {
            sent = sent.body(filled(body, &variables));
        }
        let response = sent.send().await.unwrap();
        assert!(
            response.status().is_success(),
            "{request}: {} {}",
            response.status(),
            response.text().await.unwrap()
        );
    }
}

fn collect_requests<'a>(items: &'a Value, into: &mut Vec<&'a Value>) {
    for item in items.as_array().unwrap() {
        match item["request"].is_object() {
            true => into.push(&item["request"]),
            false => collect_requests(&item["item"], into),
        }
    }
}

fn filled(text: &str, variables: &BTreeMap<String, String>) -> String {
    let fill = |text: String, (name, value): (&String, &String)| {
        text.replace(&format!("{{{{{name}}}}}"), value)
    };
    let filled = variables.iter().fold(text.to_owned(), fill);
    assert!(!filled.contains("{{"), "{filled}");
    filled
}

/// Loads a configuration text as the one file.
pub(super) fn loaded(text: &str) -> Config {
    let workspace = Workspace::new(text);
    let flags = Flags { working_dir: workspace.path().into(), ..Flags::default() };
    let environment = BTreeMap::from([("HOME".to_owned(), workspace.path().display().to_string())]);
    load(&flags, &environment).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

#[test]
fn configuration_blocks_and_examples_load() {
    let blocks: Vec<_> = blocks().into_iter().filter(|block| block.language == "toml").collect();
    assert!(blocks.len() >= 3);
    blocks.iter().for_each(|block| drop(loaded(&block.code)));
    let read = |name: &str| loaded(&fs::read_to_string(example(name)).unwrap());
    let (staging, production) = (read("staging.toml"), read("production.toml"));
    assert_eq!(staging.environment(), Environment::Staging);
    assert_eq!(production.environment(), Environment::Production);
    assert_eq!(production.oauth.api.to_string(), "https://external.pleo.io");
    let files = fs::read_dir(root().join("examples")).unwrap();
    let configurations =
        files.filter(|file| file.as_ref().unwrap().path().extension().is_some_and(|e| e == "toml"));
    assert_eq!(configurations.count(), 2, "a new configuration example needs a line here");
}

#[test]
fn links_lead_somewhere() {
    let readme = readme();
    let headings = |page: &str| -> BTreeSet<String> {
        page.lines()
            .filter_map(|line| {
                line.trim_start_matches('#').strip_prefix(' ').filter(|_| line.starts_with('#'))
            })
            .map(|heading| heading.to_lowercase().replace(' ', "-"))
            .collect()
    };
    let mut seen = 0;
    // All of these stand at the root, so that what they name is found from there.
    let others = ["CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"]
        .map(|page| fs::read_to_string(root().join(page)));
    let pages = [readme.clone()].into_iter().chain(others.map(Result::unwrap)).collect::<String>();
    let links = pages.split("](").skip(1).map(|rest| rest.split(')').next().unwrap());
    for link in links.filter(|link| !link.starts_with("https://")) {
        let (file, heading) =
            link.split_once('#').map_or((link, None), |(file, heading)| (file, Some(heading)));
        assert!(root().join(file).exists(), "{link}");
        if let Some(heading) = heading {
            let page = if file.is_empty() {
                readme.clone()
            } else {
                fs::read_to_string(root().join(file)).unwrap()
            };
            assert!(headings(&page).contains(heading), "{link}");
        }
        seen += 1;
    }
    assert!(seen > 8);
    for file in fs::read_dir(root().join("examples")).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        let name = name.trim_end_matches(".rs");
        assert!(readme.contains(name), "examples/{name} is not in the README");
    }
}

#[test]
fn the_service_gives_the_process_time_to_save() {
    let unit = fs::read_to_string(example("pleo-proxy.service")).unwrap();
    let value = |key: &str| {
        unit.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).unwrap().to_owned()
    };
    assert!(value("TimeoutStopSec").parse::<u32>().unwrap() >= 45);
    assert_eq!(value("KillSignal"), "SIGTERM");
    assert!(value("LoadCredential").starts_with("client-secret:"));
    let arguments = value("ExecStart");
    let arguments: Vec<&str> = arguments.split(' ').skip(1).collect();
    assert_eq!(arguments, ["--config", "%h/.config/pleo-proxy/proxy.toml", "serve"]);
    if !is_there("systemd-analyze") {
        return skipped(
            "examples/pleo-proxy.service is not verified",
            "systemd-analyze is not on this machine",
        );
    }
    let workspace = Workspace::new("");
    let here = unit.replace("%h/.cargo/bin/pleo-proxy", env!("CARGO_BIN_EXE_pleo-proxy"));
    let copy = workspace.path().join("pleo-proxy.service");
    fs::write(&copy, here).unwrap();
    let mut verify = Command::new("systemd-analyze");
    // It wants a runtime folder to be there, and starts nothing.
    verify
        .args(["verify", "--man=no", "--user"])
        .arg(&copy)
        .env("XDG_RUNTIME_DIR", workspace.path());
    let output = verify.output().unwrap();
    let said = shown(&output);
    let complaints: Vec<_> =
        said.lines().filter(|line| line.contains("pleo-proxy.service")).collect();
    assert!(output.status.success() && complaints.is_empty(), "{said}");
}

//! Example clients in several languages.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::support::documents::{TwoAccounts, example, is_there, root, shown, skipped, tool};

/// The interpreter of a file, if it and the Python package that the file needs are there.
fn interpreter(name: &str, package: Option<&str>) -> Option<PathBuf> {
    let interpreter = tool(name)?;
    let Some(package) = package else { return Some(interpreter) };
    let mut import = Command::new(&interpreter);
    import.args(["-c", &format!("import {package}")]).stderr(Stdio::null());
    import.status().is_ok_and(|status| status.success()).then_some(interpreter)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clients_read_all_pages_and_say_who_refused() {
    assert!(is_there("curl"), "the examples need curl: apt-get install curl");
    let setup = TwoAccounts::new().await;
    for (program, file, package) in [
        ("sh", "client.sh", None),
        ("python3", "client.py", None),
        ("python3", "client_requests.py", Some("requests")),
        ("python3", "client_httpx.py", Some("httpx")),
        ("node", "client.mjs", None),
        ("java", "Client.java", None),
    ] {
        let interpreter =
            if program == "sh" { Some("sh".into()) } else { interpreter(program, package) };
        let Some(interpreter) = interpreter else {
            let needed = package.unwrap_or(program);
            skipped(&format!("examples/{file}"), &format!("install {needed} to check it"));
            continue;
        };
        let (program, path) = (interpreter.to_str().unwrap(), example(file));
        let output = setup.command(program, &[path.to_str().unwrap()]).output().unwrap();
        let said = shown(&output);
        assert!(output.status.success(), "{file}: {said}");
        match file {
            "client.sh" => assert_eq!(said.matches("\"performedAt\"").count(), 45, "{said}"),
            _ => assert!(said.contains("45 entries"), "{file}: {said}"),
        }
        let refused =
            setup.command(program, &[path.to_str().unwrap(), "no-company"]).output().unwrap();
        let said = shown(&refused);
        assert!(!refused.status.success() && said.contains("ACCESS_DENIED"), "{file}: {said}");
        assert!(!said.contains("Traceback"), "{file}: {said}");
    }
    skipped("examples/Client.cs is not run", "with the .NET SDK: dotnet run examples/Client.cs");
    assert!(fs::read_to_string(example("Client.cs")).unwrap().contains("http://127.0.0.1:8088"));
}

#[tokio::test(flavor = "multi_thread")]
async fn node_reaches_the_api_through_its_own_proxy_setting() {
    let probe = "process.exitCode = +!process.allowedNodeEnvironmentFlags.has('--use-env-proxy')";
    let has_setting = |node: &PathBuf| {
        Command::new(node).args(["-e", probe]).status().is_ok_and(|status| status.success())
    };
    let Some(node) = tool("node").filter(has_setting) else {
        return skipped("examples/proxy_mode.mjs", "it needs Node 22.21, or 24.5 and newer");
    };
    let setup = TwoAccounts::new().await;
    let (script, api) = (example("proxy_mode.mjs"), setup.sandbox.api_origin());
    let arguments = [script.to_str().unwrap(), &api];
    let mut command = setup.command(node.to_str().unwrap(), &arguments);
    let direct = command.output().unwrap();
    assert!(shown(&direct).contains("UNAUTHORIZED"), "{}", shown(&direct));
    command.env("NODE_USE_ENV_PROXY", "1").env("HTTP_PROXY", &setup.proxy.api);
    let output = command.env_remove("NO_PROXY").env_remove("no_proxy").output().unwrap();
    assert!(output.status.success() && shown(&output).contains("subjectURN"), "{}", shown(&output));
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

/// Folders whose files one test goes through.
const FOLDERS: [&str; 1] = ["bruno"];

#[test]
fn every_example_is_named_by_a_test() {
    let mut tests = String::new();
    let suites = ["tests/examples", "tests/rules", "tests/operations"];
    for file in suites.iter().flat_map(|suite| fs::read_dir(root().join(suite)).unwrap()) {
        tests += &fs::read_to_string(file.unwrap().path()).unwrap();
    }
    let mut folders = vec![example("")];
    let mut seen = 0;
    while let Some(folder) = folders.pop() {
        for file in fs::read_dir(folder).unwrap().map(|file| file.unwrap()) {
            let name = file.file_name().into_string().unwrap();
            if file.path().is_dir() && !FOLDERS.contains(&name.as_str()) {
                folders.push(file.path());
                continue;
            }
            let name = name.trim_end_matches(".rs");
            assert!(tests.contains(name), "examples/{name} is in no test");
            seen += 1;
        }
    }
    assert!(seen > 15, "only {seen} examples were found");
}

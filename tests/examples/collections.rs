//! The collections for Postman and Bruno: run by the tools of their makers, and, so that nothing
//! depends on these, read and sent by the tests themselves. Twice each: names are not used up.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::documents::{TwoAccounts, example, shown, skipped, tool};
use crate::support::text;

const COLLECTION: &str = "pleo-proxy.postman_collection.json";
const ENVIRONMENT: &str = "pleo-proxy.postman_environment.json";

type Variables = BTreeMap<String, String>;

fn json(name: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(example(name)).unwrap()).unwrap()
}

/// Runs a tool twice, in a folder of the examples.
fn run_twice(setup: &TwoAccounts, name: &str, arguments: &[&str], folder: &Path, package: &str) {
    let Some(tool) = tool(name) else {
        return skipped(
            &format!("{name} with {}", folder.display()),
            &format!("npm install --prefix target/tools {package}"),
        );
    };
    for _ in 0..2 {
        let mut command = setup.command(tool.to_str().unwrap(), arguments);
        // What the tool keeps of itself goes with the test.
        command.current_dir(folder).env("HOME", setup.workspace.path());
        let output = command.output().unwrap();
        let said = shown(&output);
        assert!(output.status.success(), "{name}: {said}\n{}", setup.proxy.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn newman_runs_the_postman_collection() {
    let setup = TwoAccounts::new().await;
    let base = format!("baseUrl={}", setup.proxy.api);
    let arguments = ["run", COLLECTION, "-e", ENVIRONMENT, "--env-var", &base, "--color", "off"];
    run_twice(&setup, "newman", &arguments, &example(""), "newman@6");
}

#[tokio::test(flavor = "multi_thread")]
async fn bruno_runs_its_collection() {
    let setup = TwoAccounts::new().await;
    let base = format!("baseUrl={}", setup.proxy.api);
    let arguments = ["run", "--env", "sandbox", "--env-var", &base];
    run_twice(&setup, "bru", &arguments, &example("bruno"), "@usebruno/cli@2");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_request_of_the_postman_collection_succeeds() {
    let setup = TwoAccounts::new().await;
    let (collection, environment) = (json(COLLECTION), json(ENVIRONMENT));
    assert!(text(&collection["info"]["schema"]).contains("/v2.1.0/"));
    assert_eq!(collection["auth"]["type"], "noauth");
    let mut variables = Variables::new();
    for variable in [&collection["variable"], &environment["values"]] {
        for variable in variable.as_array().unwrap() {
            variables.insert(text(&variable["key"]), text(&variable["value"]));
        }
    }
    assert_eq!(variables["baseUrl"], "http://127.0.0.1:8088");
    variables.insert("baseUrl".into(), setup.proxy.api.clone());
    let mut requests = Vec::new();
    collect_requests(&collection["item"], &mut requests);
    assert!(requests.len() >= 15, "only {} requests", requests.len());
    for request in requests.iter().chain(&requests) {
        assert!(request["auth"].is_null(), "{request}");
        let url = text(&request["url"]["raw"]);
        let body = request["body"]["raw"].as_str();
        let response = send(&setup, &text(&request["method"]), &url, body, &mut variables).await;
        assert!((200..300).contains(&response.0), "{request}: {response:?}");
    }
}

fn collect_requests<'a>(items: &'a Value, into: &mut Vec<&'a Value>) {
    for item in items.as_array().unwrap() {
        if item["request"].is_object() {
            into.push(&item["request"]);
        } else {
            collect_requests(&item["item"], into);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_request_of_the_bruno_collection_succeeds() {
    let setup = TwoAccounts::new().await;
    assert_eq!(json("bruno/bruno.json")["type"], "collection");
    let environment = bruno_blocks("bruno/environments/sandbox.bru");
    let mut variables: Variables = entries(&environment["vars"]).collect();
    assert_eq!(variables["baseUrl"], "http://127.0.0.1:8088");
    variables.insert("baseUrl".into(), setup.proxy.api.clone());
    let files = fs::read_dir(example("bruno")).unwrap();
    let mut requests: Vec<_> = files
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".bru"))
        .map(|name| bruno_blocks(&format!("bruno/{name}")))
        .collect();
    requests.sort_by_key(|blocks| value(&blocks["meta"], "seq").parse::<u32>().unwrap());
    assert!(requests.len() >= 7, "only {} requests", requests.len());
    for blocks in requests.iter().chain(&requests) {
        let method = ["get", "post"].into_iter().find(|name| blocks.contains_key(*name)).unwrap();
        assert_eq!(value(&blocks[method], "auth"), "none");
        let body = blocks.get("body:json").map(String::as_str);
        assert_eq!(value(&blocks[method], "body") == "json", body.is_some());
        let url = value(&blocks[method], "url");
        let response = send(&setup, &method.to_uppercase(), &url, body, &mut variables).await;
        let wanted = value(&blocks["assert"], "res.status");
        assert_eq!(wanted, format!("eq {}", response.0), "{url}: {}", response.1);
    }
}

/// The blocks of a file of Bruno's, by name.
fn bruno_blocks(name: &str) -> BTreeMap<String, String> {
    let file = fs::read_to_string(example(name)).unwrap();
    let blocks = file.split("\n}\n").filter_map(|block| block.split_once(" {\n"));
    blocks.map(|(name, content)| (name.trim().to_owned(), content.to_owned())).collect()
}

fn entries(block: &str) -> impl Iterator<Item = (String, String)> {
    let lines = block.lines().filter_map(|line| line.trim().split_once(": "));
    lines.map(|(name, value)| (name.to_owned(), value.to_owned()))
}

fn value(block: &str, name: &str) -> String {
    entries(block).find(|(key, _)| key == name).unwrap_or_else(|| panic!("{name}: {block}")).1
}

/// Sends one request, and takes of the response what the next page needs.
async fn send(
    setup: &TwoAccounts,
    method: &str,
    url: &str,
    body: Option<&str>,
    variables: &mut Variables,
) -> (u16, Value) {
    let request = setup.proxy.http.request(method.parse().unwrap(), filled(url, variables));
    let request = match body {
        Some(body) => {
            request.header("content-type", "application/json").body(filled(body, variables))
        }
        None => request,
    };
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    let answer: Value = response.json().await.unwrap();
    if let Some(cursor) = answer["pagination"]["endCursor"].as_str() {
        variables.insert("endCursor".into(), cursor.to_owned());
    }
    (status, answer)
}

fn filled(text: &str, variables: &Variables) -> String {
    let fill = |text: String, (name, value): (&String, &String)| {
        text.replace(&format!("{{{{{name}}}}}"), value)
    };
    let filled = variables.iter().fold(text.to_owned(), fill);
    let unique = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos().to_string();
    let filled = filled.replace("{{$guid}}", &unique);
    assert!(!filled.contains("{{"), "{filled}");
    filled
}

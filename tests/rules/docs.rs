//! README, `docs/` and examples are true: what can be run is run, what can be loaded is loaded, no
//! link is dead.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;

use pleo_proxy::config::{Config, Environment, Flags, load};
use pleo_proxy::proxy::peer::PeerCheck;
use support::Workspace;
use support::documents::{TwoAccounts, example, is_there, root, shown, skipped};

fn read(page: &str) -> String {
    fs::read_to_string(root().join(page)).unwrap_or_else(|error| panic!("{page}: {error}"))
}

pub(super) fn readme() -> String {
    read("README.md")
}

/// What users read, README first: the path from the root, and the text.
pub(super) fn pages() -> Vec<(String, String)> {
    let mut names: Vec<String> = fs::read_dir(root().join("docs"))
        .unwrap()
        .map(|file| format!("docs/{}", file.unwrap().file_name().into_string().unwrap()))
        .filter(|name| name.ends_with(".md"))
        .collect();
    names.sort();
    names.insert(0, "README.md".into());
    names.into_iter().map(|name| (name.clone(), read(&name))).collect()
}

/// All pages as one text.
pub(super) fn all_pages() -> String {
    pages().into_iter().map(|(_, text)| text + "\n").collect()
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
    /// Page and line.
    at: String,
    language: String,
    mark: Mark,
    code: String,
}

fn blocks() -> Vec<Block> {
    let found: Vec<Block> = pages().iter().flat_map(|(page, text)| blocks_of(page, text)).collect();
    assert!(found.len() >= 41, "only {} blocks were found", found.len());
    found
}

fn blocks_of(page: &str, text: &str) -> Vec<Block> {
    let mut found: Vec<Block> = Vec::new();
    let mut mark = Mark::None;
    let mut open = false;
    for (number, line) in text.lines().enumerate() {
        match (open, line.strip_prefix("```")) {
            (false, Some(language)) => {
                let mark = std::mem::replace(&mut mark, Mark::None);
                found.push(Block {
                    at: format!("{page}:{}", number + 1),
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
    assert!(!open, "{page}: the last block has no end");
    found
}

/// Each shell block with the text block after it, which is what it prints.
fn shell_blocks(blocks: &[Block]) -> impl Iterator<Item = (&Block, Option<&Block>)> {
    blocks
        .iter()
        .enumerate()
        .filter(|(_, block)| block.language == "sh")
        .map(|(at, block)| (block, blocks.get(at + 1).filter(|next| next.language == "text")))
}

/// Whether the parts between the dots of a text are in an output, in this order.
fn is_like(output: &str, text: &str) -> bool {
    let mut rest = output;
    text.trim().split("...").all(|part| match rest.split_once(part) {
        Some((_, after)) => {
            rest = after;
            true
        }
        None => false,
    })
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

#[test]
fn every_block_says_whether_it_runs() {
    let blocks = blocks();
    for (at, block) in blocks.iter().enumerate() {
        let runnable = matches!(block.language.as_str(), "sh" | "python" | "js");
        let known = runnable
            || matches!(block.language.as_str(), "toml" | "csharp" | "nginx" | "yaml" | "text");
        assert!(known, "{}: no rule for ```{}", block.at, block.language);
        assert_eq!(runnable, block.mark != Mark::None, "{}: {:?}", block.at, block.mark);
        if block.language == "text" {
            let before = &blocks[at - 1];
            let is_run = before.language == "sh" && matches!(before.mark, Mark::Runs(_));
            assert!(is_run, "{}: not the output of a block that runs", block.at);
        }
    }
}

#[test]
fn an_output_is_compared_part_by_part() {
    assert!(is_like("{\"a\":1,\"b\":2}", "{\"a\":...,\"b\":2}\n"));
    assert!(!is_like("{\"b\":2,\"a\":1}", "{\"a\":...\"b\"") && !is_like("", "x"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shell_blocks_do_what_they_say() {
    assert!(is_there("curl"), "the examples need curl: apt-get install curl");
    let setup = TwoAccounts::new().await;
    let mut ran = 0;
    for (block, printed) in shell_blocks(&blocks()) {
        let output = match &block.mark {
            Mark::Runs(_) | Mark::Refused(_) => setup.shell(&block.code),
            Mark::Alone => TwoAccounts::new().await.shell(&block.code),
            Mark::NotRun | Mark::None => continue,
        };
        let said = shown(&output);
        let at = format!("{}\n{}\n{said}\n{}", block.at, block.code, setup.proxy.log());
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
        if let Some(printed) = printed {
            assert!(is_like(&said, &printed.code), "{at}\ninstead of\n{}", printed.code);
        }
        ran += 1;
    }
    assert!(ran >= 23, "only {ran} blocks were run");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_and_javascript_blocks_do_what_they_say() {
    let setup = TwoAccounts::new().await;
    let interpreters =
        [("python", "python3", vec!["-c"]), ("js", "node", vec!["--input-type=module", "-e"])];
    for (language, program, arguments) in &interpreters {
        let blocks: Vec<_> =
            blocks().into_iter().filter(|block| block.language == *language).collect();
        assert!(!blocks.is_empty(), "there is no {language} block");
        if !is_there(program) {
            skipped(
                &format!("the {language} blocks of README and docs"),
                &format!("install {program} to check them"),
            );
            continue;
        }
        for block in blocks {
            let Mark::Runs(wanted) = &block.mark else { panic!("{}", block.at) };
            let code = setup.here(&block.code);
            let output = setup
                .command(program, &[arguments.as_slice(), &[&code]].concat())
                .output()
                .unwrap();
            let said = shown(&output);
            assert!(output.status.success() && said.contains(wanted), "{}\n{said}", block.at);
        }
    }
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
    // The user of a service of the machine is nobody's.
    assert_eq!(read("system.toml").callers.peer_check, PeerCheck::Users(vec![1000]));
    let files = fs::read_dir(root().join("examples")).unwrap();
    let configurations =
        files.filter(|file| file.as_ref().unwrap().path().extension().is_some_and(|e| e == "toml"));
    assert_eq!(configurations.count(), 3, "a new configuration example needs a line here");
}

/// The headings of a page as GitHub makes anchors of them.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut in_block = false;
    let heading = |line: &str| {
        in_block ^= line.starts_with("```");
        let title = line.trim_start_matches('#').strip_prefix(' ')?;
        (!in_block && line.starts_with('#')).then(|| anchor(title))
    };
    text.lines().filter_map(heading).collect()
}

fn anchor(title: &str) -> String {
    let kept = |character: &char| character.is_alphanumeric() || " -_".contains(*character);
    title.to_lowercase().chars().filter(kept).collect::<String>().replace(' ', "-")
}

/// Where the links of a text lead within the repository: path and anchor.
fn links(text: &str) -> Vec<(String, Option<String>)> {
    let links = text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap());
    let split = |link: &str| match link.split_once('#') {
        Some((file, anchor)) => (file.to_owned(), Some(anchor.to_owned())),
        None => (link.to_owned(), None),
    };
    links.filter(|link| !link.starts_with("https://")).map(split).collect()
}

#[test]
fn links_lead_somewhere() {
    let others = ["CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "tests/README.md"];
    let others = others.into_iter().chain(["benches/README.md"]);
    let others = others.map(|page| (page.to_owned(), read(page)));
    let mut seen = 0;
    for (page, text) in pages().into_iter().chain(others) {
        let folder = root().join(&page).parent().unwrap().to_owned();
        for (file, wanted) in links(&text) {
            let target = if file.is_empty() { root().join(&page) } else { folder.join(&file) };
            assert!(target.exists(), "{page}: there is no {file}");
            if let Some(wanted) = wanted {
                let known = anchors(&fs::read_to_string(&target).unwrap());
                assert!(known.contains(&wanted), "{page}: {file} has no heading {wanted}");
            }
            seen += 1;
        }
    }
    assert!(seen > 60, "only {seen} links were found");
}

#[test]
fn the_readme_leads_to_every_page_and_stays_short() {
    let readme = readme();
    let linked: BTreeSet<String> = links(&readme).into_iter().map(|(file, _)| file).collect();
    for (page, _) in pages().iter().skip(1) {
        assert!(linked.contains(page), "the README does not lead to {page}");
    }
    let lines = readme.lines().count();
    assert!(lines < 300, "the README has {lines} lines: move what is looked up to docs/");
    let pages = all_pages();
    for file in fs::read_dir(root().join("examples")).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        let named = match name.strip_suffix(".rs") {
            Some(name) => format!("--example {name}"),
            None => format!("examples/{name}"),
        };
        assert!(pages.contains(&named), "{named} is in no page");
    }
}

#[test]
fn pages_that_messages_name_are_there() {
    let mut seen = 0;
    for source in crate::architecture::sources() {
        // Its own text holds no strings.
        let Ok(text) = fs::read_to_string(root().join("src").join(&source.name)) else { continue };
        let parts = text.split("docs/").skip(1);
        for name in parts.filter_map(|rest| Some(rest.split_once(".md")?.0)) {
            if name.chars().all(|character| character.is_ascii_lowercase() || character == '-') {
                assert!(root().join(format!("docs/{name}.md")).exists(), "{}: {name}", source.name);
                seen += 1;
            }
        }
    }
    assert!(seen > 0, "no message names a page");
}

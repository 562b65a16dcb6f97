//! The tables of README, `docs/` and proxy.toml say what the code says.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use std::collections::BTreeSet;
use std::fs;

use super::docs::{all_pages, loaded, pages, readme};
use pleo_proxy::config::{DefaultValue, Row, rows};
use pleo_proxy::problem::Code;
use strum::VariantArray as _;
use support::Workspace;
use support::documents::root;

/// Rows of the one table whose head begins with `head`, cell by cell.
fn table(head: &str) -> Vec<Vec<String>> {
    let pages = pages();
    let mut found = pages.iter().filter(|(_, text)| text.lines().any(|it| it.starts_with(head)));
    let (page, text) = found.next().unwrap_or_else(|| panic!("there is no table {head}"));
    if let Some((other, _)) = found.next() {
        panic!("the table {head} is in {page} and in {other}");
    }
    let mut lines = text.lines().skip_while(|line| !line.starts_with(head));
    lines.next();
    let cells =
        |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
    let rows: Vec<Vec<String>> =
        lines.skip(1).take_while(|line| line.starts_with('|')).map(cells).collect();
    assert!(!rows.is_empty(), "the table {head} is empty");
    rows
}

fn unquoted(cell: &str) -> String {
    cell.trim_matches('`').to_owned()
}

/// What a document says of a setting: name, default or example, documentation.
type Told = (String, String, String);

#[test]
fn the_settings_table_says_what_the_table_of_the_code_says() {
    let written = table("| key | default |");
    let written =
        written.iter().map(|row| (unquoted(&row[0]), row[1].clone(), without_links(&row[2])));
    let known = rows().map(|row| {
        let default = match row.default {
            DefaultValue::Is(value) | DefaultValue::Like(value, _) => format!("`{value}`"),
            DefaultValue::Unset(_) => "(none)".to_owned(),
            DefaultValue::ByEnvironment(_) => "(environment)".to_owned(),
        };
        (row.name.to_owned(), default, row.doc.to_owned())
    });
    assert_same(written, known);
}

#[test]
fn the_shipped_file_says_what_the_table_of_the_code_says() {
    let text = fs::read_to_string(root().join("proxy.toml")).unwrap();
    let mut section = String::new();
    let mut written: Vec<Told> = Vec::new();
    for line in text.lines() {
        let (code, comment) =
            line.split_once("  # ").map_or((line, ""), |(code, comment)| (code, comment.trim()));
        match code.trim_end().split_once(" = ") {
            _ if code.starts_with("# ") => {}
            Some((key, value)) => {
                let name = format!("{section}{}", key.trim_start_matches('#'));
                written.push((name, value.trim().to_owned(), comment.to_owned()));
            }
            None if code.trim_start_matches('#').starts_with('[') => {
                // The name of a table in a section is free.
                let heading = code.trim().trim_matches(['#', '[', ']']);
                let (section_of, table) = heading.split_once('.').unwrap_or((heading, ""));
                let any = if table.is_empty() { "" } else { "*." };
                section = format!("{section_of}.{any}");
            }
            None if code.trim().is_empty() && !comment.is_empty() => {
                let (_, _, doc) = written.last_mut().unwrap();
                *doc = format!("{doc} {comment}");
            }
            None => {}
        }
    }
    let known = rows().map(|row| {
        let doc = row.doc.replace('`', "");
        match row.default {
            DefaultValue::Is(value) | DefaultValue::Like(value, _) => {
                (row.name.to_owned(), value.to_owned(), doc)
            }
            DefaultValue::Unset(value) | DefaultValue::ByEnvironment(value) => {
                (row.name.to_owned(), value.to_owned(), format!("example; {doc}"))
            }
        }
    });
    assert_same(written.into_iter(), known);
}

fn assert_same(written: impl Iterator<Item = Told>, known: impl Iterator<Item = Told>) {
    let (written, known): (Vec<_>, Vec<_>) = (written.collect(), known.collect());
    for (written, known) in written.iter().zip(&known) {
        assert_eq!(written, known);
    }
    assert_eq!(written.len(), known.len());
}

/// `[text](address)` as `text`.
fn without_links(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, (text, after))) = rest.split_once('[').and_then(|(before, link)| {
        let (text, after) = link.split_once("](")?;
        Some((before, (text, after.split_once(')')?.1)))
    }) {
        plain = plain + before + text;
        rest = after;
    }
    plain + rest
}

#[test]
fn defaults_that_are_written_down_change_nothing() {
    let mut compared = 0;
    // A table with a free name is a change by itself: it names an account.
    for row in rows().filter(|row| !row.name.contains('*')) {
        if let Some(default) = row.fixed_default() {
            assert_eq!(meaning(&format!("{} = {default}", row.name)), meaning(""), "{}", row.name);
            compared += 1;
        }
    }
    assert!(compared > 20);
}

/// A configuration without where its values came from.
fn meaning(text: &str) -> String {
    let mut config = loaded(text);
    config.origins.clear();
    config.file = None;
    config.state_root = None;
    config.default_root = None;
    format!("{config:?}")
}

#[test]
fn the_error_table_is_complete() {
    let rows = table("| code | status |");
    let written: Vec<(String, String)> =
        rows.iter().map(|row| (unquoted(&row[0]), row[1].clone())).collect();
    let known: BTreeSet<_> = Code::VARIANTS
        .iter()
        .map(|code| (code.as_str().to_owned(), code.status().as_u16().to_string()))
        .collect();
    assert_eq!(written.len(), rows.len());
    assert_eq!(written.into_iter().collect::<BTreeSet<_>>(), known);
    assert!(rows.iter().all(|row| row.len() == 4 && row.iter().all(|cell| !cell.is_empty())));
}

#[test]
fn the_frequent_errors_of_the_readme_say_what_the_error_table_says() {
    let all = table("| code | status |");
    let frequent = table("| code | what to do |");
    assert!(frequent.len() >= 8);
    for row in frequent {
        let full = all.iter().find(|full| full[0] == row[0]);
        assert_eq!(full.map(|full| &full[3]), Some(&row[1]), "{}", row[0]);
    }
}

#[test]
fn the_command_table_is_complete() {
    let workspace = Workspace::new("");
    let help = |arguments: &[&str]| String::from_utf8(workspace.run(arguments).stdout).unwrap();
    let top = help(&["--help"]);
    let commands: BTreeSet<String> = top
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.strip_prefix("  ")?.split(' ').next().map(str::to_owned))
        .filter(|name| !name.is_empty())
        .collect();
    assert!(commands.len() >= 9, "{top}");
    let rows: BTreeSet<String> = table("| command |").iter().map(|row| unquoted(&row[0])).collect();
    assert_eq!(rows, commands);
    let readme = readme();
    let (_, list) = readme.split_once("\n## Commands\n").unwrap();
    let (list, _) = list.split_once("\n## ").unwrap();
    for command in &commands {
        assert!(list.contains(&format!("`{command}`")), "{command} is not in the README's list");
    }
    let pages = all_pages();
    let mut options = 0;
    for command in commands.iter().map(String::as_str).chain([""]) {
        let arguments: Vec<&str> =
            [command, "--help"].into_iter().filter(|argument| !argument.is_empty()).collect();
        let words = help(&arguments);
        for option in
            words.split_whitespace().filter(|word| word.starts_with("--") && word.len() > 2)
        {
            let option =
                option.trim_end_matches(|character: char| !character.is_ascii_alphanumeric());
            assert!(pages.contains(option), "{command} {option} is in no page");
            options += 1;
        }
    }
    assert!(options > 20);
    for row in table("| exit code |") {
        assert!(top.split_once("Exit codes:").unwrap().1.contains(&row[0]), "{row:?}");
    }
    assert_eq!(
        table("| exit code |").len(),
        top.split_once("Exit codes:").unwrap().1.matches(", ").count() + 1
    );
}

#[test]
fn the_table_of_the_admin_listener_is_complete() {
    let source = fs::read_to_string(root().join("src/admin.rs")).unwrap();
    let routes = |line: &str| -> Option<String> {
        let cell = line.strip_prefix("//! | `")?.split_once('`')?.0.to_owned();
        Some(cell.split('?').next().unwrap().to_owned())
    };
    // The session is what the page uses; it is no interface.
    let known: BTreeSet<_> =
        source.lines().filter_map(routes).filter(|route| !route.contains("/api/session")).collect();
    assert!(known.len() >= 10);
    let written: BTreeSet<String> =
        table("| address | needs |").iter().map(|row| unquoted(&row[0])).collect();
    assert_eq!(written, known);
}

#[test]
fn the_fault_table_is_complete() {
    let faults = serde_json::to_value(pleo_proxy::sandbox::Faults::default()).unwrap();
    let rows = table("| fault |");
    let written: BTreeSet<_> =
        rows.iter().flat_map(|row| row[0].split(", ").map(unquoted)).collect();
    let known: BTreeSet<_> = faults.as_object().unwrap().keys().cloned().collect();
    assert_eq!(written, known);
}

#[test]
fn the_variables_of_the_pages_are_known() {
    let pages = all_pages();
    let named: BTreeSet<&str> = pages
        .split(|character: char| !(character.is_ascii_uppercase() || character == '_'))
        .filter(|word| word.starts_with("PLEO_PROXY_") && !word.ends_with('_'))
        .collect();
    assert!(named.len() >= 4, "{named:?}");
    let mut known: BTreeSet<String> = rows().map(Row::variable).collect();
    known.extend(
        [
            "PLEO_PROXY_CLIENT_SECRET",
            "PLEO_PROXY_STORE_KEY",
            "PLEO_PROXY_STORE_URL",
            "PLEO_PROXY_CONFIG",
        ]
        .map(str::to_owned),
    );
    known.extend(pleo_proxy::hooks::VARIABLES.map(str::to_owned));
    // What `exec` gives its program.
    known.extend(["PLEO_PROXY_KEY".into(), "PLEO_PROXY_EXEC".into()]);
    for name in named {
        assert!(known.contains(name), "{name}");
    }
}

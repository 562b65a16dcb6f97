//! Whatever is in a configuration file: reading it never panics, and what is said about it never
//! holds a secret that stands in it.
//!
//! Input: a byte that chooses which secret to put in, and how; then the file. The secret goes to
//! the first NUL in it, else to its end.

#![no_main]

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use pleo_proxy::config::{self, Flags};
use tempfile::TempDir;

const CANARY: &str = "Canary7Zq";
/// Ways to write a secret where one belongs, or where people put one.
const SECRETS: [&str; 8] = [
    "upstream.proxy = \"http://user:Canary7Zq@proxy.internal\"",
    "proxy = \"http://user:Canary7Zq@proxy.internal\"",
    "client_secret = \"Canary7Zq\"",
    "client.secret_file = \"Canary7Zq\"",
    "secret_file = \"Canary7Zq\"",
    "local_key_file = \"Canary7Zq\"",
    "[client]\nsecret = 'Canary7Zq'",
    "password = \"Canary7Zq\"",
];

/// The file that is read, in a folder of its own.
fn file() -> &'static PathBuf {
    static FOLDER: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let (_, file) = FOLDER.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("proxy.toml");
        (folder, file)
    });
    file
}

fuzz_target!(|data: &[u8]| {
    let Some((choice, text)) = data.split_first() else { return };
    if contains(text) {
        return;
    }
    let secret = SECRETS[usize::from(choice & 7)];
    let (before, after) = match text.iter().position(|byte| *byte == 0) {
        Some(at) => (&text[..at], &text[at + 1..]),
        None => (text, &b""[..]),
    };
    // On a line of its own, or where the text before and after ends.
    let (lead, end): (&str, &str) = if choice & 8 == 8 { ("", "") } else { ("\n", "\n") };
    if lead.is_empty() && is_quoted(before) {
        return;
    }
    let content = [before, lead.as_bytes(), secret.as_bytes(), end.as_bytes(), after].concat();
    read(&content, &BTreeMap::new());
    let variable = ("PLEO_PROXY_CLIENT_SECRET".to_owned(), CANARY.to_owned());
    if let Some(shown) = read(text, &BTreeMap::from([variable])) {
        assert!(!shown.contains(CANARY), "shown:\n{shown}");
    }
});

/// Reads a file; returns what `config show` would print.
fn read(content: &[u8], environment: &BTreeMap<String, String>) -> Option<String> {
    fs::write(file(), content).expect("a file");
    let folder = file().parent().expect("a folder").to_owned();
    match config::load(&Flags { working_dir: folder, ..Flags::default() }, environment) {
        Ok(config) => Some(config::show(&config) + &format!("{config:?}")),
        Err(error) => {
            let said = error.to_string();
            assert!(
                !said.contains(CANARY),
                "said of\n{}\n{said}",
                String::from_utf8_lossy(content)
            );
            None
        }
    }
}

/// True if what follows may be a part of a quoted name, which errors do show.
fn is_quoted(before: &[u8]) -> bool {
    let line = before.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
    line.iter().filter(|byte| b"'\"".contains(byte)).count() % 2 == 1
}

fn contains(text: &[u8]) -> bool {
    text.windows(CANARY.len()).any(|window| window == CANARY.as_bytes())
}

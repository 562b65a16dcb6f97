//! The shape of the source: rows, sizes, names, and where secrets may leave their types.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The rows of the map in `src/lib.rs`, lowest first. A file imports from lower rows and from its
/// own folder only.
const ROWS: [&[&str]; 13] = [
    &["platform"],
    &[
        "secret",
        "clock",
        "lazy_timer",
        "nearest",
        "telemetry",
        "outbound",
        "private_file",
        "hardening",
        "supervise",
        "timeout",
    ],
    &["diagnostic", "oauth", "operations", "problem", "redaction"],
    &["store", "explain", "usage"],
    &["accounts", "exchange"],
    &["hooks", "login", "proxy"],
    &["operate"],
    &["log"],
    &["admin"],
    &["server"],
    &["config"],
    &["cli"],
    &["lib", "main"],
];
/// Outside the rows, a crate of its own: imports nothing of ours, and only the command line starts
/// it.
pub(crate) const ASIDE: &str = "sandbox";
/// Where the crates' sources are, and what their files are called here: those of the sandbox are
/// parts of `sandbox/`.
const CRATES: [(&str, &str); 2] = [("src", ""), ("crates/pleo-sandbox/src", "sandbox/")];
/// Where a secret may leave its type, and as what.
const EXPOSING: [(&str, &str); 19] = [
    ("admin/api.rs", "session cookie and one-time link"),
    ("admin/replay.rs", "local key to our own data listener"),
    ("admin/proof.rs", "the proof that the key is known"),
    ("cli/admin_client.rs", "admin key to our own admin listener"),
    ("cli/data_client.rs", "local key to our own data listener"),
    ("cli/commands/exec/environment.rs", "key of one exec, to its program"),
    ("cli/commands/store.rs", "a fresh key of the store, to who asked for it"),
    ("cli/commands/serve.rs", "one-time link on a terminal"),
    ("login/register.rs", "hash of the state"),
    ("oauth.rs", "introspection and identity requests"),
    ("oauth/authorize.rs", "state in the authorize address"),
    ("oauth/pkce.rs", "challenge of the verifier"),
    ("oauth/token.rs", "token request"),
    ("redaction/known.rs", "fingerprints of what must not leave"),
    ("store/record.rs", "the record"),
    ("store/keys.rs", "the keys of the store"),
    ("store/api_key.rs", "the record"),
    ("store/postgres/address.rs", "the way to the database"),
    ("store/postgres/logins.rs", "a login that another replica finishes"),
];
/// Names that do not say what a file is for.
const EMPTY_NAMES: [&str; 10] = [
    "util",
    "utils",
    "helper",
    "helpers",
    "common",
    "misc",
    "types",
    "shared",
    "models",
    "constants",
];
const MAX_LINES_IN_FILE: usize = 400;
const MAX_LINES_IN_FUNCTION: usize = 80;
/// Fewer files mean that a folder has moved and the test checks nothing.
const MIN_FILES: usize = 80;

pub(crate) struct Source {
    /// Below `src`, such as `proxy/guard.rs`; those of the sandbox as `sandbox/grants.rs`.
    pub(crate) name: String,
    /// The text without comments and without the content of strings; lines stay where they are.
    code: String,
    /// The same without its tests; empty for a file of tests alone.
    pub(crate) product: String,
}

impl Source {
    /// The part that the file belongs to: `proxy` for `proxy.rs` and `proxy/guard.rs`.
    pub(crate) fn part(&self) -> &str {
        self.name.split('/').next().unwrap().trim_end_matches(".rs")
    }
}

pub(crate) fn sources() -> Vec<Source> {
    let found: Vec<_> =
        CRATES.iter().flat_map(|(folder, prefix)| sources_below(folder, prefix)).collect();
    assert!(found.len() >= MIN_FILES, "only {} files", found.len());
    found
}

fn sources_below(folder: &str, prefix: &str) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut paths = Vec::new();
    collect(&root, &mut paths);
    paths.sort();
    assert!(!paths.is_empty(), "no file under {}", root.display());
    let read = |path: &PathBuf| {
        let name = format!("{prefix}{}", path.strip_prefix(&root).unwrap().to_str().unwrap());
        let code = blank(&fs::read_to_string(path).unwrap());
        let product = if is_for_tests(path) { "" } else { without_tests(&code) }.to_owned();
        Source { name, code, product }
    };
    paths.iter().map(read).collect()
}

/// What stands before the module of tests at the end.
fn without_tests(code: &str) -> &str {
    match code.rsplit_once("#[cfg(test)]") {
        Some((product, tail)) if tail.contains("mod tests {") => product,
        _ => code,
    }
}

/// True for a file that its parent names for tests only.
fn is_for_tests(path: &Path) -> bool {
    let parent = path.parent().unwrap().with_extension("rs");
    let name = path.file_stem().unwrap().to_str().unwrap();
    fs::read_to_string(parent)
        .is_ok_and(|parent| parent.contains(&format!("#[cfg(test)]\nmod {name};")))
}

fn collect(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => collect(&path, into),
            false if path.extension().is_some_and(|extension| extension == "rs") => into.push(path),
            false => {}
        }
    }
}

/// Spaces for comments and for what is in strings and character literals.
fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < bytes.len() {
        let length = match &bytes[at..] {
            [b'/', b'/', ..] => line(&bytes[at..]),
            [b'/', b'*', ..] => block_comment(&bytes[at..]),
            [b'r', b'"' | b'#', ..] if !in_word(bytes, at) => raw_string(&bytes[at..]),
            [b'"', ..] => string(&bytes[at..]),
            [b'\'', ..] => character(&bytes[at..]),
            _ => 0,
        };
        if length == 0 {
            out.push(char::from(bytes[at]));
            at += 1;
        } else {
            out.extend(
                bytes[at..at + length].iter().map(|byte| if *byte == b'\n' { '\n' } else { ' ' }),
            );
            at += length;
        }
    }
    out
}

pub(crate) fn in_word(bytes: &[u8], at: usize) -> bool {
    at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_')
}

fn line(rest: &[u8]) -> usize {
    rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len())
}

fn block_comment(rest: &[u8]) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < rest.len() {
        match &rest[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

/// `r"..."`, `r#"..."#`; 0 for a raw identifier.
fn raw_string(rest: &[u8]) -> usize {
    let hashes = rest[1..].iter().take_while(|byte| **byte == b'#').count();
    if rest.get(1 + hashes) != Some(&b'"') {
        return 0;
    }
    let end = [b"\"".as_slice(), &b"#".repeat(hashes)].concat();
    let body = 2 + hashes;
    let length = rest[body..].windows(end.len()).position(|window| window == end).unwrap();
    body + length + end.len()
}

fn string(rest: &[u8]) -> usize {
    let mut at = 1;
    while rest[at] != b'"' {
        at += if rest[at] == b'\\' { 2 } else { 1 };
    }
    at + 1
}

/// 0 for a lifetime.
fn character(rest: &[u8]) -> usize {
    let text = std::str::from_utf8(&rest[1..rest.len().min(16)])
        .unwrap_or_else(|error| std::str::from_utf8(&rest[1..][..error.valid_up_to()]).unwrap());
    match text.chars().next() {
        Some('\\') => 2 + rest[2..].iter().skip(1).position(|byte| *byte == b'\'').unwrap() + 2,
        Some(first) if text[first.len_utf8()..].starts_with('\'') => first.len_utf8() + 2,
        _ => 0,
    }
}

/// The parts that a text names after `crate::`, in groups too; a name of the sandbox's crate is one
/// of the sandbox.
fn imported(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, prefix) in
        ["crate::", "pleo_proxy::"].iter().flat_map(|prefix| code.match_indices(prefix))
    {
        let rest = &code[at + prefix.len()..];
        match rest.strip_prefix('{') {
            Some(group) => found.extend(group_heads(group)),
            None => drop(found.insert(word(rest))),
        }
    }
    if code.contains("pleo_sandbox::") {
        found.insert(ASIDE.to_owned());
    }
    found.remove("");
    found
}

/// The first names of the items of `a::b, c, d::{e, f}}`.
fn group_heads(group: &str) -> Vec<String> {
    let mut heads = Vec::new();
    let (mut depth, mut start) = (1, true);
    for (at, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => start = true,
            _ if start && !character.is_whitespace() => {
                heads.push(word(&group[at..]));
                start = false;
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    heads
}

pub(crate) fn word(text: &str) -> String {
    text.chars()
        .take_while(|character| character.is_ascii_alphanumeric() || *character == '_')
        .collect()
}

fn row(part: &str) -> Option<usize> {
    ROWS.iter().position(|row| row.contains(&part))
}

pub(crate) fn assert_none(faults: &[String], rule: &str) {
    assert!(faults.is_empty(), "{rule}:\n  {}", faults.join("\n  "));
}

#[test]
fn every_file_has_a_row() {
    let known = |part: &str| part == ASIDE || row(part).is_some();
    let faults: Vec<_> = sources()
        .iter()
        .filter(|source| !known(source.part()))
        .map(|source| source.name.clone())
        .collect();
    assert_none(&faults, "these files are in no row");
    let parts: BTreeSet<_> = sources().iter().map(|source| source.part().to_owned()).collect();
    let gone: Vec<_> = ROWS
        .concat()
        .into_iter()
        .filter(|part| !parts.contains(*part))
        .map(str::to_owned)
        .collect();
    assert_none(&gone, "these rows have no file");
}

#[test]
fn imports_go_down_only() {
    let mut faults = Vec::new();
    let mut seen = 0;
    for source in sources() {
        let own = source.part().to_owned();
        for part in imported(&source.code).into_iter().filter(|part| *part != own) {
            // What is not a part is a macro or an item of `lib.rs`, of which there are none.
            let allowed = match (row(&own), row(&part)) {
                // Below its own root all is its own: the rest is no crate that it knows.
                _ if own == ASIDE => !source.code.contains("pleo_proxy::"),
                _ if part == ASIDE => own == "cli" || own == "lib",
                (Some(from), Some(to)) => to < from,
                _ => false,
            };
            seen += 1;
            if !allowed {
                faults.push(format!("{} imports {part}", source.name));
            }
        }
    }
    assert!(seen > 100, "only {seen} imports were found");
    assert_none(&faults, "a file imports from lower rows and its own folder only");
}

#[test]
fn only_the_platform_asks_on_which_system_it_runs() {
    let asks = |source: &&Source| {
        source.part() != "platform"
            && source.part() != ASIDE
            && ["target_os", "cfg(unix", "cfg(windows", "cfg(not(unix", "cfg(not(windows"]
                .iter()
                .any(|question| source.product.contains(question))
    };
    let sources = sources();
    let faults: Vec<_> = sources.iter().filter(asks).map(|it| it.name.clone()).collect();
    assert_none(&faults, "these files differ by system themselves");
}

#[test]
fn nobody_climbs_out_of_a_folder_by_super() {
    let mut faults = Vec::new();
    for source in sources() {
        let depth = source.name.split('/').count();
        for (at, _) in source.product.match_indices("super::") {
            let rest = &source.product[at..];
            let climbs = rest.split("super::").take_while(|between| between.is_empty()).count();
            if climbs >= depth {
                faults.push(format!("{}: {}", source.name, rest.lines().next().unwrap()));
            }
        }
    }
    assert_none(
        &faults,
        "`super` leads out of the part; say `crate::` so that the direction can be checked",
    );
}

#[test]
fn every_test_file_is_a_module_of_a_binary() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let mut files = Vec::new();
    collect(&tests, &mut files);
    let mut faults = Vec::new();
    let mut seen = 0;
    for file in files
        .iter()
        .filter(|file| file.parent() == Some(&tests) || file.with_file_name("main.rs").exists())
    {
        let name = file.file_stem().unwrap().to_str().unwrap();
        let main = fs::read_to_string(file.with_file_name("main.rs")).unwrap_or_default();
        if name != "main" && !main.lines().any(|line| line == format!("mod {name};")) {
            faults.push(file.strip_prefix(&tests).unwrap().display().to_string());
        }
        seen += 1;
    }
    assert!(seen > 20, "only {seen} files were found");
    assert_none(
        &faults,
        "a test stands in a folder with a main.rs that names it; else nobody runs it, or links it twice",
    );
}

#[test]
fn owners_and_modes_are_judged_in_one_place() {
    const JUDGE: &str = "private_file/access.rs";
    let judges = |source: &Source| {
        let code: String = source.product.split_whitespace().collect();
        // `.mode()` alone may be a feature of a file's version; a mask judges it.
        [".uid()", ".mode()&", "0o077", "0o002"].into_iter().any(|judged| code.contains(judged))
    };
    let found: Vec<_> = sources()
        .iter()
        .filter(|source| source.part() != ASIDE && judges(source))
        .map(|source| source.name.clone())
        // The peer of a connection has a user too, which no file system knows.
        .filter(|name| name != "server/listen.rs")
        .collect();
    assert_eq!(found, [JUDGE], "use `private_file::access`");
}

#[test]
fn names_say_what_is_inside() {
    let says_nothing = |source: &&Source| {
        source.name.trim_end_matches(".rs").split('/').any(|segment| EMPTY_NAMES.contains(&segment))
    };
    let faults: Vec<_> =
        sources().iter().filter(says_nothing).map(|source| source.name.clone()).collect();
    assert_none(&faults, "a name that says nothing");
    let modules: Vec<_> = sources()
        .iter()
        .filter(|source| source.name.ends_with("/mod.rs"))
        .map(|source| source.name.clone())
        .collect();
    assert_none(&modules, "a folder's own file stands beside it, as x.rs beside x/");
}

#[test]
fn files_are_short() {
    let too_long = |source: &Source| {
        let lines = source.product.trim_end().lines().count();
        (lines > MAX_LINES_IN_FILE).then(|| format!("{}: {lines} lines", source.name))
    };
    let faults: Vec<_> = sources().iter().filter_map(too_long).collect();
    assert_none(&faults, "a file has 400 lines at most, its tests not counted");
}

#[test]
fn functions_are_short() {
    let mut faults = Vec::new();
    let mut seen = 0;
    for source in sources() {
        for (name, lines) in functions(&source.code) {
            seen += 1;
            if lines > MAX_LINES_IN_FUNCTION {
                faults.push(format!("{}: {name} has {lines} lines", source.name));
            }
        }
    }
    assert!(seen > 500, "only {seen} functions were found");
    assert_none(&faults, "a function has 80 lines at most");
}

/// Names of all functions with a body, and their lines from `fn` to the closing brace.
pub(crate) fn functions(code: &str) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ").filter(|(at, _)| !in_word(code.as_bytes(), *at)) {
        let name = word(&code[at + 3..]);
        let Some(open) =
            code[at..].find(['{', ';']).filter(|end| code[at + end..].starts_with('{'))
        else {
            continue;
        };
        let mut depth = 0;
        let end = code[at + open..].char_indices().find_map(|(end, character)| {
            depth += i32::from(character == '{') - i32::from(character == '}');
            (depth == 0).then_some(end)
        });
        if let (false, Some(end)) = (name.is_empty(), end) {
            found.push((name, code[at..at + open + end].matches('\n').count() + 1));
        }
    }
    found
}

#[test]
fn secrets_leave_their_types_in_known_places_only() {
    let mut exposing: BTreeSet<String> = sources()
        .iter()
        .filter(|source| source.part() != ASIDE && source.product.contains(".expose()"))
        .map(|source| source.name.clone())
        .collect();
    // The definition itself calls nothing.
    exposing.remove("secret.rs");
    let allowed: BTreeSet<String> = EXPOSING.iter().map(|(file, _)| (*file).to_owned()).collect();
    assert_eq!(exposing, allowed, "`.expose()` is for the places that need the secret itself");
}

#[test]
fn nothing_unfinished_and_no_unwrap_in_the_product() {
    let mut faults = Vec::new();
    for source in sources() {
        for banned in [".unwrap()", "todo!", "unimplemented!", "dbg!", "unsafe ", "process::exit"] {
            let hits = source.product.lines().enumerate().filter(|(_, line)| line.contains(banned));
            faults.extend(
                hits.map(|(number, _)| format!("{}:{}: {banned}", source.name, number + 1)),
            );
        }
    }
    assert_none(&faults, "these have no place outside tests");
}

#[test]
fn the_reader_of_sources_tells_code_from_text() {
    let text = "a(\"crate::x \\\" //\", 'x', '\\n', '\\'', '{'); // crate::y\n/* crate::z /* */ */ b::<'a>(r#\"\"crate::q\"#)";
    let code = blank(text);
    assert_eq!(code.len(), text.len());
    assert!(!code.contains("crate") && !code.contains('{'), "{code}");
    assert!(code.contains("a(") && code.contains("b::<'a>("), "{code}");
    let heads = imported("use crate::{a::b, c, d::{e, f}}; use crate::g::h; crate::i::j()");
    assert_eq!(heads.into_iter().collect::<String>(), "acdgi");
    assert_eq!(imported("use pleo_sandbox::Sandbox;"), BTreeSet::from([ASIDE.to_owned()]));
    assert_eq!(
        functions("fn a() {\n}\nfn b();\nfn c() { if x {\n\n} }"),
        [("a".into(), 2), ("c".into(), 3)]
    );
}

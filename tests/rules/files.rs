//! The shape of the source by file: which files import each other, and where a type's methods are.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::collections::{BTreeMap, BTreeSet};

use crate::architecture::{ASIDE, Source, assert_none, in_word, sources, word};

/// The module of a file: `proxy/guard` for `proxy/guard.rs`, nothing for `lib.rs`.
fn module(source: &Source) -> String {
    let name = source.name.trim_end_matches(".rs");
    if name == "lib" { String::new() } else { name.to_owned() }
}

/// The files that each file imports, by module; whole chains of re-exports count as the file that
/// is named.
pub(crate) fn imports(sources: &[Source]) -> BTreeMap<String, BTreeSet<String>> {
    let ours = || sources.iter().filter(|it| it.part() != ASIDE && !it.product.is_empty());
    // A file for tests alone imports what it likes, and is a file of its own all the same.
    let modules: BTreeSet<String> =
        sources.iter().filter(|it| it.part() != ASIDE).map(module).collect();
    let imports = ours().map(|source| {
        let own = module(source);
        let named =
            paths(&source.product).into_iter().filter_map(|path| resolve(&path, &own, &modules));
        (own.clone(), named.filter(|other| *other != own).collect())
    });
    imports.collect()
}

/// All paths that a text names, with the trees of `use` spread out.
fn paths(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = String::new();
    let mut at = 0;
    while let Some(start) = code[at..].find("use ").map(|start| at + start) {
        let end = start + code[start..].find(';').unwrap_or(code.len() - start);
        rest.push_str(&code[at..start]);
        if in_word(code.as_bytes(), start) {
            rest.push_str(&code[start..end]);
        } else {
            spread(&code[start + 4..end], "", &mut found);
        }
        at = end;
    }
    rest.push_str(&code[at..]);
    let separators = |character: char| !character.is_alphanumeric() && !"_:".contains(character);
    found.extend(rest.split(separators).filter(|path| path.contains("::")).map(str::to_owned));
    found
}

/// `a::{b, c::{d, e}}` as `a::b`, `a::c::d`, `a::c::e`.
fn spread(tree: &str, prefix: &str, into: &mut Vec<String>) {
    let mut depth = 0;
    let items = tree.split(|character| {
        depth += i32::from(character == '{') - i32::from(character == '}');
        depth == 0 && character == ','
    });
    for item in items.map(str::trim).filter(|item| !item.is_empty()) {
        match item.split_once('{') {
            Some((head, group)) => {
                let group = group.rsplit_once('}').map_or(group, |(group, _)| group);
                spread(group, &format!("{prefix}{head}"), into);
            }
            None => into.push(format!("{prefix}{}", item.split(" as ").next().unwrap())),
        }
    }
}

/// The module of the file that a path leads to, as seen from the file of `own`.
fn resolve(path: &str, own: &str, modules: &BTreeSet<String>) -> Option<String> {
    let mut names: Vec<&str> = path.split("::").collect();
    let mut module: Vec<&str> = own.split('/').filter(|name| !name.is_empty()).collect();
    let is_rooted = ["crate", "super", "self"].contains(&names[0]);
    if names[0] == "crate" {
        module.clear();
    }
    while let Some(head @ ("crate" | "super" | "self")) = names.first().copied() {
        if head == "super" {
            module.pop();
        }
        names.remove(0);
    }
    let start = module.len();
    for name in names {
        module.push(name);
        if !modules.contains(&module.join("/")) {
            module.pop();
            break;
        }
    }
    (is_rooted || module.len() > start).then(|| module.join("/"))
}

#[test]
fn no_two_files_import_each_other() {
    let sources = sources();
    let imports = imports(&sources);
    let mut faults = Vec::new();
    for (file, others) in &imports {
        for other in others.iter().filter(|other| file < *other) {
            if imports.get(other).is_some_and(|back| back.contains(file)) {
                faults.push(format!("{file} and {other}"));
            }
        }
    }
    let seen: usize = imports.values().map(BTreeSet::len).sum();
    assert!(seen > 400, "only {seen} imports were found");
    assert_none(&faults, "these files import each other");
}

#[test]
fn the_methods_of_a_type_are_in_its_file() {
    let sources = sources();
    let names = |code: &str, keyword: &str| -> BTreeSet<String> {
        let found = code.match_indices(keyword).filter(|(at, _)| !in_word(code.as_bytes(), *at));
        found.map(|(at, _)| word(&code[at + keyword.len()..])).collect()
    };
    let types = |code: &str| -> BTreeSet<String> {
        ["struct ", "enum ", "union "].iter().flat_map(|keyword| names(code, keyword)).collect()
    };
    let all: BTreeSet<_> = sources.iter().flat_map(|source| types(&source.product)).collect();
    let mut faults = Vec::new();
    let mut seen = 0;
    for source in &sources {
        let own = types(&source.product);
        for name in inherent(&source.product) {
            seen += 1;
            if !own.contains(&name) && all.contains(&name) {
                faults.push(format!("{}: impl {name}", source.name));
            }
        }
    }
    assert!(seen > 150, "only {seen} impl blocks were found");
    assert_none(&faults, "a type and its methods are in one file");
}

/// The types of the `impl` blocks that implement no trait.
pub(crate) fn inherent(code: &str) -> Vec<String> {
    let head = |line: &str| {
        let line = line.strip_prefix("impl")?;
        // The parameters of `impl<T: Into<String>> Type<T>`.
        let mut depth = 0;
        let end = line.find(|character| {
            depth += i32::from(character == '<') - i32::from(character == '>');
            depth == 0 && character == ' '
        })?;
        let rest = &line[end + 1..];
        (!rest.contains(" for ")).then(|| word(rest))
    };
    code.lines().filter_map(head).collect()
}

#[test]
fn the_reader_of_imports_follows_paths() {
    let modules = ["", "a", "a/b", "a/b/c", "d"].map(str::to_owned).into();
    let from = |own: &str, code: &str| -> Vec<String> {
        paths(code).iter().filter_map(|path| resolve(path, own, &modules)).collect()
    };
    assert_eq!(
        from("a/b", "use super::{X, b::c::{Y, Z}}; use crate::d as e;"),
        ["a", "a/b/c", "a/b/c", "d"]
    );
    assert_eq!(
        from("a", "use b::c::X; use std::fmt; fn f() { b::g(); crate::d::h() }"),
        ["a/b/c", "a/b", "d"]
    );
    assert_eq!(
        inherent("impl<T: Into<String>> A<T> {\nimpl B {\nimpl Drop for C {\nimpl<'a> D<'a> {"),
        ["A", "B", "D"]
    );
}

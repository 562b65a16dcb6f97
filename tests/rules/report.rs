//! The shape of the source in numbers. It checks nothing and prints:
//! `cargo test --test rules report:: -- --nocapture`.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::collections::BTreeMap;

use crate::architecture::{ASIDE, Source, functions, sources};
use crate::files::{imports, inherent};

fn lines(source: &Source) -> usize {
    source.product.trim_end().lines().count()
}

/// Methods of each type, by file and type.
fn methods(source: &Source) -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    let mut rest = source.product.as_str();
    while let Some(at) = rest.find("\nimpl") {
        let block = &rest[at + 1..];
        let end = block.find("\n}").map_or(block.len(), |end| end + 2);
        let first = block.lines().next().unwrap();
        for name in inherent(first) {
            *found.entry(name).or_default() += functions(&block[..end]).len();
        }
        rest = &block[end..];
    }
    found
}

#[test]
fn the_shape_of_the_source_in_numbers() {
    let sources: Vec<_> = sources().into_iter().filter(|source| source.part() != ASIDE).collect();
    let mut lengths: Vec<(usize, String)> = sources
        .iter()
        .flat_map(|source| {
            let found = functions(&source.product).into_iter();
            found.map(|(name, lines)| (lines, format!("{} {name}", source.name)))
        })
        .collect();
    lengths.sort();
    let count = lengths.len();
    let (median, p90) = (lengths[count / 2].0, lengths[count * 9 / 10].0);
    let (max, longest) = lengths.last().unwrap();
    println!("{count} functions; lines: median {median}, p90 {p90}, max {max} ({longest})");

    let largest = sources
        .iter()
        .flat_map(|source| {
            methods(source).into_iter().map(|(name, count)| (count, name, &source.name))
        })
        .max();
    if let Some((count, name, file)) = largest {
        println!("largest object: {name} with {count} methods ({file})");
    }
    let config =
        sources.iter().filter(|source| source.part() == "config").map(lines).sum::<usize>();
    println!("src/config without tests: {config} lines");
    for source in sources.iter().filter(|source| lines(source) > 400) {
        println!("over 400 lines without tests: {} ({})", source.name, lines(source));
    }
    let imports = imports(&sources);
    for (file, others) in &imports {
        for other in others.iter().filter(|other| file < *other) {
            if imports.get(other).is_some_and(|back| back.contains(file)) {
                println!("import each other: {file} and {other}");
            }
        }
    }
}

//! Requests that are not in the table of operations: what was probably meant.

use std::borrow::Cow;

use http::Method;

use super::explanation::{Explanation, Verdict};
use super::facts::Request;
use crate::operations::{self, Operation};

/// First segments of paths, newest first.
const VERSIONS: [&str; 5] = ["v3", "v2", "v1", "v1-beta", "v0"];
/// Names in the old API (`openapi.pleo.io/v1`), and where the same is found today.
const OLD: [(&str, Option<&str>); 8] = [
    ("expenses", Some("POST /v1/accounting-entries:search")),
    ("receipts", Some("POST /v1/accounting-entries/receipts:search")),
    ("employees", Some("GET /v2/employees")),
    ("teams", None),
    ("tags", Some("POST /v0/aggregations/tags")),
    ("accounts", Some("POST /v1/chart-of-accounts:search")),
    ("tax-codes", Some("POST /v0/tax-codes:search")),
    ("health", None),
];
/// Names that public clients guess, and what they look for.
const GUESSED: [(&str, &str); 2] =
    [("company", "GET /v1/companies"), ("me", "GET /v1/introspect tells whose token it is")];
/// Longer paths are not compared: they are no typing mistakes.
const MAX_PATH: usize = 150;

/// Why a request is not among Pleo's operations, and what was probably meant.
pub(super) fn explain(request: &Request<'_>, verdict: Verdict) -> Explanation {
    let Request { method, path, .. } = request;
    let (host, path) = match path.split_once("://") {
        Some((_, rest)) => rest.split_at(rest.find('/').unwrap_or(rest.len())),
        None => ("", *path),
    };
    let plain = plain(path);
    let explanation = old_host(host)
        .or_else(|| other_form(method, path, &plain))
        .or_else(|| other_method(&plain))
        .or_else(|| old_name(&plain))
        .or_else(|| other_version(method, &plain))
        .unwrap_or_else(|| nearest(method, &plain));
    explanation.verdict(verdict)
}

fn unlisted(reason: impl Into<String>) -> Explanation {
    Explanation::new(Verdict::Unknown, reason).source("spec")
}

fn old_host(host: &str) -> Option<Explanation> {
    host.to_ascii_lowercase().starts_with("openapi.").then(|| {
        let reason =
            "this is the address of Pleo's old API, whose paths and tokens do not work here";
        unlisted(reason).next("use paths of the new API, such as GET /v1/companies".to_owned())
    })
}

/// The path as it is listed: in lower case, its colons not escaped, without empty segments.
fn plain(path: &str) -> Cow<'_, str> {
    if path.len() > MAX_PATH {
        return path.into();
    }
    let decoded = path.replace("%3A", ":").replace("%3a", ":").to_ascii_lowercase();
    let segments = decoded.split('/').filter(|segment| !segment.is_empty());
    format!("/{}", segments.collect::<Vec<_>>().join("/")).into()
}

/// It would be an operation if it were written differently.
fn other_form(method: &Method, path: &str, plain: &str) -> Option<Explanation> {
    let operation = operations::find(method, plain)?;
    let fault = if path.contains("//") {
        "has an empty segment (//)"
    } else if path.ends_with('/') {
        "ends in a slash"
    } else if path.to_ascii_lowercase().contains("%3a") {
        "has its colon escaped"
    } else {
        "is not in lower case"
    };
    let reason = format!("the path {fault}, and Pleo lists it without that");
    Some(unlisted(reason).next(format!("use {operation}")))
}

fn other_method(plain: &str) -> Option<Explanation> {
    let methods: Vec<_> = operations::on_path(plain).map(|operation| operation.method).collect();
    let example = operations::on_path(plain).next()?;
    let reason = format!("Pleo lists this path with {} only", methods.join(", "));
    Some(unlisted(reason).next(format!("use {example}")))
}

/// A path of the old API, or one that many guess.
fn old_name(plain: &str) -> Option<Explanation> {
    let name = plain.strip_prefix("/v1/")?.split(['/', ':']).next()?;
    if let Some((name, successor)) = OLD.iter().find(|(old, _)| *old == name) {
        let reason = format!("/v1/{name} is a path of Pleo's old API, not of this one");
        return Some(unlisted(reason).next(successor.map(|successor| format!("use {successor}"))));
    }
    let (name, instead) = GUESSED.iter().find(|(guessed, _)| *guessed == name)?;
    let reason = format!("Pleo's API has no /v1/{name}");
    Some(unlisted(reason).next(format!("use {instead}")))
}

/// The same path in the newest version that has it.
fn other_version(method: &Method, plain: &str) -> Option<Explanation> {
    let (first, rest) = plain.strip_prefix('/')?.split_once('/').unwrap_or((&plain[1..], ""));
    let is_version = is_version(first);
    let rest = if is_version { rest } else { &plain[1..] };
    let of_version = |version| operations::find(method, &format!("/{version}/{rest}"));
    let operation = VERSIONS.into_iter().find_map(of_version)?;
    let reason = if is_version {
        format!("Pleo lists no {first} of this operation")
    } else {
        "the path has no version in front".to_owned()
    };
    Some(unlisted(reason).next(format!("use {operation}")))
}

/// `v` and at most three digits, or `v1-beta`.
fn is_version(segment: &str) -> bool {
    segment == "v1-beta"
        || segment.strip_prefix('v').is_some_and(|number| {
            (1..=3).contains(&number.len()) && number.bytes().all(|byte| byte.is_ascii_digit())
        })
}

fn nearest(method: &Method, plain: &str) -> Explanation {
    let explanation = unlisted("this is none of Pleo's published operations");
    match similar(method, plain) {
        Some(operation) => explanation.next(format!("did you mean {operation}?")),
        None => explanation,
    }
}

/// The operation whose path is the most similar one; of equals, one with the same method.
fn similar(method: &Method, plain: &str) -> Option<&'static Operation> {
    if plain.len() > MAX_PATH {
        return None;
    }
    let tolerated = (plain.len() / 4).clamp(1, 6);
    let scored = operations::ALL.iter().filter_map(|operation| {
        let path = filled(operation.path, plain);
        // The difference in length is a lower bound that costs nothing.
        let distance = (path.len().abs_diff(plain.len()) <= tolerated)
            .then(|| strsim::levenshtein(&path, plain))?;
        Some((distance, operation.method != method.as_str(), operation))
    });
    let best = scored.min_by_key(|(distance, is_other, operation)| {
        (*distance, *is_other, operation.deprecation.is_some())
    });
    best.filter(|(distance, ..)| *distance <= tolerated).map(|(.., operation)| operation)
}

/// A template with the ids of a path.
fn filled(template: &str, path: &str) -> String {
    let mut segments = path.split('/');
    let filled = template.split('/').map(|part| {
        let segment = segments.next().unwrap_or_default();
        match part.strip_prefix('{').and_then(|rest| rest.split_once('}')) {
            Some((_, verb)) => {
                let id = segment.split(':').next().unwrap_or_default();
                format!("{id}{verb}").into()
            }
            None => Cow::from(part),
        }
    });
    filled.collect::<Vec<_>>().join("/")
}

//! The files of the page, embedded in the program: no build step, and nothing from elsewhere.

use std::sync::LazyLock;

use axum::extract::Path;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};

use super::refusal::refusal;

const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// What the page may load and do: its own files and calls, no markup and no script made of text.
/// `frame-ancestors` keeps others from showing it (Content Security Policy level 3, Trusted Types).
pub(super) const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
     img-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; \
     require-trusted-types-for 'script'; trusted-types 'none'";

/// The page itself.
pub(super) const HTML: &str = include_str!("page/page.html");

/// Name, type and content of each file under `/assets/`.
const FILES: [(&str, &str, &str); 17] = [
    ("icon.svg", SVG, include_str!("page/icon.svg")),
    ("page.css", CSS, include_str!("page/page.css")),
    ("accounts.js", SCRIPT, include_str!("page/accounts.js")),
    ("api.js", SCRIPT, include_str!("page/api.js")),
    ("charts.js", SCRIPT, include_str!("page/charts.js")),
    ("detail.js", SCRIPT, include_str!("page/detail.js")),
    ("dialog.js", SCRIPT, include_str!("page/dialog.js")),
    ("dom.js", SCRIPT, include_str!("page/dom.js")),
    ("evidence.js", SCRIPT, include_str!("page/evidence.js")),
    ("filter.js", SCRIPT, include_str!("page/filter.js")),
    ("format.js", SCRIPT, include_str!("page/format.js")),
    ("grid.js", SCRIPT, include_str!("page/grid.js")),
    ("history.js", SCRIPT, include_str!("page/history.js")),
    ("live.js", SCRIPT, include_str!("page/live.js")),
    ("main.js", SCRIPT, include_str!("page/main.js")),
    ("requests.js", SCRIPT, include_str!("page/requests.js")),
    ("verdict.js", SCRIPT, include_str!("page/verdict.js")),
];

/// Name, type and content of each file, as it is sent.
static SENT: LazyLock<Vec<(&str, &str, String)>> = LazyLock::new(|| {
    FILES.into_iter().map(|(name, kind, content)| (name, kind, lean(kind, content))).collect()
});

/// A file without indentation and, if it is a script, without comments. Every line stays, so that
/// an error in a browser names the line of the file. Texts over several lines would suffer; a test
/// keeps them out of the files.
fn lean(kind: &str, content: &str) -> String {
    let is_script = kind == SCRIPT;
    let lines = content.lines().map(str::trim_start);
    let lines = lines.map(|line| if is_script && is_comment(line) { "" } else { line });
    lines.flat_map(|line| [line, "\n"]).collect()
}

fn is_comment(line: &str) -> bool {
    line.starts_with("//") || line.starts_with("/*") || line.starts_with('*')
}

/// `GET /assets/NAME`. The same for everybody: the files hold no data.
pub(super) async fn asset(Path(name): Path<String>) -> Response {
    let Some((_, kind, content)) = SENT.iter().find(|(known, ..)| *known == name) else {
        return refusal(StatusCode::NOT_FOUND, "not_found", "The page has no such file.");
    };
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static(kind)),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            HeaderValue::from_static("same-origin"),
        ),
    ];
    (headers, content.as_str()).into_response()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;

    use super::*;

    /// All of it as it is sent, uncompressed, in bytes.
    const MAX_PAGE: usize = 100_000;
    const MAX_LINES: usize = 400;

    fn scripts() -> impl Iterator<Item = (&'static str, &'static str)> {
        FILES
            .into_iter()
            .filter(|(_, kind, _)| *kind == SCRIPT)
            .map(|(name, _, content)| (name, content))
    }

    #[test]
    fn the_whole_page_is_small_and_so_are_its_files() {
        let size = HTML.len() + SENT.iter().map(|(.., content)| content.len()).sum::<usize>();
        assert!(size <= MAX_PAGE, "{size} bytes");
        for (name, content) in scripts() {
            assert!(content.lines().count() < MAX_LINES, "{name} is too long");
        }
    }

    #[test]
    fn scripts_are_sent_without_comments_and_with_every_line_of_code() {
        for (name, kind, sent) in SENT.iter().filter(|(_, kind, _)| *kind == SCRIPT) {
            let content = FILES.iter().find(|(known, ..)| known == name).unwrap().2;
            assert_eq!(sent.lines().count(), content.lines().count(), "{name}");
            assert!(!sent.contains("/*") && !sent.contains("*/"), "{name} has a comment: {kind}");
            for line in content.lines().map(str::trim) {
                assert_eq!(line.matches('`').count() % 2, 0, "{name}: text over lines: {line}");
                let ends = line.find("*/").is_none_or(|at| at + 2 == line.len());
                assert!(ends, "{name}: code after a comment: {line}");
                assert!(is_comment(line) || sent.contains(line), "{name} lost {line}");
            }
        }
    }

    #[test]
    fn every_file_of_the_folder_is_served() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/admin/page");
        let in_folder: BTreeSet<String> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != "page.html")
            .collect();
        assert_eq!(in_folder, FILES.iter().map(|(name, ..)| (*name).to_owned()).collect());
    }

    #[test]
    fn scripts_make_no_markup_or_code_of_text_and_import_each_other_only() {
        let dangers = [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "Function(",
            "createContextualFragment",
            "setHTML",
            "DOMParser",
            "srcdoc",
            "http-equiv",
            "'style'",
        ];
        for (name, content) in scripts() {
            for danger in dangers {
                assert!(!content.contains(danger), "{name} has {danger}");
            }
            for line in content.lines().filter(|line| line.starts_with("import ")) {
                let from = line.split("'./").nth(1).and_then(|rest| rest.split('\'').next());
                let known = from.is_some_and(|from| scripts().any(|(name, _)| name == from));
                assert!(known, "{name}: {line}");
            }
        }
        for danger in
            ["style=", "<script>", "<style", " onclick", " onload", " onerror", "javascript:"]
        {
            assert!(!HTML.contains(danger), "the page has {danger}");
        }
    }

    #[test]
    fn the_policy_allows_nothing_inline_and_nothing_foreign() {
        for never in ["unsafe", "http", "*", "data:", "blob:"] {
            assert!(!POLICY.contains(never), "{never}");
        }
    }
}

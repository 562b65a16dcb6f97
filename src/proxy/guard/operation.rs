//! What a request would do at Pleo. Servers read paths differently: some drop `;parameters`,
//! collapse slashes or decode escapes before they look for the operation. A request passes only if
//! it is harmless however it is read.

use http::Method;
use percent_encoding::percent_decode_str;

use crate::operations::{self, Kind};

/// True for `DELETE /v1/installations/me` however its path is written: the raw path is forwarded,
/// and a server may decode it.
pub fn is_disconnect(method: &Method, path: &str) -> bool {
    method == Method::DELETE && plain(path).ends_with("/installations/me")
}

/// True if the operation changes nothing, according to the table of Pleo's operations. One that is
/// not in the table is a read if its method is GET or HEAD, or POST on a path that ends in
/// `:search`.
pub fn is_read(method: &Method, path: &str) -> bool {
    let is_plain = !path.contains(['%', ';', '\\']) && !path.contains("//");
    // Paths of reads by POST are literals without anything to escape.
    reads(method, path) && (is_plain || (method != Method::POST && reads(method, &plain(path))))
}

/// The same for a server that does not normalize the path.
fn reads(method: &Method, path: &str) -> bool {
    match operations::find(method, path) {
        Some(operation) => operation.kind == Kind::Read,
        None => match *method {
            Method::GET | Method::HEAD => true,
            Method::POST => path.ends_with(":search"),
            _ => false,
        },
    }
}

/// The path in lower case, decoded repeatedly, without parameters, empty or dot segments: for
/// comparison only.
fn plain(path: &str) -> String {
    let mut decoded = path.to_owned();
    for _ in 0..4 {
        decoded = percent_decode_str(&decoded).decode_utf8_lossy().into_owned();
    }
    let mut segments = Vec::new();
    for segment in decoded.split(['/', '\\']) {
        // For some servers a decoded `?`, `#` or NUL ends the path.
        let segment = segment.split([';', '?', '#', '\0']).next().unwrap_or_default();
        match segment
            .trim_matches(|character: char| character.is_whitespace() || character.is_control())
        {
            "" | "." => {}
            ".." => drop(segments.pop()),
            segment => segments.push(segment.to_ascii_lowercase()),
        }
    }
    format!("/{}", segments.join("/"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// How servers may read a path before they look for its operation; any of these, in any order,
    /// several times.
    fn drop_parameters(path: &str) -> String {
        let segments = path.split('/').map(|segment| segment.split(';').next().unwrap());
        segments.collect::<Vec<_>>().join("/")
    }

    fn collapse_slashes(path: &str) -> String {
        let mut collapsed = path.to_owned();
        while collapsed.contains("//") {
            collapsed = collapsed.replace("//", "/");
        }
        collapsed
    }

    fn decode(path: &str) -> String {
        percent_decode_str(path).decode_utf8_lossy().into_owned()
    }

    fn without_last_slash(path: &str) -> String {
        path.strip_suffix('/').unwrap_or(path).to_owned()
    }

    fn readings(path: &str) -> Vec<String> {
        let steps = [
            drop_parameters,
            collapse_slashes,
            decode,
            without_last_slash,
            str::to_ascii_lowercase,
        ];
        let mut all = vec![path.to_owned()];
        for _ in 0..4 {
            let next: Vec<_> = all.iter().flat_map(|path| steps.map(|step| step(path))).collect();
            all.extend(next);
            all.sort();
            all.dedup();
        }
        all
    }

    #[test]
    fn only_reads_by_post_are_reads() {
        for path in [
            "/v1/vendors:search",
            "/v0/aggregations/tags",
            "/v0/tax-codes:calculate-tax-amounts",
            "/v1/accounting-entries/receipts:search",
            "/v9/things-to-come:search",
        ] {
            assert!(is_read(&Method::POST, path), "{path}");
        }
        for path in [
            "/v1/vendors",
            "/v2/accounting-entries:enrich",
            "/v1/vendors;:search",
            "/v1/vendors:search/;:search",
            "/v1//vendors:search",
            "/v1/vendors/;x=:search",
            "/v1/vendors/1:archive;:search",
            "/v1/vendors/1:search;:archive",
            "/v1/vendors:search;a=b",
            "/v1/vendors%3Asearch",
            "/v1/vendors%3b:search",
            "/v1/vendors%2f:search",
            "/v1/vendors:search/",
            "/v1/vendors:Search",
            "/v1/vendors\\;:search",
            "/v0/aggregations/tags/",
            "/v0/aggregations//tags",
            "/v0/aggregations/tags;a=b",
            "/v0/aggregations/tags%20",
            "/v0/tags;/archive",
        ] {
            assert!(!is_read(&Method::POST, path), "{path}");
        }
    }

    #[test]
    fn get_and_head_read_and_other_methods_write() {
        for path in ["/v1/vendors/17", "/v1/anything;a=b/%2F", "//"] {
            assert!(is_read(&Method::GET, path) && is_read(&Method::HEAD, path), "{path}");
            for method in [Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS] {
                assert!(!is_read(&method, path), "{method} {path}");
            }
        }
        assert!(!is_read(&Method::PUT, "/v1/vendors:search"));
    }

    #[test]
    fn a_disconnect_is_recognized_in_every_spelling() {
        for path in [
            "/v1/installations/me",
            "/v1/installations/me/",
            "/V1/Installations/Me",
            "/v1//installations/%6de",
            "/v1/x/..%2finstallations%2fme",
            "/v1/%2569nstallations/me",
            "/v1/installations/me;a=b",
            "/v1/installations;a=b/me",
            "/v1/./installations//x/..\\me",
            "/v1/installations/me%00.json",
            "/v1/installations/me%20",
            "/v1/installations/me%3Fa=b",
            "/v1/installations/me%23",
        ] {
            assert!(is_disconnect(&Method::DELETE, path), "{path}");
        }
        assert!(!is_disconnect(&Method::GET, "/v1/installations/me"));
        assert!(!is_disconnect(&Method::DELETE, "/v1/installations/me2"));
    }

    /// Paths made of what matters to somebody who reads them; half of them end as reads by POST do.
    fn paths() -> impl Strategy<Value = String> {
        let piece = prop::sample::select(vec![
            "/",
            "//",
            "v1",
            "v0",
            "vendors",
            "tags",
            "archive",
            "17",
            ":search",
            ":archive",
            ";",
            ";a=b",
            "%3a",
            "%2f",
            "%3b",
            "%253b",
            ":",
            "installations",
            "me",
        ]);
        let end = prop::sample::select(vec!["", "", ":search", ":search", "/v0/aggregations/tags"]);
        (prop::collection::vec(piece, 0..7), end)
            .prop_map(|(pieces, end)| format!("/{}{end}", pieces.concat()))
    }

    proptest! {
        #[test]
        fn no_path_is_a_read_that_any_server_would_take_for_a_write(path in paths()) {
            for method in [Method::GET, Method::HEAD, Method::POST] {
                if !is_read(&method, &path) {
                    continue;
                }
                for seen in readings(&path) {
                    prop_assert!(reads(&method, &seen), "{} {} is seen as {}", method, path, seen);
                }
            }
        }
    }
}

//! The target of a request as it may be shown: without secrets.

use std::fmt;

use crate::redaction::{MASK, Redactor};

/// Path and query without secrets; shown as a text, without the values of the query.
#[derive(Debug, PartialEq, Eq)]
pub struct ShownTarget {
    /// The path.
    pub path: String,
    /// The query; none if there is none.
    pub query: Option<String>,
}

impl ShownTarget {
    /// Of a target as it was sent; `is_cut` if its end is missing. It is searched before it is
    /// taken apart: a secret may hold a character that ends a path or a name.
    pub fn new(target: &str, is_cut: bool, redactor: &Redactor) -> Self {
        if is_cut {
            return Self::of_cut(target, redactor);
        }
        let target = redactor.text(target);
        let (path, query) = split(&target);
        let query = query.map(|query| redactor.query(query).into_owned());
        Self { path: path.to_owned(), query }
    }

    /// The beginning of a secret that was cut is not recognised. Far before the cut there is none.
    fn of_cut(target: &str, redactor: &Redactor) -> Self {
        let (path, query) = split(target);
        let is_far = query.is_some_and(|query| query.len() > path.len());
        let path = if is_far { redactor.text(path).into_owned() } else { format!("/{MASK}") };
        Self { path, query: query.map(|_| MASK.to_owned()) }
    }

    /// The names in the query; what stands without a value may be one, and is `*`.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        names(self.query.as_deref())
    }
}

impl fmt::Display for ShownTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path)?;
        for (number, name) in self.names().enumerate() {
            f.write_str(if number == 0 { "?" } else { "&" })?;
            f.write_str(name)?;
            f.write_str(if name == "*" { "" } else { "=*" })?;
        }
        Ok(())
    }
}

/// The names in a query; what stands without a name may be a value, and is `*`.
pub fn names(query: Option<&str>) -> impl Iterator<Item = &str> {
    let pairs = query.into_iter().flat_map(|query| query.split('&'));
    pairs.map(|pair| pair.split_once('=').map_or("*", |(name, _)| name))
}

/// Path and query of a target.
pub fn split(target: &str) -> (&str, Option<&str>) {
    match memchr::memchr(b'?', target.as_bytes()) {
        Some(end) => (&target[..end], Some(&target[end + 1..])),
        None => (target, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redaction::KnownSecrets;
    use crate::secret::ClientSecret;

    fn shown(target: &str, is_cut: bool) -> String {
        let known = KnownSecrets::default();
        known.learn(&ClientSecret::new("one/two?three&four=five"));
        ShownTarget::new(target, is_cut, &Redactor::new(known)).to_string()
    }

    #[test]
    fn a_secret_is_found_that_holds_what_ends_paths_and_names() {
        for (target, expected) in [
            ("/v1/x", "/v1/x"),
            ("/@acme/v1/x?key=1&a=b=c&d", "/@acme/v1/x?key=*&a=*&*"),
            ("/v1/one/two?three&four=five", "/v1/[redacted]"),
            ("/v1/x?a=one/two?three&four=five&b=1", "/v1/x?a=*&b=*"),
            ("/v1/x?one/two?three&four=five=1", "/v1/x?[redacted]=*"),
        ] {
            assert_eq!(shown(target, false), expected);
        }
    }

    #[test]
    fn of_a_target_that_was_cut_only_a_path_far_before_the_cut_is_shown() {
        assert_eq!(shown("/v1/one/two?three&fo", true), "/[redacted]?*");
        assert_eq!(shown("/v1/one/tw", true), "/[redacted]");
        let long = format!("/v1/x?ids={}", "1".repeat(100));
        assert_eq!(shown(&long, true), "/v1/x?*");
    }
}

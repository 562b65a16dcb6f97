//! Path and query of a call. The query is kept as it was written: Pleo takes repeated keys and
//! cursors with `=` and `~`.

use std::fmt;

use http::Uri;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::cli::exit::Failure;

/// What stands for itself in a value of a query; Pleo's cursors have `=` and `~`.
const PLAIN: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'=');

/// A path, and the parameters behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    path: String,
    /// `name=value` each, as they were written.
    parameters: Vec<String>,
}

impl Target {
    /// Reads what a person wrote.
    ///
    /// # Errors
    /// It is no path of Pleo's API; says how to write one.
    pub(super) fn read(text: &str) -> Result<Self, Failure> {
        let invalid = |why: &str| Failure::usage(format!("{text:?} is not a path: {why}"));
        if text.contains("://") {
            return Err(invalid("write it without scheme and host, such as /v1/companies"));
        }
        if text.contains('#') {
            return Err(invalid("a # in it must be written %23"));
        }
        let text = text.strip_prefix('/').unwrap_or(text);
        let (path, query) =
            text.split_once('?').map_or((text, None), |(path, query)| (path, Some(query)));
        let parameters = query.into_iter().flat_map(|query| query.split('&'));
        let target = Self {
            path: format!("/{path}"),
            parameters: parameters.filter(|it| !it.is_empty()).map(str::to_owned).collect(),
        };
        let is_uri = target.to_string().parse::<Uri>();
        is_uri.map_err(|_| {
            invalid("blanks and other special characters must be written %XX, a blank %20")
        })?;
        Ok(target)
    }

    /// The path alone.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// True if the query has this parameter.
    pub(super) fn has(&self, name: &str) -> bool {
        self.parameters.iter().any(|parameter| name_of(parameter) == name)
    }

    /// The value of a parameter, as it was written.
    pub(super) fn value(&self, name: &str) -> Option<&str> {
        let mut pairs = self.parameters.iter().filter_map(|parameter| parameter.split_once('='));
        pairs.find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    /// The same with this value of a parameter, and no other.
    pub(super) fn with(&self, name: &str, value: &str) -> Self {
        let mut changed = self.clone();
        changed.parameters.retain(|parameter| name_of(parameter) != name);
        changed.parameters.push(format!("{name}={}", utf8_percent_encode(value, PLAIN)));
        changed
    }

    /// As it is sent.
    pub(super) fn uri(&self) -> Uri {
        self.to_string().parse().expect("it was read as one, and what was added is encoded")
    }
}

fn name_of(parameter: &str) -> &str {
    parameter.split('=').next().unwrap_or_default()
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path)?;
        if self.parameters.is_empty() {
            Ok(())
        } else {
            write!(f, "?{}", self.parameters.join("&"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_stays_as_it_was_written_but_for_what_is_set() {
        let written = "/v1/x:search?company_id=1&ids=a&ids=b%20c&after=OLD=&flag";
        let target = Target::read(written).unwrap();
        assert_eq!(target.to_string(), written);
        assert!(target.has("flag") && target.has("after") && !target.has("afte"));
        assert_eq!(target.value("after"), Some("OLD="));
        assert_eq!(
            target.with("after", "NEW~==").to_string(),
            "/v1/x:search?company_id=1&ids=a&ids=b%20c&flag&after=NEW~=="
        );
        let plain = Target::read("v1/companies").unwrap();
        assert_eq!(plain.to_string(), "/v1/companies");
        assert_eq!(plain.with("after", "a&b c").to_string(), "/v1/companies?after=a%26b%20c");
    }

    #[test]
    fn what_is_no_path_is_refused_with_the_way_to_write_it() {
        for (text, hint) in [
            ("https://external.pleo.io/v1/companies", "without scheme and host"),
            ("/v1/companies?name=a b", "%20"),
            ("/v1/companies#a", "%23"),
            ("/v1/\u{1}", "%XX"),
        ] {
            let refused = Target::read(text).unwrap_err();
            assert!(refused.error.to_string().contains(hint), "{text}: {:?}", refused.error);
        }
    }
}

//! The account of a request, and the raw path and query that reach the API.

use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName};

use crate::problem::{Code, Problem};
use crate::store::AccountName;

/// Names the account.
pub const ACCOUNT_HEADER: HeaderName = HeaderName::from_static("pleo-account");

/// Account and target of a request.
#[derive(Debug, PartialEq, Eq)]
pub struct Route {
    /// The account that was named, if any.
    pub account: Option<AccountName>,
    /// Path and query, byte for byte, without the account's prefix.
    pub target: PathAndQuery,
    /// True if the path names the account, `/@NAME/...`.
    pub prefixed: bool,
}

impl Route {
    /// Reads the header `Pleo-Account` and the prefix `/@NAME`.
    ///
    /// # Errors
    /// They disagree, or the name is not valid.
    pub fn of(parts: &Parts) -> Result<Self, Problem> {
        let whole = match parts.uri.path_and_query() {
            // `http://host?query` has an empty path, which an origin server gets as `/` (RFC 9112
            // section 3.2.1).
            Some(target) if target.as_str().starts_with('?') => rooted(target.as_str())?,
            Some(target) => target.clone(),
            None => PathAndQuery::from_static("/"),
        };
        let named = in_header(&parts.headers)?;
        let Some((name, rest)) = prefix(whole.as_str()) else {
            return Ok(Self { account: named, target: whole, prefixed: false });
        };
        let account = parse(name)?;
        if named.is_some_and(|named| named != account) {
            let detail = "the header Pleo-Account and the path name different accounts";
            return Err(Problem::new(Code::BadRequest, detail, "Name the account once."));
        }
        Ok(Self { account: Some(account), target: rooted(rest)?, prefixed: true })
    }
}

/// Adds the `/` that a target begins with.
fn rooted(target: &str) -> Result<PathAndQuery, Problem> {
    let target = if target.starts_with('/') { target.to_owned() } else { format!("/{target}") };
    PathAndQuery::try_from(target).map_err(|_| {
        Problem::new(Code::BadRequest, "the path cannot be read", "Correct the request.")
    })
}

/// `/@NAME`, and what follows it.
fn prefix(target: &str) -> Option<(&str, &str)> {
    let rest = target.strip_prefix("/@")?;
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    Some(rest.split_at(end))
}

fn in_header(headers: &HeaderMap) -> Result<Option<AccountName>, Problem> {
    let mut values = headers.get_all(ACCOUNT_HEADER).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        let detail = "the header Pleo-Account came more than once";
        return Err(Problem::new(Code::BadRequest, detail, "Name one account."));
    }
    parse(value.to_str().unwrap_or_default()).map(Some)
}

fn parse(name: &str) -> Result<AccountName, Problem> {
    name.parse().map_err(|error: crate::store::AccountNameError| {
        Problem::new(
            Code::AccountUnknown,
            error.to_string(),
            "`pleo-proxy status` lists the accounts.",
        )
    })
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn route(target: &str, headers: &[&str]) -> Result<(Option<String>, String), Code> {
        let mut request = Request::builder().uri(target);
        for account in headers {
            request = request.header(ACCOUNT_HEADER, *account);
        }
        let parts = request.body(()).unwrap().into_parts().0;
        let route = Route::of(&parts).map_err(|problem| problem.code)?;
        Ok((route.account.map(|name| name.to_string()), route.target.as_str().to_owned()))
    }

    #[test]
    fn the_account_is_named_by_header_or_prefix() {
        assert_eq!(route("/v1/x?a=%2F&a=~", &[]), Ok((None, "/v1/x?a=%2F&a=~".into())));
        assert_eq!(route("/v1/x", &["acme"]), Ok((Some("acme".into()), "/v1/x".into())));
        assert_eq!(
            route("/@acme/v1/x:search?q=1", &[]),
            Ok((Some("acme".into()), "/v1/x:search?q=1".into()))
        );
        assert_eq!(route("/@acme", &[]), Ok((Some("acme".into()), "/".into())));
        assert_eq!(route("/@acme?x", &["acme"]), Ok((Some("acme".into()), "/?x".into())));
        assert_eq!(route("/@acme//x", &[]), Ok((Some("acme".into()), "//x".into())));
        assert_eq!(route("http://api.test?x", &[]), Ok((None, "/?x".into())));
        assert_eq!(route("http://api.test", &[]), Ok((None, "/".into())));
    }

    #[test]
    fn contradicting_and_invalid_names_are_refused() {
        assert_eq!(route("/@acme/x", &["other"]), Err(Code::BadRequest));
        assert_eq!(route("/x", &["a", "a"]), Err(Code::BadRequest));
        assert_eq!(route("/@ACME/x", &[]), Err(Code::AccountUnknown));
        assert_eq!(route("/@/x", &[]), Err(Code::AccountUnknown));
        assert_eq!(route("/x", &[""]), Err(Code::AccountUnknown));
    }
}

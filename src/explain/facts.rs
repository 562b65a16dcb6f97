//! What an explanation is made from.

use http::Method;

/// A request, as far as its reasons depend on it.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// The method.
    pub method: &'a Method,
    /// The raw path as Pleo gets it, without the query.
    pub path: &'a str,
    /// Names of the parameters in the query; none if they are not known.
    pub query: Option<Vec<&'a str>>,
}

/// Pleo's answer.
#[derive(Clone, Copy, Debug, Default)]
pub struct Answer<'a> {
    /// The status.
    pub status: u16,
    /// `type` or `code` of the error in its body, if it was read.
    pub error_type: Option<&'a str>,
    /// Seconds of `Retry-After`.
    pub retry_after: Option<u64>,
    /// The request was sent again after a refresh.
    pub sent_again: bool,
}

/// What is known of the account.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// Its name.
    pub account: &'a str,
    /// Scopes that Pleo granted; none if they are not known.
    pub granted: Option<&'a [String]>,
    /// Scopes that a login asks for (`client.scopes`).
    pub asked: &'a [String],
    /// What it sends.
    pub credential: CredentialKind,
    /// Whose grant it is.
    pub subject: SubjectKind,
    /// `sandbox`, `staging` or `production`, if that is known.
    pub environment: Option<&'a str>,
}

/// What an account sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CredentialKind {
    /// A bearer token of a login.
    Token,
    /// An API key.
    ApiKey,
    /// Nothing: it is not connected.
    None,
}

/// Whose grant an account holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubjectKind {
    /// One company.
    Company,
    /// A group of companies.
    Organisation,
    /// It is not known.
    Unknown,
}

impl SubjectKind {
    /// The kind of a subject as Pleo writes it, such as `urn:pleo:company:ID`.
    pub fn of(urn: Option<&str>) -> Self {
        match urn.and_then(|urn| urn.strip_prefix("urn:pleo:")?.split_once(':')) {
            Some(("company", _)) => Self::Company,
            Some(("organisation" | "organization", _)) => Self::Organisation,
            _ => Self::Unknown,
        }
    }
}

impl<'a> Request<'a> {
    /// A request for a path with a query.
    pub fn new(method: &'a Method, path: &'a str, query: Option<&'a str>) -> Self {
        let names = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        let names = names.map(|pair| pair.split_once('=').map_or(pair, |(name, _)| name));
        Self { method, path, query: Some(names.collect()) }
    }

    /// True if the query is known to have this parameter.
    pub(super) fn has(&self, name: &str) -> bool {
        self.query.as_ref().is_some_and(|names| names.contains(&name))
    }

    /// True if the query is known to have none of these parameters.
    pub(super) fn lacks(&self, wanted: &[&str]) -> bool {
        self.query.as_ref().is_some_and(|names| !names.iter().any(|name| wanted.contains(name)))
    }
}

//! Why Pleo refuses a request, in the admin API.

use std::fmt;

use serde::{Deserialize, Serialize};
use url::form_urlencoded;

use crate::explain::{self, Explanation};

/// The query of `GET /api/why`.
#[derive(Debug, Default, Deserialize)]
pub struct WhyQuery {
    /// The method.
    #[serde(default)]
    pub method: String,
    /// Path and query, or a whole address.
    #[serde(default)]
    pub path: String,
    /// The account; none: the one of requests that name none.
    #[serde(default)]
    pub account: Option<String>,
    /// Instead of all that: the id of an exchange in the request log.
    #[serde(default)]
    pub id: Option<String>,
}

impl WhyQuery {
    /// The target of the request.
    pub fn target(&self) -> String {
        let mut query = form_urlencoded::Serializer::new("/api/why?".to_owned());
        if let Some(id) = &self.id {
            return query.append_pair("id", id).finish();
        }
        query.append_pair("method", &self.method).append_pair("path", &self.path);
        if let Some(account) = &self.account {
            query.append_pair("account", account);
        }
        query.finish()
    }
}

/// A reason and the next step.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Why {
    /// What becomes of the request.
    pub verdict: Verdict,
    /// The operation of Pleo's API, if it is one.
    #[serde(default)]
    pub operation: Option<String>,
    /// The reason, in one line.
    #[serde(default)]
    pub reason: String,
    /// What to do.
    #[serde(default)]
    pub next: Option<String>,
    /// The reason is published or was observed; otherwise it is a possibility.
    #[serde(default)]
    pub certain: bool,
    /// Where the reason is from, such as `docs:vendor-api-scopes`.
    #[serde(default)]
    pub source: Option<String>,
}

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Pleo refuses it, or did.
    Refused,
    /// Nothing speaks against it.
    Allowed,
    /// It is not known.
    Unknown,
    /// A value that this release does not know.
    #[serde(untagged)]
    Other(String),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "refused",
            Self::Allowed => "allowed",
            Self::Unknown => "unknown",
            Self::Other(word) => word,
        })
    }
}

impl From<Explanation> for Why {
    fn from(explanation: Explanation) -> Self {
        let Explanation { verdict, operation, reason, next, is_certain, source } = explanation;
        Self {
            verdict: match verdict {
                explain::Verdict::Refused => Verdict::Refused,
                explain::Verdict::Allowed => Verdict::Allowed,
                explain::Verdict::Unknown => Verdict::Unknown,
            },
            operation: operation.map(ToString::to_string),
            reason,
            next,
            certain: is_certain,
            source: source.map(str::to_owned),
        }
    }
}

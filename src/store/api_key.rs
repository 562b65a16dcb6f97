//! A static API key of Pleo's, as a record holds it.

use jiff::civil::Date;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::decode_error::DecodeError;
use crate::secret::ApiKey;

/// An API key, in place of a grant. It is never refreshed.
#[derive(Clone, Debug)]
pub struct StoredKey {
    /// The key.
    pub key: ApiKey,
    /// Scopes that Pleo names for it; empty if it names none.
    pub scope: Vec<String>,
    /// Origin of the API that it was checked with; it is used nowhere else.
    pub api_origin: String,
    /// Time at which it was added: milliseconds since 1970.
    pub added_at: i64,
    /// Its last day, if somebody said so: Pleo tells it only when a key is made.
    pub expires_on: Option<Date>,
}

/// Its form on disk.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeyContent {
    key: Zeroizing<String>,
    scope: Vec<String>,
    api_origin: String,
    added_at: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires_on: Option<String>,
}

impl StoredKey {
    pub(super) fn content(&self) -> KeyContent {
        KeyContent {
            key: Zeroizing::new(self.key.expose().to_owned()),
            scope: self.scope.clone(),
            api_origin: self.api_origin.clone(),
            added_at: self.added_at,
            expires_on: self.expires_on.map(|date| date.to_string()),
        }
    }
}

impl KeyContent {
    pub(super) fn into_key(self) -> Result<StoredKey, DecodeError> {
        let date = |text: String| text.parse().map_err(|_| DecodeError::Corrupt("no date"));
        Ok(StoredKey {
            key: ApiKey::new(self.key.as_str()),
            scope: self.scope,
            api_origin: self.api_origin,
            added_at: self.added_at,
            expires_on: self.expires_on.map(date).transpose()?,
        })
    }
}

//! One account's record: what it holds, and its form on disk.
//!
//! The file is one JSON object `{"version", "sha256", "record"}`; the sum covers the very bytes of `record`, so that a
//! damaged token is told from a refused one.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::secret::{AccessToken, RefreshToken};

/// Version of the form on disk.
const VERSION: u32 = 1;

/// Name of an account: `[a-z0-9][a-z0-9-]{0,62}`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AccountName(String);

/// Why a text is not an account's name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("must be an account's name: 1 to 63 of a-z, 0-9 and -, not starting with -")]
pub struct AccountNameError;

impl AccountName {
    /// The account of those who name none.
    pub fn fallback() -> Self {
        Self("default".into())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for AccountName {
    type Err = AccountNameError;

    fn from_str(text: &str) -> Result<Self, AccountNameError> {
        let known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        match (1..=63).contains(&text.len()) && text.bytes().all(known) && !text.starts_with('-') {
            true => Ok(Self(text.into())),
            false => Err(AccountNameError),
        }
    }
}

impl fmt::Display for AccountName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// All that is kept of an account, replaced as a whole.
#[derive(Clone, Debug)]
pub struct Record {
    /// Only ever rising: every refresh, login and logout adds one.
    pub generation: u64,
    /// The grant; none after a logout or once it is over.
    pub grant: Option<Grant>,
    /// The company or organisation that this account is bound to, if known.
    pub subject: Option<String>,
    /// The grant is not known to be the subject's: it serves nobody until it is.
    pub subject_unconfirmed: bool,
    /// A refresh that was sent and has no outcome yet.
    pub intent: Option<Intent>,
    /// Why there is no grant.
    pub ended: Option<Ended>,
}

/// A grant as the authorization server gave it.
#[derive(Clone, Debug)]
pub struct Grant {
    /// The access token; none after an import or an answer whose access token cannot be used.
    pub access: Option<AccessToken>,
    /// The single-use refresh token.
    pub refresh: RefreshToken,
    /// When the access token expires: milliseconds since 1970.
    pub expires_at: i64,
    /// Life of the access token in milliseconds.
    pub life: u64,
    /// Granted scopes.
    pub scope: Vec<String>,
    /// Where it was issued; it is used nowhere else.
    pub issued: Issued,
    /// When the login was: milliseconds since 1970.
    pub logged_in_at: i64,
    /// When this pair was issued: milliseconds since 1970.
    pub refreshed_at: i64,
    /// True if introspection answered `active` for a new refresh token, so that its `inactive` can be believed.
    pub introspection_trusted: bool,
}

/// Where a grant was issued and for which API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Issued {
    /// Token endpoint.
    pub token_endpoint: String,
    /// Client id.
    pub client_id: String,
    /// Origin of the API.
    pub api_origin: String,
}

/// A durable note that a refresh was sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Intent {
    /// Generation of the grant whose refresh token was sent.
    pub generation: u64,
    /// Short hash of that token.
    pub token: String,
    /// When: milliseconds since 1970.
    pub sent_at: i64,
    /// When the first of these attempts was sent: milliseconds since 1970.
    pub first_sent_at: i64,
    /// How often the same token was sent again since.
    pub resends: u32,
}

impl Intent {
    /// What tells one sending of a token from the next.
    pub fn sending(&self) -> (i64, u32) {
        (self.sent_at, self.resends)
    }
}

/// Why an account has no grant any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ended {
    /// When: milliseconds since 1970.
    pub at: i64,
    /// A sentence for people.
    pub why: String,
}

/// Why bytes are not a record.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DecodeError {
    /// Damaged, and where it shows.
    #[error("it is corrupt ({0})")]
    Corrupt(&'static str),
    /// Written by another version of this program.
    #[error("it has version {0}, this program knows version {VERSION}")]
    Version(u32),
}

#[derive(Serialize, Deserialize)]
struct Envelope<'a> {
    version: u32,
    sha256: String,
    #[serde(borrow)]
    record: &'a RawValue,
}

#[derive(Deserialize)]
struct Version {
    version: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    generation: u64,
    grant: Option<GrantContent>,
    subject: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    subject_unconfirmed: bool,
    intent: Option<Intent>,
    ended: Option<Ended>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct GrantContent {
    access_token: Option<Zeroizing<String>>,
    refresh_token: Zeroizing<String>,
    expires_at: i64,
    life: u64,
    scope: Vec<String>,
    issued: Issued,
    logged_in_at: i64,
    refreshed_at: i64,
    introspection_trusted: bool,
}

impl Record {
    /// The record of an account that was logged out or never logged in.
    pub fn tombstone(generation: u64, at: i64, why: impl Into<String>) -> Self {
        let ended = Some(Ended { at, why: why.into() });
        Self { generation, grant: None, subject: None, subject_unconfirmed: false, intent: None, ended }
    }

    /// The intent, if it speaks of the grant that is stored beside it.
    pub fn open_intent(&self) -> Option<&Intent> {
        self.intent.as_ref().filter(|intent| intent.generation == self.generation && self.grant.is_some())
    }

    /// The bytes on disk.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let content = Zeroizing::new(
            serde_json::to_string(&self.content()).expect("numbers, strings and lists always have a JSON form"),
        );
        let sum = sum(content.as_bytes());
        Zeroizing::new(
            format!("{{\"version\":{VERSION},\"sha256\":\"{sum}\",\"record\":{}}}\n", content.as_str()).into_bytes(),
        )
    }

    /// Reads the bytes on disk.
    ///
    /// # Errors
    /// [`DecodeError`]; it never shows the content.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let text = std::str::from_utf8(bytes).map_err(|_| DecodeError::Corrupt("not UTF-8"))?;
        let Version { version } = serde_json::from_str(text).map_err(|_| DecodeError::Corrupt("not a record"))?;
        if version != VERSION {
            return Err(DecodeError::Version(version));
        }
        let envelope: Envelope<'_> = serde_json::from_str(text).map_err(|_| DecodeError::Corrupt("not a record"))?;
        if sum(envelope.record.get().as_bytes()) != envelope.sha256 {
            return Err(DecodeError::Corrupt("its checksum differs"));
        }
        let content: Content =
            serde_json::from_str(envelope.record.get()).map_err(|_| DecodeError::Corrupt("unknown fields"))?;
        Ok(content.into_record())
    }

    fn content(&self) -> Content {
        Content {
            generation: self.generation,
            grant: self.grant.as_ref().map(Grant::content),
            subject: self.subject.clone(),
            subject_unconfirmed: self.subject_unconfirmed,
            intent: self.intent.clone(),
            ended: self.ended.clone(),
        }
    }
}

impl Content {
    fn into_record(self) -> Record {
        Record {
            generation: self.generation,
            grant: self.grant.map(GrantContent::into_grant),
            subject: self.subject,
            subject_unconfirmed: self.subject_unconfirmed,
            intent: self.intent,
            ended: self.ended,
        }
    }
}

impl Grant {
    fn content(&self) -> GrantContent {
        GrantContent {
            access_token: self.access.as_ref().map(|token| Zeroizing::new(token.expose().to_owned())),
            refresh_token: Zeroizing::new(self.refresh.expose().to_owned()),
            expires_at: self.expires_at,
            life: self.life,
            scope: self.scope.clone(),
            issued: self.issued.clone(),
            logged_in_at: self.logged_in_at,
            refreshed_at: self.refreshed_at,
            introspection_trusted: self.introspection_trusted,
        }
    }
}

impl GrantContent {
    fn into_grant(self) -> Grant {
        Grant {
            access: self.access_token.map(|token| AccessToken::new(token.as_str())),
            refresh: RefreshToken::new(self.refresh_token.as_str()),
            expires_at: self.expires_at,
            life: self.life,
            scope: self.scope,
            issued: self.issued,
            logged_in_at: self.logged_in_at,
            refreshed_at: self.refreshed_at,
            introspection_trusted: self.introspection_trusted,
        }
    }
}

fn sum(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record() -> Record {
        let issued = Issued { token_endpoint: "t".into(), client_id: "c".into(), api_origin: "a".into() };
        Record {
            generation: 7,
            grant: Some(Grant {
                access: Some(AccessToken::new("access")),
                refresh: RefreshToken::new("refresh \"quoted\""),
                expires_at: 5,
                life: 600_000,
                scope: vec!["a:read".into()],
                issued,
                logged_in_at: 1,
                refreshed_at: 2,
                introspection_trusted: true,
            }),
            subject: Some("urn:pleo:company:1".into()),
            subject_unconfirmed: false,
            intent: Some(Intent { generation: 7, token: "abc".into(), sent_at: 3, first_sent_at: 3, resends: 0 }),
            ended: None,
        }
    }

    #[test]
    fn survives_the_disk() {
        let record = record();
        let back = Record::decode(&record.encode()).unwrap();
        assert_eq!(back.encode(), record.encode());
        assert_eq!(back.grant.unwrap().refresh.expose(), "refresh \"quoted\"");
        assert_eq!(back.intent.unwrap().generation, 7);
    }

    #[test]
    fn an_intent_of_another_generation_is_not_open() {
        let mut record = record();
        assert!(record.open_intent().is_some());
        record.generation = 8;
        assert!(record.open_intent().is_none());
    }

    #[test]
    fn every_truncation_and_every_flipped_bit_is_noticed() {
        let bytes = record().encode();
        for end in 0..bytes.len() - 1 {
            assert!(Record::decode(&bytes[..end]).is_err(), "cut at {end}");
        }
        for at in 0..bytes.len() - 1 {
            for bit in 0..8 {
                let mut flipped = bytes.to_vec();
                flipped[at] ^= 1 << bit;
                // White space around the object is the one change without a meaning.
                let same = Record::decode(&flipped).is_ok_and(|back| back.encode() == bytes);
                assert!(same || Record::decode(&flipped).is_err(), "byte {at}, bit {bit}");
            }
        }
    }

    #[test]
    fn versions_are_told_apart_from_damage() {
        let text = String::from_utf8(record().encode().to_vec()).unwrap().replace("\"version\":1", "\"version\":999");
        assert_eq!(Record::decode(text.as_bytes()).unwrap_err(), DecodeError::Version(999));
        assert!(matches!(Record::decode(b"").unwrap_err(), DecodeError::Corrupt(_)));
        assert!(matches!(Record::decode(b"\xff\xfe{\0").unwrap_err(), DecodeError::Corrupt(_)));
    }

    #[test]
    fn names() {
        for good in ["a", "0", "default", "a-b-1", &"x".repeat(63)] {
            assert!(good.parse::<AccountName>().is_ok(), "{good}");
        }
        for bad in ["", "-a", "A", "a_b", "a.b", "../x", "é", &"x".repeat(64), "a/b", "<img>"] {
            assert!(bad.parse::<AccountName>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn decoding_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = Record::decode(&bytes);
        }
    }
}

//! One account's record: what it holds, and its form on disk.
//!
//! The file is one JSON object `{"version", "sha256", "record"}`; the checksum covers the bytes of
//! `record`, so that a damaged token is not mistaken for a refused one.

use data_encoding::HEXLOWER;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::api_key::{KeyContent, StoredKey};
use super::decode_error::{DecodeError, VERSION};
use crate::clock::rfc3339;
use crate::secret::{AccessToken, RefreshToken};

/// Version of a record that is neither sealed nor holds an API key, as older programs write it.
const PLAIN_VERSION: u32 = 2;
/// Had a sentence instead of the code why a grant ended.
const OLDEST_VERSION: u32 = 1;

/// Everything that is stored of an account, replaced as a whole.
#[derive(Clone, Debug)]
pub struct Record {
    /// Rises by one with every refresh, login and logout, and never falls.
    pub generation: u64,
    /// The grant; none after a logout or once it has ended.
    pub grant: Option<Grant>,
    /// A static API key in place of a grant.
    pub api_key: Option<StoredKey>,
    /// The company or organisation that this account is bound to, if known.
    pub subject: Option<String>,
    /// The company's name as the API gave it at the login, to be shown; none if it did not.
    pub company: Option<String>,
    /// It is not confirmed that the grant belongs to the subject: no request uses it until then.
    pub subject_unconfirmed: bool,
    /// A refresh that was sent and has no outcome yet.
    pub intent: Option<Intent>,
    /// Why there is no grant.
    pub ended: Option<Ended>,
}

/// A grant as the authorization server issued it.
#[derive(Clone, Debug)]
pub struct Grant {
    /// The access token; none after an import, or after a response whose access token cannot be
    /// used.
    pub access: Option<AccessToken>,
    /// The single-use refresh token.
    pub refresh: RefreshToken,
    /// Time at which the access token expires: milliseconds since 1970.
    pub expires_at: i64,
    /// Lifetime of the access token in milliseconds.
    pub lifetime: u64,
    /// Granted scopes.
    pub scope: Vec<String>,
    /// Where it was issued; it is used nowhere else.
    pub issued: Issued,
    /// Time of the login: milliseconds since 1970.
    pub logged_in_at: i64,
    /// Time at which this pair was issued: milliseconds since 1970.
    pub refreshed_at: i64,
    /// True if introspection answered `active` for a new refresh token, so that an `inactive` can
    /// be trusted.
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
    /// Time: milliseconds since 1970.
    pub sent_at: i64,
    /// Time at which the first of these attempts was sent: milliseconds since 1970.
    pub first_sent_at: i64,
    /// How often the same token was sent again since then.
    pub resends: u32,
}

impl Intent {
    /// Identifies one attempt to send a token.
    pub fn sending(&self) -> (i64, u32) {
        (self.sent_at, self.resends)
    }
}

/// When and why a grant ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ended {
    /// Time: milliseconds since 1970.
    pub at: i64,
    /// Why.
    #[serde(alias = "why", deserialize_with = "reason")]
    pub reason: EndReason,
}

/// Why a grant ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum EndReason {
    /// A person logged the account out.
    LoggedOut,
    /// The integration was disconnected at Pleo, by a request through the proxy.
    Disconnected,
    /// Its company was moved to another account.
    Moved {
        /// The account that holds it now.
        to: String,
    },
    /// It was moved to another store, or is on its way there while the grant is still here.
    LeftStore {
        /// Kind and place of that store.
        target: String,
    },
    /// The authorization server refuses the refresh token.
    Refused {
        /// Its error code.
        code: String,
    },
    /// A refresh was sent, and its response with the new tokens never arrived.
    Interrupted {
        /// When it was sent: milliseconds since 1970.
        sent_at: i64,
    },
    /// The grant is for another company than the account.
    OtherCompany {
        /// The company of the grant.
        subject: String,
        /// The company of the account.
        bound: String,
    },
    /// The company is connected as another account already.
    ConnectedElsewhere {
        /// The company.
        subject: String,
        /// The account that holds it.
        other: String,
    },
    /// A sentence that version 1 wrote, or a reason that has no variant.
    Sentence {
        /// For people.
        text: String,
    },
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LoggedOut => f.write_str("it was logged out"),
            Self::Disconnected => f.write_str("it was disconnected through the proxy"),
            Self::Moved { to } => write!(f, "its company was moved to account {to}"),
            Self::LeftStore { target } => write!(f, "it was moved to {target}"),
            Self::Refused { code } => {
                write!(f, "the authorization server ended the login ({code})")
            }
            Self::Interrupted { sent_at } => {
                write!(
                    f,
                    "the refresh at {} was interrupted and its new tokens were lost",
                    rfc3339(*sent_at)
                )
            }
            Self::OtherCompany { subject, bound } => {
                write!(f, "its login is for {subject}, and the account belongs to {bound}")
            }
            Self::ConnectedElsewhere { subject, other } => {
                write!(f, "{subject} is connected as account {other}")
            }
            Self::Sentence { text } => f.write_str(text),
        }
    }
}

/// A reason, or the sentence of version 1 without its standard beginning and end.
fn reason<'de, D: Deserializer<'de>>(deserializer: D) -> Result<EndReason, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Form {
        Sentence(String),
        Reason(EndReason),
    }
    Ok(match Form::deserialize(deserializer)? {
        Form::Reason(reason) => reason,
        Form::Sentence(text) => {
            let text =
                text.split_once(" needs a login: ").map_or(text.as_str(), |(_, reason)| reason);
            let text = text.rsplit_once("; run: ").map_or(text, |(reason, _)| reason);
            EndReason::Sentence { text: text.to_owned() }
        }
    })
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    api_key: Option<KeyContent>,
    subject: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    company: Option<String>,
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
    #[serde(rename = "life")]
    lifetime: u64,
    scope: Vec<String>,
    issued: Issued,
    logged_in_at: i64,
    refreshed_at: i64,
    introspection_trusted: bool,
}

impl Record {
    /// The record of an account that was logged out or never logged in.
    pub fn tombstone(generation: u64, at: i64, reason: EndReason) -> Self {
        let ended = Some(Ended { at, reason });
        Self {
            generation,
            grant: None,
            api_key: None,
            subject: None,
            company: None,
            subject_unconfirmed: false,
            intent: None,
            ended,
        }
    }

    /// True if there is something to send: a grant or an API key.
    pub fn has_credential(&self) -> bool {
        self.grant.is_some() || self.api_key.is_some()
    }

    /// The intent, if it is about the grant that is stored beside it.
    pub fn open_intent(&self) -> Option<&Intent> {
        self.intent
            .as_ref()
            .filter(|intent| intent.generation == self.generation && self.grant.is_some())
    }

    /// The bytes on disk.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let content = self.encode_content();
        let sum = sum(&content);
        let version = if self.api_key.is_some() { VERSION } else { PLAIN_VERSION };
        let head = format!("{{\"version\":{version},\"sha256\":\"{sum}\",\"record\":");
        Zeroizing::new([head.as_bytes(), &content, b"}\n"].concat())
    }

    /// What a sealed record encloses.
    pub(super) fn encode_content(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(
            serde_json::to_vec(&self.content())
                .expect("numbers, strings and lists always have a JSON form"),
        )
    }

    /// Reads it.
    pub(super) fn decode_content(bytes: &[u8]) -> Result<Self, DecodeError> {
        let content: Content =
            serde_json::from_slice(bytes).map_err(|_| DecodeError::Corrupt("unknown fields"))?;
        content.into_record()
    }

    /// Reads the bytes on disk.
    ///
    /// # Errors
    /// [`DecodeError`]; it never shows the content.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let text = std::str::from_utf8(bytes).map_err(|_| DecodeError::Corrupt("not UTF-8"))?;
        let Version { version } =
            serde_json::from_str(text).map_err(|_| DecodeError::Corrupt("not a record"))?;
        if !(OLDEST_VERSION..=VERSION).contains(&version) {
            return Err(DecodeError::Version(version));
        }
        let envelope: Envelope<'_> =
            serde_json::from_str(text).map_err(|_| DecodeError::Corrupt("not a record"))?;
        if sum(envelope.record.get().as_bytes()) != envelope.sha256 {
            return Err(DecodeError::Corrupt("its checksum differs"));
        }
        Self::decode_content(envelope.record.get().as_bytes())
    }

    fn content(&self) -> Content {
        Content {
            generation: self.generation,
            grant: self.grant.as_ref().map(Grant::content),
            api_key: self.api_key.as_ref().map(StoredKey::content),
            subject: self.subject.clone(),
            company: self.company.clone(),
            subject_unconfirmed: self.subject_unconfirmed,
            intent: self.intent.clone(),
            ended: self.ended.clone(),
        }
    }
}

impl Content {
    fn into_record(self) -> Result<Record, DecodeError> {
        Ok(Record {
            generation: self.generation,
            grant: self.grant.map(GrantContent::into_grant),
            api_key: self.api_key.map(KeyContent::into_key).transpose()?,
            subject: self.subject,
            company: self.company,
            subject_unconfirmed: self.subject_unconfirmed,
            intent: self.intent,
            ended: self.ended,
        })
    }
}

impl Grant {
    fn content(&self) -> GrantContent {
        GrantContent {
            access_token: self
                .access
                .as_ref()
                .map(|token| Zeroizing::new(token.expose().to_owned())),
            refresh_token: Zeroizing::new(self.refresh.expose().to_owned()),
            expires_at: self.expires_at,
            lifetime: self.lifetime,
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
            lifetime: self.lifetime,
            scope: self.scope,
            issued: self.issued,
            logged_in_at: self.logged_in_at,
            refreshed_at: self.refreshed_at,
            introspection_trusted: self.introspection_trusted,
        }
    }
}

fn sum(bytes: &[u8]) -> String {
    HEXLOWER.encode(&Sha256::digest(bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::secret::ApiKey;

    fn record() -> Record {
        let issued =
            Issued { token_endpoint: "t".into(), client_id: "c".into(), api_origin: "a".into() };
        Record {
            generation: 7,
            grant: Some(Grant {
                access: Some(AccessToken::new("access")),
                refresh: RefreshToken::new("refresh \"quoted\""),
                expires_at: 5,
                lifetime: 600_000,
                scope: vec!["a:read".into()],
                issued,
                logged_in_at: 1,
                refreshed_at: 2,
                introspection_trusted: true,
            }),
            api_key: None,
            subject: Some("urn:pleo:company:1".into()),
            company: Some("Harbour \"Coffee\"".into()),
            subject_unconfirmed: false,
            intent: Some(Intent {
                generation: 7,
                token: "abc".into(),
                sent_at: 3,
                first_sent_at: 3,
                resends: 0,
            }),
            ended: None,
        }
    }

    #[test]
    fn a_decoded_record_equals_the_encoded_one() {
        let record = record();
        let back = Record::decode(&record.encode()).unwrap();
        assert_eq!(back.encode(), record.encode());
        assert_eq!(back.grant.unwrap().refresh.expose(), "refresh \"quoted\"");
        assert_eq!(back.intent.unwrap().generation, 7);
        assert_eq!(back.company.as_deref(), Some("Harbour \"Coffee\""));
    }

    #[test]
    fn an_api_key_survives_the_disk_and_older_programs_leave_its_record_alone() {
        let key = StoredKey {
            key: ApiKey::new("plp-key"),
            scope: vec!["users:read".into()],
            api_origin: "https://api".into(),
            added_at: 9,
            expires_on: Some("2027-01-31".parse().unwrap()),
        };
        let record = Record { grant: None, intent: None, api_key: Some(key), ..record() };
        let bytes = record.encode();
        let back = Record::decode(&bytes).unwrap();
        assert_eq!(back.encode(), bytes);
        assert!(back.has_credential() && !format!("{back:?}").contains("plp-key"));
        assert_eq!(back.api_key.unwrap().expires_on.unwrap().to_string(), "2027-01-31");
        assert!(bytes.starts_with(b"{\"version\":3,"), "which version 2 refuses to read");
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
        let text = String::from_utf8(record().encode().to_vec())
            .unwrap()
            .replace("\"version\":2", "\"version\":999");
        assert_eq!(Record::decode(text.as_bytes()).unwrap_err(), DecodeError::Version(999));
        assert!(matches!(Record::decode(b"").unwrap_err(), DecodeError::Corrupt(_)));
        assert!(matches!(Record::decode(b"\xff\xfe{\0").unwrap_err(), DecodeError::Corrupt(_)));
    }

    #[test]
    fn version_1_is_read_and_its_sentence_kept_without_what_is_said_around_it() {
        let content = r#"{"generation":3,"grant":null,"subject":null,"intent":null,"ended":{"at":5,"why":"account acme needs a login: it was logged out; run: pleo-proxy login acme"}}"#;
        let sum = sum(content.as_bytes());
        let bytes = format!("{{\"version\":1,\"sha256\":\"{sum}\",\"record\":{content}}}\n");
        let record = Record::decode(bytes.as_bytes()).unwrap();
        let reason = EndReason::Sentence { text: "it was logged out".into() };
        assert_eq!((record.generation, record.ended.clone()), (3, Some(Ended { at: 5, reason })));
        assert_eq!(
            Record::decode(&record.encode()).unwrap().ended,
            record.ended,
            "and again as version 2"
        );
    }

    #[test]
    fn every_reason_survives_the_disk_and_reads_as_a_clause() {
        let text = String::from;
        for reason in [
            EndReason::LoggedOut,
            EndReason::Disconnected,
            EndReason::Moved { to: text("acme") },
            EndReason::LeftStore { target: text("files in /var/lib") },
            EndReason::Refused { code: text("invalid_grant") },
            EndReason::Interrupted { sent_at: 1_800_000_000_000 },
            EndReason::OtherCompany { subject: text("a"), bound: text("b") },
            EndReason::ConnectedElsewhere { subject: text("a"), other: text("b") },
        ] {
            let back = Record::decode(&Record::tombstone(1, 2, reason.clone()).encode()).unwrap();
            assert_eq!(back.ended.unwrap().reason, reason);
            assert!(
                !reason.to_string().contains("pleo-proxy"),
                "commands are added where it is shown: {reason}"
            );
        }
    }

    proptest! {
        #[test]
        fn decoding_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = Record::decode(&bytes);
        }
    }
}

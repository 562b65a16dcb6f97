//! What an account sends, and where it comes from.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;

use crate::clock::{Deadline, Now, millis};
use crate::store::{Grant, Record, StoredKey};

/// Longest margin before expiry at which a token is refreshed.
const MAX_MARGIN: Duration = Duration::from_secs(60);
/// Longest lifetime of an access token that is believed.
const MAX_LIFETIME: Duration = Duration::from_secs(86_400);

/// Where an account's credential comes from. A new kind of credential is a variant here, with what
/// the store's record holds of it.
#[derive(Clone, Debug)]
pub enum CredentialSource {
    /// No record; of what there was only the generation is left, below which none is used again.
    Absent {
        /// That generation.
        generation: u64,
    },
    /// The record of an OAuth grant, or of one that has ended.
    Grant(Arc<Record>),
    /// A static API key of Pleo.
    ApiKey(ApiKeyCredential),
}

/// An API key: it is never refreshed and does not expire; once the API refuses it, a person must
/// replace it.
#[derive(Clone, Debug)]
pub struct ApiKeyCredential {
    /// The record that holds it.
    record: Arc<Record>,
    /// The key.
    pub key: StoredKey,
}

/// What a 401 of the API means for a credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AfterRejection {
    /// A refresh may bring another token.
    Refresh,
    /// Only a person can replace it; whether that is needed, the API has to say once more, because
    /// some operations refuse every API key.
    Check,
}

impl CredentialSource {
    /// What a record holds.
    pub fn of(record: Record) -> Self {
        let record = Arc::new(record);
        match record.api_key.clone() {
            Some(key) => Self::ApiKey(ApiKeyCredential { record, key }),
            None => Self::Grant(record),
        }
    }

    /// Generation of the record.
    pub fn generation(&self) -> u64 {
        match self {
            Self::Absent { generation } => *generation,
            Self::Grant(record) => record.generation,
            Self::ApiKey(key) => key.record.generation,
        }
    }

    /// The record, if there is one.
    pub(super) fn record(&self) -> Option<&Arc<Record>> {
        match self {
            Self::Grant(record) => Some(record),
            Self::ApiKey(key) => Some(&key.record),
            Self::Absent { .. } => None,
        }
    }

    /// The API key, if it is one.
    pub fn api_key(&self) -> Option<&StoredKey> {
        match self {
            Self::ApiKey(key) => Some(&key.key),
            Self::Grant(_) | Self::Absent { .. } => None,
        }
    }

    /// Scopes as Pleo named them; empty if it did not.
    pub fn scope(&self) -> &[String] {
        let granted = self.grant().map(|grant| &grant.scope);
        granted.or_else(|| self.api_key().map(|key| &key.scope)).map_or(&[], Vec::as_slice)
    }

    /// True if a request could carry something.
    pub(super) fn has_credential(&self) -> bool {
        self.record().is_some_and(|record| record.has_credential())
    }

    /// The grant, unless it has ended.
    pub(super) fn grant(&self) -> Option<&Grant> {
        self.record()?.grant.as_ref()
    }

    /// True if a refresh can bring a new token.
    pub fn is_refreshable(&self) -> bool {
        !matches!(self, Self::ApiKey(_))
    }

    /// What to do when the API has refused the credential (401).
    pub fn after_rejection(&self) -> AfterRejection {
        if self.is_refreshable() { AfterRejection::Refresh } else { AfterRejection::Check }
    }

    /// The credential as requests carry it; none if there is none that may be sent. `deadline` is
    /// the one measured when the pair was issued, else the stored one counts.
    pub(super) fn credential(&self, deadline: Option<Deadline>, now: Now) -> Option<Credential> {
        match self {
            Self::Absent { .. } => None,
            Self::Grant(record) if record.subject_unconfirmed => None,
            Self::Grant(record) => bearer(record.grant.as_ref()?, deadline, now),
            Self::ApiKey(key) => {
                Some(Credential { header: key.key.key.header()?, expiry: None, since: now.boot })
            }
        }
    }
}

/// A credential on its way into requests.
#[derive(Clone, Debug)]
pub struct Credential {
    /// Value of the `Authorization` header, marked sensitive.
    pub header: HeaderValue,
    /// When it stops being used; none for an API key.
    pub expiry: Option<Expiry>,
    /// When this process got it, in milliseconds of the boot clock.
    pub since: u64,
}

/// When an access token stops being used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expiry {
    /// The instant.
    pub deadline: Deadline,
    /// Lifetime of the token when it was issued.
    pub lifetime: Duration,
}

impl Credential {
    /// How long before expiry it is refreshed: a fifth of its lifetime, a minute at most.
    pub fn margin(&self) -> Duration {
        self.expiry.map_or(Duration::ZERO, |expiry| MAX_MARGIN.min(expiry.lifetime / 5))
    }

    /// What is left of it; zero once it has expired.
    pub fn left(&self, now: Now) -> Duration {
        self.left_before(Duration::ZERO, now)
    }

    /// The time until its margin begins.
    pub fn left_before_margin(&self, now: Now) -> Duration {
        self.left_before(self.margin(), now)
    }

    /// By either clock; but the wall clock counts only when the token has been here for a margin. A
    /// clock that jumps back and forth would otherwise cost a refresh with each jump.
    fn left_before(&self, last: Duration, now: Now) -> Duration {
        let Some(Expiry { deadline, .. }) = self.expiry else { return Duration::MAX };
        let new_for = Duration::from_millis(
            self.since.saturating_add(millis(self.margin())).saturating_sub(now.boot),
        );
        let by_wall = deadline.wall_left(now).saturating_sub(last).max(new_for);
        deadline.boot_left(now).saturating_sub(last).min(by_wall)
    }
}

fn bearer(grant: &Grant, deadline: Option<Deadline>, now: Now) -> Option<Credential> {
    let lifetime = Duration::from_millis(grant.lifetime);
    // A token is never believed for longer than its lifetime; a clock that was ahead may say so.
    let stored = || Deadline::from_wall(now, grant.expires_at, MAX_LIFETIME.min(lifetime));
    let deadline = deadline.unwrap_or_else(stored);
    let expiry = Some(Expiry { deadline, lifetime });
    Some(Credential { header: grant.access.as_ref()?.header()?, expiry, since: now.boot })
}

/// The source of an API key, for tests.
#[cfg(test)]
pub(super) fn api_key(key: &str, generation: u64) -> CredentialSource {
    let key = StoredKey {
        key: crate::secret::ApiKey::new(key),
        scope: Vec::new(),
        api_origin: String::new(),
        added_at: 0,
        expires_on: None,
    };
    let tombstone = Record::tombstone(generation, 0, crate::store::EndReason::LoggedOut);
    CredentialSource::of(Record { api_key: Some(key), ..tombstone })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: Now = Now { wall: 1_800_000_000_000, boot: 5_000_000 };

    fn credential(lifetime: u64) -> Credential {
        let lifetime = Duration::from_secs(lifetime);
        Credential {
            header: HeaderValue::from_static("Bearer x"),
            expiry: Some(Expiry { deadline: Deadline::after(NOON, lifetime), lifetime }),
            since: NOON.boot,
        }
    }

    #[test]
    fn a_new_token_outlives_jumps_of_the_wall_clock_for_one_margin() {
        let credential = credential(600);
        let left = |wall: i64, boot: u64| {
            credential
                .left(Now { wall: NOON.wall + wall * 1000, boot: NOON.boot + boot * 1000 })
                .as_secs()
        };
        assert_eq!((left(599, 599), left(600, 600)), (1, 0));
        assert_eq!((left(86_400, 1), left(86_400, 59), left(86_400, 60)), (59, 1, 0), "set ahead");
        assert_eq!((left(-86_400, 1), left(-86_400, 600)), (599, 0), "set back");
        assert_eq!((left(0, 600), left(660, 60)), (0, 0), "asleep, and paused");
    }

    #[test]
    fn margin_is_a_fifth_and_a_minute_at_most() {
        let margin = |lifetime| credential(lifetime).margin();
        assert_eq!(
            (margin(600).as_secs(), margin(300).as_secs(), margin(2).as_millis()),
            (60, 60, 400)
        );
        assert_eq!(margin(100), Duration::from_secs(20));
    }

    #[test]
    fn an_api_key_is_sent_as_basic_never_expires_and_is_never_refreshed() {
        let source = api_key("key", 3);
        let credential = source.credential(None, NOON).unwrap();
        assert_eq!(credential.header, "Basic a2V5Og==");
        assert!(credential.header.is_sensitive() && !format!("{source:?}").contains("\"key\""));
        let in_a_century = Now { wall: i64::MAX, boot: u64::MAX };
        assert_eq!(credential.left_before_margin(in_a_century), Duration::MAX);
        assert_eq!((source.generation(), source.is_refreshable()), (3, false));
        assert_eq!(source.after_rejection(), AfterRejection::Check);
    }
}

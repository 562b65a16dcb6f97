//! API keys: whether Pleo still takes one, and how long it will.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use tokio::sync::OwnedMutexGuard;
use tracing::{debug, info, warn};

use super::account::Account;
use super::health::Health;
use super::reason::LoginReason;
use super::services::Services;
use super::settings::Background;
use crate::clock::{Deadline, Now};
use crate::oauth::introspect::Identity;
use crate::store::{AccountName, Record, StoredKey};

/// Days before its last one on which people are warned.
const WARN_DAYS: i64 = 14;
/// How often Pleo is asked about a key that it has refused.
const ASK_INTERVAL: Duration = Duration::from_secs(300);

/// What Pleo says to an API key.
#[derive(Debug)]
pub enum KeyCheck {
    /// It takes it.
    Works,
    /// It refuses it.
    Refused,
    /// Nobody was asked, because the key must not be sent: the state of the account says why.
    NotSent,
    /// Nobody knows.
    Unknown(String),
}

/// An API key that the API takes.
#[derive(Debug)]
pub struct KeyLogin {
    /// The key.
    pub key: StoredKey,
    /// Whose it is, or why the API did not say so.
    pub subject: Result<String, String>,
    /// The company's name, if the API gave it.
    pub company: Option<String>,
    /// It may take the place of a login.
    pub replaces: bool,
}

/// An API key as it is shown.
#[derive(Clone, Debug)]
pub struct KeyStatus {
    /// Its end.
    pub masked: String,
    /// When it was added: milliseconds since 1970.
    pub added_at: i64,
    /// Its last day, if somebody said so.
    pub expires_on: Option<Date>,
    /// Days until then; below zero afterwards.
    pub days_left: Option<i64>,
}

impl KeyStatus {
    pub(super) fn of(key: &StoredKey, now: Now) -> Self {
        let days_left = key.expires_on.and_then(|last| days_until(last, now));
        let (masked, added_at, expires_on) = (key.key.masked(), key.added_at, key.expires_on);
        Self { masked, added_at, expires_on, days_left }
    }

    /// That it must be replaced soon; none if there is time.
    pub fn warning(&self, account: &AccountName) -> Option<String> {
        let (last, days) = (self.expires_on?, self.days_left?);
        let when = match days {
            WARN_DAYS.. if days > WARN_DAYS => return None,
            2.. => format!("expires in {days} days, on {last}"),
            1 => format!("expires tomorrow, on {last}"),
            0 => format!("expires today, {last}"),
            _ => format!("expired on {last}"),
        };
        Some(format!(
            "the API key of account {account} {when}; make a new one in Pleo (Settings, API Keys), then: pleo-proxy login {account} --api-key"
        ))
    }
}

fn days_until(last: Date, now: Now) -> Option<i64> {
    let today = Timestamp::from_millisecond(now.wall).ok()?.to_zoned(TimeZone::UTC).date();
    today.until(last).ok().map(|span| i64::from(span.get_days()))
}

/// Asks Pleo whether it takes the account's key. One that it refuses is out of use from here on, one
/// that it takes again is used again.
pub(super) async fn check(services: &Services, account: &Account) -> KeyCheck {
    account.memory().key_asked_at = Some(services.now());
    let before = account.snapshot();
    let header = before.source.api_key().and_then(|key| key.key.header());
    let Some(header) = header else { return KeyCheck::Unknown("there is no API key".into()) };
    if before.record().is_some_and(|record| !services.may_use(record)) {
        return KeyCheck::NotSent;
    }
    let asked = services.oauth.identity(&header).await;
    if account.peek().generation() != before.generation() {
        return KeyCheck::Unknown("it was replaced meanwhile".into());
    }
    let reason = match account.key_file() {
        Some(path) => LoginReason::KeyInFileRefused(path.into()),
        None => LoginReason::KeyRefused,
    };
    let refused = Health::LoginRequired(reason.clone());
    // A login or logout may come at any moment, and is never undone.
    let generation = before.generation();
    match asked {
        Ok(identity) => {
            describe(services, account, &header, identity).await;
            if account.change_health(generation, &refused, &Health::Connected) {
                info!(account = %account.name, "Pleo takes the API key again");
            }
            KeyCheck::Works
        }
        Err(error) if error.is_unauthorized() => {
            if account.change_health(generation, &Health::Connected, &refused) {
                warn!("{}; {}", reason.sentence(&account.name), reason.fix(&account.name));
            }
            KeyCheck::Refused
        }
        Err(error) => KeyCheck::Unknown(error.to_string()),
    }
}

/// Takes down whose a key from a file is. That of any other stands in its record.
async fn describe(
    services: &Services,
    account: &Account,
    header: &HeaderValue,
    identity: Identity,
) {
    let unknown = |record: &Arc<Record>| account.key_file().is_some() && record.subject.is_none();
    let Some(record) = account.record().filter(unknown) else { return };
    let Some(subject) = identity.subject else { return };
    let company = services.oauth.company(header, &subject).await;
    let mut described = Record { subject: Some(subject), company, ..Record::clone(&record) };
    if let (Some(key), Some(scope)) = (&mut described.api_key, identity.scope) {
        key.scope = scope;
    }
    if account.peek().generation() == record.generation {
        account.replace_record(described);
        account.notify();
    }
}

/// The same on a task of its own, unless that was asked a moment ago: a request got a 401.
pub(super) fn check_soon(services: &Arc<Services>, account: &Arc<Account>) {
    let now = services.now();
    {
        let mut memory = account.memory();
        if memory.was_just_forced(None, now) {
            return;
        }
        memory.forced_at = Some(now);
    }
    let (worker, account) = (services.clone(), account.clone());
    services.spawn(async move {
        let checked = worker.unless_closing(check(&worker, &account)).await;
        debug!(account = %account.name, ?checked, "the API key was checked after a 401");
    });
}

/// The time until Pleo is to be asked about a key that it has refused: the refusal may have been a
/// mistake of a moment, which nobody would notice while no request carries the key. None while the
/// key is in use.
pub(super) fn ask_again_in(account: &Account, now: Now) -> Option<Duration> {
    let is_refused =
        matches!(&account.peek().health, Health::LoginRequired(reason) if reason.is_key_refused());
    let asked_at = account.memory().key_asked_at.filter(|_| is_refused)?;
    Some(Deadline::after(asked_at, ASK_INTERVAL).boot_left(now))
}

/// Asks on a task of its own, which holds `turn`: accounts that were refused together are asked
/// about one after the other.
pub(super) fn ask_again(
    services: &Arc<Services>,
    account: Arc<Account>,
    turn: OwnedMutexGuard<()>,
) {
    let worker = services.clone();
    services.spawn(async move {
        let checked = worker.unless_closing(check(&worker, &account)).await;
        debug!(account = %account.name, ?checked, "the API key was checked once more");
        drop(turn);
        account.reschedule();
    });
}

/// That an account's API key expires soon or has expired, with the days that are left.
pub fn key_warning(account: &Account) -> Option<(i64, String)> {
    let snapshot = account.snapshot();
    let status = KeyStatus::of(snapshot.source.api_key()?, account.now());
    Some((status.days_left?, status.warning(&account.name)?))
}

/// A proxy says once, where a key comes into use, that it must be replaced soon.
pub(super) fn warn_of_expiry(services: &Services, account: &Account) {
    if services.background != Background::Enabled {
        return;
    }
    if let Some((_, warning)) = key_warning(account) {
        warn!("{warning}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::ApiKey;

    #[test]
    fn people_are_warned_from_14_days_before_the_last_day_on() {
        let key = StoredKey {
            key: ApiKey::new("plp_0123456789abcd"),
            scope: Vec::new(),
            api_origin: String::new(),
            added_at: 0,
            expires_on: Some("2027-01-31".parse().unwrap()),
        };
        let warning = |now: &str| {
            let now: Timestamp = now.parse().unwrap();
            let status = KeyStatus::of(&key, Now { wall: now.as_millisecond(), boot: 0 });
            assert_eq!(status.masked, "****abcd");
            status.warning(&"acme".parse().unwrap())
        };
        assert_eq!(warning("2027-01-16T23:59:59Z"), None);
        for (now, said) in [
            ("2027-01-17T00:00:00Z", "expires in 14 days, on 2027-01-31"),
            ("2027-01-30T12:00:00Z", "expires tomorrow"),
            ("2027-01-31T23:00:00Z", "expires today"),
            ("2027-02-01T00:00:00Z", "expired on 2027-01-31"),
        ] {
            let warning = warning(now).unwrap();
            assert!(
                warning.contains(said) && warning.contains("login acme --api-key"),
                "{warning}"
            );
        }
    }
}

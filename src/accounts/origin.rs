//! Which login a credential comes from. Generations do not tell: those of an account that was
//! removed and made anew begin again.

use crate::store::{EndReason, Issued, Record};

/// A login, or an API key that was added.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    /// Its time, in milliseconds, stays with a credential through every refresh.
    at: i64,
    from: From,
    /// Learnt after some logins only.
    subject: Option<String>,
    /// When the pair of the record was issued: of a grant, and no part of what makes a login.
    refreshed_at: Option<i64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum From {
    Login(Issued),
    Key(String),
}

impl Origin {
    /// That of a record's credential, if it has one.
    pub(super) fn of(record: &Record) -> Option<Self> {
        let (at, from) = match (&record.grant, &record.api_key) {
            (Some(grant), _) => (grant.logged_in_at, From::Login(grant.issued.clone())),
            (None, Some(key)) => (key.added_at, From::Key(key.api_origin.clone())),
            (None, None) => return None,
        };
        let refreshed_at = record.grant.as_ref().map(|grant| grant.refreshed_at);
        Some(Self { at, from, subject: record.subject.clone(), refreshed_at })
    }

    /// True if both are one login.
    pub(super) fn is(&self, other: &Self) -> bool {
        let is_other_subject =
            matches!((&self.subject, &other.subject), (Some(one), Some(other)) if one != other);
        self.at == other.at && self.from == other.from && !is_other_subject
    }

    /// True if this began after what another record says: its own login, or the end of one.
    pub(super) fn is_later_than(&self, other: &Record) -> bool {
        let ended = other.ended.as_ref().map(|ended| ended.at);
        Self::of(other).map(|other| other.at).or(ended).is_some_and(|other| self.at > other)
    }

    /// True if a record without a credential says that this login, or a later one, has ended. What
    /// was sent before the pair of this record, and seemed lost, did not end it; and a login that left
    /// for another store and has a pair here came back.
    pub(super) fn has_ended_by(&self, record: &Record) -> bool {
        let Some(ended) = record.ended.as_ref().filter(|_| !record.has_credential()) else {
            return false;
        };
        let is_over = match ended.reason {
            EndReason::LeftStore { .. } => true,
            EndReason::Interrupted { sent_at } => {
                self.subject == record.subject && Some(sent_at) <= self.refreshed_at
            }
            _ => false,
        };
        ended.at > self.at && !is_over
    }
}

/// The earliest time after what a record tells of.
pub(super) fn after(record: Option<&Record>) -> i64 {
    record.and_then(date_of).map_or(i64::MIN, |at| at.saturating_add(1))
}

/// When a record's login began, or its key was added, or either ended.
pub(super) fn date_of(record: &Record) -> Option<i64> {
    let login = record.grant.as_ref().map(|grant| grant.logged_in_at);
    let key = record.api_key.as_ref().map(|key| key.added_at);
    login.or(key).or(record.ended.as_ref().map(|ended| ended.at))
}

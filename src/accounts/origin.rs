//! Which login a credential comes from. Generations do not tell: those of an account that was
//! removed and made anew begin again.

use crate::store::{Issued, Record};

/// A login, or an API key that was added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    /// Its time, in milliseconds, stays with a credential through every refresh.
    at: i64,
    from: From,
    subject: Option<String>,
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
        Some(Self { at, from, subject: record.subject.clone() })
    }

    /// True if this began after what another record says: its own login, or the end of one.
    pub(super) fn is_later_than(&self, other: &Record) -> bool {
        let ended = other.ended.as_ref().map(|ended| ended.at);
        Self::of(other).map(|other| other.at).or(ended).is_some_and(|other| self.at > other)
    }
}

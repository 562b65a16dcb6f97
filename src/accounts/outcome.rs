//! What follows from an attempt to refresh: each class of outcome has one consequence. Pure: the
//! executor carries it out.

use std::time::Duration;

use super::health::StoreFault;
use super::reason::{LoginReason, RetryReason};
use crate::clock::{Deadline, Now, millis};
use crate::oauth::{Outcome, Tokens};
use crate::store::{EndReason, Ended, Grant, Intent, Record};

/// Age of an intent at which its token may be sent again if there was no complete answer: the
/// server would take a late first copy for a replay.
const RESEND_AGE: Duration = Duration::from_secs(10);

/// The same if another replica sent it and introspection cannot be believed: that replica may be
/// alive, cut off from the store, with the new pair in hand.
const RESEND_AGE_ELSEWHERE: Duration = Duration::from_secs(15 * 60);

/// What a refresh has sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent<'a> {
    /// The grant whose refresh token was sent.
    pub(super) grant: &'a Grant,
    /// The record without this attempt's intent.
    pub(super) before: &'a Record,
    /// The record with it.
    pub(super) noted: &'a Record,
    /// The instant before it was sent.
    pub(super) at: Now,
}

/// What is done when the token endpoint has answered, or not.
#[derive(Debug)]
pub(super) enum Consequence {
    /// Save the new pair before anything else, then let requests see it.
    Save(Box<Renewal>),
    /// Take the intent back: nothing was spent.
    TakeIntentBack(NextState),
    /// Leave the intent open: the pair may be spent.
    KeepIntent {
        /// True if a complete answer came, so that no copy of the request is still under way.
        answered: bool,
        /// The state until the next attempt.
        next: NextState,
    },
    /// Read the store again: adopt another pair if there is one by now, else end the grant.
    EndUnlessReplaced(EndReason),
}

/// A new pair.
#[derive(Debug)]
pub(super) struct Renewal {
    /// The record of the next generation.
    pub(super) record: Record,
    /// When its access token stops being used.
    pub(super) deadline: Deadline,
    /// False if the access token cannot be used.
    pub(super) is_usable: bool,
}

/// The state that follows, without the clock and the waits that only the account knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NextState {
    Connected,
    Retrying(RetryReason, RetryTime),
    Uncertain(RetryReason, RetryTime),
    LoginRequired(LoginReason),
    /// Tried again after minutes, and when the secret file changes.
    Misconfigured(RetryReason),
    Locked(RetryReason),
    StoreError(StoreFault),
    StoreUnwritable(RetryReason),
}

/// When the next attempt is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RetryTime {
    AtOnce,
    /// After this wait.
    After(Duration),
    /// After the backoff, and not before the server wants it.
    Backoff {
        asked_for: Option<Duration>,
    },
    /// After the backoff, or when a request comes: the attempt that began then (boot clock,
    /// milliseconds) sent nothing.
    OnDemand {
        began: u64,
    },
    /// Soon, or when a request comes: files or threads ran out before anything was sent.
    Resources,
}

const BACKOFF: RetryTime = RetryTime::Backoff { asked_for: None };

/// What follows from the outcome of a token request.
pub(super) fn consequence(outcome: Outcome, sent: Sent<'_>, now: Now) -> Consequence {
    let before = sent.before;
    match outcome {
        Outcome::Fresh(tokens) => Consequence::Save(Box::new(renewal(tokens, sent))),
        Outcome::NotSent(why) => {
            let reason = RetryReason::Unreachable(why);
            Consequence::TakeIntentBack(not_sent(before, reason, sent.at.boot))
        }
        Outcome::HeldUp => {
            let next = retry(before, RetryReason::HeldUp, RetryTime::AtOnce);
            Consequence::TakeIntentBack(next)
        }
        Outcome::ComeBackLater { why, retry_after } => {
            let time = RetryTime::Backoff { asked_for: retry_after };
            Consequence::TakeIntentBack(retry(before, RetryReason::NotNow(why), time))
        }
        Outcome::Misconfigured(why) => {
            Consequence::TakeIntentBack(NextState::Misconfigured(RetryReason::ClientRefused(why)))
        }
        Outcome::Dead(code) => {
            Consequence::EndUnlessReplaced(before.open_intent().map_or(
                EndReason::Refused { code },
                // It was the earlier attempt that spent the token.
                |open| interrupted(open, now),
            ))
        }
        Outcome::Ambiguous { why, answered } => Consequence::KeepIntent {
            answered,
            next: NextState::Uncertain(RetryReason::OutcomeUnknown(why), BACKOFF),
        },
    }
}

fn renewal(tokens: Tokens, sent: Sent<'_>) -> Renewal {
    let deadline = Deadline::after(sent.at, tokens.lifetime);
    let generation = sent.noted.generation + 1;
    let is_usable = tokens.access.is_some();
    let grant = Grant {
        access: tokens.access,
        refresh: tokens.refresh.unwrap_or_else(|| sent.grant.refresh.clone()),
        expires_at: deadline.wall,
        lifetime: millis(tokens.lifetime),
        scope: tokens.scope.unwrap_or_else(|| sent.grant.scope.clone()),
        issued: sent.grant.issued.clone(),
        logged_in_at: sent.grant.logged_in_at,
        refreshed_at: sent.at.wall,
        introspection_trusted: sent.grant.introspection_trusted,
    };
    // A refresh token that cannot be read has replaced the old one all the same: what became of
    // that stays open.
    let is_unreadable = tokens.refresh_unreadable;
    let intent = sent.noted.intent.clone().filter(|_| is_unreadable);
    let record = Record {
        generation,
        grant: Some(grant),
        api_key: None,
        subject: sent.noted.subject.clone(),
        company: sent.noted.company.clone(),
        subject_unconfirmed: sent.noted.subject_unconfirmed,
        intent: intent.map(|intent| Intent { generation, ..intent }),
        ended: None,
    };
    Renewal { record, deadline, is_usable }
}

impl Renewal {
    /// True if the access token expired on its way here.
    pub(super) fn is_late(&self, now: Now) -> bool {
        self.deadline.boot_left(now).is_zero()
    }

    /// The state once it is saved. `unusable` counts the access tokens in a row that cannot be
    /// used, this one included.
    pub(super) fn next_state(&self, unusable: u32, now: Now) -> NextState {
        if !self.is_usable {
            return if unusable > 1 {
                NextState::Misconfigured(RetryReason::UnusableTokenAgain)
            } else {
                NextState::Retrying(RetryReason::UnusableToken, RetryTime::AtOnce)
            };
        }
        if self.is_late(now) {
            return NextState::Retrying(RetryReason::ExpiredOnArrival, BACKOFF);
        }
        if self.record.subject_unconfirmed {
            return NextState::Retrying(RetryReason::SubjectUnconfirmed, RetryTime::AtOnce);
        }
        NextState::Connected
    }
}

/// True if the store holds another pair than the one that was sent, by somebody else's refresh or
/// login.
pub(super) fn is_replaced(sent: &Record, stored: &Record) -> bool {
    let token = |record: &Record| record.grant.as_ref().map(|grant| grant.refresh.fingerprint());
    let stored_token = token(stored);
    stored.generation >= sent.generation && stored_token.is_some() && stored_token != token(sent)
}

/// What is saved of a record that another replica came before with `stored`; none if that stays.
/// `sent` is the record whose token was sent, with its intent. A pair or a tombstone replaces an
/// earlier record of the same login, and a pair the tombstone that was written because its answer
/// seemed lost; a login, a logout and a later pair stay.
pub(super) fn over_stored(record: &Record, sent: &Record, stored: &Record) -> Option<Record> {
    if stored.generation < record.generation {
        return is_same_login(sent, stored).then(|| record.clone());
    }
    let intent = sent.intent.as_ref();
    let intent = intent.filter(|_| record.grant.is_some() && !stored.has_credential())?;
    let reason = stored.ended.as_ref().map(|ended| &ended.reason);
    let is_verdict = matches!(reason, Some(EndReason::Interrupted { .. }));
    let is_about_it = is_verdict && stored.generation == intent.generation + 1;
    is_about_it.then(|| Record { generation: stored.generation + 1, ..record.clone() })
}

/// True if both hold a grant of one login. Generations do not tell: those of an account that was
/// removed and made anew begin again.
fn is_same_login(sent: &Record, stored: &Record) -> bool {
    let (Some(ours), Some(theirs)) = (&sent.grant, &stored.grant) else { return false };
    let has_origin = (ours.logged_in_at, &ours.issued) == (theirs.logged_in_at, &theirs.issued);
    has_origin || ours.refresh.fingerprint() == theirs.refresh.fingerprint()
}

/// The tombstone of a grant that has ended.
pub(super) fn ended(record: &Record, reason: EndReason, at: i64) -> Record {
    Record {
        generation: record.generation + 1,
        grant: None,
        api_key: None,
        subject: record.subject.clone(),
        company: record.company.clone(),
        subject_unconfirmed: false,
        intent: None,
        ended: Some(Ended { at, reason }),
    }
}

/// An intent was left open; what introspection knows about its token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Introspection {
    /// Not configured, or its answers cannot be believed.
    Untrusted,
    Active,
    Inactive,
    Failed(String),
}

/// What is done about an open intent before a token is sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Resend {
    /// Send its token again.
    Send,
    /// Its token is spent, and the new pair was lost.
    End(EndReason),
    /// Send nothing now.
    Wait(NextState),
}

/// What is known of the last sending under an open intent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sending {
    /// A complete answer came.
    pub(super) answered: bool,
    /// How long ago it was.
    pub(super) age: Duration,
    /// Another replica sent it, and no person asks now.
    pub(super) is_elsewhere: bool,
}

/// What is done about an open intent.
pub(super) fn resend(
    intent: &Intent,
    introspection: Introspection,
    sending: Sending,
    now: Now,
) -> Resend {
    let Sending { answered, age, is_elsewhere } = sending;
    match introspection {
        Introspection::Untrusted if is_elsewhere && !answered && age < RESEND_AGE_ELSEWHERE => {
            let time = RetryTime::After(RESEND_AGE_ELSEWHERE.saturating_sub(age));
            Resend::Wait(NextState::Uncertain(RetryReason::SentElsewhere, time))
        }
        Introspection::Inactive => Resend::End(interrupted(intent, now)),
        Introspection::Failed(why) => {
            let reason = RetryReason::IntrospectionFailed(why);
            Resend::Wait(NextState::Uncertain(reason, BACKOFF))
        }
        Introspection::Active | Introspection::Untrusted if answered || age >= RESEND_AGE => {
            Resend::Send
        }
        Introspection::Active | Introspection::Untrusted => {
            let time = RetryTime::After(RESEND_AGE.saturating_sub(age));
            Resend::Wait(NextState::Uncertain(RetryReason::NoAnswerYet, time))
        }
    }
}

/// A clock that was ahead may have dated the sending: it was now, at the latest.
fn interrupted(intent: &Intent, now: Now) -> EndReason {
    EndReason::Interrupted { sent_at: intent.first_sent_at.min(now.wall) }
}

/// Nothing is spent: tried again later. With an older intent open the state stays uncertain.
pub(super) fn retry(record: &Record, reason: RetryReason, time: RetryTime) -> NextState {
    if record.open_intent().is_some() {
        NextState::Uncertain(reason, time)
    } else {
        NextState::Retrying(reason, time)
    }
}

/// Nothing was sent by the attempt that began at `began`.
pub(super) fn not_sent(record: &Record, reason: RetryReason, began: u64) -> NextState {
    retry(record, reason, RetryTime::OnDemand { began })
}

/// The record with the note that its refresh token is about to be sent, for the first time or
/// again.
pub(super) fn with_intent(record: &Record, now: i64) -> Record {
    let intent = match record.open_intent() {
        Some(open) => Intent { sent_at: now, resends: open.resends + 1, ..open.clone() },
        None => Intent {
            generation: record.generation,
            token: record
                .grant
                .as_ref()
                .map(|grant| grant.refresh.fingerprint())
                .unwrap_or_default(),
            sent_at: now,
            first_sent_at: now,
            resends: 0,
        },
    };
    Record { intent: Some(intent), ..record.clone() }
}

/// The state that a record alone tells: of an account that has no other trouble.
pub(super) fn state_of(record: &Record, is_issued_here: impl Fn(&Record) -> bool) -> NextState {
    // Also while its tokens are still here: the other store may have them by now.
    if let Some(Ended { reason: reason @ EndReason::LeftStore { .. }, .. }) = &record.ended {
        return NextState::LoginRequired(LoginReason::Ended(reason.clone()));
    }
    if let Some(key) = &record.api_key {
        return match is_issued_here(record) {
            true => NextState::Connected,
            false => NextState::LoginRequired(LoginReason::KeyOfAnotherApi(key.api_origin.clone())),
        };
    }
    let Some(grant) = &record.grant else {
        let ended = record.ended.as_ref().map(|ended| LoginReason::Ended(ended.reason.clone()));
        return NextState::LoginRequired(ended.unwrap_or(LoginReason::LoggedOut));
    };
    if !is_issued_here(record) {
        return NextState::LoginRequired(LoginReason::IssuedElsewhere(grant.issued.clone()));
    }
    match record.open_intent() {
        Some(_) => NextState::Uncertain(RetryReason::IntentOpen, RetryTime::AtOnce),
        None if record.subject_unconfirmed => {
            NextState::Retrying(RetryReason::SubjectUnconfirmed, RetryTime::AtOnce)
        }
        None => NextState::Connected,
    }
}

#[cfg(test)]
mod tests;

//! What a process remembers of an account's refreshes beside the snapshot; requests never look at
//! it on their usual path.

use std::time::Duration;

use super::backoff;
use super::health::RetryState;
use super::origin::Origin;
use super::reason::RetryReason;
use super::refresh_reason::RefreshReason;
use crate::clock::{Age, Deadline, Now, since};
use crate::oauth::SecretVersion;
use crate::store::{Intent, Record, Version};

/// Longest time between two refreshes that are forced by a 401.
const MAX_FORCED_INTERVAL: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// Version in the store of the record that was loaded or saved last.
    pub(super) version: Version,
    /// The older record in the store that was told of last.
    older: Version,
    /// How old the pair is.
    pub(super) age: Option<Age>,
    /// Failed attempts since the last good one.
    attempts: u32,
    /// When a 401 last forced a refresh.
    pub(super) forced_at: Option<Now>,
    /// When Pleo was last asked whether it takes the API key.
    pub(super) key_asked_at: Option<Now>,
    /// The sending of an intent that got a complete answer, so that no copy of it is still under
    /// way.
    pub(super) answered: Option<(i64, u32)>,
    /// The last sending of an intent, and when it was by the boot clock in milliseconds; below zero
    /// before the boot.
    sent: Option<((i64, u32), i64)>,
    /// The last sending by this process itself.
    own: Option<(i64, u32)>,
    /// Access tokens in a row that could not be used.
    pub(super) unusable: u32,
    /// The last attempt, for `status`.
    pub(super) last: Option<LastAttempt>,
    /// Refusals in a row that say that a setting is wrong.
    refusals: u32,
    /// The secret file that was refused last, and when another one may be tried.
    refused: (SecretVersion, Option<Deadline>),
    /// When the last attempt began, if it failed.
    pub(super) failed: Option<Now>,
    /// The login of the last record that had a credential.
    pub(super) origin: Option<Origin>,
    /// Why the newest pair is not on disk, while it is not.
    pub(super) unsaved: Option<String>,
}

/// What this process knows of its own sending of a token.
#[derive(Clone, Copy, Debug)]
pub(super) struct OwnSending {
    own: Option<(i64, u32)>,
    sent: Option<((i64, u32), i64)>,
}

/// The last refresh attempt.
#[derive(Clone, Debug)]
pub(super) struct LastAttempt {
    pub(super) at: i64,
    pub(super) reason: RefreshReason,
    pub(super) outcome: &'static str,
    pub(super) took: Duration,
}

impl Memory {
    /// True if nobody was told yet that the store has this older record.
    pub(super) fn is_new_older(&mut self, version: Version) -> bool {
        std::mem::replace(&mut self.older, version) != version
    }

    /// How old the pair is, and which login it comes from. Where there is none any more, the login
    /// stays known.
    pub(super) fn remember_credential(&mut self, record: &Record, now: Now) {
        self.age = record.grant.as_ref().map(|grant| Age::of(grant.refreshed_at, now));
        self.origin = Origin::of(record).or(self.origin.take());
    }

    /// The wait before the next attempt, after one more that failed.
    pub(super) fn next_wait(&mut self, asked_for: Option<Duration>) -> Duration {
        self.attempts = self.attempts.saturating_add(1);
        asked_for.unwrap_or_default().max(backoff::backoff(self.attempts))
    }

    /// A complete answer with a pair came: earlier trouble is over.
    pub(super) fn remember_success(&mut self, is_usable: bool) {
        self.attempts = 0;
        self.answered = None;
        self.sent = None;
        self.unusable = if is_usable { 0 } else { self.unusable.saturating_add(1) };
        if is_usable {
            self.refusals = 0;
        }
    }

    /// This process sends now: from here on its boot clock alone tells how long ago that was. Returns
    /// what it knew before.
    pub(super) fn note_sending(&mut self, intent: &Intent, now: Now) -> OwnSending {
        let before = OwnSending { own: self.own, sent: self.sent };
        let boot = i64::try_from(now.boot).unwrap_or(i64::MAX);
        self.sent = Some((intent.sending(), boot));
        self.own = Some(intent.sending());
        before
    }

    /// It did not: the sending before counts.
    pub(super) fn put_sending_back(&mut self, OwnSending { own, sent }: OwnSending) {
        (self.own, self.sent) = (own, sent);
    }

    /// True if this process sent it itself.
    pub(super) fn is_own(&self, intent: &Intent) -> bool {
        self.own == Some(intent.sending())
    }

    /// An intent was to be written, and whether it was is not known: nothing was sent under it, so it
    /// counts for no more than the one that was `open` before.
    pub(super) fn note_unsent(&mut self, open: Option<&Intent>, intent: &Intent) {
        let sending = intent.sending();
        match open {
            None => (self.own, self.answered) = (Some(sending), Some(sending)),
            Some(open) if self.is_own(open) => {
                let (was_answered, sent) = (self.was_answered(open), self.sent);
                self.own = Some(sending);
                self.sent = sent.map(|(_, at)| (sending, at));
                self.answered = Some(sending).filter(|_| was_answered);
            }
            Some(_) => {}
        }
    }

    /// True if no copy of what was sent under an intent can be under way.
    pub(super) fn was_answered(&self, intent: &Intent) -> bool {
        self.answered == Some(intent.sending())
    }

    /// How long ago an unanswered intent was sent, time asleep included. Of another process's the
    /// store knows it by a `shared` clock. Where there is none, its date is believed once, when it is
    /// first seen; one in the future counts as now.
    pub(super) fn sent_for(
        &mut self,
        intent: &Intent,
        shared: Option<Duration>,
        now: Now,
    ) -> Duration {
        if let Some(age) = shared.filter(|_| !self.is_own(intent)) {
            return age;
        }
        let sending = intent.sending();
        let boot = i64::try_from(now.boot).unwrap_or(i64::MAX);
        let sent = self.sent.filter(|(known, _)| *known == sending).map_or_else(
            || boot.saturating_sub_unsigned(since(now.wall, intent.sent_at)),
            |(_, sent)| sent,
        );
        self.sent = Some((sending, sent));
        Duration::from_millis(since(boot, sent))
    }

    /// True if a refresh was forced less than ten seconds, or a quarter of a token's lifetime, ago.
    pub(super) fn was_just_forced(&self, lifetime: Option<Duration>, now: Now) -> bool {
        let interval = MAX_FORCED_INTERVAL.min(lifetime.unwrap_or(MAX_FORCED_INTERVAL) / 4);
        self.forced_at.is_some_and(|last| !Deadline::after(last, interval).passed(now))
    }

    /// A setting is wrong: tried again after minutes, and sooner with another secret file. That
    /// wait grows too: a file that changes all the time must not cost a token request each time.
    pub(super) fn misconfigured(
        &mut self,
        reason: RetryReason,
        secret: SecretVersion,
        now: Now,
    ) -> RetryState {
        self.refusals = self.refusals.saturating_add(1);
        self.refused = (secret, Some(Deadline::after(now, backoff::backoff(self.refusals))));
        let wait = backoff::misconfigured(self.refusals);
        RetryState::until(reason, Deadline::after(now, wait))
    }

    /// True if the secret file is another one than the one that was refused.
    pub(super) fn is_mended(&self, secret: SecretVersion, now: Now) -> bool {
        let (refused, not_before) = self.refused;
        refused != secret && not_before.is_none_or(|not_before| not_before.boot_left(now).is_zero())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unanswered_intent_ages_by_the_boot_clock_whatever_the_wall_clock_does() {
        let start = Now { wall: 1_800_000_000_000, boot: 1_000_000 };
        let after = |wall: i64, boot| Now { wall: start.wall + wall, boot: start.boot + boot };
        let intent = |sent_at| Intent {
            generation: 1,
            token: String::new(),
            sent_at,
            first_sent_at: sent_at,
            resends: 0,
        };
        let mut memory = Memory::default();
        let mut seconds = |intent: &Intent, now| memory.sent_for(intent, None, now).as_secs();
        let (ahead, earlier) = (intent(start.wall + 7_200_000), intent(start.wall - 3_000));
        assert_eq!(seconds(&ahead, start), 0);
        let now = after(0, 10_000);
        assert_eq!(seconds(&ahead, now), 10);
        assert_eq!(seconds(&Intent { resends: 1, ..ahead.clone() }, now), 0, "another sending");
        assert_eq!(seconds(&earlier, now), 3, "sent by another process");
        let now = after(86_400_000, 11_000);
        assert_eq!(seconds(&earlier, now), 4, "the clock was set ahead since");
        memory.note_sending(&ahead, now);
        let now = after(2 * 86_400_000, 12_000);
        assert_eq!(memory.sent_for(&ahead, None, now).as_secs(), 1, "sent by this process");
    }

    #[test]
    fn what_another_replica_sent_is_as_old_as_the_clock_they_share_says() {
        let now = Now { wall: 1_800_000_000_000, boot: 100_000_000 };
        let minutes = |count: u64| Duration::from_secs(60 * count);
        let sent_at = now.wall - 16 * 60_000;
        let intent = Intent {
            generation: 1,
            token: "t".into(),
            sent_at,
            first_sent_at: sent_at,
            resends: 0,
        };
        let mut memory = Memory::default();
        assert_eq!(memory.sent_for(&intent, Some(minutes(1)), now), minutes(1), "ahead by 15");
        assert_eq!(memory.sent_for(&intent, Some(minutes(31)), now), minutes(31), "behind by 15");
        memory.note_sending(&intent, now);
        let age = memory.sent_for(&intent, Some(minutes(1)), now);
        assert_eq!(age, Duration::ZERO, "of its own sending it knows better");
    }

    #[test]
    fn an_intent_under_which_nothing_was_sent_counts_for_no_more_than_the_one_before() {
        let now = Now { wall: 1_800_000_000_000, boot: 100_000_000 };
        let later = Now { wall: now.wall + 5000, boot: now.boot + 5000 };
        let sent_at = now.wall;
        let first = Intent {
            generation: 1,
            token: "t".into(),
            sent_at,
            first_sent_at: sent_at,
            resends: 0,
        };
        let again = Intent { sent_at: later.wall, resends: 1, ..first.clone() };
        let known = |memory: &Memory, intent| (memory.is_own(intent), memory.was_answered(intent));
        let mut memory = Memory::default();
        memory.note_unsent(None, &first);
        assert_eq!(known(&memory, &first), (true, true));
        memory.note_unsent(Some(&first), &again);
        assert_eq!(known(&memory, &again), (true, true));
        let mut memory = Memory::default();
        memory.note_sending(&first, now);
        memory.note_unsent(Some(&first), &again);
        assert_eq!(known(&memory, &again), (true, false));
        assert_eq!(memory.sent_for(&again, None, later).as_secs(), 5, "since the first");
        let mut memory = Memory::default();
        memory.note_sending(&first, now);
        let before = memory.note_sending(&again, later);
        memory.put_sending_back(before);
        assert_eq!(known(&memory, &first), (true, false), "it is not another replica's");
        assert_eq!(memory.sent_for(&first, None, later).as_secs(), 5);
        let mut memory = Memory::default();
        memory.note_unsent(Some(&first), &again);
        assert_eq!(known(&memory, &again), (false, false), "another replica sent the first");
    }
}

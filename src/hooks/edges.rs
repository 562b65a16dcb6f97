//! What is new of an account since it was looked at last. Pure: the state, what was told, and the
//! time lead to the events.

use crate::accounts::{Health, LoginReason};
use crate::store::{AccountName, EndReason};

/// A day in milliseconds.
const DAY: i64 = 86_400_000;
/// Days without a refresh after which somebody should look: Pleo ends a refresh token after 60.
const OLD: i64 = 50;

/// What a hook is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub(super) enum Event {
    /// Only a person's login helps.
    LoginRequired,
    /// An account that needed a login works again.
    Recovered,
    /// The refresh token has not been renewed for long.
    GrantAge,
}

impl Event {
    /// The name that a command sees.
    pub(super) fn as_str(self) -> &'static str {
        self.into()
    }
}

/// Something that happened to an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Occurrence {
    /// The command that helps, if an account needs a login.
    pub(super) login: Option<String>,
    pub(super) account: AccountName,
    pub(super) event: Event,
    /// Why, as a sentence.
    pub(super) reason: String,
}

/// What was told of an account.
#[derive(Debug, Default)]
pub(super) struct Memory {
    needs_login: bool,
    /// Of the age: when the grant was refreshed, and how many days that was ago.
    age: Option<(i64, i64)>,
    /// Days that an API key had left.
    key_days: Option<i64>,
}

impl Memory {
    /// That an API key must be replaced soon, once a day; `warning` has the days that are left.
    pub(super) fn key_news(&mut self, warning: Option<(i64, String)>) -> Option<(Event, String)> {
        let (days, reason) = warning?;
        (self.key_days.replace(days) != Some(days)).then_some((Event::GrantAge, reason))
    }

    /// The events of this look, each with its reason. `refreshed_at` and `now` are UNIX
    /// milliseconds.
    pub(super) fn news(
        &mut self,
        account: &AccountName,
        health: &Health,
        refreshed_at: Option<i64>,
        now: i64,
    ) -> Vec<(Event, String)> {
        let mut news = Vec::new();
        match health {
            Health::LoginRequired(reason) if is_alarm(reason) && !self.needs_login => {
                self.needs_login = true;
                // Another command may be what helps than the one that is told beside it.
                let fix = reason.is_key_refused().then(|| format!("; {}", reason.fix(account)));
                news.push((Event::LoginRequired, format!("{reason}{}", fix.unwrap_or_default())));
            }
            Health::Connected | Health::Unsaved(_) if self.needs_login => {
                self.needs_login = false;
                news.push((Event::Recovered, "it is connected again".to_owned()));
            }
            _ => {}
        }
        let is_in_use = !matches!(health, Health::LoginRequired(_));
        if let Some(at) = refreshed_at.filter(|_| is_in_use) {
            let days = now.saturating_sub(at) / DAY;
            if days >= OLD && self.age.replace((at, days)) != Some((at, days)) {
                let reason = format!(
                    "its refresh token has not been renewed for {days} days; Pleo ends it after 60"
                );
                news.push((Event::GrantAge, reason));
            }
        }
        news
    }
}

/// False where nobody expects the account to work: it never did, or a person logged it out.
fn is_alarm(reason: &LoginReason) -> bool {
    !matches!(
        reason,
        LoginReason::NotConnected
            | LoginReason::LoggedOut
            | LoginReason::Ended(
                EndReason::LoggedOut | EndReason::Moved { .. } | EndReason::LeftStore { .. }
            )
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused() -> Health {
        Health::LoginRequired(LoginReason::Ended(EndReason::Refused {
            code: "invalid_grant".into(),
        }))
    }

    fn logged_out() -> Health {
        Health::LoginRequired(LoginReason::Ended(EndReason::LoggedOut))
    }

    #[test]
    fn falling_and_recovering_are_told_once_each() {
        let mut memory = Memory::default();
        let steps = [
            (Health::Connected, None),
            (refused(), Some(Event::LoginRequired)),
            (refused(), None),
            (Health::LoginRequired(LoginReason::RecordGone), None),
            (Health::Connected, Some(Event::Recovered)),
            (Health::Connected, None),
            (refused(), Some(Event::LoginRequired)),
            (Health::Unsaved("disk full".into()), Some(Event::Recovered)),
        ];
        for (step, (health, expected)) in steps.into_iter().enumerate() {
            let news = memory.news(&AccountName::fallback(), &health, None, 0);
            assert_eq!(news.first().map(|it| it.0), expected, "step {step}");
        }
    }

    #[test]
    fn a_key_that_expires_soon_is_told_of_once_a_day() {
        let mut memory = Memory::default();
        let mut told = |days: i64| memory.key_news(Some((days, "soon".into()))).is_some();
        let days = [14, 14, 13, 13, 0, -1, -1].map(&mut told);
        assert_eq!(days, [true, false, true, false, true, true, false]);
        assert_eq!(memory.key_news(None), None);
    }

    #[test]
    fn a_logout_by_a_person_is_no_alarm_and_its_login_no_recovery() {
        let mut memory = Memory::default();
        let never = Health::LoginRequired(LoginReason::NotConnected);
        for health in [never, Health::Connected, logged_out(), Health::Connected] {
            assert_eq!(memory.news(&AccountName::fallback(), &health, None, 0), []);
        }
    }

    #[test]
    fn an_alarm_that_a_logout_silenced_still_ends() {
        let mut memory = Memory::default();
        assert_eq!(memory.news(&AccountName::fallback(), &refused(), None, 0).len(), 1);
        assert_eq!(memory.news(&AccountName::fallback(), &logged_out(), None, 0), []);
        assert_eq!(
            memory.news(&AccountName::fallback(), &Health::Connected, None, 0)[0].0,
            Event::Recovered
        );
    }

    #[test]
    fn an_old_grant_is_told_of_once_a_day_until_it_is_renewed() {
        let mut memory = Memory::default();
        let mut told = |at: i64, now: i64| {
            memory.news(&AccountName::fallback(), &Health::Connected, Some(at), now).len()
        };
        assert_eq!(told(0, OLD * DAY - 1), 0);
        assert_eq!(told(0, OLD * DAY), 1);
        assert_eq!(told(0, OLD * DAY + 1), 0);
        assert_eq!(told(0, (OLD + 1) * DAY), 1);
        assert_eq!(told((OLD + 1) * DAY, (OLD + 1) * DAY), 0, "renewed");
        let mut memory = Memory::default();
        assert_eq!(
            memory.news(&AccountName::fallback(), &logged_out(), Some(0), OLD * DAY),
            [],
            "its end is known already"
        );
    }
}

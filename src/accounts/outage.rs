//! What refreshes of all accounts learn about the connection to the token endpoint: while nothing
//! gets through, a few attempts a second tell as much as one of each account.

use parking_lot::Mutex;

use super::health::MIN_RETRY_INTERVAL;
use crate::clock::millis;

/// Failed attempts in a row that make an outage. One that fails now and then is no reason to stop
/// others.
const MIN_FAILURES: u32 = 8;

/// The failures since the last success.
#[derive(Debug, Default)]
pub(super) struct Outage(Mutex<Failures>);

#[derive(Debug, Default)]
struct Failures {
    in_a_row: u32,
    /// Why the last attempt failed, and when it began (boot clock, milliseconds).
    last: Option<(String, u64)>,
}

impl Outage {
    /// The last attempt, if it began a moment ago and another one is hopeless.
    pub(super) fn recent_failure(&self, now: u64) -> Option<(String, u64)> {
        let failures = self.0.lock();
        let is_recent =
            |last: &&(String, u64)| now.saturating_sub(last.1) < millis(MIN_RETRY_INTERVAL);
        failures
            .last
            .as_ref()
            .filter(|_| failures.in_a_row >= MIN_FAILURES)
            .filter(is_recent)
            .cloned()
    }

    /// Notes how an attempt ended that began at `began`.
    pub(super) fn learn(&self, began: u64, failure: Option<&String>) {
        let mut failures = self.0.lock();
        *failures = match failure {
            None => Failures::default(),
            Some(why) => Failures {
                in_a_row: failures.in_a_row.saturating_add(1),
                last: Some((why.clone(), began)),
            },
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_tried_once_a_second_and_ends_with_the_first_success() {
        let (outage, why) = (Outage::default(), "refused".to_owned());
        for began in 0..u64::from(MIN_FAILURES) {
            assert_eq!(outage.recent_failure(began), None, "not sure yet");
            outage.learn(began, Some(&why));
        }
        let last = u64::from(MIN_FAILURES) - 1;
        assert_eq!(outage.recent_failure(last + 999), Some((why.clone(), last)));
        assert_eq!(outage.recent_failure(last + 1000), None, "one may try");
        outage.learn(last + 1000, Some(&why));
        assert_eq!(outage.recent_failure(last + 1001), Some((why, last + 1000)));
        outage.learn(last + 1002, None);
        assert_eq!(outage.recent_failure(last + 1003), None);
    }
}

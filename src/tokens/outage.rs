//! What refreshes of all accounts learn about the way to the token endpoint: while nothing gets
//! there, a few tries a second tell as much as one of each account.

use parking_lot::Mutex;

use super::snapshot::TRIES_APART;
use crate::clock::millis;

/// Failed tries in a row from which on it is an outage. One that fails now and then is no reason to
/// hold others up.
const FAILED_IN_A_ROW: u32 = 8;

/// The failures since something got there.
#[derive(Debug, Default)]
pub(super) struct Outage(Mutex<Failures>);

#[derive(Debug, Default)]
struct Failures {
    in_a_row: u32,
    /// Why the last try failed, and when it began by the boot clock, in milliseconds.
    last: Option<(String, u64)>,
}

impl Outage {
    /// The last try, if it began a moment ago and there is no hope for another one.
    pub(super) fn found(&self, now: u64) -> Option<(String, u64)> {
        let failures = self.0.lock();
        let is_recent = |last: &&(String, u64)| now.saturating_sub(last.1) < millis(TRIES_APART);
        failures
            .last
            .as_ref()
            .filter(|_| failures.in_a_row >= FAILED_IN_A_ROW)
            .filter(is_recent)
            .cloned()
    }

    /// Takes over how a try went that began at `began`.
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
    fn an_outage_is_tried_once_a_second_and_ends_with_the_first_try_that_gets_there() {
        let (outage, why) = (Outage::default(), "refused".to_owned());
        for began in 0..u64::from(FAILED_IN_A_ROW) {
            assert_eq!(outage.found(began), None, "not sure yet");
            outage.learn(began, Some(&why));
        }
        let last = u64::from(FAILED_IN_A_ROW) - 1;
        assert_eq!(outage.found(last + 999), Some((why.clone(), last)));
        assert_eq!(outage.found(last + 1000), None, "somebody tries");
        outage.learn(last + 1000, Some(&why));
        assert_eq!(outage.found(last + 1001), Some((why, last + 1000)));
        outage.learn(last + 1002, None);
        assert_eq!(outage.found(last + 1003), None);
    }
}

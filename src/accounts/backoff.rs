//! How long to wait before the next attempt.

use std::time::Duration;

/// First and longest wait between attempts.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));
/// The same while a setting is wrong, before the random part is taken off: 60 s to five minutes.
const MISCONFIGURED: (Duration, Duration) = (Duration::from_secs(80), Duration::from_secs(300));
/// Longest wait before a full or read-only disk is tried again: retrying is local and cheap.
pub(super) const MAX_DISK_WAIT: Duration = Duration::from_secs(15);
/// Longest wait after files or threads ran out, which is over soon.
pub(super) const MAX_RESOURCE_WAIT: Duration = Duration::from_secs(2);

/// The wait after a number of failed attempts in a row: doubling, from one second to five minutes,
/// a quarter of it at random so that many proxies do not return at once.
pub(super) fn backoff(attempts: u32) -> Duration {
    growing(BACKOFF, attempts)
}

/// The wait after a number of refusals in a row that say that a setting is wrong.
pub(super) fn misconfigured(refusals: u32) -> Duration {
    growing(MISCONFIGURED, refusals)
}

fn growing((first, longest): (Duration, Duration), attempts: u32) -> Duration {
    let full = first.saturating_mul(1 << attempts.saturating_sub(1).min(16)).min(longest);
    let mut random = [0_u8; 1];
    // Without randomness the waits are merely regular.
    let _ = getrandom::fill(&mut random);
    full - full.mul_f64(0.25 * f64::from(random[0]) / 255.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn waits_double_from_a_second_to_five_minutes(attempts in 0_u32..200) {
            let wait = backoff(attempts);
            let full = Duration::from_secs(1 << attempts.saturating_sub(1).min(9)).min(Duration::from_secs(300));
            prop_assert!(wait <= full && wait >= full.mul_f64(0.74), "{attempts}: {wait:?}");
        }

        #[test]
        fn a_wrong_setting_is_tried_again_after_one_to_five_minutes(refusals in 1_u32..200) {
            let wait = misconfigured(refusals).as_secs();
            prop_assert!((59..=300).contains(&wait), "{refusals}: {wait} s");
            prop_assert!(refusals < 3 || wait >= 222, "{refusals}: {wait} s");
        }
    }
}

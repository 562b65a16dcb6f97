//! The setting `upstream.pace`.

use std::fmt;
use std::str::FromStr;

/// The highest rate that can be set, requests a minute.
const MAX: u32 = 100_000;

/// Requests a minute of one account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace(pub u32);

/// A text that is no rate.
#[derive(Debug, thiserror::Error)]
#[error("must be off or requests a minute, such as 500/min")]
pub struct PaceError;

impl FromStr for Pace {
    type Err = PaceError;

    fn from_str(text: &str) -> Result<Self, PaceError> {
        let number = text.strip_suffix("/min").ok_or(PaceError)?;
        let is_plain = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        let pace = number.parse().ok().filter(|pace| is_plain && (1..=MAX).contains(pace));
        pace.map(Self).ok_or(PaceError)
    }
}

impl fmt::Display for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/min", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_is_a_number_a_minute() {
        assert_eq!("500/min".parse::<Pace>().unwrap(), Pace(500));
        assert_eq!(Pace(500).to_string(), "500/min");
        for bad in ["", "500", "0/min", "-1/min", "+5/min", "/min", "5/s", "5 /min", "9999999/min"]
        {
            assert!(bad.parse::<Pace>().is_err(), "{bad}");
        }
    }
}

//! The name of an account.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Name of an account: `[a-z0-9][a-z0-9-]{0,62}`. A clone is cheap.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AccountName(Arc<str>);

/// Why a text is not an account's name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("must be an account's name: 1 to 63 of a-z, 0-9 and -, not starting with -")]
pub struct AccountNameError;

impl AccountName {
    /// The account that is used when none is named.
    pub fn fallback() -> Self {
        Self("default".into())
    }

    /// In place of a name, for the lock that whoever saves a login of any account has. No account can
    /// have it.
    pub(crate) fn of_any_login() -> Self {
        Self("(any login)".into())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for AccountName {
    type Err = AccountNameError;

    fn from_str(text: &str) -> Result<Self, AccountNameError> {
        let is_allowed =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if (1..=63).contains(&text.len()) && text.bytes().all(is_allowed) && !text.starts_with('-')
        {
            Ok(Self(text.into()))
        } else {
            Err(AccountNameError)
        }
    }
}

impl fmt::Display for AccountName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_1_to_63_of_the_allowed_characters() {
        for good in ["a", "0", "default", "a-b-1", &"x".repeat(63)] {
            assert!(good.parse::<AccountName>().is_ok(), "{good}");
        }
        for bad in ["", "-a", "A", "a_b", "a.b", "../x", "é", &"x".repeat(64), "a/b", "<img>"] {
            assert!(bad.parse::<AccountName>().is_err(), "{bad}");
        }
    }
}

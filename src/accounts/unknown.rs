//! A name that no account has.

use std::fmt;
use std::sync::Arc;

use super::account::Account;
use crate::nearest::nearest;
use crate::store::AccountName;

/// There is no account of this name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownAccount {
    name: String,
    /// The known name that was probably meant.
    meant: Option<String>,
    /// The first of the known names.
    known: Vec<String>,
}

/// Most known names that a text lists.
const MAX_LISTED: usize = 5;

impl UnknownAccount {
    /// The name, and the nearest one of these accounts.
    pub fn among(name: &AccountName, accounts: &[Arc<Account>]) -> Self {
        Self::beside(name.as_str(), accounts.iter().map(|account| account.name.as_str()))
    }

    /// The name, and the nearest one of these names.
    pub fn beside<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Self {
        let known: Vec<_> = known.collect();
        let meant = nearest(name, known.iter().copied()).map(str::to_owned);
        let known = known.into_iter().take(MAX_LISTED).map(str::to_owned).collect();
        Self { name: name.to_owned(), meant, known }
    }

    /// What is wrong, and which name was probably meant.
    pub fn detail(&self) -> String {
        let hint = self.meant.as_ref().map(|meant| format!("; did you mean {meant}?"));
        format!("there is no account {}{}", self.name, hint.unwrap_or_default())
    }

    /// What to do. It creates no account if another name was probably meant.
    pub fn fix(&self) -> String {
        let name = &self.name;
        match (&self.meant, self.known.is_empty()) {
            (Some(meant), _) => {
                format!("Name {meant} instead; `pleo-proxy status` lists all accounts.")
            }
            (None, true) => {
                format!(
                    "Connect it with `pleo-proxy login {name}`; `pleo-proxy status` lists the accounts."
                )
            }
            (None, false) => format!(
                "Name one that `pleo-proxy status` lists, such as {}; `pleo-proxy login {name}` adds this one.",
                self.known.join(", ")
            ),
        }
    }
}

impl fmt::Display for UnknownAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "there is no account {}; ", self.name)?;
        match &self.meant {
            Some(meant) => write!(f, "did you mean {meant}?"),
            None => f.write_str("`pleo-proxy status` lists them"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_name_is_corrected_and_not_connected() {
        let fix = |name, known: &[&str]| UnknownAccount::beside(name, known.iter().copied()).fix();
        let mistyped = fix("harbuor", &["acme", "harbour"]);
        assert!(mistyped.contains("harbour") && !mistyped.contains("login"), "{mistyped}");
        let other = fix("elsewhere", &["acme", "harbour"]);
        assert!(other.contains("acme, harbour") && other.contains("login elsewhere"), "{other}");
        assert!(fix("first", &[]).contains("`pleo-proxy login first`"));
    }
}

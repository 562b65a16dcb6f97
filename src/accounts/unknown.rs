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
}

impl UnknownAccount {
    /// The name, and the nearest one of these accounts.
    pub fn among(name: &AccountName, accounts: &[Arc<Account>]) -> Self {
        Self::beside(name.as_str(), accounts.iter().map(|account| account.name.as_str()))
    }

    /// The name, and the nearest one of these names.
    pub fn beside<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Self {
        let meant = nearest(name, known);
        Self { name: name.to_owned(), meant: meant.map(str::to_owned) }
    }

    /// The known name that was probably meant.
    pub fn meant(&self) -> Option<&str> {
        self.meant.as_deref()
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

//! Accounts with a wrong setting, here or at the authorization server: tried again by themselves,
//! but not often.

use super::Accounts;
use super::account::Account;
use super::schedule;
use super::snapshot::{Health, Trouble};
use crate::clock::{Deadline, Now};
use crate::oauth::SecretStamp;

impl Account {
    /// The health of an account with a wrong setting: tried again by itself after minutes, and
    /// sooner with another secret file. That wait grows too: a file that changes with every look
    /// must not cost a token request each time.
    pub(super) fn misconfigured(&self, why: impl Into<String>, secret: SecretStamp) -> Health {
        let now = self.shared.clock.now();
        let mut memory = self.memory();
        memory.refusals = memory.refusals.saturating_add(1);
        memory.refused = (secret, Some(Deadline::after(now, schedule::backoff(memory.refusals))));
        Health::Misconfigured(Trouble::until(
            why,
            Deadline::after(now, schedule::misconfigured_wait(memory.refusals)),
        ))
    }

    /// True if the secret file is another one than the one that was refused.
    pub(super) fn is_mended(&self, secret: SecretStamp, now: Now) -> bool {
        let (refused, not_before) = self.memory().refused;
        refused != secret && not_before.is_none_or(|not_before| not_before.boot_left(now).is_zero())
    }
}

impl Accounts {
    /// The health of an account whose newest access tokens, two in a row, cannot be used.
    pub(super) fn no_usable_token(&self, account: &Account) -> Health {
        let why =
            "the token endpoint sends no usable bearer token; check [endpoints] and client.scopes";
        account.misconfigured(why, self.last_secret_stamp())
    }
}

//! The settings of hooks.

use std::fmt;
use std::str::FromStr;

use super::edges::Event;

/// A command line for `sh -c`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookCommand(String);

/// Why a text is no command.
#[derive(Debug, thiserror::Error)]
#[error("must not contain a zero byte")]
pub struct HookCommandError;

impl HookCommand {
    /// The command line.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for HookCommand {
    type Err = HookCommandError;

    fn from_str(text: &str) -> Result<Self, HookCommandError> {
        if text.contains('\0') { Err(HookCommandError) } else { Ok(Self(text.to_owned())) }
    }
}

impl fmt::Display for HookCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which command runs when.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// When an account needs a login.
    pub on_login_required: Option<HookCommand>,
    /// When it works again.
    pub on_recovered: Option<HookCommand>,
    /// When its refresh token has not been renewed for 50 days.
    pub on_grant_age: Option<HookCommand>,
}

impl Settings {
    /// True if nothing is to be run.
    pub(super) fn is_empty(&self) -> bool {
        let hooks = [&self.on_login_required, &self.on_recovered, &self.on_grant_age];
        hooks.into_iter().all(Option::is_none)
    }

    pub(super) fn of(&self, event: Event) -> Option<&HookCommand> {
        match event {
            Event::LoginRequired => self.on_login_required.as_ref(),
            Event::Recovered => self.on_recovered.as_ref(),
            Event::GrantAge => self.on_grant_age.as_ref(),
        }
    }
}

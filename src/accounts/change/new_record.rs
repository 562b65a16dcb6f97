//! What a login becomes as a record.

use super::error::ChangeError;
use crate::accounts::services::Services;
use crate::clock::{Deadline, Now, millis};
use crate::oauth::Tokens;
use crate::secret::RefreshToken;
use crate::store::{AccountName, Grant, Record};

/// The grant of fresh tokens. `trusted`: introspection called the refresh token active.
pub(super) fn grant_of(
    services: &Services,
    tokens: Tokens,
    refresh: RefreshToken,
    deadline: Deadline,
    sent: Now,
    trusted: bool,
) -> Grant {
    let asked_for = || services.oauth.settings.scopes.clone();
    Grant {
        access: tokens.access,
        refresh,
        expires_at: deadline.wall,
        lifetime: millis(tokens.lifetime),
        scope: tokens.scope.unwrap_or_else(asked_for),
        issued: services.issued(),
        logged_in_at: sent.wall,
        refreshed_at: sent.wall,
        introspection_trusted: trusted,
    }
}

/// The record of a grant; its generation is set when it is saved.
pub(super) fn record_of(grant: Grant, subject: Option<String>) -> Record {
    Record {
        generation: 0,
        grant: Some(grant),
        subject,
        api_key: None,
        company: None,
        subject_unconfirmed: false,
        intent: None,
        ended: None,
    }
}

/// The subject that an account has after a login. One that is bound takes its own company's login
/// only, and only if it is known to be that.
pub(super) fn subject_of(
    account: &AccountName,
    bound: Option<String>,
    offered: Result<String, String>,
) -> Result<Option<String>, ChangeError> {
    let account = account.clone();
    match (bound, offered) {
        (Some(bound), Ok(offered)) if bound != offered => {
            Err(ChangeError::OtherSubject { account, bound, offered })
        }
        (Some(bound), Err(why)) => Err(ChangeError::Unconfirmed { account, bound, why }),
        (_, offered) => Ok(offered.ok()),
    }
}

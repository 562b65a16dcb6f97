//! Why a login or logout failed.

use std::path::PathBuf;

use crate::accounts::unknown::UnknownAccount;
use crate::store::{AccountName, EndReason, KeyId, LockError, RecordError, SaveError};

/// Why a login or logout failed; the account is as it was before, unless the variant says
/// otherwise.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// There is no such account.
    #[error("{0}")]
    Unknown(UnknownAccount),
    /// A rename to a name that an account has.
    #[error("there is an account {0} already; choose another name")]
    NameTaken(AccountName),
    /// Programs are bound to the name of an account that is to be renamed.
    #[error(
        "account {account} is in use by {users}, whose requests would fail from then on; wait for its end, or add --force"
    )]
    InUse {
        /// The account.
        account: AccountName,
        /// The programs.
        users: String,
    },
    /// Only an account without tokens is removed.
    #[error("account {0} is connected; run: pleo-proxy logout {0}, then remove it")]
    StillConnected(AccountName),
    /// A later login or logout took its place.
    #[error("a later login or logout of account {0} took its place")]
    Superseded(AccountName),
    /// The account belongs to somebody else.
    #[error(
        "account {account} belongs to {bound}, and this login is for {offered}; nothing was saved. Connect it under a name of its own: pleo-proxy login NEWNAME"
    )]
    OtherSubject {
        /// The account.
        account: AccountName,
        /// Whom it is bound to.
        bound: String,
        /// Whom the login is for.
        offered: String,
    },
    /// The API did not say whether the login is for the company that the account is bound to.
    #[error(
        "account {account} belongs to {bound}, and whose login this is cannot be read: {why}; the account is as it was. Begin again"
    )]
    Unconfirmed {
        /// The account.
        account: AccountName,
        /// Whom it is bound to.
        bound: String,
        /// What the API answered.
        why: String,
    },
    /// The old tokens were refreshed after the new ones had been issued, which ends those.
    #[error(
        "a refresh of account {0} has ended the tokens of this login before they could be saved; the account is connected as before. Begin again: pleo-proxy login {0}"
    )]
    Overtaken(AccountName),
    /// The company is connected under another name.
    #[error(
        "{subject} is connected as account {other} already, and each refresh of one would end the other's tokens; nothing was saved. Use account {other}, or move the company: pleo-proxy login {account} --replace"
    )]
    ConnectedElsewhere {
        /// The account of this login.
        account: AccountName,
        /// The company.
        subject: String,
        /// The account that holds it.
        other: AccountName,
    },
    /// An import would put a working login at risk.
    #[error(
        "account {0} is connected; log it out before importing a refresh token, or import under another name"
    )]
    Connected(AccountName),
    /// An API key would end a login that works.
    #[error(
        "account {0} is connected by a login, whose tokens an API key would delete; nothing was saved. To replace it: pleo-proxy login {0} --api-key --replace"
    )]
    ConnectedByLogin(AccountName),
    /// The login brought no refresh token.
    #[error(
        "the authorization server sent no refresh token, so the login would end within minutes; nothing was saved"
    )]
    NoRefreshToken,
    /// The settings name the file of its API key.
    #[error(
        "account {0} sends the API key in {path}, which accounts.{0}.api_key_file names; change that file, or remove the setting", path = .1.display()
    )]
    KeyFile(AccountName, PathBuf),
    /// The API did not say whether it takes an API key.
    #[error("whether Pleo takes the API key cannot be checked: {0}; try again")]
    KeyUnchecked(String),
    /// Another process holds the lock of the account.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The record cannot be used.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The record cannot be written.
    #[error(transparent)]
    Save(#[from] SaveError),
    /// Others are sealed, and this process could keep it only as it is.
    #[error(
        "account {other} is sealed with store key {key}, and this process has no key, so it does not save account {account} beside it; name the file of keys in store.key_file, or give it as the variable PLEO_PROXY_STORE_KEY or the credential store-key"
    )]
    NoStoreKey {
        /// The account.
        account: AccountName,
        /// One that is sealed.
        other: AccountName,
        /// With this key.
        key: KeyId,
    },
    /// A damaged record could not be moved aside.
    #[error("the damaged record of account {0} could not be moved aside: {1}")]
    SetAside(AccountName, std::io::Error),
    /// An imported token was not accepted.
    #[error("the token was saved, and its first refresh failed: {0}")]
    Import(String),
    /// The server refused an imported token for good.
    #[error(
        "the authorization server does not take this refresh token, so it was not kept: {0}; hand in the newest refresh token of this client and environment, or log in: pleo-proxy login"
    )]
    Refused(String),
    /// Nobody knows yet whether an imported token belongs to the company that the account is bound
    /// to.
    #[error(
        "the token was saved, and whose it is cannot be read yet: {0}; the account serves nobody until that is known, and the proxy asks again by itself"
    )]
    ImportUnconfirmed(String),
    /// The newest pair is not on disk yet.
    #[error(
        "the newest tokens of account {0} are not saved yet ({1}); make room or give write access first"
    )]
    Unsaved(AccountName, String),
    /// A refresh takes too long.
    #[error("a refresh of account {0} does not end; try again")]
    Busy(AccountName),
    /// The process is about to end.
    #[error("the proxy is shutting down")]
    Closing,
}

impl From<UnknownAccount> for ChangeError {
    fn from(unknown: UnknownAccount) -> Self {
        Self::Unknown(unknown)
    }
}

impl ChangeError {
    /// True if the same may succeed a little later: another process has the account or has changed
    /// it, or the store does not answer.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::Lock(_) | Self::Save(_) | Self::SetAside(..) | Self::Unsaved(..) => true,
            Self::Record(error) => error.is_passing(),
            _ => false,
        }
    }

    /// Why a grant ends that this error found not to be the account's own.
    pub(super) fn end_reason(&self) -> EndReason {
        match self {
            Self::OtherSubject { bound, offered, .. } => {
                EndReason::OtherCompany { subject: offered.clone(), bound: bound.clone() }
            }
            Self::ConnectedElsewhere { subject, other, .. } => {
                EndReason::ConnectedElsewhere { subject: subject.clone(), other: other.to_string() }
            }
            other => EndReason::Sentence { text: other.to_string() },
        }
    }
}

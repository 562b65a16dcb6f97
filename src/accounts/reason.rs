//! Why an account needs a login or is tried again later, as facts. Their sentences are made here
//! and nowhere else; the command that helps is added where a sentence is shown.

use std::fmt;
use std::path::PathBuf;

use crate::store::{AccountName, EndReason, Issued};

/// Why an account needs a login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoginReason {
    /// There never was one.
    NotConnected,
    /// Somebody removed its record.
    RecordGone,
    /// Its grant was issued by another server, to another client or for another API than those of
    /// the settings.
    IssuedElsewhere(Issued),
    /// Its grant has ended.
    Ended(EndReason),
    /// It is logged out, and its record does not say why.
    LoggedOut,
    /// The API refuses its API key.
    KeyRefused,
    /// The API refuses the API key in the file that the settings name.
    KeyInFileRefused(PathBuf),
    /// Its API key was checked with another API than that of the settings.
    KeyOfAnotherApi(String),
}

impl LoginReason {
    /// The account and why it needs a login.
    pub fn sentence(&self, account: &AccountName) -> String {
        match self {
            Self::NotConnected => format!("account {account} is not connected"),
            reason => format!("account {account} needs a login: {reason}"),
        }
    }
}

impl LoginReason {
    /// The command that helps. Where a file of the operator's must change, it is the one that makes
    /// sure of that.
    pub fn command(&self, account: &AccountName) -> String {
        match self {
            Self::KeyInFileRefused(_) => again(account),
            Self::KeyRefused | Self::KeyOfAnotherApi(_) => {
                format!("pleo-proxy login {account} --api-key")
            }
            _ => format!("pleo-proxy login {account}"),
        }
    }

    /// What to do, beside the sentence.
    pub fn fix(&self, account: &AccountName) -> String {
        let again = again(account);
        match self {
            Self::KeyRefused => {
                let replace = self.command(account);
                format!("replace the key with: {replace}; if it is right, run: {again}")
            }
            Self::KeyInFileRefused(_) => {
                format!("replace the key in that file; if it is right, run: {again}")
            }
            Self::Ended(EndReason::LeftStore { .. }) => format!(
                "set store.kind and store.path to that store; or, to end its login there, run: {}",
                self.command(account)
            ),
            _ => format!("run: {}", self.command(account)),
        }
    }

    /// True if Pleo has refused an API key, which it is asked about again.
    pub fn is_key_refused(&self) -> bool {
        matches!(self, Self::KeyRefused | Self::KeyInFileRefused(_))
    }
}

/// Asks Pleo once more whether it takes a key.
fn again(account: &AccountName) -> String {
    format!("pleo-proxy refresh {account}")
}

impl fmt::Display for LoginReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotConnected => f.write_str("it is not connected"),
            Self::RecordGone => f.write_str("its record is gone: it was renamed or removed"),
            Self::IssuedElsewhere(Issued { token_endpoint, client_id, api_origin }) => {
                write!(f, "its login is for {api_origin} at {token_endpoint} (client {client_id})")
            }
            Self::Ended(reason) => reason.fmt(f),
            Self::LoggedOut => f.write_str("it is logged out"),
            Self::KeyRefused => f.write_str("Pleo refuses its API key"),
            Self::KeyInFileRefused(path) => {
                write!(f, "Pleo refuses its API key, which is in {}", path.display())
            }
            Self::KeyOfAnotherApi(origin) => write!(f, "its API key is for {origin}"),
        }
    }
}

/// Why an account has no new token yet and is tried again by itself. The texts inside are what the
/// OAuth client or the store said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RetryReason {
    /// No connection to the token endpoint.
    Unreachable(String),
    /// The token endpoint answered without looking at the token.
    NotNow(String),
    /// The token request may have been processed: its outcome is unknown.
    OutcomeUnknown(String),
    /// The same, and introspection failed.
    IntrospectionFailed(String),
    /// The record has an open intent.
    IntentOpen,
    /// A token request was sent a moment ago; its first copy may still be under way.
    NoAnswerYet,
    /// Another replica sent a token request, and may still have its answer.
    SentElsewhere,
    /// The moment to send the token passed before it was sent.
    HeldUp,
    /// The new access token's lifetime is shorter than the time it took to arrive.
    ExpiredOnArrival,
    /// The first access token in a row that cannot be used.
    UnusableToken,
    /// The second one.
    UnusableTokenAgain,
    /// The API has not said yet that the grant belongs to the account's company.
    SubjectUnconfirmed,
    /// The API was asked and did not answer the question.
    SubjectUnreadable(String),
    /// The token endpoint refuses the client.
    ClientRefused(String),
    /// The client id or secret cannot be read.
    NoCredentials(String),
    /// No file, memory or thread to be had for a moment.
    OutOfResources(String),
    /// Another process holds the account's lock.
    Locked(String),
    /// The intent cannot be written.
    Unwritable(String),
    /// The refresh panicked.
    Panicked,
    /// A refresh failed and left no reason.
    Failed,
}

impl fmt::Display for RetryReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(why) => write!(f, "the token endpoint cannot be reached: {why}"),
            Self::NotNow(why) => write!(f, "the token endpoint gives no tokens now: {why}"),
            Self::OutcomeUnknown(why) => write!(f, "a refresh has no known outcome: {why}"),
            Self::IntrospectionFailed(why) => {
                write!(f, "a refresh has no known outcome, and introspection gives none: {why}")
            }
            Self::IntentOpen => f.write_str("a refresh was sent and has no known outcome"),
            Self::NoAnswerYet => f.write_str("a refresh was sent and has no answer yet"),
            Self::SentElsewhere => f.write_str(
                "another replica sent a refresh and has not saved its outcome; it is sent again 15 minutes after that, or at once by a person's refresh",
            ),
            Self::HeldUp => f.write_str(
                "this process stood still right before it sent a refresh, so it sent nothing",
            ),
            Self::ExpiredOnArrival => {
                f.write_str("the new access token expired before it arrived")
            }
            Self::UnusableToken => f.write_str(
                "the token endpoint sent no usable access token; asking once more",
            ),
            Self::UnusableTokenAgain => f.write_str(
                "the token endpoint sends no usable bearer token; check [endpoints] and client.scopes",
            ),
            Self::SubjectUnconfirmed => {
                f.write_str("whose login this is has not been confirmed yet")
            }
            Self::SubjectUnreadable(why) => {
                write!(f, "whose login this is cannot be confirmed: {why}")
            }
            Self::ClientRefused(why) => write!(f, "the token endpoint refuses this client: {why}"),
            Self::NoCredentials(why)
            | Self::OutOfResources(why)
            | Self::Locked(why)
            | Self::Unwritable(why) => f.write_str(why),
            Self::Panicked => f.write_str(
                "a refresh stopped because of a bug in this program; its log says where",
            ),
            Self::Failed => f.write_str("the refresh failed"),
        }
    }
}

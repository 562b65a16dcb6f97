//! Why a login failed.

use std::net::SocketAddr;

use url::Url;

use crate::accounts::ChangeError;
use crate::oauth::CredentialsError;
use crate::oauth::authorize::CallbackError;

/// Why a login failed.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// Client id or secret are missing.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// The system gave no randomness.
    #[error("the system has no randomness: {0}")]
    Random(#[from] getrandom::Error),
    /// The response cannot be read.
    #[error("the answer of the authorization server cannot be used: {0}")]
    Callback(#[from] CallbackError),
    /// No pending login has this state.
    #[error(
        "this login is not known: later ones took its place, or it is older than ten minutes; begin again"
    )]
    UnknownState,
    /// Its first callback failed.
    #[error("{0}")]
    Repeated(String),
    /// The person or the server refused.
    #[error("the login was refused: {0}")]
    Refused(String),
    /// The response comes from another server (RFC 9207).
    #[error(
        "the answer comes from another authorization server than the one that was asked; nothing was sent to it"
    )]
    Issuer,
    /// The code was not exchanged for tokens.
    #[error("the code could not be exchanged: {0}")]
    Exchange(String),
    /// No listener for the redirect URI.
    #[error(transparent)]
    Listener(#[from] ListenerError),
    /// The refresh token that was entered is not valid.
    #[error(
        "this is no refresh token: it is empty or too long, or holds characters that no token has; nothing was saved. Hand in the token alone"
    )]
    NoToken,
    /// The account refuses the grant.
    #[error(transparent)]
    Change(#[from] ChangeError),
}

/// Why there is no listener for a redirect URI.
#[derive(Debug, thiserror::Error)]
pub enum ListenerError {
    /// The redirect URI leads to another machine.
    #[error("the redirect URI {0} is not on this machine; use `pleo-proxy login --paste`")]
    Elsewhere(Url),
    /// Another program listens there, and would get the code.
    #[error(
        "{0}, where the login comes back to, cannot be listened on: {1}; end what listens there, or use --paste"
    )]
    Taken(SocketAddr, std::io::Error),
}

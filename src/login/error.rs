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
    #[error("{}{}", before(.0), .0)]
    Callback(#[from] CallbackError),
    /// No pending login has this state.
    #[error(
        "this login is not known: later ones took its place, or it is older than ten minutes; begin again"
    )]
    UnknownState,
    /// The store, which has the logins that other replicas began, does not answer.
    #[error("the store does not say whether this login is known: {0}; load the page again")]
    Store(std::io::Error),
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
        "this is no refresh token: it is empty or too long, or holds characters that no token has; nothing was saved. Hand in the token alone: one line without quotes or blanks, the value of \"refresh_token\" in a token response"
    )]
    NoToken,
    /// The API key that was entered is none.
    #[error(
        "this is no API key: it is empty, or holds spaces or a colon; nothing was saved. Hand in the key alone"
    )]
    NoKey,
    /// The API refuses the key.
    #[error(
        "Pleo refuses this API key; nothing was saved. Check that it is whole, has not expired, and belongs to this environment"
    )]
    KeyRefused,
    /// The API did not say whether it takes the key.
    #[error("whether Pleo takes this API key cannot be checked: {0}; nothing was saved. Try again")]
    KeyUnchecked(String),
    /// The account refuses the grant.
    #[error(transparent)]
    Change(#[from] ChangeError),
}

/// What is pasted is no answer of the authorization server if it is another address.
fn before(error: &CallbackError) -> &'static str {
    match error {
        CallbackError::NotRedirected(_) => "",
        _ => "the answer of the authorization server cannot be used: ",
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_address_is_not_called_an_answer() {
        let pasted = LoginError::from(CallbackError::NotRedirected("query")).to_string();
        assert!(pasted.starts_with("this is not the address"), "{pasted}");
        let answer = LoginError::from(CallbackError::Missing("code")).to_string();
        assert!(answer.starts_with("the answer of the authorization server"), "{answer}");
    }
}

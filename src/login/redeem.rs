//! From an authorization code to a grant: the token request, then whose grant it is and whether
//! introspection can be trusted.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use jiff::civil::Date;
use tokio::time::sleep;
use tracing::warn;

use super::error::LoginError;
use super::register::PendingLogin;
use crate::accounts::{Accounts, ChangeTicket, KeyLogin, Login};
use crate::oauth::{Credentials, HeldUp, Outcome, TokenRequest};
use crate::secret::{AccessToken, ApiKey, AuthorizationCode};
use crate::store::{AccountName, StoredKey};
use crate::timeout::while_running;

/// Time to ask the authorization server whether a new refresh token is active.
const INTROSPECTION_TIME: Duration = Duration::from_secs(5);
/// Time to ask the API for the name of the company.
const COMPANY_TIME: Duration = Duration::from_secs(3);
/// Time to ask the API whose a new grant is, with all tries.
const SUBJECT_TIME: Duration = Duration::from_secs(10);
/// Time for one try, and the pauses between tries.
const SUBJECT_TRY: Duration = Duration::from_secs(4);
const SUBJECT_PAUSES: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(1)];

/// Exchanges a code for tokens, then asks whose they are and whether introspection can be trusted.
pub(super) async fn redeem(
    accounts: &Accounts,
    pending: &PendingLogin,
    code: &AuthorizationCode,
    credentials: &Credentials,
) -> Result<Login, LoginError> {
    let sent = accounts.clock().now();
    let request = TokenRequest::Code {
        code,
        verifier: &pending.verifier,
        redirect_uri: &pending.redirect_uri,
    };
    let tokens = match accounts.oauth().request_tokens(&request, credentials, None).await {
        Outcome::Fresh(tokens) => tokens,
        Outcome::NotSent(why) | Outcome::Misconfigured(why) => {
            return Err(LoginError::Exchange(why));
        }
        Outcome::HeldUp => {
            return Err(LoginError::Exchange(HeldUp.to_string()));
        }
        Outcome::ComeBackLater { why, .. } | Outcome::Ambiguous { why, .. } => {
            return Err(LoginError::Exchange(format!(
                "the token endpoint gave no tokens: {why}; begin again"
            )));
        }
        Outcome::Dead(code) => {
            return Err(LoginError::Exchange(format!(
                "the authorization server refused the code ({code}); begin again"
            )));
        }
    };
    // Whether they are saved or not.
    let known = accounts.known_secrets();
    tokens.access.iter().for_each(|access| known.learn(access));
    tokens.refresh.iter().for_each(|refresh| known.learn(refresh));
    for oddity in &tokens.oddities {
        warn!(account = %pending.account, "the token endpoint's response is unusual: {oddity}");
    }
    let subject = match (&tokens.access, &tokens.refresh) {
        (Some(access), _) => subject(accounts, access).await,
        // The first refresh brings an access token.
        (None, Some(_)) => Err("the token endpoint sent no usable access token".into()),
        (None, None) => {
            return Err(LoginError::Exchange(
                "the token endpoint sent no usable bearer token".into(),
            ));
        }
    };
    if let Err(why) = &subject {
        warn!(account = %pending.account, "it is not known whose login this is: {why}");
    }
    let is_active = async {
        let Some(refresh) = &tokens.refresh else { return false };
        let asked = accounts.oauth().is_active(refresh, credentials);
        let asked = while_running(INTROSPECTION_TIME, asked).await;
        asked.is_some_and(|active| active.unwrap_or(false))
    };
    // The tokens are saved only after these, so the waits are short.
    let introspection_trusted = is_active.await;
    let access = tokens.access.as_ref().and_then(AccessToken::header);
    let company = company(accounts, access.as_ref(), subject.as_ref().ok()).await;
    let replaces = pending.replaces;
    Ok(Login { tokens, sent, subject, company, introspection_trusted, replaces })
}

/// The name of the company, if the API gives it at once: it is only shown.
async fn company(
    accounts: &Accounts,
    credential: Option<&HeaderValue>,
    subject: Option<&String>,
) -> Option<String> {
    let asked = accounts.oauth().company(credential?, subject?);
    while_running(COMPANY_TIME, asked).await.flatten()
}

/// Asks the API whether it takes a key, and whose it is.
pub(super) async fn check_key(
    accounts: &Accounts,
    key: ApiKey,
    expires_on: Option<Date>,
    replaces: bool,
) -> Result<KeyLogin, LoginError> {
    let header = key.header().ok_or(LoginError::NoKey)?;
    let asked = while_running(SUBJECT_TIME, accounts.oauth().identity(&header)).await;
    let identity = match asked {
        Some(Ok(identity)) => identity,
        Some(Err(error)) if error.is_unauthorized() => return Err(LoginError::KeyRefused),
        Some(Err(error)) => return Err(LoginError::KeyUnchecked(error.to_string())),
        None => {
            let why = format!("the API did not answer within {SUBJECT_TIME:?}");
            return Err(LoginError::KeyUnchecked(why));
        }
    };
    let company = company(accounts, Some(&header), identity.subject.as_ref()).await;
    let key = StoredKey {
        key,
        scope: identity.scope.unwrap_or_default(),
        api_origin: accounts.issued().api_origin,
        added_at: accounts.clock().now().wall,
        expires_on,
    };
    let subject = identity.subject.ok_or_else(|| "the API named no company for it".to_owned());
    Ok(KeyLogin { key, subject, company, replaces })
}

/// Whose token this is. Asked up to three times, because the login of an account that is bound to a
/// company fails without it.
async fn subject(accounts: &Accounts, access: &AccessToken) -> Result<String, String> {
    let asking = async {
        let mut pauses = SUBJECT_PAUSES.into_iter();
        loop {
            let asked = while_running(SUBJECT_TRY, accounts.oauth().subject(access)).await;
            let why = match asked {
                Some(Ok(subject)) => return Ok(subject),
                Some(Err(error)) => error.to_string(),
                None => format!("the API did not answer within {SUBJECT_TRY:?}"),
            };
            match pauses.next() {
                Some(pause) => sleep(pause).await,
                None => return Err(why),
            }
        }
    };
    while_running(SUBJECT_TIME, asking)
        .await
        .unwrap_or_else(|| Err(format!("the API gave no answer within {SUBJECT_TIME:?}")))
}

/// Asks the same about an imported grant, after its first refresh.
pub(super) async fn describe_import(
    accounts: &Arc<Accounts>,
    name: &AccountName,
    ticket: &ChangeTicket,
) -> Result<(), LoginError> {
    let Ok(Some((record, _))) = accounts.store().load(name).await else { return Ok(()) };
    let Some(grant) = record.grant else { return Ok(()) };
    let credentials = accounts.credentials().await?;
    let subject = match &grant.access {
        Some(access) => subject(accounts, access).await,
        None => Err("there is no access token to ask with".into()),
    };
    let trusted = accounts.oauth().is_active(&grant.refresh, &credentials).await.unwrap_or(false);
    let access = grant.access.as_ref().and_then(AccessToken::header);
    let company = company(accounts, access.as_ref(), subject.as_ref().ok()).await;
    Ok(accounts.changes().describe(ticket, subject, company, trusted).await?)
}

//! Asks the authorization server whether it still accepts the stored refresh tokens. Introspection
//! (RFC 7662) uses nothing up; nothing is ever posted to the token endpoint.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::account::Account;
use super::bounded::NETWORK;
use super::finding::{Check, Finding};
use crate::config::Config;
use crate::diagnostic::{Code, Diagnostic};
use crate::oauth::introspect::IntrospectError;
use crate::oauth::{Client, Credentials};
use crate::outbound::Outbound;
use crate::store::{AccountName, Grant, Issued, Record, Store};

/// Accounts that are asked about, unless one is named: each is a request.
const MAX_ASKED: usize = 50;
/// Requests at the same time.
const AT_ONCE: usize = 8;

/// Asks about grants.
struct Asker {
    client: Client,
    credentials: Credentials,
    store: Store,
    deadline: Instant,
    program: String,
}

/// The verdict about each account with a grant.
pub(super) async fn checks(
    config: &Config,
    outbound: &Outbound,
    store: &Store,
    accounts: &[Account],
    program: &str,
) -> Vec<Finding> {
    let granted =
        || accounts.iter().filter_map(|it| Some((it.name.clone(), it.granted()?.clone())));
    if let Some(why) = impossible(config).filter(|_| granted().next().is_some()) {
        return vec![Check::Grant.skip(why)];
    }
    let (asker, names) = match asker(config, outbound, store, program) {
        Ok(asker) => (Arc::new(asker), granted().take(MAX_ASKED)),
        // The check of the configuration says what is missing.
        Err(why) => return granted().next().map(|_| Check::Grant.skip(why)).into_iter().collect(),
    };
    let (permits, mut asking) = (Arc::new(Semaphore::new(AT_ONCE)), JoinSet::new());
    for (number, (name, record)) in names.enumerate() {
        let (asker, permits) = (asker.clone(), permits.clone());
        asking.spawn(async move {
            let permit = permits.acquire().await;
            let finding = asker.judge(&name, record).await.about(name);
            drop(permit);
            (number, finding)
        });
    }
    let mut findings = asking.join_all().await;
    findings.sort_by_key(|(number, _)| *number);
    let mut findings: Vec<_> = findings.into_iter().map(|(_, finding)| finding).collect();
    if granted().count() > MAX_ASKED {
        let why =
            format!("the first {MAX_ASKED} accounts were asked about; name others with --account");
        findings.push(Check::Grant.skip(why));
    }
    findings
}

fn impossible(config: &Config) -> Option<&'static str> {
    if config.embedded_sandbox {
        return Some("the embedded sandbox is a part of the running proxy");
    }
    config.oauth.introspect.is_none().then_some("endpoints.introspect is not set")
}

fn asker(
    config: &Config,
    outbound: &Outbound,
    store: &Store,
    program: &str,
) -> Result<Asker, String> {
    let client = Client::new(config.oauth.clone(), outbound).map_err(|error| error.to_string())?;
    let credentials = client.credentials().map_err(|error| error.to_string())?;
    let deadline = Instant::now() + NETWORK;
    Ok(Asker { client, credentials, store: store.clone(), deadline, program: program.to_owned() })
}

impl Asker {
    async fn judge(&self, name: &str, record: Record) -> Finding {
        let check = Check::Grant;
        let Some(grant) = &record.grant else { return check.skip("there is none") };
        if !self.is_ours(&grant.issued) {
            return check.skip(format!(
                "it was issued by {} to client {}, which this configuration does not name",
                grant.issued.token_endpoint, grant.issued.client_id
            ));
        }
        if record.open_intent().is_some() {
            return check.skip("a refresh of it has no known outcome yet");
        }
        match self.ask(grant).await {
            Err(finding) => finding,
            Ok(true) => check.pass("the authorization server accepts its refresh token"),
            Ok(false) => self.inactive(name, &record, grant).await,
        }
    }

    async fn ask(&self, grant: &Grant) -> Result<bool, Finding> {
        let check = Check::Grant;
        let asked = self.client.is_active(&grant.refresh, &self.credentials);
        match timeout_at(self.deadline, asked).await {
            Ok(Ok(active)) => Ok(active),
            Ok(Err(error)) if error.is_unauthorized() => {
                let title = "the authorization server refuses client id or client secret (401)";
                let fix =
                    "compare client.id, client.secret_file and client.auth with what Pleo gave you";
                Err(check.problem(Diagnostic::error(Code::ClientSecret, title, fix)))
            }
            Ok(Err(error @ IntrospectError::Status(_))) => {
                let title = format!("the introspection endpoint does not say: {error}");
                let fix = "check endpoints.introspect, or try again";
                Err(check.problem(Diagnostic::warning(Code::GrantUnknown, title, fix)))
            }
            Ok(Err(error)) => Err(check.skip(format!("the server could not be asked: {error}"))),
            Err(_) => Err(check.skip("the server did not answer in time")),
        }
    }

    /// The token is not accepted any more. A refresh meanwhile explains it; else somebody ended the
    /// grant, though we hold its newest tokens.
    async fn inactive(&self, name: &str, record: &Record, grant: &Grant) -> Finding {
        let check = Check::Grant;
        let stored: Option<AccountName> = name.parse().ok();
        let newer = match stored {
            Some(name) => self.store.load(&name).await.ok().flatten(),
            None => None,
        };
        if newer.is_none_or(|(newer, _)| {
            newer.generation != record.generation || newer.intent.is_some()
        }) {
            return check.pass("it was refreshed or ended while it was asked about");
        }
        if !grant.introspection_trusted {
            return check
                .skip("the server describes no refresh token of this client, also no new one");
        }
        let title = format!(
            "the authorization server does not accept the newest tokens that we have (generation {}): the customer \
             disconnected the app, or another program refreshed the same grant",
            record.generation
        );
        let fix = format!(
            "stop what else uses this client and company (a copy of the store, Postman, an old integration), then run: \
             {} login {name}",
            self.program
        );
        check.problem(Diagnostic::error(Code::GrantInactive, title, fix))
    }

    fn is_ours(&self, issued: &Issued) -> bool {
        let settings = &self.client.settings;
        issued.token_endpoint == settings.token.url().as_str()
            && settings.client_id.as_ref() == Some(&issued.client_id)
    }
}

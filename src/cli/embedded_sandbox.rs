//! The fake Pleo inside the proxy, for `environment = "sandbox"`.

use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use serde::{Deserialize, Serialize};

use super::exit::Failure;
use super::wiring::loopback_only;
use crate::config::{Config, SecretSource};
use crate::login::Logins;
use crate::oauth::authorize::Callback;
use crate::oauth::endpoint::Endpoint;
use crate::sandbox::{Options, RATE_LIMIT, Sandbox};
use crate::secret::ClientSecret;
use crate::store::AccountName;

/// Requested if the configuration names no scopes: all that Pleo publishes, so that everything the
/// sandbox imitates can be tried. It grants any and enforces them.
pub(super) const SCOPES: [&str; 13] = [
    "companies:read",
    "users:read",
    "export-jobs:read",
    "export-jobs:write",
    "export-items:read",
    "vendors:read",
    "vendors:write",
    "accounts:read",
    "accounts:write",
    "tag-groups:read",
    "tag-groups:write",
    "tax-codes:read",
    "tax-codes:write",
];

/// Reports the ports of the embedded sandbox if they are not the usual ones.
pub(super) fn report_moved_ports(sandbox: &Sandbox) {
    let usual = Options::default();
    let ports = [
        (usual.auth_addr, sandbox.auth, "the fake Pleo"),
        (usual.files_addr, sandbox.files, "its file server"),
    ];
    for (usual, now, what) in ports.into_iter().filter(|(usual, now, _)| usual != now) {
        status!("Port {} was taken, so {what} is at http://{now}.", usual.port());
    }
}

/// Where a sandbox is. Its client id and secret are public.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Addresses {
    authorize: String,
    token: String,
    introspect: String,
    api: String,
}

impl Addresses {
    /// Those of a sandbox of this process.
    pub(super) fn of(sandbox: &Sandbox) -> Self {
        Self {
            authorize: sandbox.authorize_url(),
            token: sandbox.token_url(),
            introspect: sandbox.introspect_url(),
            api: sandbox.api_origin(),
        }
    }
}

/// Starts the embedded sandbox and points the configuration at it.
pub(super) async fn embed(config: &mut Config) -> Result<Sandbox, Failure> {
    let options = Options { fallback: true, rate_limit: Some(RATE_LIMIT), ..Options::default() };
    let sandbox = Sandbox::start(options).await.context("the embedded sandbox cannot listen")?;
    point_at(config, &Addresses::of(&sandbox))?;
    Ok(sandbox)
}

/// Points the configuration at a sandbox that was embedded, here or in another process.
pub(super) fn point_at(config: &mut Config, sandbox: &Addresses) -> Result<(), Failure> {
    let Options { client_id, client_secret, .. } = Options::default();
    let endpoint = |address: &str| Endpoint::parse(address).context("the sandbox's address");
    config.oauth.authorize = endpoint(&sandbox.authorize)?;
    config.oauth.token = endpoint(&sandbox.token)?;
    config.oauth.introspect = Some(endpoint(&sandbox.introspect)?);
    config.oauth.api = endpoint(&sandbox.api)?.origin();
    config.oauth.client_id = Some(client_id);
    config.oauth.client_secret = SecretSource::Value(ClientSecret::new(client_secret));
    // Callbacks come to the process that embeds it.
    config.login.redirect_uri = None;
    if config.oauth.scopes.is_empty() {
        config.oauth.scopes = SCOPES.map(String::from).to_vec();
    }
    Ok(())
}

/// Connects an account through the real code flow, as if a user clicked Allow.
pub(super) async fn connect(
    logins: &Arc<Logins>,
    name: &AccountName,
    redirect_uri: &str,
) -> Result<(), Failure> {
    let begun = logins.begin(name, redirect_uri, false).await?;
    let mut page = begun.url.clone();
    page.set_query(None);
    let form = format!("{}&decision=allow", begun.url.query().unwrap_or_default());
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured((*loopback_only()?.tls).clone())
        .no_proxy();
    let client = client.redirect(reqwest::redirect::Policy::none()).build()?;
    let request =
        client.post(page).header("content-type", "application/x-www-form-urlencoded").body(form);
    let response = request.send().await.map_err(reqwest::Error::without_url)?;
    let location = response.headers().get("location").and_then(|location| location.to_str().ok());
    let location =
        location.ok_or_else(|| anyhow!("the sandbox did not consent ({})", response.status()))?;
    logins.finish(Callback::from_address(location)?).await?;
    Ok(())
}

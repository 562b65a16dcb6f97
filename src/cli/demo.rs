//! The fake Pleo: embedded for `environment = "sandbox"`, and alone as `pleo-proxy sandbox`.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use clap::Args;
use serde_json::json;
use url::Url;

use super::instance::client;
use super::{Exit, Failure, Signals};
use crate::config::{Config, SecretSource};
use crate::login::Logins;
use crate::oauth::authorize::Callback;
use crate::sandbox::{Faults, Options, Sandbox};
use crate::secret::ClientSecret;
use crate::store::AccountName;

/// Asked for where the configuration names no scopes; the sandbox grants any.
const SCOPES: [&str; 4] = ["companies:read", "users:read", "export-jobs:read", "vendors:read"];

#[derive(Debug, Args)]
pub(super) struct SandboxArguments {
    /// Authorization server and API
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8090")]
    listen: SocketAddr,
    /// Files behind presigned addresses
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8091")]
    files: SocketAddr,
    /// The client id it knows
    #[arg(long, value_name = "ID", default_value = "sandbox-client")]
    client_id: String,
    /// A redirect URI it accepts, exactly [default: any on loopback]
    #[arg(long, value_name = "URI")]
    redirect_uri: Vec<String>,
    /// Consent without asking
    #[arg(long)]
    auto_consent: bool,
    /// Life of access tokens in milliseconds
    #[arg(long, value_name = "MS")]
    access_life_ms: Option<u64>,
    /// Latency of the API in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 0)]
    latency_ms: u64,
    /// Faults from the start, as POST /sandbox/faults takes them
    #[arg(long, value_name = "JSON")]
    faults: Option<String>,
}

impl SandboxArguments {
    fn options(self) -> Result<Options, Failure> {
        let mut faults: Faults = match &self.faults {
            Some(faults) => {
                serde_json::from_str(faults).map_err(|error| Failure::usage(format!("--faults: {error}")))?
            }
            None => Faults::default(),
        };
        faults.access_life_ms = self.access_life_ms.or(faults.access_life_ms);
        faults.latency_ms = faults.latency_ms.max(self.latency_ms);
        Ok(Options {
            auth_addr: self.listen,
            files_addr: self.files,
            fallback: false,
            client_id: self.client_id,
            redirect_uris: self.redirect_uri,
            auto_consent: self.auto_consent,
            faults,
            ..Options::default()
        })
    }
}

/// `pleo-proxy sandbox`.
pub(super) async fn sandbox(arguments: SandboxArguments, json: bool) -> Result<Exit, Failure> {
    let mut signals = Signals::new()?;
    let options = arguments.options()?;
    let (id, secret) = (options.client_id.clone(), options.client_secret.clone());
    let addresses = format!("{} or {}", options.auth_addr, options.files_addr);
    let sandbox = Sandbox::start(options).await.with_context(|| format!("{addresses} cannot be listened on"))?;
    if json {
        tell!(
            "{}",
            json!({"version": 1, "event": "ready", "api": sandbox.api_origin(), "authorize": sandbox.authorize_url(),
                   "token": sandbox.token_url(), "introspect": sandbox.introspect_url(),
                   "files": format!("http://{}", sandbox.files)})
        );
    }
    say!("The fake Pleo is at {} (files at http://{}).", sandbox.api_origin(), sandbox.files);
    say!("Its client id is {id}, its client secret {secret}.");
    say!("[endpoints]\nauthorize = \"{}\"\ntoken = \"{}\"", sandbox.authorize_url(), sandbox.token_url());
    say!("introspect = \"{}\"\napi = \"{}\"", sandbox.introspect_url(), sandbox.api_origin());
    signals.next().await;
    Ok(Exit::Fine)
}

/// Starts the embedded sandbox and points the configuration at it.
pub(super) async fn embed(config: &mut Config) -> Result<Sandbox, Failure> {
    let options = Options { fallback: true, ..Options::default() };
    let (id, secret) = (options.client_id.clone(), options.client_secret.clone());
    let sandbox = Sandbox::start(options).await.context("the embedded sandbox cannot listen")?;
    let parse = |address: String| Url::parse(&address).context("the sandbox's address");
    config.endpoints.authorize = parse(sandbox.authorize_url())?;
    config.endpoints.token = parse(sandbox.token_url())?;
    config.endpoints.introspect = Some(parse(sandbox.introspect_url())?);
    config.endpoints.api = parse(sandbox.api_origin())?;
    config.client.id = Some(id);
    config.client.secret = SecretSource::Value(ClientSecret::new(secret));
    // Logins come back to this process itself: nobody else knows this sandbox.
    config.client.redirect_uri = None;
    if config.client.scopes.is_empty() {
        config.client.scopes = SCOPES.map(String::from).to_vec();
    }
    Ok(sandbox)
}

/// Connects an account through the real code flow, as a person would who clicks Allow.
pub(super) async fn connect(logins: &Arc<Logins>, name: &AccountName, redirect_uri: &str) -> Result<(), Failure> {
    let begun = logins.begin(name, redirect_uri)?;
    let mut page = begun.url.clone();
    page.set_query(None);
    let form = format!("{}&decision=allow", begun.url.query().unwrap_or_default());
    let request = client()?.post(page).header("content-type", "application/x-www-form-urlencoded").body(form);
    let answer = request.send().await.map_err(reqwest::Error::without_url)?;
    let location = answer.headers().get("location").and_then(|location| location.to_str().ok());
    let location = location.ok_or_else(|| anyhow!("the sandbox did not consent ({})", answer.status()))?;
    logins.finish(Callback::from_address(location)?).await?;
    Ok(())
}

//! The fake Pleo: embedded for `environment = "sandbox"`, and alone as `pleo-proxy sandbox`.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use clap::Args;
use serde_json::json;

use super::assemble::nowhere;
use super::{Exit, Failure, Signals, quoted};
use crate::config::{Config, SecretSource};
use crate::login::Logins;
use crate::oauth::authorize::Callback;
use crate::oauth::endpoint::Endpoint;
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
    for (option, address) in [("--listen", options.auth_addr), ("--files", options.files_addr)] {
        can_listen(option, address)?;
    }
    let sandbox = Sandbox::start(options).await.context("the sandbox cannot listen")?;
    let (authorize, token) = (sandbox.authorize_url(), sandbox.token_url());
    let (introspect, api) = (sandbox.introspect_url(), sandbox.api_origin());
    say!("The fake Pleo is at {api} (files at http://{}).", sandbox.files);
    say!("Its client id is {id}, its client secret {secret}.");
    if json {
        tell!(
            "{}",
            json!({"version": 1, "event": "ready", "api": api, "authorize": authorize, "token": token,
                   "introspect": introspect, "files": format!("http://{}", sandbox.files), "client_id": id,
                   "client_secret": secret})
        )?;
    } else {
        say!("A configuration for it; run the proxy with PLEO_PROXY_CLIENT_SECRET={}:\n", quoted(&secret));
        let scopes = SCOPES.map(|scope| format!("\"{scope}\"")).join(", ");
        tell!("environment = \"sandbox\"\n\n[client]\nid = {}\nscopes = [{scopes}]", toml::Value::from(id))?;
        tell!("\n[endpoints]\nauthorize = \"{authorize}\"\ntoken = \"{token}\"")?;
        tell!("introspect = \"{introspect}\"\napi = \"{api}\"")?;
    }
    signals.next().await;
    Ok(Exit::Fine)
}

/// Says which address is taken, and by what option to choose another.
fn can_listen(option: &str, address: SocketAddr) -> Result<(), Failure> {
    let tried = std::net::TcpListener::bind(address).map(drop);
    tried.map_err(|error| {
        let advice = match error.kind() {
            std::io::ErrorKind::AddrInUse => "end the program that listens there, or choose another address with",
            _ => "choose another address with",
        };
        let free = SocketAddr::new(address.ip(), 0);
        Failure::new(Exit::Failed, format!("{address} cannot be listened on: {error}; {advice} {option} {free}"))
    })
}

/// Says where the embedded sandbox is if it is not where people look for it.
pub(super) fn say_moved(sandbox: &Sandbox) {
    let usual = Options::default();
    let ports = [(usual.auth_addr, sandbox.auth, "the fake Pleo"), (usual.files_addr, sandbox.files, "its files")];
    for (usual, now, what) in ports.into_iter().filter(|(usual, now, _)| usual != now) {
        say!("Port {} was taken, so {what} can be found at http://{now}.", usual.port());
    }
}

/// Starts the embedded sandbox and points the configuration at it.
pub(super) async fn embed(config: &mut Config) -> Result<Sandbox, Failure> {
    let options = Options { fallback: true, ..Options::default() };
    let (id, secret) = (options.client_id.clone(), options.client_secret.clone());
    let sandbox = Sandbox::start(options).await.context("the embedded sandbox cannot listen")?;
    let endpoint = |address: String| Endpoint::parse(&address).context("the sandbox's address");
    config.oauth.authorize = endpoint(sandbox.authorize_url())?;
    config.oauth.token = endpoint(sandbox.token_url())?;
    config.oauth.introspect = Some(endpoint(sandbox.introspect_url())?);
    config.oauth.api = endpoint(sandbox.api_origin())?.origin();
    config.oauth.client_id = Some(id);
    config.oauth.client_secret = SecretSource::Value(ClientSecret::new(secret));
    // Logins come back to this process itself: nobody else knows this sandbox.
    config.login.redirect_uri = None;
    if config.oauth.scopes.is_empty() {
        config.oauth.scopes = SCOPES.map(String::from).to_vec();
    }
    Ok(sandbox)
}

/// Connects an account through the real code flow, as a person would who clicks Allow.
pub(super) async fn connect(logins: &Arc<Logins>, name: &AccountName, redirect_uri: &str) -> Result<(), Failure> {
    let begun = logins.begin(name, redirect_uri, false).await?;
    let mut page = begun.url.clone();
    page.set_query(None);
    let form = format!("{}&decision=allow", begun.url.query().unwrap_or_default());
    let client = reqwest::Client::builder().tls_backend_preconfigured((*nowhere()?.tls).clone()).no_proxy();
    let client = client.redirect(reqwest::redirect::Policy::none()).build()?;
    let request = client.post(page).header("content-type", "application/x-www-form-urlencoded").body(form);
    let answer = request.send().await.map_err(reqwest::Error::without_url)?;
    let location = answer.headers().get("location").and_then(|location| location.to_str().ok());
    let location = location.ok_or_else(|| anyhow!("the sandbox did not consent ({})", answer.status()))?;
    logins.finish(Callback::from_address(location)?).await?;
    Ok(())
}

//! `sandbox`: runs the fake Pleo alone.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;
use serde_json::json;

use crate::cli::context::Context;
use crate::cli::embedded_sandbox::SCOPES;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output;
use crate::cli::shell::quoted;
use crate::cli::signals::Signals;
use crate::sandbox::{Faults, Options, RATE_LIMIT, Recording, Sandbox};

const EXAMPLES: &str = "\
Examples:
  pleo-proxy sandbox > sandbox.toml         # then: pleo-proxy --config sandbox.toml
  pleo-proxy sandbox --access-life-ms 2000 --latency-ms 50
  pleo-proxy sandbox --replay recorded.har  # answer from a recording";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct SandboxCommand {
    /// Authorization server and API
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8090")]
    listen: SocketAddr,
    /// Files behind presigned URLs
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8091")]
    files: SocketAddr,
    /// The client id it accepts
    #[arg(long, value_name = "ID", default_value = "sandbox-client")]
    client_id: String,
    /// A redirect URI it accepts, compared exactly [default: any on loopback]
    #[arg(long, value_name = "URI")]
    redirect_uri: Vec<String>,
    /// Consent without asking
    #[arg(long)]
    auto_consent: bool,
    /// Lifetime of access tokens in milliseconds
    #[arg(long, value_name = "MS")]
    access_life_ms: Option<u64>,
    /// Latency of the API in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 0)]
    latency_ms: u64,
    /// Requests a minute for each company, as at Pleo; 0: no limit
    #[arg(long, value_name = "REQUESTS", default_value_t = RATE_LIMIT)]
    rate_limit: u32,
    /// So many more accounting entries of the first company, for long lists
    #[arg(long, value_name = "ENTRIES", default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=1_000_000))]
    more_entries: u64,
    /// Faults from the start, as POST /sandbox/faults takes them
    #[arg(long, value_name = "JSON")]
    faults: Option<String>,
    /// Answer from this recording (HAR), without any credential
    #[arg(long, value_name = "FILE")]
    replay: Option<PathBuf>,
}

impl SandboxCommand {
    fn options(self) -> Result<Options, Failure> {
        let mut faults: Faults = match &self.faults {
            Some(faults) => serde_json::from_str(faults)
                .map_err(|error| Failure::usage(format!("--faults: {error}")))?,
            None => Faults::default(),
        };
        let recording = self.replay.as_deref().map(recording).transpose()?;
        faults.access_life_ms = self.access_life_ms.or(faults.access_life_ms);
        faults.latency_ms = faults.latency_ms.max(self.latency_ms);
        Ok(Options {
            auth_addr: self.listen,
            files_addr: self.files,
            fallback: false,
            client_id: self.client_id,
            redirect_uris: self.redirect_uri,
            auto_consent: self.auto_consent,
            rate_limit: Some(self.rate_limit),
            more_entries: self.more_entries,
            recording: recording.map(Arc::new),
            faults,
            ..Options::default()
        })
    }

    pub(super) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let mut signals = Signals::new()?;
        let options = self.options()?;
        let recording = options.recording.clone();
        let (id, secret) = (options.client_id.clone(), options.client_secret.clone());
        for (option, address) in [("--listen", options.auth_addr), ("--files", options.files_addr)]
        {
            ensure_can_listen(option, address)?;
        }
        let sandbox = Sandbox::start(options).await.context("the sandbox cannot listen")?;
        let (authorize, token) = (sandbox.authorize_url(), sandbox.token_url());
        let (introspect, api) = (sandbox.introspect_url(), sandbox.api_origin());
        status!("The fake Pleo is at {api} (files at http://{}).", sandbox.files);
        if let Some(recording) = recording {
            report(&recording);
        }
        status!("Its client id is {id}, its client secret {secret}.");
        if context.json {
            output::json(
                &json!({"version": 1, "event": "ready", "api": api, "authorize": authorize, "token": token,
                   "introspect": introspect, "files": format!("http://{}", sandbox.files), "client_id": id,
                   "client_secret": secret}),
            )?;
        } else {
            status!(
                "A configuration for it; run the proxy with PLEO_PROXY_CLIENT_SECRET={}:\n",
                quoted(&secret)
            );
            let scopes = SCOPES.map(|scope| format!("\"{scope}\"")).join(", ");
            out!(
                "environment = \"sandbox\"\n\n[client]\nid = {}\nscopes = [{scopes}]",
                toml::Value::from(id)
            )?;
            out!("\n[endpoints]\nauthorize = \"{authorize}\"\ntoken = \"{token}\"")?;
            out!("introspect = \"{introspect}\"\napi = \"{api}\"")?;
        }
        signals.next().await;
        Ok(Exit::Fine)
    }
}

fn recording(file: &Path) -> Result<Recording, Failure> {
    let refused = |why: String| {
        Failure::usage(format!("the recording {} cannot be used: {why}", file.display()))
    };
    let har = std::fs::read(file).map_err(|error| refused(error.to_string()))?;
    Recording::read(&har).map_err(|error| refused(error.to_string()))
}

fn report(recording: &Recording) {
    status!("It answers {} recorded requests, and no others.", recording.len());
    match recording.without_body() {
        0 => {}
        missing => status!(
            "{missing} of them have no body in the recording, so they are answered with 501. Bodies are recorded while \
             `pleo-proxy capture` is on."
        ),
    }
}

/// Names the address that cannot be used, and the option that changes it.
fn ensure_can_listen(option: &str, address: SocketAddr) -> Result<(), Failure> {
    let tried = std::net::TcpListener::bind(address).map(drop);
    tried.map_err(|error| {
        let advice = match error.kind() {
            std::io::ErrorKind::AddrInUse => {
                "stop the program that listens there, or choose another address with"
            }
            _ => "choose another address with",
        };
        let free = SocketAddr::new(address.ip(), 0);
        Failure::new(
            Exit::Failed,
            format!("{address} cannot be listened on: {error}; {advice} {option} {free}"),
        )
    })
}

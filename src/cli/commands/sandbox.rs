//! `sandbox`: runs the fake Pleo alone.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;
use serde_json::json;

use crate::cli::context::Context;
use crate::cli::embedded_sandbox::SCOPES;
use crate::cli::exit::{Exit, Failure};
use crate::cli::shell::quoted;
use crate::cli::signals::Signals;
use crate::cli::{file_advice, output};
use crate::sandbox::{Faults, Options, RATE_LIMIT, Recording, Sandbox};

const EXAMPLES: &str = "\
Examples:
  pleo-proxy sandbox > sandbox.toml         # then, in a second terminal, the proxy for it:
  PLEO_PROXY_CLIENT_SECRET=sandbox-secret pleo-proxy --config sandbox.toml
  pleo-proxy sandbox --access-life-ms 2000 --latency-ms 50
  pleo-proxy sandbox --replay recorded.har  # answer from a recording";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct SandboxCommand {
    /// Authorization server and API
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8090", value_parser = address)]
    listen: SocketAddr,
    /// Files behind presigned URLs [default: 127.0.0.1:8091, or a free port if --listen takes one]
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    files: Option<SocketAddr>,
    /// The client id it accepts
    #[arg(long, value_name = "ID", default_value = "sandbox-client")]
    client_id: String,
    /// A redirect URI it accepts, compared exactly [default: any on loopback]
    #[arg(long, value_name = "URI")]
    redirect_uri: Vec<String>,
    /// Consent without asking, for the first company that no login has yet (Harbour Coffee ApS,
    /// then Harbour Roastery GmbH); POST /sandbox/subject chooses another
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

/// An address; a port alone is one of 127.0.0.1.
fn address(text: &str) -> Result<SocketAddr, &'static str> {
    let port = text.strip_prefix(':').unwrap_or(text).parse::<u16>();
    let here = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let read = port.map(here).or_else(|_| text.parse());
    read.map_err(|_| "write an address such as 127.0.0.1:8090, or :0 for any free port")
}

/// How a recording is made.
const RECORD: &str =
    ", or make one: pleo-proxy exec --record FILE -- COMMAND, or pleo-proxy har -o FILE";
/// What `--faults` takes.
const FAULTS: &str =
    "write a JSON object such as '{\"latency_ms\": 200}'; docs/sandbox.md has all names";

impl SandboxCommand {
    fn options(self) -> Result<Options, Failure> {
        let mut faults: Faults = match &self.faults {
            Some(faults) => serde_json::from_str(faults)
                .map_err(|error| Failure::usage(format!("--faults: {error}; {FAULTS}")))?,
            None => Faults::default(),
        };
        let recording = self.replay.as_deref().map(recording).transpose()?;
        faults.access_life_ms = self.access_life_ms.or(faults.access_life_ms);
        faults.latency_ms = faults.latency_ms.max(self.latency_ms);
        Ok(Options {
            auth_addr: self.listen,
            files_addr: files(self.listen, self.files),
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
            print_configuration(&sandbox, id)?;
        }
        signals.next().await;
        Ok(Exit::Fine)
    }
}

fn print_configuration(sandbox: &Sandbox, id: String) -> Result<(), Failure> {
    let scopes = SCOPES.map(|scope| format!("\"{scope}\"")).join(", ");
    out!(
        "environment = \"sandbox\"\n\n[client]\nid = {}\nscopes = [{scopes}]",
        toml::Value::from(id)
    )?;
    let (authorize, token) = (sandbox.authorize_url(), sandbox.token_url());
    out!("\n[endpoints]\nauthorize = \"{authorize}\"\ntoken = \"{token}\"")?;
    let (introspect, api) = (sandbox.introspect_url(), sandbox.api_origin());
    out!("introspect = \"{introspect}\"\napi = \"{api}\"")?;
    out!(
        "\n# All sandboxes share one folder of logins unless each has its own, beside this file:"
    )?;
    out!("# [store]\n# path = \"sandbox-{}\"", sandbox.auth.port())
}

/// Where files are served: beside an API on any free port, on any free port too.
fn files(listen: SocketAddr, files: Option<SocketAddr>) -> SocketAddr {
    let usual = Options::default().files_addr;
    let free = SocketAddr::new(usual.ip(), 0);
    files.unwrap_or(if listen.port() == 0 { free } else { usual })
}

fn recording(file: &Path) -> Result<Recording, Failure> {
    let har = std::fs::read(file).map_err(|error| {
        let why = file_advice::unreadable(file, &error, RECORD);
        Failure::usage(format!("--replay: {why}"))
    })?;
    Recording::read(&har).map_err(|error| {
        let why = format!("the recording {} cannot be used: {error}", file.display());
        Failure::usage(format!("{why}; name an HTTP archive{RECORD}"))
    })
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
    let ip = address.ip();
    if !ip.is_loopback() && !ip.is_unspecified() {
        return Err(Failure::usage(format!(
            "{option} {address}: the sandbox answers programs of this machine only; write {option} 127.0.0.1:{}",
            address.port()
        )));
    }
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

//! `init`: writes a configuration file and the file of the client secret, from flags or from a few
//! questions on a terminal, and says what to give Pleo.

mod choices;
mod files;
mod purpose;
mod questions;
mod registration;

use std::path::PathBuf;

use anyhow::anyhow;
use clap::Args;
use clap::builder::RangedU64ValueParser;
use serde_json::json;
use url::Url;

use crate::cli::commands::login::redirect_uri;
use crate::cli::context::Context;
use crate::cli::exit::{Exit, Failure};
use crate::cli::input::{self, Person};
use crate::cli::output;
use crate::cli::shell::quoted;
use crate::config::{self, Config, Environment};
use crate::oauth::endpoint;
use crate::outbound::is_loopback;
use choices::{Choices, Secret, client_id, one_line};
use files::Files;
use purpose::{Purpose, note_on, scope, scopes_of};
use registration::Registration;

const EXAMPLES: &str = "\
Examples:
  pleo-proxy init  # asks
  pleo-proxy init --environment staging --client-id ID --for export,vendors < client-secret.txt
  pleo-proxy init --environment production --client-id ID --for export --read-only \\
    --redirect-uri https://pleo.example.org/callback --no-secret";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Init {
    /// The client id from Pleo's onboarding
    #[arg(long, value_name = "ID", value_parser = client_id)]
    client_id: Option<String>,
    /// What your tools do at Pleo, which selects the scopes: export, employees, companies, accounts,
    /// tax-codes, tags, vendors
    #[arg(long = "for", value_name = "PURPOSES", value_delimiter = ',', value_parser = Purpose::find)]
    purposes: Vec<&'static Purpose>,
    /// The scopes themselves
    #[arg(long, value_name = "SCOPES", value_delimiter = ',', value_parser = scope, conflicts_with = "purposes")]
    scopes: Vec<String>,
    /// Only scopes that read, and nothing else is forwarded
    #[arg(long)]
    read_only: bool,
    /// The redirect URI that is registered at Pleo [default: the one of the admin listener]
    #[arg(long, value_name = "URI", value_parser = endpoint::redirect_uri)]
    redirect_uri: Option<Url>,
    /// Port for your tools, 8088 by default; the next one is for logins and commands
    #[arg(long, value_name = "PORT", value_parser = RangedU64ValueParser::<u16>::new().range(1..=65534))]
    port: Option<u16>,
    /// A file that has the client secret already, mode 600; else it is read from stdin
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// Leave the secret out: it will come from PLEO_PROXY_CLIENT_SECRET or a systemd credential
    #[arg(long, conflicts_with = "secret_file")]
    no_secret: bool,
    /// Replace files that exist
    #[arg(long)]
    force: bool,
}

impl Init {
    pub(super) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let files = Files::beside(&context.file_to_write(), self.force)?;
        files.ensure_free()?;
        let mut choices = self.choices(context);
        match Person::present()? {
            Some(mut person) => questions::complete(&mut choices, &mut person).await?,
            None => take_piped(&mut choices)?,
        }
        if choices.new_secret().is_some() {
            files.ensure_secret_is_free()?;
        }
        let config = choices.config(context, &files.secret)?;
        files.write(&config::document(&config, &files.folder), choices.new_secret())?;
        report(&choices, &config, &files, context.json)
    }

    /// What the flags say.
    fn choices(self, context: &Context) -> Choices {
        let mut scopes = self.scopes;
        scopes.extend(scopes_of(&self.purposes, self.read_only));
        let file = self.secret_file.map(Secret::In);
        Choices {
            environment: context.environment(),
            has_endpoints: context.sets("endpoints."),
            client_id: self.client_id,
            scopes,
            read_only: self.read_only,
            redirect_uri: self.redirect_uri,
            port: self.port,
            secret: file.or(self.no_secret.then_some(Secret::Elsewhere)),
        }
    }
}

/// Takes the secret from stdin, where nobody can be asked.
fn take_piped(choices: &mut Choices) -> Result<(), Failure> {
    let missing = choices.missing();
    if !missing.is_empty() {
        let missing = missing.join(", ");
        return Err(Failure::usage(format!(
            "init cannot ask, because stdin or stderr is no terminal; give these flags: {missing}; and the client \
             secret on stdin, or --secret-file FILE, or --no-secret"
        )));
    }
    if !choices.has_client() || choices.secret.is_some() {
        return Ok(());
    }
    let advice = "give it there, or name a file that has it with --secret-file, or leave it out with --no-secret";
    let secret = input::all("the client secret")
        .and_then(|bytes| input::as_text(&bytes, "client secret"))
        .and_then(|secret| one_line(secret).map_err(|why| anyhow!(why)));
    let secret = secret.map_err(|error| Failure::usage(format!("{error:#}; {advice}")))?;
    choices.secret = Some(Secret::New(secret));
    Ok(())
}

/// Says what was written, what to give Pleo, and what to do next.
fn report(choices: &Choices, config: &Config, files: &Files, json: bool) -> Result<Exit, Failure> {
    let redirect_uri = redirect_uri(config)?;
    let environment = config.environment().as_str();
    let registration =
        Registration { environment, redirect_uri: &redirect_uri, scopes: &choices.scopes };
    let is_pleo = choices.is_for_pleo();
    let text = is_pleo.then(|| registration.text());
    let program = if files.is_default {
        "pleo-proxy".to_owned()
    } else {
        format!("pleo-proxy --config {}", quoted(&files.config.display().to_string()))
    };
    let is_loopback = redirect_uri.host_str().is_some_and(is_loopback);
    let login = format!("{program} login{}", if is_loopback { "" } else { " --paste" });
    let next: Vec<&String> =
        [&program, &login].into_iter().take(1 + usize::from(choices.has_client())).collect();
    let secret_file = choices.new_secret().map(|_| files.shown_secret());
    let file = files.config.display().to_string();
    choices.scopes.iter().filter_map(|scope| note_on(scope)).for_each(|note| status!("{note}."));
    if json {
        output::json(&json!({
            "version": 1, "outcome": "written", "file": file, "secret_file": secret_file,
            "redirect_uri": is_pleo.then(|| redirect_uri.to_string()), "scopes": choices.scopes,
            "for_pleo": text, "next": next,
        }))?;
        return Ok(Exit::Fine);
    }
    match &secret_file {
        Some(secret) => status!("Written: {file}, and the client secret to {secret} (mode 600).\n"),
        None => status!("Written: {file}.\n"),
    }
    if choices.environment == Some(Environment::Production) && redirect_uri.scheme() == "http" {
        status!(
            "Pleo takes a redirect URI with http only outside production; this one needs https."
        );
    }
    if let Some(text) = text {
        out!("{text}")?;
        status!("\nThe text above is for Pleo: send it, or copy it into the registration form.");
    }
    status!("Start the proxy: {program}");
    if choices.has_client() {
        status!("Then connect your company, in a second terminal: {login}");
    }
    Ok(Exit::Fine)
}

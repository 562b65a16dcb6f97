//! The questions of `init`, for what the flags leave open.

use std::fmt::Display;

use strum::VariantArray as _;

use super::choices::{Choices, Secret, client_id, one_line};
use super::purpose::{PURPOSES, Purpose, scope, scopes_of};
use crate::cli::exit::Failure;
use crate::cli::input::Person;
use crate::config::Environment;
use crate::nearest::nearest;
use crate::oauth::endpoint;

/// Asks for everything that is still open.
pub(super) async fn complete(choices: &mut Choices, person: &mut Person) -> Result<(), Failure> {
    status!("A few questions; an empty answer takes what is in brackets, Ctrl-C ends this.\n");
    if choices.environment.is_none() {
        let question =
            "Which Pleo: sandbox (a fake one on this machine), staging or production? [staging] ";
        choices.environment = Some(ask(person, question, environment).await?);
    }
    if choices.has_client() {
        client(choices, person).await?;
    }
    if choices.port.is_none() {
        choices.port = ask(person, "Port for your tools? [8088] ", port).await?;
    }
    if choices.has_client() && choices.secret.is_none() {
        choices.secret = Some(secret(person).await?);
    }
    Ok(())
}

/// What Pleo has given, and will be given.
async fn client(choices: &mut Choices, person: &mut Person) -> Result<(), Failure> {
    if choices.client_id.is_none() {
        choices.client_id = Some(ask(person, "Client id, from Pleo? ", client_id).await?);
    }
    if choices.scopes.is_empty() {
        choices.scopes = scopes(choices, person).await?;
    }
    if choices.needs_redirect_uri() {
        status!(
            "In production the redirect URI begins with https, and is exactly the one that Pleo has registered."
        );
        let question = "Redirect URI? ";
        choices.redirect_uri = Some(ask(person, question, endpoint::redirect_uri).await?);
    } else if choices.redirect_uri.is_none() {
        let question = "Redirect URI? [the proxy's own, http://127.0.0.1 and the port of logins] ";
        let optional = |text: &str| match text {
            "" => Ok(None),
            text => endpoint::redirect_uri(text).map(Some),
        };
        choices.redirect_uri = ask(person, question, optional).await?;
    }
    Ok(())
}

async fn scopes(choices: &mut Choices, person: &mut Person) -> Result<Vec<String>, Failure> {
    status!("What will your tools do at Pleo?");
    for (number, purpose) in PURPOSES.iter().enumerate() {
        status!("  {}  {:<10} {}", number + 1, purpose.name, purpose.what);
    }
    let question = "Numbers or names, or scopes such as users:read, with commas between? ";
    let chosen = ask(person, question, wanted).await?;
    let mut purposes = Vec::new();
    let mut named = Vec::new();
    for wanted in chosen {
        match wanted {
            Wanted::Purpose(purpose) => purposes.push(purpose),
            Wanted::Scope(scope) => named.push(scope),
        }
    }
    if !choices.read_only && purposes.iter().any(|purpose| purpose.writes()) {
        let question = "May they change data at Pleo? [y] ";
        choices.read_only = !ask(person, question, yes).await?;
    }
    let mut scopes = scopes_of(&purposes, choices.read_only);
    scopes.extend(named);
    Ok(scopes)
}

async fn secret(person: &mut Person) -> Result<Secret, Failure> {
    loop {
        let secret = person.hidden("Client secret, from Pleo (not shown)? ").await?;
        match one_line(secret) {
            Ok(secret) if !secret.is_empty() => return Ok(Secret::New(secret)),
            Ok(_) => status!("  must not be empty"),
            Err(why) => status!("  {why}"),
        }
    }
}

/// Asks until the answer can be read.
async fn ask<T, E: Display>(
    person: &mut Person,
    question: &str,
    read: impl Fn(&str) -> Result<T, E>,
) -> Result<T, Failure> {
    loop {
        match read(&person.answer(question).await?) {
            Ok(answer) => return Ok(answer),
            Err(why) => status!("  {why}"),
        }
    }
}

fn environment(text: &str) -> Result<Environment, String> {
    if text.is_empty() {
        return Ok(Environment::Staging);
    }
    let names = || Environment::VARIANTS.iter().map(|environment| environment.as_str());
    let known = Environment::VARIANTS.iter().find(|environment| environment.as_str() == text);
    known.copied().ok_or_else(|| match nearest(text, names()) {
        Some(near) => format!("did you mean {near}?"),
        None => format!("must be {}", names().collect::<Vec<_>>().join(", ")),
    })
}

/// The port; none: the default one.
fn port(text: &str) -> Result<Option<u16>, &'static str> {
    match text.parse() {
        _ if text.is_empty() => Ok(None),
        Ok(port @ 1..=65534) => Ok(Some(port)),
        _ => Err("must be a number between 1 and 65534"),
    }
}

fn yes(text: &str) -> Result<bool, &'static str> {
    match text.to_ascii_lowercase().as_str() {
        "" | "y" | "yes" => Ok(true),
        "n" | "no" => Ok(false),
        _ => Err("must be y or n"),
    }
}

/// Purposes and scopes.
fn wanted(text: &str) -> Result<Vec<Wanted>, String> {
    let parts = text.split([',', ' ']).filter(|part| !part.is_empty());
    let wanted: Vec<_> = parts.map(Wanted::read).collect::<Result<_, _>>()?;
    if wanted.is_empty() { Err("choose at least one".to_owned()) } else { Ok(wanted) }
}

/// One thing that the tools do.
enum Wanted {
    Purpose(&'static Purpose),
    Scope(String),
}

impl Wanted {
    fn read(text: &str) -> Result<Self, String> {
        if text.contains(':') {
            return scope(text).map(Self::Scope).map_err(str::to_owned);
        }
        Purpose::find(text).map(Self::Purpose)
    }
}

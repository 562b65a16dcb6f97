//! Checks of the configuration: what `config check` reports, and what depends on where it is used.

use std::fs;
use std::path::Path;

use url::Url;

use super::finding::{Check, Finding};
use crate::cli::loosened;
use crate::config::{self, Config, ConfigError, Environment, Origin, SecretSource};
use crate::diagnostic::{Code, Diagnostic};
use crate::outbound::is_loopback;
use crate::private_file::access::Access;

/// The findings about a configuration that cannot be loaded.
pub(super) fn unusable(error: &ConfigError) -> Vec<Finding> {
    let problems = error.diagnostics().iter().cloned();
    let found = problems.map(|problem| Check::Configuration.problem(problem));
    let others = [Check::Store, Check::Proxy, Check::Tcp, Check::Account];
    let skipped = others.map(|check| check.skip("the configuration must be mended first"));
    found.chain(skipped).collect()
}

/// All checks of a configuration that was loaded. Reads files.
pub(super) fn checks(config: &Config) -> Vec<Finding> {
    let mut findings = values(config);
    findings.extend(readable_password(config));
    findings.push(redirect_uri(config));
    findings.push(protections(config));
    findings
}

/// What is missing or odd, and the origin of what is not in the file.
fn values(config: &Config) -> Vec<Finding> {
    let problems = match config::check(config) {
        Ok(warnings) => warnings,
        Err(error) => error.diagnostics().to_vec(),
    };
    let (about_secret, others): (Vec<_>, Vec<_>) =
        problems.into_iter().partition(|problem| problem.code == Code::ClientSecret);
    let mut findings: Vec<_> =
        others.into_iter().map(|it| Check::Configuration.problem(it)).collect();
    if findings.is_empty() {
        findings.push(Check::Configuration.pass(origins(config)));
    }
    let has_secret = about_secret.is_empty();
    findings.extend(about_secret.into_iter().map(|it| Check::ClientSecret.problem(it)));
    if has_secret {
        findings.push(secret(config));
    }
    findings
}

/// Which file, and which settings come from elsewhere.
fn origins(config: &Config) -> String {
    let file = config.file.as_ref().map(|file| file.display().to_string());
    let mut text = file.unwrap_or_else(|| "no file, so the built-in defaults".to_owned());
    for (setting, origin) in &config.origins {
        match origin {
            Origin::Variable(name) => text += &format!("; {setting} from the variable {name}"),
            Origin::Flag => text += &format!("; {setting} from a flag"),
            Origin::Default | Origin::File { .. } => {}
        }
    }
    text
}

fn secret(config: &Config) -> Finding {
    let check = Check::ClientSecret;
    match &config.oauth.client_secret {
        _ if config.embedded_sandbox => check.skip("the embedded sandbox has a client of its own"),
        SecretSource::None => check.skip("none is set"),
        SecretSource::Value(_) => {
            check.pass("from a variable, which other programs of this user can often read")
        }
        SecretSource::File(path) => {
            check.pass(format!("{}, readable by its owner only", path.display()))
        }
    }
}

/// A password in the file is a secret that the file is not protected for.
fn readable_password(config: &Config) -> Option<Finding> {
    let path = config.file.as_ref().filter(|_| has_password_in_file(config))?;
    let is_open = is_readable_by_others(path)?;
    let shown = path.display();
    Some(if is_open {
        Check::ConfigFile.problem(Diagnostic::warning(
            Code::ReadablePassword,
            format!("{shown} holds the password of upstream.proxy, and other users can read it"),
            format!("run: chmod 600 {shown}"),
        ))
    } else {
        Check::ConfigFile.pass("only its owner can read the password of upstream.proxy")
    })
}

fn has_password_in_file(config: &Config) -> bool {
    let from_file = matches!(config.origins.get("upstream.proxy"), Some(Origin::File { .. }));
    from_file && config.outbound.proxy.has_password()
}

fn is_readable_by_others(path: &Path) -> Option<bool> {
    fs::metadata(path).ok().map(|metadata| Access::of(&metadata).is_too_permissive())
}

/// Pleo registers https redirect URIs, except for loopback in development, and compares them as
/// text.
fn redirect_uri(config: &Config) -> Finding {
    let check = Check::RedirectUri;
    if config.embedded_sandbox {
        return check.skip("the embedded sandbox accepts any on this machine");
    }
    match &config.login.redirect_uri {
        None => own_redirect_uri(config),
        Some(uri) if uri.scheme() == "https" => behind_reverse_proxy(config, uri),
        Some(uri) if config.environment() == Environment::Production => {
            check.problem(not_https(uri.as_str()))
        }
        Some(uri) => check.pass(format!("{uri}, on this machine")),
    }
}

/// The admin listener's address and `/callback`.
fn own_redirect_uri(config: &Config) -> Finding {
    let check = Check::RedirectUri;
    let fixed = "set client.redirect_uri to the one that is registered at Pleo";
    match config.listen.admin {
        None => check.problem(Diagnostic::warning(
            Code::RedirectUri,
            "client.redirect_uri is not set and listen.admin is off, so a login has no redirect URI",
            fixed,
        )),
        Some(admin) if config.environment() == Environment::Production => {
            check.problem(not_https(&format!("http://{admin}/callback")))
        }
        Some(admin) if admin.port() == 0 && config.environment() == Environment::Staging => check
            .problem(Diagnostic::warning(
                Code::RedirectUri,
                "the redirect URI follows listen.admin, whose port is another one at each start",
                format!("{fixed}, or give listen.admin a port"),
            )),
        Some(admin) if admin.port() == 0 => {
            check.pass("the address of listen.admin, whose port is another one at each start")
        }
        Some(admin) => check.pass(format!("http://{admin}/callback, on this machine")),
    }
}

fn not_https(uri: &str) -> Diagnostic {
    Diagnostic::warning(
        Code::RedirectUri,
        format!("the redirect URI is {uri}, and Pleo registers only https ones for production"),
        "set client.redirect_uri to the https address that is registered at Pleo, and lead it to listen.admin by a \
         reverse proxy, or log in with: pleo-proxy login --paste",
    )
}

/// The callback arrives with the host of the redirect URI, which the guard must know.
fn behind_reverse_proxy(config: &Config, uri: &Url) -> Finding {
    let check = Check::RedirectUri;
    let host = uri.host_str().unwrap_or_default();
    let with_port = format!("{host}:{}", uri.port_or_known_default().unwrap_or(443));
    let allowed = config.guard().map(|guard| guard.allow_hosts).unwrap_or_default();
    if is_loopback(host) || allowed.contains(&with_port) {
        return check.pass(format!("{uri}, through a reverse proxy before listen.admin"));
    }
    check.pass(format!(
        "{uri}: a callback that a reverse proxy forwards with this host needs \"{with_port}\" in guard.allow_hosts; \
         `login --paste` needs nothing"
    ))
}

fn protections(config: &Config) -> Finding {
    // What is wrong with the key's file, the configuration check says.
    let notes = config.guard().map(|guard| loosened::notes(config, &guard)).unwrap_or_default();
    match notes.as_slice() {
        [] => Check::Protections.pass("none is loosened"),
        notes => Check::Protections.pass(format!("note: {}", notes.join("; "))),
    }
}

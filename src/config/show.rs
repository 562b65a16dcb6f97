//! `config show`: the configuration in effect, as TOML.

use std::path::Path;
use std::time::Duration;

use jiff::SignedDuration;
use jiff::fmt::friendly::SpanPrinter;
use serde_json::json;
use toml::Value;

use super::key::{KEYS, Key};
use super::{ClientAuth, Config, KeyExchange, OutboundProxy, PeerCheck, SecretSource, address, one_line};

/// How one key is shown.
enum Shown {
    /// In effect, and right if it were read again.
    Value(Value),
    /// As a comment: not set, or not what a file should say.
    Comment(String),
}

pub(super) fn config(config: &Config) -> String {
    let mut text = match &config.file {
        Some(file) => format!("# from {}\n", one_line(&file.display().to_string())),
        None => "# no file was found\n".to_owned(),
    };
    let mut section = None;
    for key in &KEYS {
        if key.section() != section {
            section = key.section();
            text += &section.map(|name| format!("\n[{name}]\n")).unwrap_or_default();
        }
        text += &line(config, key);
    }
    text += &outside(config);
    text
}

/// Every key with its value, or a remark where there is none to be read again.
pub(super) fn json(config: &Config) -> serde_json::Value {
    let setting = |key: &Key| {
        let origin = config.origins.get(key.name).map(ToString::to_string).unwrap_or_default();
        let shown = match shown(config, key.name) {
            Shown::Value(value) => json!({"value": value, "origin": origin}),
            Shown::Comment(remark) => json!({"value": null, "remark": remark, "origin": origin}),
        };
        (key.name.to_owned(), shown)
    };
    let settings: serde_json::Map<_, _> = KEYS.iter().map(setting).collect();
    let file = config.file.as_ref().map(|file| file.display().to_string());
    json!({"version": 1, "file": file, "settings": settings, "warnings": config.warnings})
}

fn line(config: &Config, key: &Key) -> String {
    let origin = config.origins.get(key.name).map(ToString::to_string).unwrap_or_default();
    match shown(config, key.name) {
        Shown::Value(value) => format!("{} = {value}  # {}{origin}\n", key.short(), remark(config, key)),
        Shown::Comment(comment) => format!("# {}: {comment}\n", key.short()),
    }
}

fn remark(config: &Config, key: &Key) -> &'static str {
    match &config.upstream.proxy {
        OutboundProxy::Url(url)
            if key.name == "upstream.proxy" && (url.password().is_some() || !url.username().is_empty()) =>
        {
            "user and password are not shown; "
        }
        _ => "",
    }
}

/// What lies outside the file and matters to where credentials go.
fn outside(config: &Config) -> String {
    let mut text = "\n# Outbound proxy variables".to_owned();
    text += match config.upstream.proxy {
        OutboundProxy::Env => ", in effect (user and password are not shown; never used for loopback):\n",
        OutboundProxy::Off | OutboundProxy::Url(_) => ", not used:\n",
    };
    let mut variables = config.upstream.variables.shown().peekable();
    if variables.peek().is_none() {
        text += "#   none is set\n";
    }
    variables.for_each(|(name, value)| text += &format!("#   {name} = {value}\n"));
    let ca_file = config.endpoints.ca_file.as_ref().map(|path| one_line(&path.display().to_string()));
    text + &format!("# Extra trust root: {}\n", ca_file.as_deref().unwrap_or("none"))
}

fn shown(config: &Config, name: &str) -> Shown {
    if let Some(value) = endpoint(config, name) {
        return value;
    }
    let value = match name {
        "environment" => config.environment.as_str().into(),
        "default_account" => config.default_account.clone().unwrap_or_default().into(),
        "listen.api" => config.listen.api.to_string().into(),
        "listen.admin" => config.listen.admin.map_or("off".to_owned(), |admin| admin.to_string()).into(),
        "listen.max_connections" => number(config.listen.max_connections),
        "client.id" => match &config.client.id {
            Some(id) => id.clone().into(),
            None => return Shown::Comment("not set".into()),
        },
        "client.secret_file" => return secret(config),
        "client.redirect_uri" => config.client.redirect_uri.as_ref().map_or("", |url| url.as_str()).into(),
        "client.scopes" => texts(&config.client.scopes),
        "client.auth" => auth(config.client.auth).into(),
        "tokens.drain" => duration(config.tokens.drain),
        "tokens.hold" => duration(config.tokens.hold),
        "tokens.keep_warm" => duration(config.tokens.keep_warm),
        "tokens.keep_alive" => duration(config.tokens.keep_alive),
        "store.kind" => "file".into(),
        "store.path" => path(config.store.state_root.as_deref()),
        "guard.allow_hosts" => texts(&config.guard.allow_hosts),
        "guard.allow_origins" => texts(&config.guard.allow_origins),
        "guard.peer_check" => peer_check(&config.guard.peer_check),
        "guard.local_key_file" => path(config.guard.local_key_file.as_deref()),
        "guard.read_only" => config.guard.read_only.into(),
        "guard.allow_disconnect" => config.guard.allow_disconnect.into(),
        "upstream.proxy" => proxy(&config.upstream.proxy).into(),
        "upstream.connect_timeout" => duration(config.upstream.connect_timeout),
        "upstream.response_timeout" => duration(config.upstream.response_timeout),
        "upstream.idle_timeout" => duration(config.upstream.idle_timeout.unwrap_or_default()),
        "upstream.replay_limit" => number(config.upstream.replay_limit),
        "upstream.tls_key_exchange" => key_exchange(config.upstream.tls_key_exchange).into(),
        _ => return Shown::Comment("cannot be shown".into()),
    };
    Shown::Value(value)
}

/// Endpoints; those of the embedded sandbox as comments, since writing them down would mean somebody else's sandbox.
fn endpoint(config: &Config, name: &str) -> Option<Shown> {
    let endpoints = &config.endpoints;
    let url = match name {
        "endpoints.authorize" => Some(&endpoints.authorize),
        "endpoints.token" => Some(&endpoints.token),
        "endpoints.introspect" => endpoints.introspect.as_ref(),
        "endpoints.api" => Some(&endpoints.api),
        "endpoints.ca_file" => return Some(Shown::Value(path(endpoints.ca_file.as_deref()))),
        _ => return None,
    };
    let text = url.map_or("", |url| url.as_str());
    let is_default = config.origins.get(name) == Some(&super::Origin::Default);
    Some(match endpoints.embedded_sandbox && is_default {
        true => Shown::Comment(format!("{text} (embedded sandbox)")),
        false => Shown::Value(text.into()),
    })
}

fn secret(config: &Config) -> Shown {
    let origin = config.origins.get("client.secret");
    match (&config.client.secret, origin) {
        (SecretSource::None, _) => Shown::Comment("the client secret is not set".into()),
        (SecretSource::Value(_), Some(origin)) => Shown::Comment(format!("the client secret is set by {origin}")),
        (SecretSource::Value(_), None) => Shown::Comment("the client secret is set".into()),
        (SecretSource::File(file), Some(origin)) => {
            let file = one_line(&file.display().to_string());
            Shown::Comment(format!("the client secret is set by the credential {file} ({origin})"))
        }
        (SecretSource::File(file), None) => Shown::Value(path(Some(file))),
    }
}

fn auth(auth: ClientAuth) -> &'static str {
    match auth {
        ClientAuth::Basic => "basic",
        ClientAuth::BasicRaw => "basic-raw",
        ClientAuth::Post => "post",
    }
}

fn peer_check(check: &PeerCheck) -> Value {
    match check {
        PeerCheck::SameUser => "same-user".into(),
        PeerCheck::Off => "off".into(),
        PeerCheck::Users(users) => Value::Array(users.iter().map(|user| i64::from(*user).into()).collect()),
    }
}

fn key_exchange(key_exchange: KeyExchange) -> &'static str {
    match key_exchange {
        KeyExchange::Hybrid => "hybrid",
        KeyExchange::Classic => "classic",
    }
}

fn proxy(proxy: &OutboundProxy) -> String {
    match proxy {
        OutboundProxy::Env => "env".to_owned(),
        OutboundProxy::Off => "off".to_owned(),
        OutboundProxy::Url(url) => address::without_userinfo(url.as_str()),
    }
}

fn texts(texts: &[String]) -> Value {
    Value::Array(texts.iter().map(|text| text.clone().into()).collect())
}

fn path(path: Option<&Path>) -> Value {
    path.map(|path| path.display().to_string()).unwrap_or_default().into()
}

fn number(number: usize) -> Value {
    i64::try_from(number).unwrap_or(i64::MAX).into()
}

fn duration(duration: Duration) -> Value {
    let duration = SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX);
    SpanPrinter::new().duration_to_string(&duration).into()
}

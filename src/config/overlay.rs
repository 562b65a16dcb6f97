//! Variables and flags, laid over the file.

use std::collections::BTreeMap;

use super::Flags;
use super::key::{self, FILE_VARIABLE, KEYS, Key, SECRET_VARIABLE, VARIABLE_PREFIX};
use super::problem::{Fault, Problems};
use super::setting::{Place, Setting, Settings, Value};

/// Lays the variables that start with `PLEO_PROXY_` over the settings.
pub(super) fn variables(environment: &BTreeMap<String, String>, settings: &mut Settings, problems: &mut Problems<'_>) {
    let ours = |name: &str| name.starts_with(VARIABLE_PREFIX) && name != SECRET_VARIABLE && name != FILE_VARIABLE;
    for (name, raw) in environment.iter().filter(|(name, _)| ours(name)) {
        match KEYS.iter().find(|key| key.variable() == *name) {
            Some(key) => set(key, key.shape.read(raw), Place::Variable(name.clone()), settings, problems),
            None if is_service_link(name, raw) => {}
            None => problems.plain(&format!("unknown variable `{name}`"), &variable_advice(name)),
        }
    }
}

/// The variables that a cluster sets in every container for a service called `pleo-proxy` (or `pleo-proxy-...`), and
/// that are none of ours.
pub(super) fn service_links(environment: &BTreeMap<String, String>) -> Vec<String> {
    let unknown = |name: &str| !KEYS.iter().any(|key| key.variable() == name);
    let links = environment.iter().filter(|(name, value)| unknown(name) && is_service_link(name, value));
    links.map(|(name, _)| name.clone()).collect()
}

/// The forms of the Kubernetes documentation ("Service environment variables") and of Docker's links before them.
fn is_service_link(name: &str, value: &str) -> bool {
    let Some(rest) = name.strip_prefix(VARIABLE_PREFIX) else { return false };
    let is_own = rest == "PORT" || rest.starts_with("PORT_") || rest.starts_with("SERVICE_");
    // A service with a longer name. What looks like a mistyped key stays an error.
    let is_address = ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme));
    let is_port = |after: &str| after.starts_with(|first: char| first.is_ascii_digit());
    let is_longer = rest.ends_with("_SERVICE_HOST")
        || rest.contains("_SERVICE_PORT")
        || rest.split_once("_PORT_").is_some_and(|(_, after)| is_port(after));
    is_own || is_longer || (rest.ends_with("_PORT") && is_address)
}

fn variable_advice(name: &str) -> String {
    let mut names: Vec<String> = KEYS.iter().map(Key::variable).collect();
    names.extend([SECRET_VARIABLE.to_owned(), FILE_VARIABLE.to_owned()]);
    match key::nearest(name, names.iter().map(String::as_str)) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("variables are called {VARIABLE_PREFIX}<SECTION>_<KEY>, such as PLEO_PROXY_LISTEN_API"),
    }
}

/// Lays `--set` and `--environment` over the settings.
pub(super) fn flags(flags: &Flags, settings: &mut Settings, problems: &mut Problems<'_>) {
    for set in &flags.set {
        assignment(set, settings, problems);
    }
    if let (Some(name), Some(key)) = (&flags.environment, key::find("environment")) {
        set(key, Some(Value::Text(name.clone())), Place::Flag("--environment"), settings, problems);
    }
}

/// One `--set KEY=VALUE`. Errors name the key only: the value may be a secret in the wrong place.
fn assignment(text: &str, settings: &mut Settings, problems: &mut Problems<'_>) {
    let Some((name, raw)) = text.split_once('=') else {
        return problems.plain("`--set` needs KEY=VALUE", "write for example: --set listen.api=127.0.0.1:0");
    };
    let name = name.trim();
    match key::find(name) {
        Some(key) => set(key, flag_value(key, raw.trim()), Place::Flag("--set"), settings, problems),
        None => problems.plain(&format!("`--set {name}`: unknown key"), &key::advice(name)),
    }
}

/// The value as TOML if that fits the key, else as bare text: shells eat quotes.
fn flag_value(key: &Key, raw: &str) -> Option<Value> {
    Value::parse(raw).filter(|value| key.shape.accepts(value)).or_else(|| key.shape.read(raw))
}

fn set(key: &'static Key, value: Option<Value>, place: Place, settings: &mut Settings, problems: &mut Problems<'_>) {
    match value {
        Some(value) => settings.set(key, value, place),
        None => {
            let setting = Setting { value: Value::Absent, place };
            problems.fault(key, &setting, &Fault::new(key.shape.expected()));
        }
    }
}

//! The keys of the configuration: name, shape, default, example.

use super::setting::Value;

/// What kind of TOML value a key takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Text,
    Boolean,
    Integer,
    Texts,
    /// A word or a list of user ids.
    WordOrIds,
    /// A text such as "256KiB" or a number of bytes.
    Size,
}

impl Shape {
    pub(super) fn accepts(self, value: &Value) -> bool {
        match (self, value) {
            (Self::Text | Self::WordOrIds | Self::Size, Value::Text(_))
            | (Self::Boolean, Value::Boolean(_))
            | (Self::Integer | Self::Size, Value::Integer(_)) => true,
            (Self::Texts, Value::List(items)) => items.iter().all(|item| matches!(item, Value::Text(_))),
            (Self::WordOrIds, Value::List(items)) => items.iter().all(|item| matches!(item, Value::Integer(_))),
            _ => false,
        }
    }

    pub(super) fn expected(self) -> &'static str {
        match self {
            Self::Text => "must be a string",
            Self::Boolean => "must be true or false",
            Self::Integer => "must be a whole number",
            Self::Texts => "must be a list of strings",
            Self::WordOrIds => "must be a string or a list of user ids",
            Self::Size => "must be a string such as \"256KiB\" or a number of bytes",
        }
    }

    /// Reads what a variable or a bare `--set` says: no quotes, lists by comma.
    pub(super) fn read(self, raw: &str) -> Option<Value> {
        let parts = || raw.split(',').map(str::trim).filter(|part| !part.is_empty());
        match self {
            Self::Text | Self::Size => Some(Value::Text(raw.to_owned())),
            Self::Boolean => raw.parse().ok().map(Value::Boolean),
            Self::Integer => raw.parse().ok().map(Value::Integer),
            Self::Texts => Some(Value::List(parts().map(|part| Value::Text(part.to_owned())).collect())),
            Self::WordOrIds if raw.starts_with(|first: char| first.is_ascii_digit()) => {
                parts().map(|part| part.parse().ok().map(Value::Integer)).collect::<Option<_>>().map(Value::List)
            }
            Self::WordOrIds => Some(Value::Text(raw.to_owned())),
        }
    }
}

/// One key.
#[derive(Debug)]
pub(super) struct Key {
    /// `section.key`, or `key` at the top.
    pub(super) name: &'static str,
    pub(super) shape: Shape,
    /// As TOML; `None`: not set, or the environment decides.
    pub(super) default: Option<&'static str>,
    /// As TOML, for errors.
    pub(super) example: &'static str,
}

impl Key {
    pub(super) fn section(&self) -> Option<&'static str> {
        self.name.split_once('.').map(|(section, _)| section)
    }

    /// The name without its section.
    pub(super) fn short(&self) -> &'static str {
        self.name.rsplit('.').next().unwrap_or(self.name)
    }

    pub(super) fn variable(&self) -> String {
        format!("{VARIABLE_PREFIX}{}", self.name.replace('.', "_").to_ascii_uppercase())
    }

    /// Whether a value in the wrong place here may be a secret: it is then never part of an error.
    pub(super) fn hides_value(&self) -> bool {
        matches!(self.name, "client.secret_file" | "guard.local_key_file" | "upstream.proxy")
    }

    /// The example as a variable would carry it.
    pub(super) fn bare_example(&self) -> String {
        self.example.trim_matches(['[', ']']).replace('"', "").replace(", ", ",")
    }
}

pub(super) const VARIABLE_PREFIX: &str = "PLEO_PROXY_";
/// The one way to hand the client secret over without a file.
pub(crate) const SECRET_VARIABLE: &str = "PLEO_PROXY_CLIENT_SECRET";
/// Same as `--config`.
pub(super) const FILE_VARIABLE: &str = "PLEO_PROXY_CONFIG";

/// Sections that do not exist yet, refused by name.
pub(super) const LATER: [&str; 2] = ["accounts", "hooks"];

const fn key(name: &'static str, shape: Shape, default: &'static str) -> Key {
    Key { name, shape, default: Some(default), example: default }
}

const fn example(name: &'static str, shape: Shape, default: &'static str, example: &'static str) -> Key {
    Key { name, shape, default: Some(default), example }
}

const fn unset(name: &'static str, shape: Shape, example: &'static str) -> Key {
    Key { name, shape, default: None, example }
}

/// Every key, in the order of `proxy.toml`.
pub(super) static KEYS: [Key; 33] = [
    key("environment", Shape::Text, r#""sandbox""#),
    example("default_account", Shape::Text, r#""""#, r#""acme""#),
    key("listen.api", Shape::Text, r#""127.0.0.1:8088""#),
    key("listen.admin", Shape::Text, r#""127.0.0.1:8089""#),
    key("listen.max_connections", Shape::Integer, "0"),
    unset("client.id", Shape::Text, r#""your-client-id""#),
    unset("client.secret_file", Shape::Text, r#""client-secret""#),
    example("client.redirect_uri", Shape::Text, r#""""#, r#""http://127.0.0.1:8089/callback""#),
    example("client.scopes", Shape::Texts, "[]", r#"["export-jobs:read", "users:read"]"#),
    key("client.auth", Shape::Text, r#""basic""#),
    unset("endpoints.authorize", Shape::Text, r#""https://auth.staging.pleo.io/oauth/authorize""#),
    unset("endpoints.token", Shape::Text, r#""https://auth.staging.pleo.io/oauth/token""#),
    unset("endpoints.introspect", Shape::Text, r#""https://auth.staging.pleo.io/oauth/token/introspect""#),
    unset("endpoints.api", Shape::Text, r#""https://external.staging.pleo.io""#),
    unset("endpoints.ca_file", Shape::Text, r#""private-ca.pem""#),
    key("tokens.drain", Shape::Text, r#""2s""#),
    key("tokens.hold", Shape::Text, r#""15s""#),
    key("tokens.keep_warm", Shape::Text, r#""10m""#),
    key("tokens.keep_alive", Shape::Text, r#""7d""#),
    key("store.kind", Shape::Text, r#""file""#),
    example("store.path", Shape::Text, r#""""#, r#""/var/lib/pleo-proxy""#),
    example("guard.allow_hosts", Shape::Texts, "[]", r#"["proxy.internal:8088"]"#),
    example("guard.allow_origins", Shape::Texts, "[]", r#"["http://localhost:3000"]"#),
    key("guard.peer_check", Shape::WordOrIds, r#""same-user""#),
    example("guard.local_key_file", Shape::Text, r#""""#, r#""local-key""#),
    key("guard.read_only", Shape::Boolean, "false"),
    key("guard.allow_disconnect", Shape::Boolean, "false"),
    key("upstream.proxy", Shape::Text, r#""env""#),
    key("upstream.connect_timeout", Shape::Text, r#""10s""#),
    key("upstream.response_timeout", Shape::Text, r#""120s""#),
    key("upstream.idle_timeout", Shape::Text, r#""60s""#),
    key("upstream.replay_limit", Shape::Size, r#""256KiB""#),
    key("upstream.tls_key_exchange", Shape::Text, r#""hybrid""#),
];

/// The key of that name.
pub(super) fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// The names of the sections.
pub(super) fn sections() -> impl Iterator<Item = &'static str> {
    let mut last = None;
    KEYS.iter().filter_map(Key::section).filter(move |section| last.replace(*section) != Some(*section))
}

/// What to say about a key that does not exist, `name` with its section.
pub(super) fn advice(name: &str) -> String {
    let (section, short) = name.rsplit_once('.').unwrap_or(("", name));
    if LATER.contains(&section.split('.').next().unwrap_or(section)) || LATER.contains(&name) {
        return "this comes in a later version; remove it".to_owned();
    }
    if short.contains("secret") || short.contains("password") {
        return format!("secrets do not belong here: use client.secret_file or the variable {SECRET_VARIABLE}");
    }
    let namesake = |key: &&Key| key.short() == short;
    if let Some(key) = KEYS.iter().find(namesake) {
        return match key.section() {
            Some(section) => format!("`{short}` belongs into [{section}]"),
            None => format!("`{short}` belongs to the top, before the first section"),
        };
    }
    let siblings = || KEYS.iter().filter(|key| key.section().unwrap_or_default() == section);
    if let Some(near) = nearest(name, siblings().map(|key| key.name).chain(sections())) {
        return format!("did you mean `{near}`?");
    }
    let names: Vec<&str> = siblings().map(Key::short).collect();
    match (names.is_empty(), section.is_empty()) {
        (true, _) => format!("the sections are: {}", sections().collect::<Vec<_>>().join(", ")),
        (false, true) => {
            let sections = sections().collect::<Vec<_>>().join(", ");
            format!("the keys at the top are {}; the sections are {sections}", names.join(", "))
        }
        (false, false) => format!("the keys of [{section}] are: {}", names.join(", ")),
    }
}

/// The candidate that a mistyped name most probably means.
pub(super) fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let scored = candidates.map(|candidate| (distance(name, candidate), candidate));
    let tolerated = (name.len() / 3).clamp(1, 4);
    scored.filter(|(distance, _)| *distance <= tolerated).min().map(|(_, candidate)| candidate)
}

/// Levenshtein's edit distance; long names are cut, they are no typing mistakes.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (above, from) in left.chars().take(64).enumerate() {
        let mut diagonal = row[0];
        row[0] = above + 1;
        for (column, to) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[right.len()]
}

//! Values into their meaning: names, durations, sizes, paths.

use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::{Span, SpanRelativeTo};

use super::problem::Fault;
use super::setting::Value;
use super::{ClientAuth, Environment, KeyExchange, OutboundProxy, PeerCheck, address, key};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
/// Largest body that is kept for a second try.
const LARGEST_REPLAY: u64 = 64 * 1024 * 1024;
/// More connections than any single machine's tools open.
const MOST_CONNECTIONS: i64 = 1_000_000;

pub(super) fn environment(value: &Value) -> Result<Environment, Fault> {
    let names = Environment::ALL.map(Environment::as_str);
    let found = Environment::ALL.into_iter().find(|environment| environment.as_str() == value.text());
    found.ok_or_else(|| one_of(value.text(), &names))
}

pub(super) fn auth(value: &Value) -> Result<ClientAuth, Fault> {
    match value.text() {
        "basic" => Ok(ClientAuth::Basic),
        "basic-raw" => Ok(ClientAuth::BasicRaw),
        "post" => Ok(ClientAuth::Post),
        other => Err(one_of(other, &["basic", "basic-raw", "post"])),
    }
}

pub(super) fn key_exchange(value: &Value) -> Result<KeyExchange, Fault> {
    match value.text() {
        "hybrid" => Ok(KeyExchange::Hybrid),
        "classic" => Ok(KeyExchange::Classic),
        other => Err(one_of(other, &["hybrid", "classic"])),
    }
}

pub(super) fn store_kind(value: &Value) -> Result<(), Fault> {
    match value.text() {
        "file" => Ok(()),
        "keyring" | "postgres" => Err(Fault::new("names a store that comes in a later version").help("write \"file\"")),
        other => Err(one_of(other, &["file"])),
    }
}

fn one_of(text: &str, names: &[&str]) -> Fault {
    let fault = Fault::new(format!("must be {}", names.join(" or ")));
    match key::nearest(text, names.iter().copied()) {
        Some(near) => fault.help(format!("did you mean \"{near}\"?")),
        None => fault,
    }
}

/// An account's name; "" is none.
pub(super) fn account(value: &Value) -> Result<Option<String>, Fault> {
    let text = value.text();
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    match text.len() {
        0 => Ok(None),
        1..=63 if text.bytes().all(allowed) && !text.starts_with('-') => Ok(Some(text.to_owned())),
        _ => Err(Fault::new("must be an account's name: up to 63 of a-z, 0-9 and -, not starting with -")),
    }
}

/// RFC 6749 appendix A.1.
pub(super) fn client_id(value: &Value) -> Result<Option<String>, Fault> {
    let text = value.text();
    if !text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) || text.trim() != text {
        return Err(Fault::new("must be printable ASCII without spaces around it"));
    }
    Ok((!text.is_empty()).then(|| text.to_owned()))
}

/// RFC 6749 section 3.3.
pub(super) fn scopes(value: &Value) -> Result<Vec<String>, Fault> {
    let allowed = |byte: u8| matches!(byte, b'!' | b'#'..=b'[' | b']'..=b'~');
    each(value, |text| {
        if !text.is_empty() && text.bytes().all(allowed) {
            return Ok(text.to_owned());
        }
        Err(Fault::new("must hold scopes without spaces, quotes or backslashes, one to an item"))
    })
}

pub(super) fn allow_hosts(value: &Value) -> Result<Vec<String>, Fault> {
    each(value, address::allowed_host)
}

pub(super) fn allow_origins(value: &Value) -> Result<Vec<String>, Fault> {
    each(value, address::allowed_origin)
}

fn each<T>(value: &Value, parse: impl Fn(&str) -> Result<T, Fault>) -> Result<Vec<T>, Fault> {
    let items = value.texts().into_iter().enumerate();
    items.map(|(index, text)| parse(text).map_err(|fault| fault.item(index))).collect()
}

pub(super) fn peer_check(value: &Value) -> Result<PeerCheck, Fault> {
    let fault = || Fault::new("must be same-user, off or a list of user ids");
    match value {
        Value::Text(text) if text == "same-user" => Ok(PeerCheck::SameUser),
        Value::Text(text) if text == "off" => Ok(PeerCheck::Off),
        Value::List(items) if !items.is_empty() => {
            let user = |(index, item): (usize, &Value)| match item {
                Value::Integer(id) => u32::try_from(*id).map_err(|_| fault().item(index)),
                _ => Err(fault().item(index)),
            };
            items.iter().enumerate().map(user).collect::<Result<_, _>>().map(PeerCheck::Users)
        }
        _ => Err(fault()),
    }
}

pub(super) fn outbound_proxy(value: &Value) -> Result<OutboundProxy, Fault> {
    match value.text() {
        "env" => Ok(OutboundProxy::Env),
        "off" => Ok(OutboundProxy::Off),
        text => address::outbound_proxy(text).map(OutboundProxy::Url),
    }
}

pub(super) fn flag(value: &Value) -> Result<bool, Fault> {
    Ok(*value == Value::Boolean(true))
}

pub(super) fn max_connections(value: &Value) -> Result<usize, Fault> {
    let fault = || Fault::new(format!("must be between 0 (automatic) and {MOST_CONNECTIONS}"));
    match value {
        Value::Integer(number) if *number <= MOST_CONNECTIONS => usize::try_from(*number).map_err(|_| fault()),
        _ => Err(fault()),
    }
}

pub(super) fn drain(value: &Value) -> Result<Duration, Fault> {
    within(value, Duration::from_millis(1), Duration::from_secs(60), "between 1ms and 60s")
}

pub(super) fn hold(value: &Value) -> Result<Duration, Fault> {
    within(value, Duration::from_millis(1), Duration::from_secs(600), "between 1ms and 10m")
}

pub(super) fn keep_warm(value: &Value) -> Result<Duration, Fault> {
    within(value, Duration::from_millis(1), DAY, "between 1ms and 1d")
}

/// Pleo's refresh tokens live 60 days; more often than hourly is only good for trying it out.
pub(super) fn keep_alive(value: &Value, environment: Environment) -> Result<Duration, Fault> {
    match environment {
        Environment::Sandbox => within(value, Duration::from_secs(1), 30 * DAY, "between 1s and 30d"),
        Environment::Staging | Environment::Production => within(value, HOUR, 30 * DAY, "between 1h and 30d"),
    }
}

pub(super) fn timeout(value: &Value) -> Result<Duration, Fault> {
    within(value, Duration::from_millis(1), DAY, "between 1ms and 1d")
}

/// Zero is no limit.
pub(super) fn idle_timeout(value: &Value) -> Result<Option<Duration>, Fault> {
    let idle = within(value, Duration::ZERO, DAY, "at most 1d, or 0s for no limit")?;
    Ok((!idle.is_zero()).then_some(idle))
}

fn within(value: &Value, least: Duration, most: Duration, range: &str) -> Result<Duration, Fault> {
    let not_one = || Fault::new(format!("must be a duration such as 500ms, 2s, 10m, 12h or 7d, {range}"));
    let span: Span = value.text().parse().map_err(|_| not_one())?;
    let length = span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(|_| not_one())?;
    let length = Duration::try_from(length).map_err(|_| not_one())?;
    if least <= length && length <= most { Ok(length) } else { Err(Fault::new(format!("must be {range}"))) }
}

/// Bytes as a number, or with a binary unit.
pub(super) fn replay_limit(value: &Value) -> Result<usize, Fault> {
    let fault = || Fault::new("must be a size between 0 and 64MiB in bytes, KiB or MiB");
    let bytes = match value {
        Value::Integer(number) => u64::try_from(*number).map_err(|_| fault())?,
        _ => size(value.text()).ok_or_else(fault)?,
    };
    if bytes <= LARGEST_REPLAY { usize::try_from(bytes).map_err(|_| fault()) } else { Err(fault()) }
}

fn size(text: &str) -> Option<u64> {
    let end = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let factor = match unit.trim() {
        "" | "B" => 1,
        "KiB" => 1024,
        "MiB" => 1024 * 1024,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// A path from `base` on; "" is none.
pub(super) fn path(value: &Value, base: &Path) -> Result<Option<PathBuf>, Fault> {
    match value.text() {
        "" => Ok(None),
        text if text.chars().any(char::is_control) => Err(Fault::new("must not contain control characters")),
        text if text.starts_with('~') => {
            Err(Fault::new("starts with `~`, which only shells expand").help("write the whole path"))
        }
        text => Ok(Some(base.join(text))),
    }
}

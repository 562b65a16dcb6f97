//! Checks that need more than one key.

use std::net::SocketAddr;

use url::Url;

use super::key;
use super::problem::{Fault, Problems};
use super::setting::Settings;
use super::{Config, Endpoints, address};

/// Checks everything that single keys cannot tell.
pub(super) fn all(config: &Config, settings: &Settings, problems: &mut Problems<'_>) {
    let mut report = |name: &str, fault: Fault| {
        let key = key::find(name).expect("the names below are keys");
        problems.fault(key, settings.get(name), &fault);
    };
    let listeners = [("listen.api", config.listen.api.tcp()), ("listen.admin", config.listen.admin)];
    for (name, listener) in listeners.into_iter().filter_map(|(name, listener)| Some((name, listener?))) {
        if !listener.ip().to_canonical().is_loopback() && config.guard.local_key_file.is_none() {
            let fault = Fault::new("is open to other machines, and guard.local_key_file is not set");
            report(name, fault.help("write 127.0.0.1 instead, or set guard.local_key_file (see README)"));
        }
        if let Some(endpoint) = own_endpoint(&config.endpoints, listener) {
            let given = settings.is_given(endpoint);
            let (at, other) = if given { (endpoint, name) } else { (name, endpoint) };
            let fault = Fault::new(format!("has the same address as `{other}`: the proxy would call itself"));
            report(at, fault.help("write another port, or the real endpoint"));
        }
    }
    if let (Some(api), Some(admin)) = (config.listen.api.tcp(), config.listen.admin)
        && address::collide(admin, api)
    {
        let at = if settings.is_given("listen.admin") { "listen.admin" } else { "listen.api" };
        let fault = Fault::new("uses the port of the other listener: listen.api and listen.admin must differ");
        report(at, fault.help("give each a port of its own; port 0 takes any free one"));
    }
    if config.tokens.drain > config.tokens.hold {
        let at = if settings.is_given("tokens.drain") { "tokens.drain" } else { "tokens.hold" };
        let fault = Fault::new("does not fit: tokens.drain must not be longer than tokens.hold");
        report(at, fault.help("requests wait for the drain and the exchange together, 2s and 15s by default"));
    }
}

/// The endpoint that leads to one of our listeners.
fn own_endpoint(endpoints: &Endpoints, listener: SocketAddr) -> Option<&'static str> {
    let candidates: [(&str, Option<&Url>); 4] = [
        ("endpoints.api", Some(&endpoints.api)),
        ("endpoints.token", Some(&endpoints.token)),
        ("endpoints.authorize", Some(&endpoints.authorize)),
        ("endpoints.introspect", endpoints.introspect.as_ref()),
    ];
    let own = |url: Option<&Url>| url.is_some_and(|url| address::leads_to(url, listener));
    candidates.into_iter().find(|(_, url)| own(*url)).map(|(name, _)| name)
}

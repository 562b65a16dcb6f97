//! Whatever a head says: no foreign Host or Origin passes the guard, and what passes is a plain
//! path.
//!
//! Input: a byte whose lower six bits choose the settings, then a head. Every judgement is made
//! again here, in other words.

#![no_main]

mod head;

use std::net::SocketAddr;

use http::Method;
use http::request::Parts;
use pleo_proxy::oauth::endpoint::Origin;
use pleo_proxy::proxy::guard::{Admitted, Guard, Settings};
use pleo_proxy::proxy::route::Route;
use pleo_proxy::secret::LocalKey;

const LOOPBACK: [&str; 3] = ["127.0.0.1:8088", "localhost:8088", "[::1]:8088"];
const EXTRA: [&str; 3] = ["proxy.internal:443", "proxy.internal", "other.internal:9"];
const API: [&str; 3] = ["external.pleo.io", "external.pleo.io:80", "external.pleo.io:443"];
/// Reads that are sent by POST and do not end in `:search`.
const READS: [&str; 2] = ["/v0/aggregations/tags", "/v0/tax-codes:calculate-tax-amounts"];
const PAGE: &str = "http://localhost:3000";
const KEY: &str = "k3y";

/// Which settings are on.
struct Setup {
    admin: bool,
    hosts: bool,
    page: bool,
    key: bool,
    read_only: bool,
    disconnect: bool,
}

impl Setup {
    fn of(choice: u8) -> Self {
        let bit = |at: u8| choice >> at & 1 == 1;
        Self {
            admin: bit(0),
            hosts: bit(1),
            page: bit(2),
            key: bit(3),
            read_only: bit(4),
            disconnect: bit(5),
        }
    }

    fn guard(&self) -> Guard {
        let extra = ["proxy.internal:443", "other.internal:9"].map(str::to_owned);
        let settings = Settings {
            subject: None,
            allow_hosts: if self.hosts { extra.to_vec() } else { Vec::new() },
            allow_origins: if self.page { vec![PAGE.to_owned()] } else { Vec::new() },
            local_key: self.key.then(|| LocalKey::new(KEY)),
            read_only: self.read_only,
            allow_disconnect: self.disconnect,
            account: None,
        };
        let own = SocketAddr::from(([127, 0, 0, 1], 8088));
        match self.admin {
            true => Guard::admin(&settings, own),
            false => Guard::data(
                &settings,
                own,
                &Origin::parse("https://external.pleo.io").expect("an origin"),
            ),
        }
    }

    fn own_hosts(&self) -> Vec<&'static str> {
        let extra: &[&str] = if self.hosts { &EXTRA } else { &[] };
        LOOPBACK.iter().chain(extra).copied().collect()
    }

    fn own_pages(&self) -> Vec<String> {
        if !self.admin {
            return Vec::new();
        }
        self.own_hosts()
            .iter()
            .flat_map(|host| [format!("http://{host}"), format!("https://{host}")])
            .collect()
    }
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((choice, text)) = data.split_first() else { return };
    let Some((parts, target)) = head::request(text) else { return };
    let setup = Setup::of(*choice);
    let guard = setup.guard();
    match guard.check(&parts) {
        Ok(admitted) if admitted.tunnel => a_tunnel_leads_to_the_api(&setup, &parts),
        Ok(admitted) => {
            the_host_is_ours(&setup, &parts);
            the_page_is_known(&setup, &parts, &admitted);
            the_head_is_plain(&parts);
            the_target_is_plain(&target);
            the_key_was_sent(&setup, &parts, &admitted);
            what_is_forwarded_is_what_was_sent(&setup, &guard, &parts, &target);
        }
        Err(problem) => {
            let answer = problem.into_response();
            assert!([400, 403, 405, 417].contains(&answer.status().as_u16()));
            assert_eq!(answer.headers()["connection"], "close");
        }
    }
});

fn a_tunnel_leads_to_the_api(setup: &Setup, parts: &Parts) {
    assert!(!setup.admin && parts.method == Method::CONNECT);
    let target = parts.uri.authority().expect("a tunnel leads somewhere").as_str();
    assert!(target.eq_ignore_ascii_case("external.pleo.io:80"), "{target}");
    let hosts = head::all(&parts.headers, "host");
    assert!(
        hosts.len() == 1 && API.iter().any(|api| api.as_bytes().eq_ignore_ascii_case(hosts[0])),
        "{hosts:?}"
    );
    for name in
        ["origin", "sec-fetch-site", "transfer-encoding", "sec-websocket-key", "service-worker"]
    {
        assert!(head::all(&parts.headers, name).is_empty(), "{name}");
    }
}

fn the_host_is_ours(setup: &Setup, parts: &Parts) {
    let hosts = head::all(&parts.headers, "host");
    let [host] = hosts[..] else { panic!("{} hosts", hosts.len()) };
    let host = String::from_utf8(host.to_ascii_lowercase()).expect("a host is text");
    match parts.uri.authority() {
        None => assert!(setup.own_hosts().contains(&host.as_str()), "foreign: {host}"),
        Some(authority) => {
            assert!(!setup.admin && API.contains(&host.as_str()), "foreign: {host}");
            assert!(
                API.contains(&authority.as_str().to_ascii_lowercase().as_str()),
                "foreign: {authority}"
            );
        }
    }
}

fn the_page_is_known(setup: &Setup, parts: &Parts, admitted: &Admitted) {
    let origins = head::all(&parts.headers, "origin");
    assert!(origins.len() <= 1);
    let is_listed = origins
        .first()
        .is_some_and(|origin| setup.page && !setup.admin && *origin == PAGE.as_bytes());
    let is_own = origins
        .first()
        .is_some_and(|origin| setup.own_pages().iter().any(|own| own.as_bytes() == *origin));
    assert!(origins.is_empty() || is_listed || is_own, "foreign: {origins:?}");
    assert_eq!(admitted.origin.is_some(), is_listed);
    assert!(!admitted.preflight || (is_listed && parts.method == Method::OPTIONS));
    let sites = head::all(&parts.headers, "sec-fetch-site");
    assert!(sites.len() <= 1);
    let reads = parts.method == Method::GET || parts.method == Method::HEAD;
    let leads_a_person = setup.admin
        && parts.method == Method::GET
        && ["/", "/connect", "/callback"].contains(&parts.uri.path())
        && head::all(&parts.headers, "sec-purpose").is_empty();
    match sites.first() {
        None => {}
        Some(_) if is_listed || leads_a_person => {}
        Some(site) if *site == b"same-origin" && !setup.admin => {
            assert!(reads && is_relayed(setup, parts), "{site:?}")
        }
        Some(site) => assert!(*site == b"none" && reads || *site == b"same-origin", "{site:?}"),
    }
}

/// A listed page's read, passed on by its own server. No setup allows the page's host, so the
/// Referer must tell.
fn is_relayed(setup: &Setup, parts: &Parts) -> bool {
    let referers = head::all(&parts.headers, "referer");
    let is_listed = |referer: &[u8]| {
        referer.strip_prefix(PAGE.as_bytes()).is_some_and(|rest| rest.starts_with(b"/"))
    };
    setup.page && referers.len() == 1 && is_listed(referers[0])
}

fn the_head_is_plain(parts: &Parts) {
    let methods = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    assert!(methods.contains(&parts.method.as_str()));
    for name in ["service-worker", "sec-websocket-key"] {
        assert!(head::all(&parts.headers, name).is_empty());
    }
    for (name, only) in
        [("upgrade", "h2c"), ("transfer-encoding", "chunked"), ("expect", "100-continue")]
    {
        let values = head::all(&parts.headers, name);
        assert!(
            values.iter().all(|value| value.eq_ignore_ascii_case(only.as_bytes())),
            "{name}: {values:?}"
        );
        assert!(values.len() <= 1 || name == "upgrade");
    }
    if parts.headers.contains_key("transfer-encoding") {
        assert!(
            !parts.headers.contains_key("content-length")
                && parts.version == http::Version::HTTP_11
        );
    }
}

fn the_target_is_plain(target: &[u8]) {
    let target = std::str::from_utf8(target).expect("visible ASCII");
    assert!(
        target.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\' && byte != b'#'),
        "{target}"
    );
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    for segment in path.split('/') {
        let decoded = segment.replace("%2e", ".").replace("%2E", ".");
        assert!(decoded != "." && decoded != "..", "{target}");
    }
    for (name, _) in url::form_urlencoded::parse(query.as_bytes()) {
        assert_ne!(name, "access_token");
    }
}

fn the_key_was_sent(setup: &Setup, parts: &Parts, admitted: &Admitted) {
    if setup.key && !setup.admin && !admitted.preflight {
        assert_eq!(head::all(&parts.headers, "pleo-proxy-key"), [KEY.as_bytes()]);
        assert!(
            !parts.headers.contains_key("forwarded")
                && !parts.headers.contains_key("x-forwarded-for")
        );
    }
}

fn what_is_forwarded_is_what_was_sent(setup: &Setup, guard: &Guard, parts: &Parts, sent: &[u8]) {
    let Ok(route) = Route::of(parts) else { return };
    let target = route.target.as_str();
    assert!(target.starts_with('/') && (sent.ends_with(&target.as_bytes()[1..])), "{target}");
    assert!(
        route.prefixed || parts.uri.authority().is_some() || sent == target.as_bytes(),
        "{target}"
    );
    let path = route.target.path();
    if setup.admin || guard.check_operation(&parts.method, path).is_err() {
        return;
    }
    let searches = parts.method == Method::POST
        && !path.split('/').next_back().is_some_and(|last| last.contains(['%', ';']))
        && (path.ends_with(":search") || READS.contains(&path));
    assert!(
        !setup.read_only || [Method::GET, Method::HEAD].contains(&parts.method) || searches,
        "{path}"
    );
    if parts.method == Method::DELETE && !setup.disconnect {
        let (once, twice) = (decoded(path), decoded(&decoded(path)));
        for path in [path, &once, &twice] {
            let path = path.to_ascii_lowercase();
            assert!(!path.trim_end_matches('/').ends_with("/installations/me"), "{path}");
        }
    }
}

fn decoded(path: &str) -> String {
    // A plus sign stays one in a path; the decoder is that of forms.
    let form = path.replace('+', "%2B").replace('&', "%26").replace('=', "%3D");
    url::form_urlencoded::parse(form.as_bytes()).map(|(name, _)| name.into_owned()).collect()
}

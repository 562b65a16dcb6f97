use http::Request;
use proptest::prelude::*;

use super::*;

fn guard(settings: &Settings) -> Guard {
    bound(settings, "127.0.0.1:8088")
}

fn bound(settings: &Settings, own: &str) -> Guard {
    Guard::data(settings, own.parse().unwrap(), &Origin::parse("https://external.pleo.io").unwrap())
}

fn parts(method: &str, target: &str, headers: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().method(method).uri(target);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

fn judge(
    settings: &Settings,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
) -> Result<Admitted, Code> {
    let mut all = vec![("host", "127.0.0.1:8088")];
    if headers.iter().any(|(name, _)| *name == "host") {
        all.clear();
    }
    all.extend_from_slice(headers);
    guard(settings).check(&parts(method, target, &all)).map_err(|problem| problem.code)
}

fn default(method: &str, target: &str, headers: &[(&str, &str)]) -> Result<Admitted, Code> {
    judge(&Settings::default(), method, target, headers)
}

#[test]
fn programs_are_admitted() {
    for host in ["127.0.0.1:8088", "localhost:8088", "LocalHost:8088", "[::1]:8088"] {
        assert!(default("GET", "/v1/x", &[("host", host)]).is_ok(), "{host}");
    }
    assert!(default("GET", "/v1/x", &[("sec-fetch-mode", "cors")]).is_ok(), "node's fetch");
    assert!(default("POST", "/v1/accounting-entries:search?a=1&a=2", &[]).is_ok());
    assert!(
        default("GET", "/v1/x", &[("sec-fetch-site", "none"), ("sec-fetch-mode", "navigate")])
            .is_ok()
    );
    assert!(
        default("GET", "http://external.pleo.io/v1/x", &[("host", "external.pleo.io")]).is_ok()
    );
}

#[test]
fn only_our_own_names_are_hosts() {
    for host in [
        "0.0.0.0:8088",
        "[::ffff:7f00:1]:8088",
        "rebind.test:8088",
        "localhost.evil.test:8088",
        "evil.localhost:8088",
        "localhost.:8088",
        "127.1:8088",
        "2130706433:8088",
        "0x7f.0.0.1:8088",
        "0177.0.0.1:8088",
        "127.0.0.2:8088",
        "10.0.2.555:8088",
        "[::1%25lo]:8088",
        "localhost6:8088",
        "localhost:1",
        "localhost",
        "proxy.internal",
        "external.pleo.io",
    ] {
        assert_eq!(default("GET", "/", &[("host", host)]), Err(Code::ForbiddenHost), "{host}");
    }
    for host in ["a@localhost:8088", "localhost:8088@evil", "localhost:8088,evil", ""] {
        assert_eq!(default("GET", "/", &[("host", host)]), Err(Code::BadRequest), "{host}");
    }
    // A page of a rebound name is of the same origin as its request.
    let rebound = [("host", "rebind.test:8088"), ("origin", "http://rebind.test:8088")];
    assert_eq!(default("POST", "/", &rebound), Err(Code::ForbiddenHost));
    let twice = [("host", "127.0.0.1:8088"), ("host", "127.0.0.1:8088")];
    assert_eq!(default("GET", "/", &twice), Err(Code::BadRequest));
    for host in ["localhost/:8088", "localhost :8088"] {
        assert_eq!(default("GET", "/", &[("host", host)]), Err(Code::BadRequest), "{host}");
    }
    let extra = Settings { allow_hosts: vec!["proxy.internal:80".into()], ..Settings::default() };
    for host in ["proxy.internal:80", "proxy.internal"] {
        assert!(judge(&extra, "GET", "/", &[("host", host)]).is_ok(), "{host}");
    }
    assert_eq!(
        judge(&extra, "GET", "/", &[("host", "proxy.internal:443")]),
        Err(Code::ForbiddenHost)
    );
    for port in [80, 443] {
        let guard = Guard::admin(&Settings::default(), SocketAddr::from(([127, 0, 0, 1], port)));
        assert!(guard.check(&parts("GET", "/", &[("host", "localhost")])).is_ok(), "{port}");
    }
}

#[test]
fn a_refusal_shows_a_long_host_truncated_and_without_control_characters() {
    let host = format!("a\tb.{}", "x".repeat(200));
    let Err(problem) = guard(&Settings::default()).check(&parts("GET", "/", &[("host", &host)]))
    else {
        panic!("a refusal")
    };
    let shown = format!("{problem:?}");
    assert!(shown.contains(&format!("the host ab.{} is not", "x".repeat(96))), "{shown}");
}

#[test]
fn absolute_targets_name_the_api_or_nothing() {
    for (target, host) in [
        ("http://evil.example/x", "evil.example"),
        ("http://127.0.0.1:8088/x", "127.0.0.1:8088"),
        ("http://external.pleo.io:8080/x", "external.pleo.io:8080"),
        ("http://external.pleo.io./x", "external.pleo.io."),
        ("http://external.pleo.io.evil/x", "external.pleo.io.evil"),
    ] {
        assert_eq!(default("GET", target, &[("host", host)]), Err(Code::ForbiddenHost), "{target}");
    }
    assert!(
        default("GET", "http://external.pleo.io:443/x", &[("host", "external.pleo.io:443")])
            .is_ok()
    );
    for (target, host) in [
        ("http://external.pleo.io/x", "127.0.0.1:8088"),
        ("http://127.0.0.1:8088/x", "external.pleo.io"),
        ("http://external.pleo.io/x", "external.pleo.io:8080"),
        ("http://external.pleo.io:80/x", "evil.example"),
        ("http://evil.example/x", "external.pleo.io:80"),
    ] {
        assert_eq!(
            default("GET", target, &[("host", host)]),
            Err(Code::BadRequest),
            "{target} {host}"
        );
    }
    for (target, host) in [
        ("http://u:p@external.pleo.io/x", "external.pleo.io"),
        ("external.pleo.io:443", "external.pleo.io:443"),
        ("ftp://external.pleo.io/x", "external.pleo.io"),
    ] {
        assert_eq!(default("GET", target, &[("host", host)]), Err(Code::BadRequest), "{target}");
        let refused = guard(&Settings::default()).check(&parts("GET", target, &[("host", host)]));
        assert!(
            refused.is_err_and(
                |problem| format!("{problem:?}").contains("an absolute URL of the API")
            ),
            "{target}"
        );
    }
}

#[test]
fn target_and_host_may_spell_the_api_differently() {
    let spellings =
        ["external.pleo.io", "external.pleo.io:80", "external.pleo.io:443", "External.Pleo.IO"];
    for (target, host) in spellings.iter().flat_map(|target| spellings.map(|host| (target, host))) {
        for scheme in ["http", "HTTP", "https"] {
            let target = format!("{scheme}://{target}/v1/x");
            assert!(default("GET", &target, &[("host", host)]).is_ok(), "{target} {host}");
        }
    }
    for host in spellings {
        assert_eq!(
            default("GET", "/", &[("host", host)]),
            Err(Code::ForbiddenHost),
            "{host} without a target"
        );
    }
}

#[test]
fn the_bound_address_is_a_host_and_the_unspecified_one_is_not() {
    for (own, hosts) in [
        ("192.168.1.5:8088", &["192.168.1.5:8088", "127.0.0.1:8088"][..]),
        ("127.0.0.2:8088", &["127.0.0.2:8088"]),
        ("[fd00::1]:80", &["[fd00::1]:80", "[FD00::1]"]),
        ("[::ffff:127.0.0.3]:8088", &["127.0.0.3:8088"]),
        ("0.0.0.0:8088", &["127.0.0.1:8088"]),
    ] {
        for listener in [
            bound(&Settings::default(), own),
            Guard::admin(&Settings::default(), own.parse().unwrap()),
        ] {
            for host in hosts {
                assert!(
                    listener.check(&parts("GET", "/", &[("host", host)])).is_ok(),
                    "{own} {host}"
                );
            }
            for host in [
                "192.168.1.6:8088",
                "192.168.1.5:8089",
                "0.0.0.0:8088",
                "[::]:8088",
                "[::ffff:7f00:3]:8088",
            ] {
                let refused = listener.check(&parts("GET", "/", &[("host", host)]));
                assert!(
                    refused.is_err_and(|problem| problem.code == Code::ForbiddenHost),
                    "{own} {host}"
                );
            }
        }
    }
    let own_page = [("host", "192.168.1.5:8089"), ("origin", "http://192.168.1.5:8089")];
    let admin = Guard::admin(&Settings::default(), "192.168.1.5:8089".parse().unwrap());
    assert!(admin.check(&parts("POST", "/api/session", &own_page)).is_ok());
}

/// The fix in a refusal.
fn fix(settings: &Settings, method: &str, target: &str, headers: &[(&str, &str)]) -> String {
    let mut all = vec![("host", "127.0.0.1:8088")];
    all.retain(|(name, _)| headers.iter().all(|(given, _)| given != name));
    all.extend_from_slice(headers);
    guard(settings).check(&parts(method, target, &all)).unwrap_err().fix().to_owned()
}

#[test]
fn the_setting_in_a_refusal_admits_the_request() {
    let allow_hosts = vec!["other.internal:9".to_owned()];
    let settings = Settings {
        allow_hosts,
        allow_origins: vec!["http://one.test".into()],
        ..Settings::default()
    };
    for (host, listed) in [
        ("proxy.internal:8088", "[\"other.internal:9\", \"proxy.internal:8088\"]"),
        ("Proxy.Internal", "[\"other.internal:9\", \"proxy.internal:80\"]"),
        ("localhost:9000", "[\"other.internal:9\", \"localhost:9000\"]"),
    ] {
        let fix = fix(&settings, "GET", "/", &[("host", host)]);
        assert!(fix.contains(&format!("guard.allow_hosts = {listed}")), "{fix}");
        assert!(fix.contains("Call http://127.0.0.1:8088"), "{fix}");
        let last = listed.rsplit('"').nth(1).unwrap().to_owned();
        let mended = Settings { allow_hosts: vec![last], ..Settings::default() };
        assert!(judge(&mended, "GET", "/", &[("host", host)]).is_ok(), "{host}");
    }
    for host in
        ["0.0.0.0:8088", "[::ffff:7f00:1]:8088", "a*b:8088", "rebind\".test:1", "x:0", "x:70000"]
    {
        let fix = fix(&settings, "GET", "/", &[("host", host)]);
        assert_eq!(fix, "Call http://127.0.0.1:8088.", "{host}");
    }
    let page = ("origin", "chrome-extension://aaaabbbb");
    let fix_of_page = fix(&settings, "POST", "/", &[page]);
    let listed = "guard.allow_origins = [\"http://one.test\", \"chrome-extension://aaaabbbb\"]";
    assert!(fix_of_page.contains(listed), "{fix_of_page}");
    let mended = Settings { allow_origins: vec![page.1.into()], ..Settings::default() };
    assert!(judge(&mended, "POST", "/", &[page]).is_ok());
    for origin in ["null", "http://a*b", "http://\"x"] {
        assert!(
            !fix(&settings, "POST", "/", &[("origin", origin)]).contains("allow_origins"),
            "{origin}"
        );
    }
    let elsewhere = fix(&settings, "GET", "http://evil.example/x", &[("host", "evil.example")]);
    assert!(
        elsewhere.contains("http://external.pleo.io") && elsewhere.contains("NO_PROXY"),
        "{elsewhere}"
    );
}

#[test]
fn a_read_that_the_server_of_a_listed_page_passes_on_is_admitted() {
    let allow_hosts = vec!["localhost:5173".to_owned(), "localhost:5174".to_owned()];
    let settings = Settings {
        allow_origins: vec!["http://localhost:5173".into()],
        allow_hosts,
        ..Settings::default()
    };
    let same_origin = ("sec-fetch-site", "same-origin");
    let referer = ("referer", "http://localhost:5173/reports?x");
    let (host, page) = (("host", "localhost:5173"), ("origin", "http://localhost:5173"));
    for headers in
        [&[same_origin, referer][..], &[same_origin, host], &[same_origin, host, referer]]
    {
        assert_eq!(
            judge(&settings, "GET", "/v1/x", headers),
            Ok(Admitted::default()),
            "{headers:?}"
        );
        assert!(judge(&settings, "HEAD", "/v1/x", headers).is_ok(), "{headers:?}");
        assert_eq!(
            judge(&settings, "POST", "/v1/x", headers),
            Err(Code::ForbiddenOrigin),
            "{headers:?}"
        );
        let none_listed = Settings { allow_origins: Vec::new(), ..settings.clone() };
        assert_eq!(
            judge(&none_listed, "GET", "/v1/x", headers),
            Err(Code::ForbiddenOrigin),
            "{headers:?}"
        );
    }
    assert!(
        judge(&settings, "POST", "/v1/x", &[same_origin, host, page]).is_ok(),
        "a write names its page"
    );
    for referer in [
        "http://localhost:5173",
        "http://localhost:5174/",
        "http://localhost:51730/",
        "http://localhost:5173@evil.test/",
        "http://localhost:5173.evil.test/",
        "https://localhost:5173/",
        "http://127.0.0.1:8088/",
        "//localhost:5173/",
        "",
    ] {
        for host in [("host", "127.0.0.1:8088"), host] {
            let read = [same_origin, host, ("referer", referer)];
            assert_eq!(
                judge(&settings, "GET", "/v1/x", &read),
                Err(Code::ForbiddenOrigin),
                "{referer}"
            );
        }
    }
    for headers in [
        &[same_origin][..],
        &[same_origin, ("host", "localhost:5174")],
        &[same_origin, referer, referer],
        &[("sec-fetch-site", "same-site"), referer],
        &[("sec-fetch-site", "cross-site"), referer, host],
        &[same_origin, referer, ("origin", "http://evil.test")],
    ] {
        assert_eq!(
            judge(&settings, "GET", "/v1/x", headers),
            Err(Code::ForbiddenOrigin),
            "{headers:?}"
        );
    }
    let unlisted = fix(&Settings::default(), "GET", "/v1/x", &[same_origin, referer]);
    assert!(unlisted.contains("guard.allow_origins = [\"http://localhost:5173\"]"), "{unlisted}");
}

#[test]
fn apps_are_matched_exactly_like_pages() {
    let origins = ["tauri://localhost", "chrome-extension://aaaabbbb", "app://obsidian.md"];
    let settings =
        Settings { allow_origins: origins.map(str::to_owned).into(), ..Settings::default() };
    for origin in origins {
        let app = [("origin", origin), ("sec-fetch-site", "cross-site")];
        assert_eq!(judge(&settings, "POST", "/v1/x", &app).unwrap().origin.unwrap(), origin);
    }
    for origin in [
        "tauri://localhost2",
        "tauri://",
        "chrome-extension://aaaabbbc",
        "app://obsidian.md/",
        "tauri:",
    ] {
        let app = [("origin", origin)];
        assert_eq!(judge(&settings, "POST", "/v1/x", &app), Err(Code::ForbiddenOrigin), "{origin}");
    }
}

#[test]
fn a_tunnel_leads_to_the_plain_port_of_the_api_and_is_checked_like_a_request() {
    for target in ["external.pleo.io:80", "External.Pleo.io:80"] {
        for host in ["external.pleo.io:80", "external.pleo.io", "external.pleo.io:443"] {
            let admitted = default("CONNECT", target, &[("host", host)]).unwrap();
            assert_eq!(admitted, Admitted { tunnel: true, ..Admitted::default() });
        }
    }
    for target in [
        "external.pleo.io:443",
        "external.pleo.io:8080",
        "evil.example:80",
        "127.0.0.1:8088",
        "localhost:80",
    ] {
        assert_eq!(
            default("CONNECT", target, &[("host", target)]),
            Err(Code::MethodNotAllowed),
            "{target}"
        );
    }
    let api = ("host", "external.pleo.io:80");
    for (more, code) in [
        (("host", "evil.example"), Code::BadRequest),
        (("origin", "http://evil.test"), Code::ForbiddenOrigin),
        (("sec-fetch-site", "cross-site"), Code::ForbiddenOrigin),
        (("sec-fetch-site", "none"), Code::ForbiddenOrigin),
        (("content-length", "5"), Code::BadRequest),
        (("transfer-encoding", "chunked"), Code::BadRequest),
        (("sec-websocket-key", "a"), Code::BadRequest),
    ] {
        let headers: Vec<_> =
            [api].into_iter().filter(|(name, _)| *name != more.0).chain([more]).collect();
        assert_eq!(default("CONNECT", "external.pleo.io:80", &headers), Err(code), "{more:?}");
    }
    let listed = Settings { allow_origins: vec!["http://one.test".into()], ..Settings::default() };
    let page = [api, ("origin", "http://one.test")];
    assert_eq!(judge(&listed, "CONNECT", "external.pleo.io:80", &page), Err(Code::ForbiddenOrigin));
    assert_eq!(
        Guard::data(
            &listed,
            "127.0.0.1:1".parse().unwrap(),
            &Origin::parse("http://127.0.0.1:9").unwrap()
        )
        .check(&parts("CONNECT", "127.0.0.1:9", &[("host", "127.0.0.1:9")]))
        .map(|admitted| admitted.tunnel)
        .map_err(|problem| problem.code),
        Ok(true),
        "the API's own port, where it speaks no TLS"
    );
    let admin = Guard::admin(&Settings::default(), "127.0.0.1:8089".parse().unwrap());
    assert!(
        admin.check(&parts("CONNECT", "127.0.0.1:8089", &[("host", "127.0.0.1:8089")])).is_err()
    );
}

#[test]
fn inside_a_tunnel_the_api_is_a_host_too_and_nothing_else_differs() {
    let settings = Settings { local_key: Some(LocalKey::new("k3y")), ..Settings::default() };
    let inside = |method: &str, target: &str, headers: &[(&str, &str)]| {
        let mut parts = parts(method, target, headers);
        parts.extensions.insert(Tunnelled);
        guard(&settings).check(&parts).map(drop).map_err(|problem| problem.code)
    };
    let key = ("pleo-proxy-key", "k3y");
    for host in ["external.pleo.io", "external.pleo.io:80", "127.0.0.1:8088"] {
        assert_eq!(inside("GET", "/v1/x", &[("host", host), key]), Ok(()), "{host}");
        assert_eq!(
            inside("GET", "/v1/x", &[("host", host)]),
            Err(Code::LocalKeyRequired),
            "{host}"
        );
        let page = [("host", host), key, ("origin", "http://evil.test")];
        assert_eq!(inside("GET", "/v1/x", &page), Err(Code::ForbiddenOrigin), "{host}");
    }
    assert_eq!(inside("GET", "/v1/x", &[("host", "evil.example"), key]), Err(Code::ForbiddenHost));
    let again = inside("CONNECT", "external.pleo.io:80", &[("host", "external.pleo.io:80"), key]);
    assert_eq!(again, Err(Code::MethodNotAllowed));
}

#[test]
fn pages_are_refused() {
    let extensions = ["chrome-extension://aaaabbbb", "moz-extension://aaaabbbb"];
    for origin in
        ["http://evil.test", "null", "http://localhost:3000"].into_iter().chain(extensions)
    {
        assert_eq!(
            default("POST", "/v1/x", &[("origin", origin)]),
            Err(Code::ForbiddenOrigin),
            "{origin}"
        );
    }
    for site in ["cross-site", "same-site", "same-origin", "odd"] {
        assert_eq!(
            default("GET", "/", &[("sec-fetch-site", site)]),
            Err(Code::ForbiddenOrigin),
            "{site}"
        );
    }
    assert_eq!(default("POST", "/", &[("sec-fetch-site", "none")]), Err(Code::ForbiddenOrigin));
    assert_eq!(default("GET", "/", &[("service-worker", "script")]), Err(Code::ForbiddenOrigin));
    assert_eq!(
        default("OPTIONS", "/", &[("origin", "http://evil.test")]),
        Err(Code::ForbiddenOrigin)
    );
}

#[test]
fn a_listed_page_is_matched_exactly() {
    let settings =
        Settings { allow_origins: vec!["http://localhost:3000".into()], ..Settings::default() };
    let same_site = ("sec-fetch-site", "same-site");
    let admitted =
        judge(&settings, "GET", "/", &[("origin", "http://localhost:3000"), same_site]).unwrap();
    assert_eq!(admitted.origin.unwrap(), "http://localhost:3000");
    let asks = [("origin", "http://localhost:3000"), ("access-control-request-method", "DELETE")];
    assert!(judge(&settings, "OPTIONS", "/", &asks).unwrap().preflight);
    assert!(
        !judge(&settings, "GET", "/", &asks).unwrap().preflight,
        "another method asks for nothing"
    );
    assert!(!judge(&settings, "OPTIONS", "/", &asks[..1]).unwrap().preflight, "it names no method");
    assert_eq!(
        judge(&settings, "OPTIONS", "/", &asks[1..]),
        Ok(Admitted::default()),
        "no page asks"
    );
    for origin in [
        "http://localhost:30001",
        "http://localhost:3000.evil.test",
        "https://localhost:3000",
        "http://localhost:3000/",
        "HTTP://LOCALHOST:3000",
    ] {
        assert_eq!(
            judge(&settings, "GET", "/", &[("origin", origin)]),
            Err(Code::ForbiddenOrigin),
            "{origin}"
        );
    }
    assert_eq!(judge(&settings, "GET", "/", &[same_site]), Err(Code::ForbiddenOrigin));
    let twice = [("origin", "http://localhost:3000"); 2];
    assert_eq!(judge(&settings, "GET", "/", &twice), Err(Code::BadRequest));
}

#[test]
fn the_admin_listener_admits_its_own_pages_and_three_navigations() {
    let guard = Guard::admin(&Settings::default(), SocketAddr::from(([127, 0, 0, 1], 8089)));
    let judge = |method: &str, target: &str, headers: &[(&str, &str)]| {
        let mut all = vec![("host", "127.0.0.1:8089")];
        all.extend_from_slice(headers);
        guard.check(&parts(method, target, &all)).map(drop).map_err(|problem| problem.code)
    };
    assert!(judge("POST", "/api/session", &[("origin", "http://127.0.0.1:8089")]).is_ok());
    assert!(judge("GET", "/api/status", &[("sec-fetch-site", "same-origin")]).is_ok());
    let cross = [
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-mode", "navigate"),
        ("sec-fetch-dest", "document"),
    ];
    for target in ["/", "/connect?account=a", "/callback?code=a&state=b"] {
        assert!(judge("GET", target, &cross).is_ok(), "{target}");
        assert_eq!(judge("POST", target, &cross), Err(Code::ForbiddenOrigin), "{target}");
        assert_eq!(judge("HEAD", target, &cross), Err(Code::ForbiddenOrigin), "{target}");
        let fetch = [cross[0], ("sec-fetch-mode", "cors"), cross[2]];
        assert_eq!(judge("GET", target, &fetch), Err(Code::ForbiddenOrigin), "{target}");
    }
    assert_eq!(judge("GET", "/api/status", &cross), Err(Code::ForbiddenOrigin));
    let image = [("sec-fetch-site", "cross-site"), ("sec-fetch-dest", "image")];
    assert_eq!(judge("GET", "/connect", &image), Err(Code::ForbiddenOrigin));
    let prefetch = [("sec-fetch-site", "cross-site"), ("sec-purpose", "prefetch")];
    assert_eq!(judge("GET", "/callback", &prefetch), Err(Code::ForbiddenOrigin));
    assert_eq!(
        judge("POST", "/api/shutdown", &[("origin", "http://127.0.0.1:8088")]),
        Err(Code::ForbiddenOrigin)
    );
}

#[test]
fn only_plain_paths_are_targets() {
    for target in [
        "/v1/../admin",
        "/v1/%2e%2e/admin",
        "/v1/.%2E/admin",
        "/.",
        "/v1/%2e",
        "/v1/..\\admin",
        "/é",
    ] {
        assert_eq!(default("GET", target, &[]), Err(Code::BadRequest), "{target}");
    }
    let mut cut = parts("GET", "/v1/x", &[("host", "localhost:8088")]);
    cut.extensions.insert(Fragment);
    assert!(
        guard(&Settings::default())
            .check(&cut)
            .is_err_and(|problem| problem.code == Code::BadRequest)
    );
    for target in
        ["/v1/..%2fadmin", "/v1/%252e%252e/", "//evil.example/x", "/v1/a.b/..c/...", "/%00"]
    {
        assert!(default("GET", target, &[]).is_ok(), "{target}");
    }
    assert_eq!(default("GET", "/v1/x?access_token=z", &[]), Err(Code::BadRequest));
    assert_eq!(default("GET", "/v1/x?a=1&acc%65ss_token", &[]), Err(Code::BadRequest));
    assert!(default("GET", "/v1/x?my_access_token=z", &[]).is_ok());
}

#[test]
fn other_methods_codings_and_expectations_are_refused() {
    for method in ["TRACE", "CONNECT", "FOO", "get", "PROPFIND"] {
        let target = if method == "CONNECT" { "evil.example:443" } else { "/" };
        assert_eq!(default(method, target, &[]), Err(Code::MethodNotAllowed), "{method}");
    }
    let tunnel = guard(&Settings::default()).check(&parts("CONNECT", "evil.example:443", &[]));
    let fix = tunnel.unwrap_err().fix().to_owned();
    assert!(
        fix.contains("Call http://127.0.0.1:8088/v1/") && fix.contains("http://external.pleo.io/"),
        "{fix}"
    );
    assert_eq!(default("OPTIONS", "*", &[]), Err(Code::MethodNotAllowed));
    for coding in ["gzip, chunked", "identity", "xchunked", "chunked, chunked", "chunked, identity"]
    {
        assert_eq!(
            default("POST", "/", &[("transfer-encoding", coding)]),
            Err(Code::BadRequest),
            "{coding}"
        );
    }
    let lines = [("transfer-encoding", "chunked"), ("transfer-encoding", "identity")];
    assert_eq!(default("POST", "/", &lines), Err(Code::BadRequest));
    let mut old =
        parts("POST", "/", &[("host", "localhost:8088"), ("transfer-encoding", "chunked")]);
    assert!(guard(&Settings::default()).check(&old).is_ok());
    old.version = http::Version::HTTP_10;
    assert!(
        guard(&Settings::default())
            .check(&old)
            .is_err_and(|problem| problem.code == Code::BadRequest)
    );
    let both = [("transfer-encoding", "chunked"), ("content-length", "3")];
    assert_eq!(default("POST", "/", &both), Err(Code::BadRequest));
    assert!(
        default("POST", "/", &[("transfer-encoding", "Chunked"), ("expect", "100-Continue")])
            .is_ok()
    );
    assert_eq!(default("POST", "/", &[("expect", "200-ok")]), Err(Code::ExpectationFailed));
    assert_eq!(default("GET", "/", &[("upgrade", "websocket")]), Err(Code::BadRequest));
    assert!(default("GET", "/", &[("upgrade", "h2c")]).is_ok());
    assert_eq!(default("GET", "/", &[("sec-websocket-key", "a")]), Err(Code::BadRequest));
    assert_eq!(default("GET", "*", &[]), Err(Code::BadRequest));
}

#[test]
fn a_local_key_is_required_if_it_is_set() {
    let settings = Settings { local_key: Some(LocalKey::new("k3y")), ..Settings::default() };
    assert_eq!(judge(&settings, "GET", "/", &[]), Err(Code::LocalKeyRequired));
    assert_eq!(
        judge(&settings, "GET", "/", &[("pleo-proxy-key", "k3")]),
        Err(Code::LocalKeyRequired)
    );
    assert!(judge(&settings, "GET", "/", &[("pleo-proxy-key", "k3y")]).is_ok());
    for relay in [("x-forwarded-for", "10.0.0.1"), ("forwarded", "for=10.0.0.1")] {
        let relayed = judge(&settings, "GET", "/", &[("pleo-proxy-key", "k3y"), relay]);
        assert_eq!(relayed, Err(Code::LocalKeyRequired), "{relay:?}");
    }
    let page = Settings { allow_origins: vec!["http://localhost:3000".into()], ..settings };
    let asks = [("origin", "http://localhost:3000"), ("access-control-request-method", "GET")];
    assert!(judge(&page, "OPTIONS", "/", &asks).is_ok(), "a browser sends no key with a preflight");
    for (method, headers) in [("OPTIONS", &asks[..1]), ("GET", &asks[..]), ("OPTIONS", &asks[1..])]
    {
        assert_eq!(
            judge(&page, method, "/", headers),
            Err(Code::LocalKeyRequired),
            "{method} {headers:?}"
        );
    }
}

#[test]
fn read_only_and_disconnect_match_the_bytes_that_are_forwarded() {
    let read_only = guard(&Settings { read_only: true, ..Settings::default() });
    let code = |guard: &Guard, method, path| {
        guard.check_operation(&method, path).map_err(|problem| problem.code)
    };
    assert!(code(&read_only, Method::POST, "/v1/vendors:search").is_ok());
    assert!(
        code(&read_only, Method::GET, "/v1/x").is_ok()
            && code(&read_only, Method::HEAD, "/v1/x").is_ok()
    );
    assert!(code(&guard(&Settings::default()), Method::POST, "/v1/vendors").is_ok());
    for path in ["/v1/vendors", "/v1/vendors%3Asearch", "/v1/%2e:search", "/v1/x:searched"] {
        assert_eq!(code(&read_only, Method::POST, path), Err(Code::ReadOnly), "{path}");
    }
    assert_eq!(code(&read_only, Method::PUT, "/v1/x"), Err(Code::ReadOnly));
    for path in
        ["/v1/vendors;:search", "/v1/vendors/17:archive;:search", "/v2/accounting-entries:enrich"]
    {
        assert_eq!(code(&read_only, Method::POST, path), Err(Code::ReadOnly), "{path}");
    }
    assert!(code(&read_only, Method::POST, "/v0/aggregations/tags").is_ok());
    let open = guard(&Settings::default());
    for path in ["/v1/installations/me", "/v1//installations/%6de", "/v1/installations/me;a=b"] {
        assert_eq!(code(&open, Method::DELETE, path), Err(Code::ProtectedOperation), "{path}");
    }
    assert!(code(&open, Method::GET, "/v1/installations/me").is_ok());
    assert!(code(&open, Method::DELETE, "/v1/installations/me2").is_ok());
    let allowed = guard(&Settings { allow_disconnect: true, ..Settings::default() });
    assert!(code(&allowed, Method::DELETE, "/v1/installations/me").is_ok());
}

proptest! {
    #[test]
    fn no_other_host_is_admitted(host in "[a-z0-9.:\\[\\]]{1,30}") {
        if let Ok(value) = HeaderValue::from_str(&host) {
            let request = Request::builder().uri("/").header("host", value).body(()).unwrap().into_parts().0;
            let passes = guard(&Settings::default()).check(&request).is_ok();
            prop_assert_eq!(passes, ["127.0.0.1:8088", "localhost:8088", "[::1]:8088"].contains(&host.as_str()));
        }
    }
}

#[test]
fn a_listener_of_one_account_serves_the_company_that_it_began_with() {
    let acme: AccountName = "acme".parse().unwrap();
    let bound = Settings { account: Some(acme.clone()), ..Settings::default() };
    let known = Settings { subject: Some("a".to_owned()), ..bound.clone() };
    for (settings, steps) in [
        (&known, &[(Some("a"), true), (Some("b"), false), (None, false), (Some("a"), true)][..]),
        (&bound, &[(None, true), (Some("a"), true), (Some("b"), false), (None, false)][..]),
    ] {
        let guard = guard(settings);
        for (now, is_served) in steps {
            let checked = guard.check_subject(&acme, *now).map_err(|problem| problem.code);
            let expected = if *is_served { Ok(()) } else { Err(Code::ForbiddenAccount) };
            assert_eq!(checked, expected, "{now:?} of {settings:?}");
        }
    }
}

//! Requests under a foreign host name or from a page of another site, at both listeners.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use super::both_listeners::{BOTH, Door, GET, POST, Scene, each};

// --- Who asks: T5 to T19, T39.

#[tokio::test(flavor = "multi_thread")]
async fn both_listeners_accept_only_their_own_host_names() {
    let scene = Scene::set("").await;
    let host = "GET PATH HTTP/1.1\nHost: VALUE\nConnection: close\n\n";
    let own = ["127.0.0.1:PORT", "localhost:PORT", "LocalHost:PORT", "[::1]:PORT"];
    each(&scene, &BOTH, host, &own, "200");
    let foreign = [
        "0.0.0.0:PORT",
        "[::]:PORT",
        "[::ffff:7f00:1]:PORT",
        "[::ffff:127.0.0.1]:PORT",
        "rebind.test:PORT",
        "rebind.test",
        "localhost.evil.test:PORT",
        "127.0.0.1.evil.test:PORT",
        "evil.localhost:PORT",
        "localhost.:PORT",
        "127.1:PORT",
        "2130706433:PORT",
        "0x7f.0.0.1:PORT",
        "0177.0.0.1:PORT",
        "127.0.0.2:PORT",
        "10.0.2.555:PORT",
        "localhost6:PORT",
        "[::1%25lo]:PORT",
        "[0:0:0:0:0:0:0:1]:PORT",
        "localhost",
        "127.0.0.1",
        "localhost:1",
        "localhost:0PORT",
        "OTHER",
        "API",
    ];
    each(&scene, &BOTH, host, &foreign, "403 forbidden_host");
    let none = [
        "",
        "a@localhost:PORT",
        "localhost:PORT@evil.test",
        "localhost:PORT,evil.test",
        "localhost:PORT/",
        "\u{e9}",
    ];
    each(&scene, &BOTH, host, &none, "400 bad_request");
    let missing = [
        ("no Host", "GET PATH HTTP/1.1\nAccept: a\n\n", "400 bad_request"),
        ("no Host in HTTP/1.0", "GET PATH HTTP/1.0\n\n", "400 bad_request"),
        ("Host twice", "GET PATH HTTP/1.1\nHost: HOST\nHost: HOST\n\n", "400 bad_request"),
        ("two Hosts", "GET PATH HTTP/1.1\nHost: HOST\nHost: evil.test\n\n", "400 bad_request"),
        ("space before the colon", "GET PATH HTTP/1.1\nHost : HOST\n\n", "400 bad_request"),
        (
            "rebound name, in JSON",
            "POST PATH HTTP/1.1\nHost: rebind.test:PORT\nOrigin: http://rebind.test:PORT\n\
             Content-Type: application/json\nContent-Length: 2\n\n{}",
            "403 forbidden_host",
        ),
    ];
    scene.attack_all(&BOTH, &missing);
    scene.unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_listeners_refuse_requests_from_pages_of_other_sites() {
    let scene = Scene::set("").await;
    let origins = [
        "http://evil.test",
        "null",
        "file://",
        "http://localhost:3000",
        "http://OTHER",
        "chrome-extension://aaaabbbb",
        "moz-extension://aaaabbbb",
        "http://HOST/",
        "HTTP://HOST",
        "http://HOST.evil.test",
        "http://HOST0",
        "http://127.0.0.1",
        "http://0.0.0.0:PORT",
        "",
        "\u{e9}",
    ];
    for pattern in [
        format!("{GET}Origin: VALUE\n\n"),
        format!("{POST}Origin: VALUE\nContent-Type: text/plain\nContent-Length: 2\n\n{{}}"),
        "OPTIONS PATH HTTP/1.1\nHost: HOST\nOrigin: VALUE\nAccess-Control-Request-Method: DELETE\n\
         Access-Control-Request-Private-Network: true\n\n"
            .to_owned(),
    ] {
        each(&scene, &BOTH, &pattern, &origins, "403 forbidden_origin");
    }
    let twice = format!("{GET}Origin: VALUE\nOrigin: VALUE\n\n");
    each(&scene, &BOTH, &twice, &["http://HOST", "null"], "400 bad_request");
    // Its own page may call the admin listener; the data listener has no page.
    scene.attack(Door::Admin, ("own page", &format!("{GET}Origin: http://HOST\n\n"), "200"));
    scene.attack(
        Door::Data,
        ("own page", &format!("{GET}Origin: http://HOST\n\n"), "403 forbidden_origin"),
    );
    let site = "GET PATH HTTP/1.1\nHost: HOST\nSec-Fetch-Site: VALUE\nSec-Fetch-Mode: no-cors\nSec-Fetch-Dest: image\n\n";
    each(
        &scene,
        &BOTH,
        site,
        &["cross-site", "same-site", "odd", "", "None"],
        "403 forbidden_origin",
    );
    let web_socket = "Connection: Upgrade\nUpgrade: websocket\nSec-WebSocket-Version: 13\n\
                      Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\n";
    let own = format!("GET PATH HTTP/1.1\nHost: HOST\n{web_socket}\n");
    let foreign =
        format!("GET PATH HTTP/1.1\nHost: HOST\nOrigin: http://evil.test\n{web_socket}\n");
    let attacks = [
        (
            "service worker",
            "GET PATH HTTP/1.1\nHost: HOST\nService-Worker: script\n\n",
            "403 forbidden_origin",
        ),
        ("a web socket of a page", &foreign, "403 forbidden_origin"),
        ("a web socket of a tool", &own, "400 bad_request"),
    ];
    scene.attack_all(&BOTH, &attacks);
    scene.unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_allowed_page_is_accepted_by_its_exact_origin_at_the_data_listener_only() {
    let scene = Scene::set("[guard]\nallow_origins = [\"http://localhost:3000\"]\n").await;
    let origin = format!("{GET}Origin: VALUE\n\n");
    let near = [
        "http://localhost:30001",
        "http://localhost:3000.evil.test",
        "https://localhost:3000",
        "http://localhost:3000/",
        "HTTP://LOCALHOST:3000",
        "http://localhost:3000, http://localhost:3000",
    ];
    each(&scene, &BOTH, &origin, &near, "403 forbidden_origin");
    scene.attack(
        Door::Admin,
        (
            "no page of others",
            &origin.replace("VALUE", "http://localhost:3000"),
            "403 forbidden_origin",
        ),
    );
    let twice = format!("{GET}Origin: http://localhost:3000\nOrigin: http://localhost:3000\n\n");
    scene.attack_all(&BOTH, &[("twice", &twice, "400 bad_request")]);

    let mut caller = scene.setup.caller();
    let asks = [
        "Origin: http://localhost:3000",
        "Access-Control-Request-Method: DELETE",
        "Access-Control-Request-Private-Network: true",
        "Access-Control-Request-Local-Network: true",
    ];
    let before = scene.upstream.requests().len();
    let permitted = caller.request("OPTIONS", "/v1/x", &asks, b"");
    assert_eq!(
        (permitted.status, permitted.header("access-control-allow-origin")),
        (204, Some("http://localhost:3000"))
    );
    let head = permitted.head.to_ascii_lowercase();
    assert!(!head.contains("private-network") && !head.contains("local-network"), "{head}");
    assert_eq!(scene.upstream.requests().len(), before, "the question is answered here");
    scene.unharmed().await;
}

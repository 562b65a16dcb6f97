//! What a caller is told about refusals of Pleo, beside Pleo's own words.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use support::{After, Upstream, setup};

const BODY: &str = r#"{"type":"FORBIDDEN","message":"no"}"#;

/// Answers with the status that the query names, and with a hint that is not ours.
fn answering() -> Upstream {
    Upstream::start(|incoming| {
        let _ = incoming.body();
        let status = incoming.target().rsplit('=').next().unwrap().to_owned();
        incoming.respond(format!(
            "HTTP/1.1 {status} Status\r\nRetry-After: 7\r\nPleo-Proxy-Hint: forged\r\n\
             Pleo-Proxy-Request: forged\r\nContent-Length: {}\r\n\r\n{BODY}",
            BODY.len()
        ));
        After::Keep
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_of_pleo_says_why_and_what_to_do_and_its_body_is_untouched() {
    let upstream = answering();
    let setup = setup(&upstream, "").await;
    let mut caller = setup.caller();
    let login = format!("{} login default", setup.workspace.program());
    for (method, target, hint) in [
        (
            "POST",
            "/v1/chart-of-accounts?to=403",
            format!("needs accounts:write; this login has companies:read; add accounts:write to client.scopes, restart the proxy, then: {login}"),
        ),
        (
            "GET",
            "/@default/v1/expenses?to=404",
            "/v1/expenses is a path of Pleo's old API, not of this one; use POST /v1/accounting-entries:search".to_owned(),
        ),
        (
            "GET",
            "/v1/companies?to=429",
            "too many requests: Pleo allows 600 a minute and recommends at most 500; wait 7 s, then send fewer".to_owned(),
        ),
        (
            "GET",
            "/v1/companies?to=401",
            format!("Pleo refuses the token even after a refresh; check that endpoints.api and endpoints.token belong to the same environment, then: {login}"),
        ),
    ] {
        let got = caller.request(method, target, &[], b"");
        assert_eq!(got.all("pleo-proxy-hint"), [hint.as_str()], "{target}: {}", got.head);
        assert_eq!(got.text(), BODY);
        assert!(got.all("pleo-proxy-request").iter().all(|id| *id != "forged"), "{}", got.head);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_succeeds_or_has_no_known_reason_gets_no_hint_nor_one_of_somebody_else() {
    let upstream = answering();
    let setup = setup(&upstream, "").await;
    let mut caller = setup.caller();
    for target in ["/v1/companies?to=200", "/v1/companies?to=418", "/v1/companies?to=503"] {
        let got = caller.get(target);
        assert!(got.all("pleo-proxy-hint").is_empty(), "{target}: {}", got.head);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hints_can_be_switched_off() {
    let upstream = answering();
    let setup = setup(&upstream, "[inspect]\nheaders = false\n").await;
    let got = setup.caller().request("POST", "/v1/chart-of-accounts?to=403", &[], b"");
    assert_eq!((got.status, got.text().as_str()), (403, BODY));
    assert!(got.all("pleo-proxy-hint").is_empty(), "{}", got.head);
}

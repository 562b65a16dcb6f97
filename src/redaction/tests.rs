//! Properties of the redactor. What is left is judged by a search of its own, which takes encodings
//! away with other code.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use data_encoding::{HEXLOWER, HEXUPPER};
use percent_encoding::{NON_ALPHANUMERIC, percent_decode, utf8_percent_encode};
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::json;

use super::*;
use crate::secret::{ClientSecret, RefreshToken, WebhookSecret};

/// Secrets as they may be: tokens, keys with all kinds of characters, words, numbers.
fn secrets() -> Vec<String> {
    let mut secrets: Vec<String> = [
        "hunter2hunter2",
        "12345678",
        "correct horse battery",
        "a+b/c=d&e?f%g#h",
        "pässwörd-ü",
        "z/tZ9VwFZqApmIQ+ZH1I5pLk/uB4ud:X2/8bL+wfFTt1rFw=",
        "\"quoted\" and \\back\\",
        "<tag>&amp;</tag>",
        "100%41sure",
        "sbx-refresh-00000001-abc",
        "deadbeefdeadbeef",
        "AAAAAAAAAAAA",
    ]
    .map(str::to_owned)
    .to_vec();
    while secrets.len() < 40 {
        let random = crate::secret::random().unwrap();
        let length = 8 + secrets.len() % 36;
        secrets.push(random[..length].to_owned());
    }
    secrets
}

fn redactor(secrets: &[String]) -> Redactor {
    let known = KnownSecrets::default();
    for secret in secrets {
        known.learn(&ClientSecret::new(secret.as_str()));
    }
    Redactor::new(known)
}

fn json_escaped(text: &str) -> String {
    text.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect()
}

fn entities(text: &str) -> String {
    text.chars().map(|c| format!("&#{};", u32::from(c))).collect()
}

fn form(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

/// All encodings that a secret may leave in; the last ones are encodings of encodings.
const ENCODINGS: [fn(&str) -> String; 14] = [
    str::to_owned,
    |text| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string(),
    |text| text.bytes().map(|byte| format!("%{byte:02x}")).collect(),
    |text| STANDARD.encode(text),
    |text| URL_SAFE_NO_PAD.encode(text),
    |text| HEXLOWER.encode(text.as_bytes()),
    |text| HEXUPPER.encode(text.as_bytes()),
    json_escaped,
    entities,
    form,
    |text| serde_json::to_string(text).unwrap(),
    |text| utf8_percent_encode(&form(text), NON_ALPHANUMERIC).to_string(),
    |text| STANDARD.encode(format!("client-id:{text}")),
    |text| STANDARD.encode(format!("{{\"x\":{}}}", serde_json::to_string(text).unwrap())),
];

/// All readings of a text, by other code than the redactor's.
fn readings(text: &str, depth: u32) -> Vec<Vec<u8>> {
    let mut all = vec![text.as_bytes().to_vec()];
    let percent: Vec<u8> = percent_decode(text.as_bytes()).collect();
    let json = regex_free_json(text);
    let html = html_text(text);
    let mut texts = vec![String::from_utf8_lossy(&percent).into_owned(), json, html];
    texts.push(text.replace('+', " "));
    texts.push(String::from_utf8_lossy(&percent).replace('+', " "));
    texts.retain(|reading| reading != text);
    let alphabet = |c: char| c.is_ascii_alphanumeric() || "+/-_".contains(c);
    for run in text.split(|c| !alphabet(c)).filter(|run| run.len() > 10) {
        let standard = run.replace('-', "+").replace('_', "/");
        for skip in 0..4 {
            let usable = &standard[skip..];
            let whole = &usable[..usable.len() / 4 * 4];
            let rest = &usable[..usable.len() - usize::from(usable.len() % 4 == 1)];
            for digits in [whole, rest] {
                let lenient = base64::engine::GeneralPurposeConfig::new()
                    .with_decode_allow_trailing_bits(true)
                    .with_decode_padding_mode(base64::engine::DecodePaddingMode::Indifferent);
                let engine =
                    base64::engine::GeneralPurpose::new(&base64::alphabet::STANDARD, lenient);
                all.extend(engine.decode(digits));
            }
        }
    }
    for run in text.split(|c: char| !c.is_ascii_hexdigit()).filter(|run| run.len() > 15) {
        for skip in 0..2 {
            let even = &run[skip..skip + (run.len() - skip) / 2 * 2];
            all.extend(HEXLOWER.decode(even.to_ascii_lowercase().as_bytes()));
        }
    }
    if depth > 0 {
        let decoded: Vec<_> =
            all[1..].iter().map(|bytes| String::from_utf8_lossy(bytes).into_owned()).collect();
        for reading in texts.iter().chain(&decoded) {
            all.extend(readings(reading, depth - 1));
        }
    }
    all
}

fn regex_free_json(text: &str) -> String {
    serde_json::from_str(&format!(
        "\"{}\"",
        text.replace("\\\"", "\u{1}").replace('"', "\u{1}").replace('\u{1}', "\\\"")
    ))
    .unwrap_or_else(|_| text.to_owned())
}

fn html_text(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("&#") {
        out.push_str(before);
        match after.split_once(';') {
            Some((number, tail))
                if number.parse::<u32>().ok().and_then(char::from_u32).is_some() =>
            {
                out.extend(char::from_u32(number.parse().unwrap()));
                rest = tail;
            }
            _ => {
                out.push_str("&#");
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&amp;", "&")
}

fn holds(text: &str, secret: &str) -> bool {
    let secret = secret.as_bytes();
    readings(text, 2).iter().any(|reading| reading.windows(secret.len()).any(|part| part == secret))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn no_secret_is_left_in_any_encoding(
        secret in select(secrets()),
        encode in select(ENCODINGS.to_vec()),
        before in "[ -$'-\\[\\]-~\u{e4}\n]{0,20}",
        after in "[ -$'-\\[\\]-~\u{e4}\n]{0,20}",
    ) {
        let redactor = redactor(std::slice::from_ref(&secret));
        // A surrounding percent sign may join with what follows, here and in every other reader.
        let (before, after) = (before.replace('%', "."), after.replace('%', "."));
        let text = format!("{before}{}{after}", encode(&secret));
        for redacted in [redactor.text(&text), redactor.query(&text), redactor.header("x-note", &text)] {
            prop_assert!(!holds(&redacted, &secret), "{redacted} of {text}");
        }
        let body = json!({"note": text, "items": [{&*text: 1}]}).to_string();
        if let Body::Text(redacted) = redactor.body(Some("application/json"), body.as_bytes()) {
            prop_assert!(!holds(&redacted, &secret), "{redacted}");
            prop_assert!(serde_json::from_str::<Value>(&redacted).is_ok());
        } else {
            prop_assert!(false, "left out: {body}");
        }
    }

    #[test]
    fn nothing_panics_and_redacting_twice_changes_nothing(bytes: Vec<u8>, kind in select(vec![
        None, Some("application/json"), Some("text/plain"), Some("application/x-www-form-urlencoded"),
        Some("application/pdf"),
    ])) {
        let redactor = redactor(&secrets());
        let text = String::from_utf8_lossy(&bytes);
        let once = redactor.text(&text).into_owned();
        prop_assert_eq!(redactor.text(&once), once.as_str());
        drop((redactor.query(&text), redactor.header(&text, &text), redactor.body(kind, &bytes)));
    }
}

#[test]
fn every_secret_is_taken_out_in_every_encoding() {
    let secrets = secrets();
    let redactor = redactor(&secrets);
    for secret in &secrets {
        for (number, encode) in ENCODINGS.iter().enumerate() {
            let text = format!("before {} after", encode(secret));
            let redacted = redactor.text(&text);
            assert!(!holds(&redacted, secret), "encoding {number}: {redacted}");
            assert!(redacted.starts_with("before ") && redacted.ends_with(" after"), "{redacted}");
        }
    }
}

/// What Pleo's API sends and gets.
fn ordinary() -> Value {
    json!({
        "data": [{
            "id": "6c84fb90-12c4-11e1-840d-7b25c5ee775a", "code": "1000", "name": "Travel",
            "amount": {"value": -1234.50, "currency": "DKK"}, "employeeId": null, "archived": false,
            "taxCode": {"id": "0f14d0ab-9605-4a62-a9e4-5ed26688389b", "code": "VAT25", "rate": 0.25},
            "createdAt": "2026-11-26T08:53:05.123Z", "path": "/v3/export-jobs/1/items",
            "note": "Basic Fit, bearer of news: 50% off & more; a=b", "eventTypes": ["v1.vendor.created"],
            "etag": "da39a3ee5e6b4b0d3255bfef95601890afd80709", "key": "department", "state": "OPEN",
        }],
        "pagination": {
            "hasNextPage": true, "endCursor": "eyJpZCI6IjZjODRmYjkwLTEyYzQtMTFlMS04NDBkLTdiMjVjNWVlNzc1YSJ9",
            "total": 9_007_199_254_740_991_i64,
        },
    })
}

#[test]
fn ordinary_json_keeps_everything() {
    let redactor = redactor(&secrets());
    let text = format!(" {}\n", serde_json::to_string_pretty(&ordinary()).unwrap());
    let kept = redactor.body(Some("application/json; charset=utf-8"), text.as_bytes());
    assert_eq!(kept, Body::Text(text));
    assert_eq!(redactor.json(&ordinary()), ordinary());
}

#[test]
fn what_pleo_sends_of_subscriptions_holds_no_secret() {
    let redactor = redactor(&[]);
    let answer = json!({"data": {"secretKey": "c2VjcmV0"}});
    assert_eq!(redactor.json(&answer), json!({"data": {"secretKey": MASK}}));
    let body = json!({
        "endpointUrl": "https://ada:pw@example.com/hook?token=abc", "status": "ACTIVE",
        "customHeaders": {"X-Mine": "value"},
        "endpointAuth": {"type": "BASIC", "credentials": {"username": "u", "password": "p", "token": null}},
    });
    let expected = json!({
        "endpointUrl": "https://[redacted]@example.com/hook?token=[redacted]", "status": "ACTIVE",
        "customHeaders": MASK, "endpointAuth": {"type": "BASIC", "credentials": MASK},
    });
    assert_eq!(redactor.json(&body), expected);
    // Without the name and without `whsec_`, once it was seen.
    assert_eq!(redactor.text("is whsec_MfKQ9r8GKYqrTwjU, yes"), "is [redacted], yes");
    assert_eq!(redactor.text(&HEXLOWER.encode(b"whsec_MfKQ9r8GKYqrTwjU")), MASK);
}

#[test]
fn names_give_secrets_away_in_headers_queries_and_json() {
    let redactor = redactor(&[]);
    for name in ["Authorization", "cookie", "Set-Cookie", "X-Api-Key", "Pleo-Proxy-Key"] {
        assert_eq!(redactor.header(name, "short"), MASK, "{name}");
    }
    assert_eq!(redactor.header("Content-Type", "application/json"), "application/json");
    let location = "https://a.example/cb?code=abc&state=x&limit=1";
    let redacted = "https://a.example/cb?code=[redacted]&state=[redacted]&limit=1";
    assert_eq!(redactor.header("location", location), redacted);
    let form = "grant_type=refresh_token&refresh_token=a&client_secret=b+c&limit=5";
    let redacted =
        "grant_type=refresh_token&refresh_token=[redacted]&client_secret=[redacted]&limit=5";
    assert_eq!(redactor.query(form), redacted);
    let presigned =
        "https://s3.example/f.pdf?X-Amz-Date=2&X-Amz-Signature=ab&X-Amz-Credential=c%2Fd";
    let redacted = "https://s3.example/f.pdf?X-Amz-Date=2&X-Amz-Signature=[redacted]&X-Amz-Credential=[redacted]";
    assert_eq!(redactor.text(presigned), redacted);
    let inner = "redirect=https%3A%2F%2Fx%3Fcode%3Dabc%26n%3D1";
    assert_eq!(redactor.text(inner), "redirect=https%3A%2F%2Fx%3Fcode%3D[redacted]%26n%3D1");
    assert_eq!(
        redactor.json(&json!({"password": [1, "a"], "pin": 1234, "otp": null})),
        json!({"password": MASK, "pin": MASK, "otp": null})
    );
    let code = "gX3_bq0Zr4kLw9Tn2sVd";
    assert_eq!(redactor.json(&json!({"code": code})), json!({"code": MASK}));
}

#[test]
fn a_known_number_becomes_a_string_and_the_json_stays_valid() {
    let redactor = redactor(&["12345678".into()]);
    let body = redactor.body(None, br#"{"a": 12345678, "b": -12345678.5, "c": 1234567}"#);
    let expected = r#"{"a": "[redacted]", "b": "[redacted]", "c": 1234567}"#;
    assert_eq!(body, Body::Text(expected.into()));
}

#[test]
fn what_cannot_be_read_is_left_out_with_its_length() {
    let redactor = redactor(&[]);
    for (kind, body, note) in [
        (Some("application/pdf"), b"%PDF-1.7".as_slice(), "left out: 8 bytes of application/pdf"),
        (
            Some("application/json"),
            b"{\"password\": \"cut of",
            "left out: 20 bytes of application/json",
        ),
        (Some("text/plain"), b"\x1f\x8b\x08\0", "left out: 4 bytes of text/plain"),
        (Some("text/plain"), b"\xff\xfe", "left out: 2 bytes of text/plain"),
        (
            Some("multipart/form-data; boundary=x"),
            b"--x",
            "left out: 3 bytes of multipart/form-data",
        ),
        (None, b"{\"a\": ", "left out: 6 bytes"),
        (Some("token=abc def"), b"abc", "left out: 3 bytes"),
    ] {
        assert_eq!(redactor.body(kind, body), Body::LeftOut(note.into()));
    }
    assert_eq!(redactor.body(Some("application/pdf"), b""), Body::Text(String::new()));
    assert_eq!(redactor.body(Some("text/csv"), b"a;b\n"), Body::Text("a;b\n".into()));
    assert_eq!(redactor.body(None, b"token=abc&a=b"), Body::Text("token=[redacted]&a=b".into()));
}

#[test]
fn forgotten_tokens_are_recognised_by_their_form() {
    let redactor = redactor(&[]);
    let jwt = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl";
    let token = crate::secret::random().unwrap();
    for secret in [jwt, token.as_str()] {
        for text in [format!("a {secret} b"), format!("a={}", json_escaped(secret))] {
            assert!(!holds(&redactor.text(&text), secret), "{text}");
        }
    }
    let inside = STANDARD.encode(format!("client:{jwt}"));
    assert!(!holds(&redactor.text(&inside), jwt));
}

#[test]
fn personal_data_becomes_placeholders_only_when_it_is_asked_for() {
    let body = json!({
        "employee": {"name": "Ada L", "email": "ada@example.com", "phoneNumber": "+45 1", "iban": "DK50"},
        "vendor": {"name": "Harbour Coffee"}, "note": "ask Ada@example.com",
    });
    assert_eq!(redactor(&[]).json(&body), body);
    let redactor = redactor(&[]).with_pseudonyms(Pseudonyms::new().unwrap());
    let shown = redactor.json(&body);
    let text = shown.to_string();
    assert!(!["Ada", "ada@", "+45", "DK50"].iter().any(|it| text.contains(it)), "{text}");
    assert_eq!(shown["vendor"]["name"], "Harbour Coffee");
    assert_eq!(shown["note"], format!("ask {}", shown["employee"]["email"].as_str().unwrap()));
    assert!(shown["employee"]["name"].as_str().unwrap().starts_with("[person "));
    assert!(
        redactor
            .text("mail ada@example.com")
            .contains(shown["employee"]["email"].as_str().unwrap())
    );
}

/// Each text is repeated to the length. Quadratic work on it would take hours.
#[test]
fn a_mebibyte_of_anything_is_searched_in_one_pass() {
    let secrets = secrets();
    let redactor = redactor(&secrets);
    for piece in [
        "a",
        "%41",
        "\\u0041",
        "&#65;",
        "token=",
        "\"token\":{",
        "://",
        "eyJ",
        "Bearer ",
        "@",
        "whsec_",
        "eyJhbGciOiJFUzI1NiJ9.",
        "{\"a\":",
        "a@b.c",
        &secrets[5],
    ] {
        let text = piece.repeat((32 << 10) / piece.len());
        drop(redactor.text(&text));
        drop(redactor.body(None, text.as_bytes()));
    }
    let body = serde_json::to_string(&vec![ordinary(); (1 << 20) / 900]).unwrap();
    assert_eq!(redactor.body(Some("application/json"), body.as_bytes()), Body::Text(body));
}

#[test]
fn secrets_of_all_kinds_are_learnt() {
    let known = KnownSecrets::default();
    known.learn(&RefreshToken::new("refresh-token-1"));
    known.learn_lasting(&WebhookSecret::new("webhook-secret-1"));
    let redactor = Redactor::new(known.clone());
    assert_eq!(redactor.text("refresh-token-1 webhook-secret-1"), "[redacted] [redacted]");
    assert!(!format!("{redactor:?}").contains("token-1"));
}

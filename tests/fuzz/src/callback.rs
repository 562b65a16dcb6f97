//! Whatever a browser brings back or a person pastes: what is taken for an answer has one state and
//! one code of visible characters, and a refusal is a short line that moves no cursor.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pleo_proxy::oauth::authorize::{Callback, issuer_matches};
use pleo_proxy::oauth::endpoint::Endpoint;
use url::{Url, form_urlencoded};

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    if let Ok(callback) = Callback::from_query(&text) {
        is_what_the_query_says(&callback, &text);
    }
    if let Ok(callback) = Callback::from_address(&text) {
        // Quotes around a pasted address, and its fragment, are not the query's.
        let address = text.trim().trim_matches(['"', '\'', '<', '>']);
        let address = address.split('#').next().unwrap_or_default();
        let (_, query) = address.split_once('?').expect("an address with a query");
        is_what_the_query_says(&callback, query);
    }
    let authorize = Endpoint::parse("https://auth.example/oauth/authorize").expect("an endpoint");
    if issuer_matches(&text, &authorize) {
        let issuer = Url::parse(&text).expect("an issuer is a URL");
        assert_eq!(issuer.origin(), authorize.url().origin());
    }
});

fn is_what_the_query_says(callback: &Callback, query: &str) {
    assert_eq!([callback.state().expose()], values(query, "state")[..]);
    is_visible(callback.state().expose());
    match callback {
        Callback::Code { code, issuer, .. } => {
            assert_eq!([code.expose()], values(query, "code")[..]);
            is_visible(code.expose());
            assert!(values(query, "error").is_empty());
            assert_eq!(values(query, "iss"), issuer.clone().into_iter().collect::<Vec<_>>());
        }
        Callback::Error { message, .. } => {
            assert_eq!(values(query, "error").len(), 1);
            assert!(message.chars().count() <= 200);
            assert!(
                !message
                    .contains(|c: char| c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c))
            );
        }
    }
}

fn is_visible(text: &str) {
    assert!(!text.is_empty() && text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()));
}

fn values(query: &str, name: &str) -> Vec<String> {
    let all = form_urlencoded::parse(query.as_bytes());
    all.filter(|(key, _)| key == name).map(|(_, value)| value.into_owned()).collect()
}

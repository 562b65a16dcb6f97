//! All secrets of a run, and the search for them in what was written.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::json;
use url::form_urlencoded;

const CLIENT_ID: &str = "sandbox-client";

/// Every writing of it differs from the others.
pub(super) const CLIENT_SECRET: &str = "cl1ent+s3cret/with=every%25 kind&of<char>\"9Zk4'Tq";

pub(super) const LOCAL_KEY: &str = "l0cal-key-Vt83nQpX27bLw5RzYh6JcKd9";

/// Of the store: 32 bytes in base64.
pub(super) const STORE_KEY: &str = "6xblTJu4XJDU5O1enxZ3VpQb6WN/BSItjUmmGZ/tMZc=";

/// In place of a login.
pub(super) const API_KEY: &str = "plp+ap1/key=with%odd&chars<Qz7-Wm3";

/// What callers say that is none of a log's business.
pub(super) const CALLERS: [&str; 4] = [
    "callers-own-credential-8fQ2LmZx7V",
    "callers-query-value-b7Rk3WnP9cD",
    "callers-cookie-value-u5Gh1TyE4sA",
    "callers-wrong-admin-key-m2Jd6OxC0iN",
];

/// So many characters of a secret in a row are a leak.
pub(super) const SLICE: usize = 12;

/// All secrets, by what they are.
#[derive(Default)]
pub(super) struct Vault(pub(super) BTreeMap<String, String>);

impl Vault {
    pub(super) fn keep(&mut self, what: &str, secret: &str) {
        assert!(secret.len() >= SLICE, "{what} is too short to be looked for: {secret:?}");
        self.0.entry(secret.to_owned()).or_insert_with(|| what.to_owned());
    }

    pub(super) fn count(&self, what: &str) -> usize {
        self.0.values().filter(|known| *known == what).count()
    }

    /// Every slice of every writing, and whose it is.
    pub(super) fn slices(&self) -> HashMap<[u8; SLICE], &str> {
        let mut slices = HashMap::new();
        for (secret, what) in &self.0 {
            for writing in writings(secret) {
                slices.extend(
                    writing
                        .as_bytes()
                        .windows(SLICE)
                        .map(|slice| (slice.try_into().unwrap(), &**what)),
                );
            }
        }
        slices
    }
}

/// The ways in which a secret may be written; base64 at each of its three alignments.
pub(super) fn writings(secret: &str) -> Vec<String> {
    let form = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let percent = utf8_percent_encode(secret, NON_ALPHANUMERIC).to_string();
    let html = secret
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;");
    let hex = secret.bytes().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").unwrap();
        hex
    });
    let mut all =
        vec![secret.to_owned(), form(secret), percent.to_ascii_lowercase(), percent, html, hex];
    all.extend(
        [json!(secret).to_string(), format!("{secret:?}")]
            .map(|quoted| quoted.trim_matches('"').to_owned()),
    );
    let pairs = [
        format!("{CLIENT_ID}:{secret}"),
        format!("{CLIENT_ID}:{}", form(secret)),
        format!("Bearer {secret}"),
    ];
    let shifted = (0..3).map(|shift| &secret[shift..]);
    for plain in shifted.chain(pairs.iter().map(String::as_str)) {
        all.extend([STANDARD.encode(plain), URL_SAFE_NO_PAD.encode(plain)]);
    }
    all
}

/// Where which secret shows in a text.
pub(super) fn leaks(
    slices: &HashMap<[u8; SLICE], &str>,
    workspace: &str,
    text: &[u8],
) -> Vec<String> {
    let hits =
        text.windows(SLICE).enumerate().filter_map(|(at, slice)| Some((at, slices.get(slice)?)));
    let around = |at: usize| {
        String::from_utf8_lossy(&text[at.saturating_sub(60)..(at + 60).min(text.len())])
    };
    hits.take(3).map(|(at, what)| format!("{what} in {workspace}: ...{}...", around(at))).collect()
}

/// Between the proxy and the authorization server: hands on what comes and keeps it, both ways.
pub(super) struct Relay {
    pub(super) address: SocketAddr,
    pub(super) heard: Arc<Mutex<Vec<u8>>>,
}

impl Relay {
    pub(super) fn before(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, heard) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(Vec::new())));
        let sink = heard.clone();
        std::thread::spawn(move || {
            for near in listener.incoming() {
                let (Ok(near), Ok(far)) = (near, TcpStream::connect(server)) else { continue };
                let ends = [(near.try_clone(), far.try_clone()), (Ok(far), Ok(near))];
                for (from, to) in ends {
                    let (from, to, sink) = (from.unwrap(), to.unwrap(), sink.clone());
                    std::thread::spawn(move || hand_on(from, to, &sink));
                }
            }
        });
        Self { address, heard }
    }

    /// All values between such a beginning and one of these ends.
    pub(super) fn values(&self, begin: &str, ends: &[char]) -> Vec<String> {
        let heard = String::from_utf8_lossy(&self.heard.lock().unwrap()).into_owned();
        let parts = heard.split(begin).skip(1);
        parts.map(|part| part.split(ends).next().unwrap().to_owned()).collect()
    }
}

fn hand_on(mut from: TcpStream, mut to: TcpStream, sink: &Mutex<Vec<u8>>) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        sink.lock().unwrap().extend_from_slice(&buffer[..read]);
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

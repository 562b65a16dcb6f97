//! What attacks on both listeners share: the bytes of an attack, and a check that it did no harm.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use serde_json::{Value, json};
use support::{Setup, TIMEOUT, Upstream, setup};

/// What an attack is called, its bytes as [`wire`] writes them, and what comes back as [`answers`]
/// reads it.
type Attack<'a> = (&'a str, &'a str, &'a str);

/// Head of an honest request whose answer is the last of its connection; without its empty line.
pub(super) const GET: &str = "GET PATH HTTP/1.1\nHost: HOST\nConnection: close\n";

/// The same with a body.
pub(super) const POST: &str = "POST PATH HTTP/1.1\nHost: HOST\nConnection: close\n";

/// A listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Door {
    Data,
    Admin,
}

pub(super) const BOTH: [Door; 2] = [Door::Data, Door::Admin];

/// A proxy with a connected account, and what is behind it.
pub(super) struct Scene {
    pub(super) upstream: Upstream,
    pub(super) setup: Setup,
    /// What an honest request carries.
    pub(super) token: String,
    pub(super) posts: u64,
    pub(super) grant: Value,
}

impl Scene {
    pub(super) async fn set(more: &str) -> Self {
        Self::before(Upstream::ok(), more).await
    }

    pub(super) async fn before(upstream: Upstream, more: &str) -> Self {
        let setup = setup(&upstream, more).await;
        assert_eq!(setup.caller().get("/v1/honest").status, 200);
        let (token, posts) = (upstream.last().token(), setup.sandbox.counters().token_posts);
        let grant = grant(&setup).await;
        Self { upstream, setup, token, posts, grant }
    }

    pub(super) fn address(&self, door: Door) -> SocketAddr {
        match door {
            Door::Data => self.setup.proxy.address(),
            Door::Admin => self.setup.proxy.admin_address(),
        }
    }

    /// The bytes of an attack: a line break is CR LF, `¶` is LF alone, every other character one
    /// byte. HOST and PORT are the listener's, OTHER the other one's, API the upstream's, PATH
    /// something that is served here.
    pub(super) fn wire(&self, door: Door, text: &str) -> Vec<u8> {
        let (own, other) = match door {
            Door::Data => (Door::Data, Door::Admin),
            Door::Admin => (Door::Admin, Door::Data),
        };
        let path = if door == Door::Data { "/v1/x" } else { "/health" };
        let text = text.replace("HOST", &self.address(own).to_string()).replace("PATH", path);
        let text =
            text.replace("PORT", &self.address(own).port().to_string()).replace('\n', "\r\n");
        let text = text.replace("OTHER", &self.address(other).to_string()).replace('¶', "\n");
        let text = text.replace("API", &self.upstream.address.to_string());
        text.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect()
    }

    /// Sends an attack and looks at all that it did. Each answer 200 of the data listener is one
    /// honest request.
    pub(super) fn attack(&self, door: Door, (name, text, expected): Attack<'_>) {
        let before = self.upstream.requests().len();
        let got = exchange(self.address(door), &self.wire(door, text));
        assert_eq!(answers(&got), expected, "{name}, {door:?}: {}", String::from_utf8_lossy(&got));
        let served = if door == Door::Data {
            expected.split(", ").filter(|it| *it == "200").count()
        } else {
            0
        };
        let seen = self.upstream.requests().split_off(before);
        assert_eq!(seen.len(), served, "{name}, {door:?}: {seen:#?}");
        assert!(seen.iter().all(|it| it.token() == self.token), "{name}: {seen:#?}");
        assert!(seen.iter().all(|it| !it.head.contains("smuggled")), "{name}: {seen:#?}");
    }

    pub(super) fn attack_all(&self, doors: &[Door], attacks: &[Attack<'_>]) {
        for door in doors {
            attacks.iter().for_each(|attack| self.attack(*door, *attack));
        }
    }

    /// Waits until no more requests come to the upstream: one that was cut shows late.
    pub(super) async fn settle(&self) {
        let mut before = usize::MAX;
        while before != self.upstream.requests().len() {
            before = self.upstream.requests().len();
            tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        }
    }

    /// Nothing happened that shows late, and both listeners serve.
    pub(super) async fn unharmed(self) {
        assert_eq!(grant(&self.setup).await, self.grant);
        assert_eq!(self.setup.sandbox.counters().token_posts, self.posts);
        let before = self.upstream.requests().len();
        self.attack_all(&BOTH, &[("honest", &format!("{GET}\n"), "200")]);
        assert_eq!(self.upstream.requests().len(), before + 1);
    }
}

/// What would show that the account was changed.
async fn grant(setup: &Setup) -> Value {
    let account = setup.proxy.account("default").await;
    json!([
        account["state"],
        account["generation"],
        account["last_login"],
        account["last_login_error"]
    ])
}

/// All that comes back until the proxy closes the connection, which it must.
pub(super) fn exchange(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    // It may be closed before everything is written.
    let _ = stream.write_all(bytes);
    wait_until_closed(&mut stream)
}

pub(super) fn wait_until_closed(stream: &mut TcpStream) -> Vec<u8> {
    let mut got = Vec::new();
    let end = stream.read_to_end(&mut got);
    let still_open = end.is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
    assert!(!still_open, "not closed after {}", String::from_utf8_lossy(&got));
    got
}

/// True if an answer began and is shorter than its head says.
pub(super) fn is_cut(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes).to_ascii_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return !bytes.is_empty() };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    length.is_some_and(|length| body.len() < length.trim().parse().unwrap())
}

/// Status and code of each answer in turn, such as `200, 403 forbidden_host`; without a code for
/// answers of the upstream and for those without any content that hyper gives to what is no
/// request.
pub(super) fn answers(mut bytes: &[u8]) -> String {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let end = bytes.windows(4).position(|it| it == b"\r\n\r\n").expect("a whole head") + 4;
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap().to_ascii_lowercase();
        let field =
            |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let length = field("content-length:").map_or(0, |length| length.parse().unwrap());
        let body = &bytes[end..end + length];
        let status = head.split(' ').nth(1).unwrap();
        let code = field("pleo-proxy-error:");
        assert_eq!(
            code.is_some(),
            field("content-type:") == Some("application/problem+json"),
            "{head}"
        );
        match code {
            Some(code) => assert_is_problem(code, body),
            None => assert!(status.starts_with('2') || body.is_empty(), "{head}"),
        }
        assert!(status != "401" && status != "101", "{head}");
        assert!(!head.contains("access-control-"), "{head}");
        all.push([Some(status), code].into_iter().flatten().collect::<Vec<_>>().join(" "));
        bytes = &bytes[end + length..];
    }
    all.join(", ")
}

fn assert_is_problem(code: &str, body: &[u8]) {
    let body: Value = serde_json::from_slice(body).unwrap();
    assert_eq!(body["code"], code, "{body}");
    assert!(
        ["title", "detail"]
            .iter()
            .all(|field| body[field].as_str().is_some_and(|text| !text.is_empty())),
        "{body}"
    );
}

/// One attack for each value, made of a pattern in which `VALUE` stands for it.
pub(super) fn each(scene: &Scene, doors: &[Door], pattern: &str, values: &[&str], expected: &str) {
    for value in values {
        let text = pattern.replace("VALUE", value);
        scene.attack_all(doors, &[(value, &text, expected)]);
    }
}

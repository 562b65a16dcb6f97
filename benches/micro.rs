//! The pieces on a request's way, one by one: `cargo bench`. Times are to be compared with the
//! processor time of a whole request that `benches/compare.sh` prints; the columns of allocations
//! show what a piece takes from the heap.
#![allow(clippy::unwrap_used, reason = "a bench that cannot go on should panic")]

use std::hint::black_box;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use divan::{AllocProfiler, Bencher};
use http::header::{HeaderMap, HeaderValue};
use http::request::Parts;
use http::{Method, Request};
use pleo_proxy::accounts::{Accounts, Background, DefaultAccount, Lease, Settings};
use pleo_proxy::clock::Clock;
use pleo_proxy::exchange::activity::Activity;
use pleo_proxy::exchange::recorder::Recorders;
use pleo_proxy::exchange::{self, Exchange};
use pleo_proxy::oauth::endpoint::{Endpoint, Origin};
use pleo_proxy::oauth::{self, ClientAuth, SecretSource};
use pleo_proxy::operations;
use pleo_proxy::outbound::{self, Outbound};
use pleo_proxy::proxy::guard::{self, Guard};
use pleo_proxy::proxy::headers::{self, ResponseContext};
use pleo_proxy::proxy::peer::{Allowed, Peer};
use pleo_proxy::proxy::route::Route;
use pleo_proxy::redaction::Redactor;
use pleo_proxy::secret::{AccessToken, RefreshToken};
use pleo_proxy::store::{AccountName, Grant, Record, Sealing, Store};
use tokio::runtime::Runtime;
use tokio::time::Instant;

#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

const DAY: Duration = Duration::from_secs(86_400);
const PATIENCE: Duration = Duration::from_secs(10);
/// So many accounts that a search through all of them would show.
const MANY: usize = 10_000;

fn main() {
    divan::main();
}

/// What callers send: curl, and a client library that talks more.
#[derive(Clone, Copy, Debug)]
enum Caller {
    Curl,
    Library,
}

const CALLERS: [Caller; 2] = [Caller::Curl, Caller::Library];

fn request(caller: Caller) -> Parts {
    let mut request =
        Request::builder().method(Method::GET).uri("/v1/export-jobs?company_id=1&page=2");
    let fields: &[(&str, &str)] = match caller {
        Caller::Curl => {
            &[("host", "127.0.0.1:8088"), ("user-agent", "curl/8.0"), ("accept", "*/*")]
        }
        Caller::Library => &[
            ("host", "127.0.0.1:8088"),
            ("user-agent", "some-client/4.2 (linux; x64) runtime/22"),
            ("accept", "application/json, text/plain, */*"),
            ("accept-encoding", "gzip, compress, deflate, br"),
            ("accept-language", "en"),
            ("connection", "keep-alive"),
            ("content-type", "application/json"),
            ("authorization", "Bearer somebody-elses"),
            ("cache-control", "no-cache"),
            ("x-request-id", "0d1f5d2e-4a5a-4d6e-9b57-3d8f0f7f2a11"),
            ("x-correlation-id", "0d1f5d2e-4a5a-4d6e-9b57-3d8f0f7f2a12"),
            ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        ],
    };
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

fn own() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 8088))
}

fn api() -> Origin {
    Origin::parse("https://external.pleo.io").unwrap()
}

#[divan::bench(args = CALLERS)]
fn guard_decision(bencher: Bencher<'_, '_>, caller: Caller) {
    let guard = Guard::data(&guard::Settings::default(), own(), &api());
    let parts = request(caller);
    bencher.bench_local(|| {
        let admitted = guard.check(black_box(&parts)).is_ok();
        admitted && guard.check_operation(&parts.method, parts.uri.path()).is_ok()
    });
}

#[divan::bench]
fn guard_decision_on_a_delete(bencher: Bencher<'_, '_>) {
    let guard = Guard::data(&guard::Settings::default(), own(), &api());
    bencher.bench_local(|| {
        guard.check_operation(black_box(&Method::DELETE), black_box("/v1/vendors/17")).is_ok()
    });
}

/// The operation of a request, by method and path; it takes nothing from the heap.
#[divan::bench(args = ["/v3/export-jobs", "/v1/vendors/17", "/v0/tags/17/dimensions/18", "/v9/x"])]
fn operation_looked_up(bencher: Bencher<'_, '_>, path: &str) {
    bencher.bench_local(|| operations::find(black_box(&Method::GET), black_box(path)));
}

#[divan::bench]
fn guard_refusal(bencher: Bencher<'_, '_>) {
    let guard = Guard::data(&guard::Settings::default(), own(), &api());
    let mut parts = request(Caller::Curl);
    parts.headers.insert("origin", HeaderValue::from_static("https://evil.example"));
    bencher.bench_local(|| guard.check(black_box(&parts)).is_err());
}

/// Without debug logs, as usual. Nobody reads what has ended, so that most of it is dropped.
#[divan::bench(args = CALLERS)]
fn exchange_begun_and_ended(bencher: Bencher<'_, '_>, caller: Caller) {
    let peer = exchange::Caller::Tcp { local: own(), peer: own() };
    let activity = Activity::new(peer, Instant::now(), None);
    activity.record_with(&Recorders::new(1, true, Arc::default(), Redactor::default()).recorder());
    let request = Request::from_parts(request(caller), ());
    bencher.bench_local(|| {
        let mut exchange = Exchange::begin(black_box(&activity), black_box(&request));
        exchange.token_received(1, false);
        exchange.sending(false);
        exchange.head_received();
        exchange.passed_on();
        exchange.respond(http::StatusCode::OK, &mut HeaderMap::new(), false);
        exchange.sent(1024, &[0; 1024], || true);
        drop(black_box(exchange));
    });
}

#[divan::bench(args = CALLERS)]
fn headers_to_upstream(bencher: Bencher<'_, '_>, caller: Caller) {
    let parts = request(caller);
    let (host, credential) =
        (HeaderValue::from_static("external.pleo.io"), HeaderValue::from_static("Bearer token"));
    bencher.bench_local(|| {
        headers::to_upstream(HeaderMap::with_capacity(12), black_box(&parts), &host, &credential)
    });
}

#[divan::bench]
fn headers_to_client(bencher: Bencher<'_, '_>) {
    let (request, origin) = (request(Caller::Curl), api());
    let route = Route::of(&request).unwrap();
    let context = ResponseContext { request: &request, route: &route, api: &origin, origin: None };
    let answer: HeaderMap = [
        ("date", "Sun, 22 Nov 2026 00:00:00 GMT"),
        ("content-type", "application/json"),
        ("content-length", "1024"),
        ("connection", "keep-alive"),
        ("etag", "\"6560a2f1-400\""),
        ("strict-transport-security", "max-age=15724800; includeSubDomains"),
        ("x-request-id", "0d1f5d2e-4a5a-4d6e-9b57-3d8f0f7f2a11"),
        ("vary", "accept-encoding"),
    ]
    .into_iter()
    .map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)))
    .collect();
    bencher
        .with_inputs(|| answer.clone())
        .bench_local_values(|answer| headers::to_client(black_box(answer), &context));
}

#[divan::bench(args = ["/v1/export-jobs", "/@account-7/v1/export-jobs"])]
fn route(bencher: Bencher<'_, '_>, target: &str) {
    let parts = Request::builder().uri(target).body(()).unwrap().into_parts().0;
    bencher.bench_local(|| Route::of(black_box(&parts)));
}

/// Many accounts with a grant of a day, in a store of their own.
struct Custody {
    runtime: Runtime,
    accounts: Arc<Accounts>,
    _folder: tempfile::TempDir,
}

static FIXTURE: LazyLock<Custody> = LazyLock::new(|| {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let accounts = runtime.block_on(open(&folder.path().join("state")));
    Custody { runtime, accounts, _folder: folder }
});

async fn open(folder: &std::path::Path) -> Arc<Accounts> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let outbound =
        Outbound::new(&outbound::Settings { plain_only: true, ..outbound::Settings::default() })
            .unwrap();
    let client = oauth::Client::new(oauth_settings(), &outbound).unwrap();
    let settings = Settings {
        drain: Duration::from_secs(2),
        hold: PATIENCE,
        keep_warm: DAY,
        idle_refresh: 7 * DAY,
        default_account: Some(name(0)),
        ..Settings::default()
    };
    let store = Store::open(folder, Sealing::none()).unwrap();
    let accounts = Accounts::open(store, client, settings, Clock::system(), Background::Disabled)
        .await
        .unwrap();
    let issued = accounts.issued();
    let now = accounts.clock().now().wall;
    for number in 0..MANY {
        // As the store writes them, without the wait for the disk.
        let path = folder.join(format!("{}.json", name(number)));
        let grant = Grant {
            access: Some(AccessToken::new(format!("access-{number}"))),
            refresh: RefreshToken::new(format!("refresh-{number}")),
            expires_at: now + 86_000_000,
            lifetime: 86_400_000,
            scope: Vec::new(),
            issued: issued.clone(),
            logged_in_at: now,
            refreshed_at: now,
            introspection_trusted: false,
        };
        let record = Record {
            generation: 1,
            grant: Some(grant),
            api_key: None,
            subject: None,
            company: None,
            subject_unconfirmed: false,
            intent: None,
            ended: None,
        };
        write_private(&path, &record.encode());
        accounts.find(&name(number)).await.unwrap();
    }
    accounts
}

fn oauth_settings() -> oauth::Settings {
    oauth::Settings {
        client_id: Some("client".into()),
        client_secret: SecretSource::None,
        auth: ClientAuth::Basic,
        scopes: Vec::new(),
        authorize: Endpoint::parse("http://127.0.0.1:9/oauth/authorize").unwrap(),
        token: Endpoint::parse("http://127.0.0.1:9/oauth/token").unwrap(),
        introspect: None,
        api: api(),
    }
}

fn write_private(path: &std::path::Path, bytes: &[u8]) {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    file.unwrap().write_all(bytes).unwrap();
}

fn name(number: usize) -> AccountName {
    format!("account-{number}").parse().unwrap()
}

#[divan::bench]
fn account_of_those_who_name_none(bencher: Bencher<'_, '_>) {
    let accounts = &FIXTURE.accounts;
    bencher.bench_local(|| matches!(&*accounts.default_account(), DefaultAccount::One(_)));
}

#[divan::bench]
fn account_by_name_among_10_000(bencher: Bencher<'_, '_>) {
    let names: Vec<_> = (0..MANY).map(|number| name(number * 7919 % MANY)).collect();
    let mut next = names.iter().cycle();
    bencher.bench_local(|| FIXTURE.accounts.get(next.next().unwrap()).unwrap());
}

#[divan::bench]
fn lease_taken_and_returned(bencher: Bencher<'_, '_>) {
    let DefaultAccount::One(account) = &*FIXTURE.accounts.default_account() else {
        panic!("the default account has a grant")
    };
    let deadline = Instant::now() + DAY;
    let _entered = FIXTURE.runtime.enter();
    bencher.bench_local(|| {
        // Ready at the first look, so that the cost of a runtime is not in the figure.
        let lease = std::pin::pin!(Lease::acquire(account, deadline));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match lease.poll(&mut context) {
            std::task::Poll::Ready(Ok(lease)) => drop(black_box(lease)),
            _ => panic!("a token of a day is served at once"),
        }
    });
}

#[divan::bench]
fn same_user_check(bencher: Bencher<'_, '_>) {
    let (_client, _accepted, local, peer) = connection();
    let allowed = Allowed::same_user();
    bencher.bench_local(|| assert_eq!(allowed.judge(local, peer).unwrap(), Peer::Allowed));
}

fn connection() -> (TcpStream, TcpStream, SocketAddr, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (accepted, peer) = listener.accept().unwrap();
    let local = accepted.local_addr().unwrap();
    (client, accepted, local, peer)
}

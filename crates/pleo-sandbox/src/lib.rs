//! A faithful fake of Pleo, for demos and tests: the authorization server, the API, presigned
//! files.
//!
//! It imports nothing of the proxy: a fake that shares its code would share its mistakes. Where
//! Pleo's documentation leaves a question open, the sandbox takes the stricter reading, so that a
//! client which works with the sandbox works with Pleo too.
//!
//! | address | what |
//! | --- | --- |
//! | `GET,POST /oauth/authorize` | consent page, or an immediate redirect with [`Options::auto_consent`] |
//! | `POST /oauth/token` | codes and refresh tokens; a refresh ends all earlier tokens of the company at once |
//! | `POST /oauth/token/introspect` | RFC 7662, for the client itself |
//! | `/v0/...` to `/v3/...` | Pleo's API; `operations` is the list, with the scope that each operation needs |
//! | `/v1/echo/...`, `/v1/stream`, `/v1/bytes`, `/v1/sink` | test routes that Pleo does not have |
//! | the API with [`Options::recording`] | what was recorded, without any credential |
//! | `/sandbox/{faults,counters,subject,revoke}` | the controls; need the header `X-Sandbox-Control: 1` |
//!
//! Both listeners refuse every `Host` that is not a loopback name, so that no web page reaches them
//! by DNS rebinding.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use tokio::net::TcpListener;
use tokio::sync::watch;

mod accounts;
mod api;
mod authorize;
mod call;
mod client;
mod company;
mod connection;
mod consent;
mod control;
mod counters;
mod dataset;
mod date;
mod entries;
mod exports;
mod fault_injection;
mod faults;
mod fields;
mod files;
mod fixtures;
mod grants;
mod host;
mod installations;
mod introspect;
mod operations;
mod paging;
mod rate_limit;
mod receipts;
mod recording;
mod response;
mod state;
mod subject;
mod subscriptions;
mod tags;
mod tax_codes;
mod test_routes;
mod token;
mod vendors;

use self::connection::{BreakableListener, ConnectionHandle};
use self::state::SandboxState;

pub use self::counters::Counters;
pub use self::faults::{
    ApiFault, ApiFaultKind, ExpiresIn, Faults, GrantType, Introspection, TokenFault, TokenFaultKind,
};
pub use self::recording::{Recording, RecordingError};
pub use self::subject::{COMPANY_ID, ORGANISATION_ID, SECOND_COMPANY_ID};

/// Pleo's limit, in requests a minute.
pub const RATE_LIMIT: u32 = 600;

/// Addresses, client and faults of a sandbox.
#[derive(Clone, Debug)]
pub struct Options {
    /// Authorization server and API; port 0 takes any free port.
    pub auth_addr: SocketAddr,
    /// Presigned-style file URLs.
    pub files_addr: SocketAddr,
    /// Takes any free port of the same address where the requested one is in use.
    pub fallback: bool,
    /// The one registered client.
    pub client_id: String,
    /// Its secret.
    pub client_secret: String,
    /// Registered redirect URIs, compared exactly. Empty: any `http` URI of a loopback host is
    /// accepted.
    pub redirect_uris: Vec<String>,
    /// `GET /oauth/authorize` redirects at once instead of showing the consent page.
    pub auto_consent: bool,
    /// Requests a minute that the API admits for each company, as Pleo's [`RATE_LIMIT`]; `None` or
    /// 0: any number.
    pub rate_limit: Option<u32>,
    /// Accounting entries of the first company beside the usual 47, for long lists.
    pub more_entries: u64,
    /// Answers of the API come from this recording.
    pub recording: Option<Arc<Recording>>,
    /// API keys that the API takes beside the tokens of logins.
    pub api_keys: Vec<StaticKey>,
    /// Faults from the start.
    pub faults: Faults,
}

/// A static API key, as a customer makes it in Pleo's settings.
#[derive(Clone, Debug)]
pub struct StaticKey {
    /// The key, sent as user name with an empty password.
    pub key: String,
    /// The company or organisation (a URN) that it is for.
    pub subject: String,
    /// Its scopes, separated by spaces.
    pub scope: String,
}

impl Default for StaticKey {
    /// Reads companies and employees of the first company.
    fn default() -> Self {
        Self {
            key: "sandbox-api-key-0001".to_owned(),
            subject: format!("urn:pleo:company:{COMPANY_ID}"),
            scope: "companies:read users:read".to_owned(),
        }
    }
}

impl Default for Options {
    fn default() -> Self {
        let local = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        Self {
            auth_addr: local(8090),
            files_addr: local(8091),
            fallback: true,
            client_id: "sandbox-client".to_owned(),
            client_secret: "sandbox-secret".to_owned(),
            redirect_uris: Vec::new(),
            auto_consent: false,
            rate_limit: None,
            more_entries: 0,
            recording: None,
            api_keys: vec![StaticKey::default()],
            faults: Faults::default(),
        }
    }
}

/// A running sandbox. Dropping it stops it: the listeners close, and connections close at their
/// next write.
pub struct Sandbox {
    /// Where the authorization server and the API are called: on loopback, if they listen on all
    /// addresses.
    pub auth: SocketAddr,
    /// Where the files are called.
    pub files: SocketAddr,
    state: Arc<SandboxState>,
    stop: watch::Sender<bool>,
}

impl Sandbox {
    /// Binds both ports and serves them from tasks on the current tokio runtime.
    pub async fn start(options: Options) -> io::Result<Sandbox> {
        let auth_listener = bind(options.auth_addr, options.fallback).await?;
        let files_listener = bind(options.files_addr, options.fallback).await?;
        let auth = reachable(auth_listener.local_addr()?);
        let files = reachable(files_listener.local_addr()?);
        let (stop, stopped) = watch::channel(false);
        let state = Arc::new(SandboxState::new(options, auth, files, stopped.clone()));
        serve(auth_listener, auth_routes(&state), &stopped);
        serve(files_listener, files::routes(&state), &stopped);
        Ok(Sandbox { auth, files, state, stop })
    }

    /// The authorization endpoint.
    pub fn authorize_url(&self) -> String {
        format!("{}/oauth/authorize", self.api_origin())
    }

    /// The token endpoint.
    pub fn token_url(&self) -> String {
        format!("{}/oauth/token", self.api_origin())
    }

    /// The introspection endpoint (RFC 7662).
    pub fn introspect_url(&self) -> String {
        format!("{}/oauth/token/introspect", self.api_origin())
    }

    /// Origin of the API, without a slash at its end; also the issuer.
    pub fn api_origin(&self) -> String {
        format!("http://{}", self.auth)
    }

    /// Replaces all faults.
    pub fn set_faults(&self, faults: Faults) {
        self.state.live().faults = faults;
    }

    /// The current faults, with the counts that are left.
    pub fn faults(&self) -> Faults {
        self.state.live().faults.clone()
    }

    /// Counts since the start.
    pub fn counters(&self) -> Counters {
        self.state.live().counters.clone()
    }

    /// Revokes every authorization, as if the customer had disconnected the app.
    pub fn revoke_all(&self) {
        self.state.live().revoke_all();
    }

    /// Replaces the API keys: those that are not among them are refused from here on.
    pub fn set_api_keys(&self, keys: Vec<StaticKey>) {
        self.state.live().api_keys = keys;
    }

    /// Sets the subject (a URN) of authorizations without a `subject` parameter; `None` means the
    /// first free company. The authorize endpoint refuses an unknown URN, as it does in the
    /// parameter.
    pub fn set_next_subject(&self, subject: Option<String>) {
        self.state.live().next_subject = subject;
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

/// The address of a listener as programs of this machine call it. Requests that name another host are refused.
fn reachable(listener: SocketAddr) -> SocketAddr {
    let ip = match listener.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listener.port())
}

async fn bind(addr: SocketAddr, fallback: bool) -> io::Result<TcpListener> {
    match TcpListener::bind(addr).await {
        Err(e) if fallback && e.kind() == io::ErrorKind::AddrInUse => {
            TcpListener::bind(SocketAddr::new(addr.ip(), 0)).await
        }
        outcome => outcome,
    }
}

fn auth_routes(sandbox: &Arc<SandboxState>) -> Router {
    api::routes(sandbox)
        .layer(axum::middleware::from_fn_with_state(Arc::clone(sandbox), recording::replay))
        .merge(authorize::routes())
        .merge(token::routes())
        .merge(introspect::routes())
        .merge(control::routes())
        .with_state(Arc::clone(sandbox))
        .layer(axum::middleware::from_fn(host::loopback_only))
        .layer(axum::middleware::from_fn_with_state(Arc::clone(sandbox), date::shift))
}

/// Serves until the sandbox stops: then axum closes idle connections at once, and
/// [`BreakableListener`] fails the writes of the others.
fn serve(listener: TcpListener, routes: Router, stopped: &watch::Receiver<bool>) {
    let listener = BreakableListener::new(listener, stopped.clone());
    let service = routes.into_make_service_with_connect_info::<ConnectionHandle>();
    let mut stopped = stopped.clone();
    tokio::spawn(async move {
        let stop = async move {
            // An error means that the sender is gone, which is a stop as well.
            let _ = stopped.wait_for(|stop| *stop).await;
        };
        // Never an error: the accept loop of `BreakableListener` does not fail.
        let _ = axum::serve(listener, service).with_graceful_shutdown(stop).await;
    });
}

//! A faithful fake of Pleo, for demos and tests: the authorization server, a slice of the API,
//! presigned files.
//!
//! It imports nothing else of this crate: a fake that shares our code would agree with our
//! mistakes. What Pleo does is written down in the project's notes on Pleo; where they are silent,
//! the sandbox takes the stricter reading, so that a client which lives with the sandbox lives with
//! Pleo too.
//!
//! | address | what |
//! | --- | --- |
//! | `GET,POST /oauth/authorize` | consent page, or an answer at once with [`Options::auto_consent`] |
//! | `POST /oauth/token` | codes and refresh tokens; a refresh kills the old access token at once |
//! | `POST /oauth/token/introspect` | RFC 7662, for the client itself |
//! | `GET /v1/introspect`, `/v1/companies`, `/v2/employees` | who am I, whom do I see |
//! | `/v1/accounting-entries:search`, `.../{id}`, `.../{id}/receipts` | entries; receipts point to the files port |
//! | `/v3/export-jobs`, `.../{id}`, `.../items` | exports |
//! | `/v1/vendors`, `:search`, `{id}:archive`, `{id}:activate` | vendors |
//! | `GET,DELETE /v1/installations/me` | DELETE revokes every token |
//! | `/v1/echo/...`, `/v1/stream`, `/v1/bytes`, `/v1/sink` | test aids that Pleo does not have |
//! | `/sandbox/{faults,counters,subject,revoke}` | the controls; need the header `X-Sandbox-Control: 1` |
//!
//! Both listeners answer only to loopback `Host` names, so that no web page reaches them by a
//! rebound name.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use tokio::net::TcpListener;
use tokio::sync::watch;

mod aids;
mod answer;
mod api;
mod authorize;
mod books;
mod client;
mod company;
mod consent;
mod control;
mod counters;
mod entries;
mod exports;
mod faults;
mod feed;
mod files;
mod grants;
mod host;
mod introspect;
mod misbehave;
mod paging;
mod seed;
mod subject;
mod token;
mod vendors;
mod wire;
mod world;

use self::wire::{Wire, Wires};
use self::world::World;

pub use self::counters::Counters;
pub use self::faults::{
    ApiFault, ApiFaultKind, ExpiresIn, Faults, GrantType, Introspection, TokenFault, TokenFaultKind,
};
pub use self::subject::{COMPANY_ID, ORGANISATION_ID, SECOND_COMPANY_ID};

/// How the sandbox listens and whom it knows.
#[derive(Clone, Debug)]
pub struct Options {
    /// Authorization server and API; port 0 takes any free port.
    pub auth_addr: SocketAddr,
    /// Presigned-style file URLs.
    pub files_addr: SocketAddr,
    /// Takes any free port of the same address where the wanted one is in use.
    pub fallback: bool,
    /// The one registered client.
    pub client_id: String,
    /// Its secret.
    pub client_secret: String,
    /// Registered redirect URIs, compared exactly. Empty: any `http` URI of a loopback host is
    /// accepted.
    pub redirect_uris: Vec<String>,
    /// Answers `GET /oauth/authorize` with the redirect at once instead of the consent page.
    pub auto_consent: bool,
    /// The knobs to begin with.
    pub faults: Faults,
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
            faults: Faults::default(),
        }
    }
}

/// A running sandbox. Dropping it stops it: the listeners close, and connections end at their next
/// write.
pub struct Sandbox {
    /// Where the authorization server and the API listen.
    pub auth: SocketAddr,
    /// Where the files are.
    pub files: SocketAddr,
    world: Arc<World>,
    stop: watch::Sender<bool>,
}

impl Sandbox {
    /// Binds both ports and serves them from tasks on the current tokio runtime.
    pub async fn start(options: Options) -> io::Result<Sandbox> {
        let auth_listener = bind(options.auth_addr, options.fallback).await?;
        let files_listener = bind(options.files_addr, options.fallback).await?;
        let (auth, files) = (auth_listener.local_addr()?, files_listener.local_addr()?);
        let (stop, stopped) = watch::channel(false);
        let world = Arc::new(World::new(options, auth, files, stopped.clone()));
        serve(auth_listener, auth_routes(&world), &stopped);
        serve(files_listener, files::routes(&world), &stopped);
        Ok(Sandbox { auth, files, world, stop })
    }

    /// Where a login begins.
    pub fn authorize_url(&self) -> String {
        format!("{}/oauth/authorize", self.api_origin())
    }

    /// Where codes and refresh tokens are exchanged.
    pub fn token_url(&self) -> String {
        format!("{}/oauth/token", self.api_origin())
    }

    /// Where the client asks about its tokens (RFC 7662).
    pub fn introspect_url(&self) -> String {
        format!("{}/oauth/token/introspect", self.api_origin())
    }

    /// Origin of the API, without a slash at its end; it is the issuer too.
    pub fn api_origin(&self) -> String {
        format!("http://{}", self.auth)
    }

    /// Replaces all knobs.
    pub fn set_faults(&self, faults: Faults) {
        self.world.state().faults = faults;
    }

    /// The knobs as they are now; counts that ran down show what is left.
    pub fn faults(&self) -> Faults {
        self.world.state().faults.clone()
    }

    /// What has happened so far.
    pub fn counters(&self) -> Counters {
        self.world.state().counters.clone()
    }

    /// Revokes every authorization, as if the customer had disconnected the app.
    pub fn revoke_all(&self) {
        self.world.state().revoke_all();
    }

    /// Whom authorizations without a `subject` parameter speak for from now on (a URN; `None`: the
    /// first company). An unknown URN is refused by the authorize endpoint, as one in the parameter
    /// would be.
    pub fn set_next_subject(&self, subject: Option<String>) {
        self.world.state().next_subject = subject;
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

async fn bind(addr: SocketAddr, fallback: bool) -> io::Result<TcpListener> {
    match TcpListener::bind(addr).await {
        Err(e) if fallback && e.kind() == io::ErrorKind::AddrInUse => {
            TcpListener::bind(SocketAddr::new(addr.ip(), 0)).await
        }
        outcome => outcome,
    }
}

fn auth_routes(world: &Arc<World>) -> Router {
    api::routes(world)
        .merge(authorize::routes())
        .merge(token::routes())
        .merge(introspect::routes())
        .merge(control::routes())
        .with_state(Arc::clone(world))
        .layer(axum::middleware::from_fn(host::loopback_only))
}

/// Graceful by axum's means (idle connections end at once), abrupt by ours ([`Wires`] fails the
/// writes of the rest).
fn serve(listener: TcpListener, routes: Router, stopped: &watch::Receiver<bool>) {
    let wires = Wires::new(listener, stopped.clone());
    let service = routes.into_make_service_with_connect_info::<Wire>();
    let mut stopped = stopped.clone();
    tokio::spawn(async move {
        let stop = async move {
            // An error means that the sender is gone, which is a stop as well.
            let _ = stopped.wait_for(|stop| *stop).await;
        };
        // The accept loop of `Wires` never fails, so there is no error to tell.
        let _ = axum::serve(wires, service).with_graceful_shutdown(stop).await;
    });
}

//! A temporary listener for one login whose redirect URI is on loopback, on an address that no
//! other listener of this process serves.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::ALLOW;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse as _, Response};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use url::{Host, Url};

use super::error::ListenerError;
use super::logins::Logins;
use super::page::is_navigation;

/// Time for the last page to reach the browser.
const LAST_PAGE: Duration = Duration::from_secs(2);

/// Serves a router on a listener for a redirect URI until the token is cancelled. The server does
/// this, with the checks and limits of its other listeners; it is in a higher row, so it is passed
/// in.
pub type Serve = Arc<dyn Fn(TcpListener, &Url, Router, CancellationToken) -> Serving + Send + Sync>;

/// A listener being served.
pub type Serving = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A listener for one redirect URI.
#[derive(Debug)]
pub struct CallbackListener {
    ended: CancellationToken,
    serving: JoinSet<()>,
}

/// What its handler needs.
struct Served {
    logins: Arc<Logins>,
    /// As it was sent to the authorization server.
    redirect_uri: Url,
}

impl CallbackListener {
    /// Listens where a loopback redirect URI leads, on both families for `localhost`. Returns the
    /// URI as it is to be used: with port 0 it gets the port that was free.
    ///
    /// # Errors
    /// [`ListenerError`]; the login has not begun.
    pub async fn open(
        redirect_uri: &Url,
        logins: Arc<Logins>,
        serve: &Serve,
    ) -> Result<(Self, Url), ListenerError> {
        let mut listeners: Vec<TcpListener> = Vec::new();
        for address in
            addresses(redirect_uri).ok_or_else(|| ListenerError::Elsewhere(redirect_uri.clone()))?
        {
            match TcpListener::bind(address).await {
                Ok(listener) => listeners.push(listener),
                // On a kernel without IPv6 no browser can connect there.
                Err(_) if address.is_ipv6() && !listeners.is_empty() && no_ipv6() => {}
                Err(error) => return Err(ListenerError::Taken(address, error)),
            }
        }
        let mut redirect_uri = redirect_uri.clone();
        if let Some(address) = listeners.first().and_then(|listener| listener.local_addr().ok()) {
            // A URL with a host takes any port.
            let _ = redirect_uri.set_port(Some(address.port()));
        }
        let (ended, mut serving) = (CancellationToken::new(), JoinSet::new());
        let served = Arc::new(Served { logins, redirect_uri: redirect_uri.clone() });
        for listener in listeners {
            let router = Router::new().fallback(answer).with_state(served.clone());
            serving.spawn(serve(listener, &redirect_uri, router, ended.clone()));
        }
        Ok((Self { ended, serving }, redirect_uri))
    }

    /// Ends after the page under way; the port is free then.
    pub async fn close(mut self) {
        self.ended.cancel();
        // A browser that does not read its page in time does not get it.
        let _ =
            timeout(LAST_PAGE, async { while self.serving.join_next().await.is_some() {} }).await;
    }
}

async fn answer(State(served): State<Arc<Served>>, request: Request) -> Response {
    let (uri, headers) = (request.uri(), request.headers());
    if !is_navigation(headers) {
        return StatusCode::FORBIDDEN.into_response();
    }
    match *request.method() {
        _ if uri.path() != served.redirect_uri.path() => StatusCode::NOT_FOUND.into_response(),
        Method::GET => {
            served.logins.callback(uri.query().unwrap_or_default()).await.into_response()
        }
        _ => (StatusCode::METHOD_NOT_ALLOWED, [(ALLOW, "GET")]).into_response(),
    }
}

fn addresses(redirect_uri: &Url) -> Option<Vec<SocketAddr>> {
    let port = redirect_uri.port_or_known_default()?;
    let ips: Vec<IpAddr> = match redirect_uri.host()? {
        _ if redirect_uri.scheme() != "http" => return None,
        Host::Ipv4(ip) if ip.is_loopback() => vec![ip.into()],
        Host::Ipv6(ip) if ip.is_loopback() => vec![ip.into()],
        Host::Domain(name) if name.eq_ignore_ascii_case("localhost") => {
            vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]
        }
        _ => return None,
    };
    Some(ips.into_iter().map(|ip| SocketAddr::new(ip, port)).collect())
}

fn no_ipv6() -> bool {
    std::net::TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_err()
}

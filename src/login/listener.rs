//! A listener for the length of one login, where the redirect URI is on loopback and nobody else serves it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse as _, Response};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use url::{Host, Url};

use super::Logins;

/// A listener that ends when it is dropped.
#[derive(Debug)]
pub struct CallbackListener {
    ended: CancellationToken,
}

/// Why there is no listener.
#[derive(Debug, thiserror::Error)]
pub enum ListenerError {
    /// The redirect URI leads to another machine.
    #[error("the redirect URI {0} is not on this machine; use `pleo-proxy login --paste`")]
    Elsewhere(Url),
    /// Somebody else listens there, who would get the code.
    #[error("{0}, where the login comes back to, cannot be listened on: {1}; end what listens there, or use --paste")]
    Taken(SocketAddr, std::io::Error),
}

impl CallbackListener {
    /// Listens where a loopback redirect URI leads, on both families for `localhost`. Returns the URI as it is to be
    /// used: with port 0 it gets the port that was free.
    ///
    /// # Errors
    /// [`ListenerError`]; the login has not begun.
    pub async fn open(redirect_uri: &Url, logins: Arc<Logins>) -> Result<(Self, Url), ListenerError> {
        let mut listeners: Vec<TcpListener> = Vec::new();
        for address in addresses(redirect_uri).ok_or_else(|| ListenerError::Elsewhere(redirect_uri.clone()))? {
            match TcpListener::bind(address).await {
                Ok(listener) => listeners.push(listener),
                // A kernel without IPv6 sends nobody there.
                Err(_) if address.is_ipv6() && !listeners.is_empty() && no_ipv6() => {}
                Err(error) => return Err(ListenerError::Taken(address, error)),
            }
        }
        let mut redirect_uri = redirect_uri.clone();
        if let Some(address) = listeners.first().and_then(|listener| listener.local_addr().ok()) {
            // A URL with a host takes any port.
            let _ = redirect_uri.set_port(Some(address.port()));
        }
        let ended = CancellationToken::new();
        for listener in listeners {
            let router = Router::new().route(redirect_uri.path(), axum::routing::any(callback));
            let serving = axum::serve(listener, router.with_state(logins.clone()));
            let ended = ended.clone();
            tokio::spawn(async move { serving.with_graceful_shutdown(ended.cancelled_owned()).await });
        }
        Ok((Self { ended }, redirect_uri))
    }
}

impl Drop for CallbackListener {
    fn drop(&mut self) {
        self.ended.cancel();
    }
}

async fn callback(State(logins): State<Arc<Logins>>, method: Method, RawQuery(query): RawQuery) -> Response {
    match method {
        Method::GET => logins.callback(query.as_deref().unwrap_or_default()).await.into_response(),
        _ => StatusCode::METHOD_NOT_ALLOWED.into_response(),
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

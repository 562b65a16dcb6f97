//! One question to a listener, without any key.

use std::time::Duration;

use anyhow::Context as _;
use axum::body::{Body, to_bytes};
use http::header::HOST;
use http::{Request, StatusCode};
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::admin::protocol::Health;
use crate::proxy::peer::{Allowed, Peer};

/// Longest body of a health check, in bytes.
pub(super) const MAX_HEALTH: usize = 4096;

/// What the admin listener of a pleo-proxy said of itself.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) health: Health,
    /// Whose program it is; none if the kernel cannot be asked.
    pub(super) peer: Option<Peer>,
}

/// Asks `/health` or `/ready` at an address, such as `127.0.0.1:8089`.
///
/// # Errors
/// Nothing listens there, it did not answer in time, or it is no pleo-proxy.
pub(super) async fn health(address: &str, path: &str, limit: Duration) -> anyhow::Result<Answer> {
    timeout(limit, ask(address, path))
        .await
        .with_context(|| format!("the program at {address} did not answer in time"))?
}

async fn ask(address: &str, path: &str) -> anyhow::Result<Answer> {
    let nothing = || format!("nothing listens at {address}");
    let stream = TcpStream::connect(address).await.with_context(nothing)?;
    let (local, peer) = (stream.local_addr()?, stream.peer_addr()?);
    let (mut connection, driver) = handshake(TokioIo::new(stream)).await?;
    tokio::spawn(driver);
    let port = address.rsplit_once(':').map_or("", |(_, port)| port);
    let request =
        Request::get(path).header(HOST, format!("localhost:{port}")).body(Body::empty())?;
    let (head, body) = connection.send_request(request).await?.into_parts();
    let body = to_bytes(Body::new(body), MAX_HEALTH).await?;
    let health = serde_json::from_slice(&body)
        .with_context(|| format!("the program at {address} is no pleo-proxy"))?;
    let peer = Allowed::Users(Vec::new()).judge(local, peer).ok();
    Ok(Answer { status: head.status, health, peer })
}

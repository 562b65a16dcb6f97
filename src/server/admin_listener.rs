//! Serves the admin listener, on the runtime of its caller.

use std::net::TcpListener as StdListener;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::error;

use super::accept::{accept, refuse};
use super::connection;
use super::limiter::{ConnectionLimiter, ConnectionPermit};

/// Time for the last responses of the admin listener, after everything else has ended.
pub(super) const ADMIN_DRAIN: Duration = Duration::from_secs(1);

/// A listener for browsers and commands.
pub(super) struct AdminListener {
    pub(super) router: Router,
    pub(super) limiter: Arc<ConnectionLimiter>,
    pub(super) ending: CancellationToken,
    pub(super) connections: TaskTracker,
}

impl AdminListener {
    /// Listens on a clone of the socket, so that a restart can do so again.
    pub(super) async fn listen(&self, listener: &StdListener) {
        match listener.try_clone().and_then(TcpListener::from_std) {
            Ok(listener) => self.accept(&listener).await,
            Err(error) => error!("the admin listener cannot be listened on: {error}"),
        }
    }

    pub(super) async fn accept(&self, listener: &TcpListener) {
        accept(listener, &self.limiter, |stream, permit| self.serve(stream, permit)).await;
    }

    fn serve(&self, stream: TcpStream, permit: ConnectionPermit) {
        let (router, ending) = (TowerToHyperService::new(self.router.clone()), self.ending.clone());
        self.connections.spawn(async move {
            let activity = permit.activity.clone();
            if let Some(problem) = &permit.refusal {
                return refuse(stream, activity, problem, ending).await;
            }
            let handler = |request, exchange| {
                let response = router.call(request);
                async { (response.await.unwrap_or_else(|never| match never {}), exchange) }
            };
            connection::serve(stream, handler, activity, ending).await;
        });
    }

    /// Waits a moment for the last responses.
    pub(super) async fn end(&self) {
        self.connections.close();
        let _ = timeout(ADMIN_DRAIN, self.connections.wait()).await;
    }
}

//! A third listener for the duration of one login, at its redirect URI, with the same checks and
//! limits as the other two.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::Response;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use url::Url;

use super::admin_listener::AdminListener;
use super::file_limits;
use super::limiter::ConnectionLimiter;
use super::settings::Settings;
use crate::login::{Serve, Serving};
use crate::proxy::guard::{self, Guard};

/// The path at which the guard lets other sites lead a browser to a callback.
const CALLBACK: &str = "/callback";

struct CallbackGuard {
    guard: Guard,
    /// The path of the redirect URI.
    path: String,
}

/// Serves the listener of a login.
pub fn callback(settings: &Settings, guard: &guard::Settings) -> Serve {
    let (settings, guard) = (settings.clone(), guard.clone());
    let serve = move |listener: TcpListener,
                      redirect_uri: &Url,
                      router: Router,
                      ending: CancellationToken| {
        let mut guard = guard.clone();
        guard
            .allow_hosts
            .extend(redirect_uri.host_str().map(|host| host_and_port(host, redirect_uri)));
        let own = listener.local_addr().unwrap_or(SocketAddr::from(([127, 0, 0, 1], 0)));
        let callback = CallbackGuard {
            guard: Guard::admin(&guard, own),
            path: redirect_uri.path().to_owned(),
        };
        let router = router.layer(middleware::from_fn_with_state(Arc::new(callback), check));
        let limiter = Arc::new(ConnectionLimiter::new(&settings, file_limits::CALLBACK));
        let admin = AdminListener { router, limiter, ending, connections: TaskTracker::new() };
        let serving: Serving = Box::pin(async move {
            admin.ending.run_until_cancelled(admin.accept(&listener)).await;
            admin.end().await;
        });
        serving
    };
    Arc::new(serve)
}

fn host_and_port(host: &str, uri: &Url) -> String {
    format!("{host}:{}", uri.port_or_known_default().unwrap_or_default())
}

async fn check(
    State(callback): State<Arc<CallbackGuard>>,
    request: Request,
    next: Next,
) -> Response {
    let (parts, body) = request.into_parts();
    let mut judged = parts.clone();
    if parts.uri.path() == callback.path {
        judged.uri = http::Uri::from_static(CALLBACK);
    }
    match callback.guard.check(&judged) {
        Ok(_) => next.run(Request::from_parts(parts, body)).await,
        Err(problem) => problem.into_response().map(Body::from),
    }
}

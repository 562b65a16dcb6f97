//! A listener beside the two of the configuration, for the length of one login: the same checks,
//! places and limits.

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

use super::room::Room;
use super::{People, Settings, files};
use crate::login::{Serve, Serving};
use crate::proxy::guard::{self, Guard};

/// The path by which the guard knows a callback.
const CALLBACK: &str = "/callback";

struct Door {
    guard: Guard,
    /// The path of the redirect URI.
    path: String,
}

/// How a login's own listener is served.
pub fn beside(settings: &Settings, guard: &guard::Settings) -> Serve {
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
        let door = Door { guard: Guard::admin(&guard, own), path: redirect_uri.path().to_owned() };
        let router = router.layer(middleware::from_fn_with_state(Arc::new(door), guarded));
        let room = Arc::new(Room::new(&settings, files::CALLBACK));
        let people = People { router, room, ending, connections: TaskTracker::new() };
        let serving: Serving = Box::pin(async move {
            people.ending.run_until_cancelled(people.accept(&listener)).await;
            people.end().await;
        });
        serving
    };
    Arc::new(serve)
}

fn host_and_port(host: &str, uri: &Url) -> String {
    format!("{host}:{}", uri.port_or_known_default().unwrap_or_default())
}

async fn guarded(State(door): State<Arc<Door>>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let mut judged = parts.clone();
    if parts.uri.path() == door.path {
        judged.uri = http::Uri::from_static(CALLBACK);
    }
    match door.guard.check(&judged) {
        Ok(_) => next.run(Request::from_parts(parts, body)).await,
        Err(problem) => problem.into_response().map(Body::new),
    }
}

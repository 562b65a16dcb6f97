//! Accepts connections, for the data and the admin listener alike.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::client_stream::Stream;
use super::connection;
use super::limiter::{ConnectionLimiter, ConnectionPermit};
use super::listen::Accept;
use crate::exchange::Exchange;
use crate::exchange::activity::Activity;
use crate::problem::Problem;
use crate::telemetry::Repeats;

/// Pause after a failed accept (out of file descriptors, mostly), so that it does not spin: at
/// first and at most.
const ACCEPT_PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(500));
/// Time for a caller that is refused to send a request and to read why.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(5);

/// Answers every request of a caller that is not admitted with a problem, for a limited time.
pub(super) async fn refuse(
    stream: impl Stream,
    activity: Arc<Activity>,
    problem: &Problem,
    ending: CancellationToken,
) {
    let handler = |_, mut exchange: Exchange| async move {
        let response = exchange.refuse(problem.clone()).map(Full::new);
        (response, exchange)
    };
    let _ = timeout(REFUSAL_TIMEOUT, connection::serve(stream, handler, activity, ending)).await;
}

/// Accepts connections and starts serving them, some only to be told why they are refused. Never
/// ends.
pub(super) async fn accept<L: Accept>(
    listener: &L,
    limiter: &Arc<ConnectionLimiter>,
    start: impl Fn(L::Stream, ConnectionPermit),
) {
    let (failures, mut pause) = (Repeats::new("connections could not be accepted"), ACCEPT_PAUSE.0);
    loop {
        match listener.accept().await {
            Ok((stream, caller)) => {
                pause = ACCEPT_PAUSE.0;
                if let Some(permit) = limiter.admit(caller).await {
                    start(stream, permit);
                }
            }
            Err(error) if is_callers_fault(&error) => {}
            Err(error) => {
                if failures.admits() {
                    warn!("a connection could not be accepted: {error}");
                }
                limiter.evict_idle();
                sleep(pause).await;
                pause = (pause * 2).min(ACCEPT_PAUSE.1);
            }
        }
    }
}

/// True if the caller left while it was being accepted.
fn is_callers_fault(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, NotConnected};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted | NotConnected)
}

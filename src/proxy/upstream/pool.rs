//! The connections of a worker, the most recently used first. A worker that has no idle one takes
//! another worker's, and one is kept ready while requests come: few requests ever wait for a
//! handshake.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{sleep, timeout};
use tracing::debug;

use super::connection::{Connection, Http1Connection, IdleConnections};
use super::connector::Connector;
use crate::clock::millis;
use crate::problem::Problem;

/// How often the pool checks that a connection is ready, besides after each use and each close.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// How long the pool waits for a connection in use to come back before it makes another.
const RETURN_PAUSE: Duration = Duration::from_millis(500);

/// A worker's connections.
pub struct Pool {
    connector: Connector,
    idle: IdleConnections,
}

impl Pool {
    /// An empty pool, from which the others may take connections.
    pub fn new(connector: Connector) -> Self {
        let idle = IdleConnections::default();
        connector.shared.workers.lock().push(idle.clone());
        Self { connector, idle }
    }

    /// What makes its connections.
    pub fn connector(&self) -> &Connector {
        &self.connector
    }

    /// An idle connection that is worth trying, of this worker or else of another.
    pub fn checkout(&self) -> Option<Connection> {
        let shared = &self.connector.shared;
        let now = shared.clock.boot();
        shared.mark_used(now);
        let found = shared.take(&self.idle, now).or_else(|| shared.take_any(now));
        found.map(|(http1, home)| self.connection(http1, home))
    }

    /// Says that a connection will be asked for soon.
    pub fn mark_used(&self) {
        self.connector.shared.mark_used(self.connector.shared.clock.boot());
    }

    /// Keeps one connection ready for `warm` after each use; never ends.
    pub async fn keep_ready(&self, warm: Duration) {
        let shared = &self.connector.shared;
        loop {
            let now = shared.clock.boot();
            shared.notice_sleep(now);
            let is_empty = shared.remove_expired(now);
            if now.saturating_sub(shared.used.load(Ordering::Relaxed)) > millis(warm) {
                if is_empty {
                    shared.changed.notified().await;
                }
            } else if !shared.is_keep_alive_short.load(Ordering::Relaxed) && !shared.is_ready(now) {
                match self.connect().await {
                    Ok(connection) => connection.release(),
                    Err(problem) => debug!(?problem, "no connection is ready"),
                }
            }
            let _ = timeout(CHECK_INTERVAL, shared.changed.notified()).await;
            sleep(RETURN_PAUSE).await;
        }
    }

    /// A new connection.
    ///
    /// # Errors
    /// `upstream_unreachable`.
    pub async fn connect(&self) -> Result<Connection, Problem> {
        Ok(self.connection(self.connector.connect().await?, self.idle.clone()))
    }

    fn connection(&self, http1: Http1Connection, home: IdleConnections) -> Connection {
        Connection::new(http1, home, self.connector.shared.clone())
    }
}

#[cfg(test)]
mod tests {
    use http::Request;
    use http_body_util::BodyExt as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::super::connection::{MAX_AGE, MAX_AGE_SPREAD};
    use super::super::settings::Settings;
    use super::*;
    use crate::clock::{Clock, Now};
    use crate::oauth::endpoint::Origin;
    use crate::outbound::{self, Outbound};
    use crate::proxy::body::ResponseBody;
    use crate::proxy::replay::OutgoingBody;

    /// A listener, a connector to it, and the boot clock.
    async fn setup() -> (TcpListener, Connector, Clock) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = Origin::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        let settings = Settings {
            connect_timeout: Duration::from_secs(10),
            response_timeout: Duration::from_secs(10),
            idle_timeout: None,
            replay_limit: 0,
            pace: None,
        };
        let outbound =
            Outbound::new(&outbound::Settings { plain_only: true, ..Default::default() }).unwrap();
        let clock = Clock::manual(Now { wall: 0, boot: 1_000_000 });
        let connector = Connector::new(origin, &outbound, &settings, clock.clone()).unwrap();
        (listener, connector, clock)
    }

    /// Moves the boot clock as if the machine had been awake.
    fn pass(connector: &Connector, clock: &Clock, millis: u64) {
        let boot = clock.boot() + millis;
        clock.set(Now { wall: 0, boot });
        connector.shared.ahead.fetch_add(millis, Ordering::Relaxed);
    }

    #[tokio::test]
    async fn a_worker_takes_an_idle_connection_of_another() {
        let (_listener, connector, _) = setup().await;
        let (one, other) = (Pool::new(connector.clone()), Pool::new(connector));
        assert!(one.checkout().is_none() && other.checkout().is_none());
        one.connect().await.unwrap().release();
        let taken = other.checkout().unwrap();
        assert!(one.checkout().is_none(), "it is in use");
        taken.release();
        assert!(
            one.idle.lock().len() == 1 && other.idle.lock().is_empty(),
            "it returned to its worker"
        );
    }

    #[tokio::test]
    async fn a_connection_in_constant_use_expires() {
        let (_listener, connector, clock) = setup().await;
        let pool = Pool::new(connector.clone());
        pool.connect().await.unwrap().release();
        for _ in 0..12 {
            pool.checkout().expect("it is younger than a minute").release();
            pass(&connector, &clock, 5000);
        }
        pass(&connector, &clock, MAX_AGE_SPREAD);
        assert!(pool.checkout().is_none(), "expired while idle");
        let connection = pool.connect().await.unwrap();
        pass(&connector, &clock, MAX_AGE + MAX_AGE_SPREAD);
        connection.release();
        assert!(pool.idle.lock().is_empty(), "expired in use");
    }

    #[tokio::test]
    async fn idle_connections_are_not_reused_after_sleep() {
        let (_listener, connector, clock) = setup().await;
        let pool = Pool::new(connector.clone());
        let (idle, used) = (pool.connect().await.unwrap(), pool.connect().await.unwrap());
        idle.release();
        pass(&connector, &clock, 4000);
        pool.checkout().expect("awake for four seconds").release();
        clock.set(Now { wall: 0, boot: clock.boot() + 4000 });
        assert!(pool.checkout().is_none(), "asleep for four seconds");
        pass(&connector, &clock, 10);
        used.release();
        assert!(pool.checkout().is_some(), "this one was in use, and works");
    }

    #[tokio::test]
    async fn a_connection_that_sleeps_since_its_last_response_notices_its_end() {
        let (listener, connector, clock) = setup().await;
        let pool = Pool::new(connector.clone());
        let mut connection = pool.connect().await.unwrap();
        let (mut api, _) = listener.accept().await.unwrap();
        let answer = async {
            assert!(api.read(&mut [0; 1024]).await.unwrap() > 0);
            api.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody").await.unwrap();
        };
        let sent = connection.send(Request::new(OutgoingBody::default()));
        let body = tokio::join!(sent, answer).0.unwrap().into_body();
        let body = ResponseBody::upstream(body, connection, true, None);
        assert_eq!(body.collect().await.unwrap().to_bytes(), "body");
        assert!(connector.shared.is_ready(clock.boot()));
        drop(api);
        let notices = async {
            while connector.shared.is_ready(clock.boot()) {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(Duration::from_secs(10), notices).await.expect("it is not offered any longer");
    }

    #[tokio::test]
    async fn when_one_goes_silent_idle_ones_are_not_reused() {
        let (_listener, connector, clock) = setup().await;
        let pool = Pool::new(connector.clone());
        pool.connect().await.unwrap().release();
        connector.shared.closed(false);
        pool.checkout().expect("a normal close invalidates nothing").release();
        connector.shared.closed(true);
        assert!(pool.checkout().is_none());
        pass(&connector, &clock, 10);
        pool.connect().await.unwrap().release();
        assert!(pool.checkout().is_some(), "new ones are");
    }
}

//! Talking to the running proxy of a store. The admin key goes only to a listener of this user that has shown that it
//! knows the key, and over the very connection on which it did.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use axum::body::{Body, to_bytes};
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{Method, Request, Response};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::instance::{self, Instance, Standing};
use crate::admin::{key, proof};
use crate::proxy::peer::{Allowed, Peer};
use crate::secret::{self, AdminKey};

/// Time for the admin listener of a running proxy to show who it is.
const UP: Duration = Duration::from_secs(2);
/// Time for a call: a refresh that waits for its lock, drains and posts.
const CALL: Duration = Duration::from_secs(90);
/// Longest answer, in bytes: the status of ten thousand accounts.
const LONGEST: usize = 64 * 1024 * 1024;
/// The same for one that has not shown yet who it is.
const SHORT: usize = 4096;

/// What was found of a store's proxy.
pub(super) enum Found {
    /// It runs and answers.
    Running(Running),
    /// It runs, and its configuration turns the admin listener off.
    Deaf(Instance),
    /// Its process runs and cannot be talked to.
    Silent(Instance, anyhow::Error),
    /// No process of it runs here.
    Nothing,
}

/// A running proxy's admin listener, and the key to it.
pub(super) struct Running {
    pub(super) instance: Instance,
    origin: String,
    key: AdminKey,
}

/// An answer of the admin listener.
pub(super) struct Answer {
    pub(super) ok: bool,
    pub(super) json: Value,
}

impl Answer {
    /// Why it is not what was asked for.
    pub(super) fn detail(&self) -> &str {
        self.json["detail"].as_str().or(self.json["account"]["why"].as_str()).unwrap_or("it gave no reason")
    }

    pub(super) fn code(&self) -> &str {
        self.json["code"].as_str().unwrap_or_default()
    }
}

/// Looks for the proxy that serves these records (any of the state folder if they are in a temporary one).
pub(super) async fn find(state: &Path, records: Option<&Path>) -> anyhow::Result<Found> {
    let mut found = Found::Nothing;
    for instance in instance::alive(state) {
        if records.is_some_and(|records| records != instance.store) {
            continue;
        }
        let Some(origin) = instance.admin.clone() else {
            found = Found::Deaf(instance);
            continue;
        };
        let running = Running { instance, origin, key: key::read(&state.join("admin.key"))? };
        match running.connect().await {
            Ok(_) => return Ok(Found::Running(running)),
            // It may have ended this moment.
            Err(_) if running.instance.process.standing() == Standing::Dead => {}
            Err(why) => found = Found::Silent(running.instance, why),
        }
    }
    Ok(found)
}

/// Says who answers as a pleo-proxy at the configured address although no run file here names it: one of another store,
/// or of another user. Nothing secret is sent there.
pub(super) async fn somebody_at(address: Option<SocketAddr>) -> Option<String> {
    let address = address.filter(|address| address.port() != 0)?;
    let asked = async {
        let stream = TcpStream::connect(address).await.ok()?;
        let (local, peer) = (stream.local_addr().ok()?, stream.peer_addr().ok()?);
        let (mut connection, driver) = handshake(TokioIo::new(stream)).await.ok()?;
        tokio::spawn(driver);
        let host = format!("localhost:{}", address.port());
        let request = Request::get("/health").header(HOST, host).body(Body::empty()).ok()?;
        let answer = connection.send_request(request).await.ok()?;
        let health = to_bytes(Body::new(answer.into_body()), SHORT).await.ok()?;
        let is_ours = serde_json::from_slice::<Value>(&health).is_ok_and(|health| health == json!({"status": "ok"}));
        let owner = Allowed::Users(Vec::new()).judge(local, peer).ok();
        is_ours.then_some(owner)
    };
    let whose = match timeout(UP, asked).await.ok()?? {
        Some(Peer::Foreign(user)) => format!(" of user {user}"),
        _ => String::new(),
    };
    Some(format!("a pleo-proxy{whose} answers at http://{address}, and is none of this store"))
}

impl Running {
    pub(super) async fn get(&self, path: &str) -> anyhow::Result<Answer> {
        self.call(Method::GET, path, None).await
    }

    pub(super) async fn post(&self, path: &str, body: Option<&Value>) -> anyhow::Result<Answer> {
        self.call(Method::POST, path, body).await
    }

    pub(super) async fn delete(&self, path: &str) -> anyhow::Result<Answer> {
        self.call(Method::DELETE, path, None).await
    }

    async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<Answer> {
        let called = async {
            let mut connection = self.connect().await?;
            let bearer = format!("Bearer {}", self.key.expose());
            let request = self.request(method, path)?.header(AUTHORIZATION, bearer);
            let request = match body {
                Some(body) => request.header(CONTENT_TYPE, "application/json").body(Body::from(body.to_string()))?,
                None => request.body(Body::empty())?,
            };
            let answer =
                timeout(CALL, connection.send_request(request)).await.context("it did not answer in time")??;
            let ok = answer.status().is_success();
            let body = timeout(CALL, to_bytes(Body::new(answer.into_body()), LONGEST)).await??;
            Ok(Answer { ok, json: serde_json::from_slice(&body).unwrap_or_default() })
        };
        called.await.map_err(|error: anyhow::Error| self.explained(error))
    }

    /// A connection whose other end is this user's and knows the key.
    async fn connect(&self) -> anyhow::Result<SendRequest<Body>> {
        let no_answer = || format!("it does not answer at {}", self.origin);
        timeout(UP, self.verified()).await.with_context(no_answer)?
    }

    async fn verified(&self) -> anyhow::Result<SendRequest<Body>> {
        let address: SocketAddr = self.origin.trim_start_matches("http://").parse().context("its run file is odd")?;
        let stream = TcpStream::connect(address).await.with_context(|| format!("nobody listens at {}", self.origin))?;
        let (local, peer) = (stream.local_addr()?, stream.peer_addr()?);
        let (mut connection, driver) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(driver);
        let challenge = secret::random().context("the system has no randomness")?;
        let request = self.request(Method::GET, "/health")?.header(proof::CHALLENGE, challenge.as_str());
        let answer = connection.send_request(request.body(Body::empty())?).await?;
        self.judge(&answer, &challenge)?;
        to_bytes(Body::new(answer.into_body()), SHORT).await?;
        // Only now: the kernel knows no owner of a connection that nobody has accepted.
        let me = rustix::process::geteuid().as_raw();
        match Allowed::Users(vec![me, 0]).judge(local, peer) {
            Ok(Peer::Welcome) => {}
            Ok(Peer::Foreign(user)) => bail!("a program of user {user} answers at {}", self.origin),
            Ok(Peer::Unknown) => bail!("whose program answers at {} is not known", self.origin),
            // Where the kernel cannot be asked, the proof has to do.
            Err(_) => {}
        }
        connection.ready().await?;
        Ok(connection)
    }

    fn judge(&self, answer: &Response<hyper::body::Incoming>, challenge: &str) -> anyhow::Result<()> {
        let proof = answer.headers().get(proof::PROOF).and_then(|proof| proof.to_str().ok()).unwrap_or_default();
        match proof::is_proven(&self.key, &self.origin, challenge, proof) {
            true => Ok(()),
            false => Err(anyhow!("what answers at {} does not know the key in admin.key", self.origin)),
        }
    }

    fn request(&self, method: Method, path: &str) -> anyhow::Result<http::request::Builder> {
        let port = self.origin.rsplit_once(':').map_or("", |(_, port)| port);
        Ok(Request::builder().method(method).uri(path).header(HOST, format!("localhost:{port}")))
    }

    /// An error in words that say whether the proxy is still there.
    fn explained(&self, error: anyhow::Error) -> anyhow::Error {
        let pid = self.instance.process.pid;
        match self.instance.process.standing() {
            Standing::Dead => anyhow!("pleo-proxy (process {pid}) has ended meanwhile; start it and try again"),
            Standing::Alive | Standing::Elsewhere => error.context(format!("pleo-proxy (process {pid})")),
        }
    }
}

//! Calls to the admin listener of a running proxy. The admin key goes only to a listener of this
//! user that has shown that it knows the key, and over the very connection on which it did.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use axum::body::{Body, to_bytes};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{Method, Request, Response, StatusCode};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::exit::{Exit, Failure};
use super::run_file::{Instance, Standing};
use crate::admin::proof;
use crate::admin::protocol::{Problem, Versioned};
use crate::proxy::peer::{Allowed, Peer};
use crate::secret::{self, AdminKey};

/// Time for the admin listener of a running proxy to show who it is.
pub(super) const PROOF_TIME: Duration = Duration::from_secs(2);
/// Time for a call: a refresh that waits for its lock, drains and posts.
const CALL_TIME: Duration = Duration::from_secs(90);
/// Longest answer, in bytes: the status of ten thousand accounts.
const MAX_ANSWER: usize = 64 * 1024 * 1024;
/// The same for one that has not shown yet who it is.
pub(super) const MAX_HEALTH: usize = 4096;
/// Marks a [`Problem`].
const PROBLEM: &[u8] = b"application/problem+json";

/// A running proxy's admin listener, and the key to it.
pub(super) struct AdminClient {
    pub(super) instance: Instance,
    origin: String,
    key: AdminKey,
}

/// Why a call brought nothing.
#[derive(Debug)]
pub(super) enum CallError {
    /// No answer came.
    NoAnswer(anyhow::Error),
    /// The proxy refused.
    Refused(Problem),
    /// The answer is in no form that this release knows.
    Unreadable(StatusCode),
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        match error {
            CallError::NoAnswer(error) => error.into(),
            CallError::Refused(Problem { code, detail, .. }) => {
                let is_usage = matches!(code.as_str(), "misconfigured" | "account_unknown");
                let exit = if is_usage { Exit::Usage } else { Exit::Failed };
                Self::new(exit, if detail.is_empty() { "it gave no reason" } else { &detail })
            }
            CallError::Unreadable(status) => {
                let fix =
                    "if it is of another release, end it with `pleo-proxy stop` and start this one";
                anyhow!("the running proxy's answer ({status}) cannot be read; {fix}").into()
            }
        }
    }
}

impl AdminClient {
    pub(super) fn new(instance: Instance, origin: String, key: AdminKey) -> Self {
        Self { instance, origin, key }
    }

    pub(super) async fn get<T: DeserializeOwned>(&self, target: &str) -> Result<T, CallError> {
        self.call(Method::GET, target, None).await
    }

    pub(super) async fn post<T: DeserializeOwned>(&self, target: &str) -> Result<T, CallError> {
        self.call(Method::POST, target, None).await
    }

    pub(super) async fn post_body<T: DeserializeOwned>(
        &self,
        target: &str,
        body: &impl Serialize,
    ) -> Result<T, CallError> {
        let body = serde_json::to_vec(body).map_err(|error| CallError::NoAnswer(error.into()))?;
        self.call(Method::POST, target, Some(body)).await
    }

    pub(super) async fn delete<T: DeserializeOwned>(&self, target: &str) -> Result<T, CallError> {
        self.call(Method::DELETE, target, None).await
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        target: &str,
        body: Option<Vec<u8>>,
    ) -> Result<T, CallError> {
        let sent = self.send(method, target, body).await;
        let answer = sent.map_err(|error| CallError::NoAnswer(self.explained(error)))?;
        read(&answer)
    }

    async fn send(
        &self,
        method: Method,
        target: &str,
        body: Option<Vec<u8>>,
    ) -> anyhow::Result<Response<Bytes>> {
        let mut connection = self.connect().await?;
        let bearer = format!("Bearer {}", self.key.expose());
        let request = self.request(method, target).header(AUTHORIZATION, bearer);
        let request = match body {
            Some(body) => {
                request.header(CONTENT_TYPE, "application/json").body(Body::from(body))?
            }
            None => request.body(Body::empty())?,
        };
        let answer = timeout(CALL_TIME, connection.send_request(request))
            .await
            .context("it did not answer in time")??;
        let (head, body) = answer.into_parts();
        let body = timeout(CALL_TIME, to_bytes(Body::new(body), MAX_ANSWER)).await??;
        Ok(Response::from_parts(head, body))
    }

    /// A connection whose other end is this user's and knows the key.
    pub(super) async fn connect(&self) -> anyhow::Result<SendRequest<Body>> {
        let no_answer = || format!("it does not answer at {}", self.origin);
        timeout(PROOF_TIME, self.verified()).await.with_context(no_answer)?
    }

    async fn verified(&self) -> anyhow::Result<SendRequest<Body>> {
        let address: SocketAddr =
            self.origin.trim_start_matches("http://").parse().context("its run file is odd")?;
        let stream = TcpStream::connect(address)
            .await
            .with_context(|| format!("nobody listens at {}", self.origin))?;
        let (local, peer) = (stream.local_addr()?, stream.peer_addr()?);
        let (mut connection, driver) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(driver);
        let challenge = secret::random().context("the system has no randomness")?;
        let request =
            self.request(Method::GET, "/health").header(proof::CHALLENGE, challenge.as_str());
        let answer = connection.send_request(request.body(Body::empty())?).await?;
        self.judge(&answer, &challenge)?;
        to_bytes(Body::new(answer.into_body()), MAX_HEALTH).await?;
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

    fn judge(
        &self,
        answer: &Response<hyper::body::Incoming>,
        challenge: &str,
    ) -> anyhow::Result<()> {
        let proof = answer
            .headers()
            .get(proof::PROOF)
            .and_then(|proof| proof.to_str().ok())
            .unwrap_or_default();
        if proof::is_proven(&self.key, &self.origin, challenge, proof) {
            return Ok(());
        }
        Err(anyhow!("what answers at {} does not know the key in admin.key", self.origin))
    }

    fn request(&self, method: Method, target: &str) -> http::request::Builder {
        let port = self.origin.rsplit_once(':').map_or("", |(_, port)| port);
        Request::builder().method(method).uri(target).header(HOST, format!("localhost:{port}"))
    }

    /// An error in words that say whether the proxy is still there.
    fn explained(&self, error: anyhow::Error) -> anyhow::Error {
        let pid = self.instance.process.pid;
        match self.instance.process.standing() {
            Standing::Dead => {
                anyhow!("pleo-proxy (process {pid}) has ended meanwhile; start it and try again")
            }
            Standing::Alive | Standing::Elsewhere => {
                error.context(format!("pleo-proxy (process {pid})"))
            }
        }
    }
}

/// An answer is data, whatever its status (a refresh that failed tells about the account), or a
/// problem.
fn read<T: DeserializeOwned>(answer: &Response<Bytes>) -> Result<T, CallError> {
    let unreadable = |_| CallError::Unreadable(answer.status());
    let kind = answer.headers().get(CONTENT_TYPE).map(http::HeaderValue::as_bytes);
    if kind == Some(PROBLEM) {
        return Err(CallError::Refused(serde_json::from_slice(answer.body()).map_err(unreadable)?));
    }
    let data: Versioned<T> = serde_json::from_slice(answer.body()).map_err(unreadable)?;
    Ok(data.body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::protocol::{Done, Outcome};

    fn answer(status: u16, kind: &str, body: &'static str) -> Response<Bytes> {
        let response = Response::builder().status(status).header(CONTENT_TYPE, kind);
        response.body(Bytes::from_static(body.as_bytes())).unwrap()
    }

    #[test]
    fn answers_are_told_from_refusals_by_their_type() {
        let done: Done =
            read(&answer(503, "application/json", r#"{"version":1,"outcome":"stopping"}"#))
                .unwrap();
        assert!(matches!(done.outcome, Outcome::Stopping));
        let exit = |status, kind, body| {
            Failure::from(read::<Done>(&answer(status, kind, body)).unwrap_err()).exit
        };
        let problem = "application/problem+json";
        assert_eq!(exit(404, problem, r#"{"code":"account_unknown","detail":"d"}"#), Exit::Usage);
        assert_eq!(
            exit(503, problem, r#"{"code":"store_error","detail":"d","fix":"f"}"#),
            Exit::Failed
        );
        assert_eq!(exit(200, "application/json", r#"{"outcome":1}"#), Exit::Failed);
        assert_eq!(exit(400, "text/plain", "no"), Exit::Failed);
    }

    #[test]
    fn a_refusal_without_words_says_so() {
        let refused = Failure::from(
            read::<Done>(&answer(500, "application/problem+json", "{}")).unwrap_err(),
        );
        assert_eq!(refused.error.to_string(), "it gave no reason");
    }
}

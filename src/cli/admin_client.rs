//! Calls to the admin listener of a running proxy. The admin key is sent only to a listener of this
//! user that has proved that it knows the key, and over the same connection.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use axum::body::{Body, to_bytes};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::exit::{Exit, Failure};
use super::probe::MAX_HEALTH;
use super::run_file::{Instance, Liveness};
use crate::admin::proof;
use crate::admin::protocol::{Problem, Versioned};
use crate::proxy::peer::{Allowed, Peer};
use crate::secret::{self, AdminKey};

/// Time limit for the admin listener to prove that it knows the key.
pub(super) const PROOF_TIMEOUT: Duration = Duration::from_secs(2);
/// Time limit for a call: a refresh waits for its lock, drains and sends a token request.
const CALL_TIMEOUT: Duration = Duration::from_secs(90);
/// Longest response, in bytes: the status of ten thousand accounts.
const MAX_RESPONSE: usize = 64 * 1024 * 1024;
/// Content type of a [`Problem`].
const PROBLEM: &[u8] = b"application/problem+json";

/// A running proxy's admin listener, and the key to it.
pub(super) struct AdminClient {
    pub(super) instance: Instance,
    origin: String,
    key: AdminKey,
}

/// Why a call failed.
#[derive(Debug)]
pub(super) enum CallError {
    /// No response came.
    NoResponse(anyhow::Error),
    /// The proxy refused.
    Refused(Problem),
    /// This release does not know the form of the response.
    Unreadable(StatusCode),
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        match error {
            CallError::NoResponse(error) => error.into(),
            CallError::Refused(Problem { code, detail, .. }) => {
                let is_usage = matches!(
                    code.as_str(),
                    "misconfigured" | "account_unknown" | "account_required" | "bad_filter"
                );
                let exit = if is_usage { Exit::Usage } else { Exit::Failed };
                Self::new(
                    exit,
                    if detail.is_empty() { "the proxy gave no reason" } else { &detail },
                )
            }
            CallError::Unreadable(status) => {
                let fix = "if it is another release, run `pleo-proxy stop` and start this one";
                anyhow!("the running proxy's response ({status}) cannot be read; {fix}").into()
            }
        }
    }
}

impl CallError {
    /// The failure of a call that is made of nothing but the command's arguments: if it makes no
    /// sense to the proxy, the arguments are wrong.
    pub(super) fn of_arguments(self) -> Failure {
        let is_usage = matches!(&self, Self::Refused(problem) if problem.code == "bad_request");
        let failure = Failure::from(self);
        if is_usage { Failure { exit: Exit::Usage, ..failure } } else { failure }
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
        let body = serde_json::to_vec(body).map_err(|error| CallError::NoResponse(error.into()))?;
        self.call(Method::POST, target, Some(body)).await
    }

    pub(super) async fn delete<T: DeserializeOwned>(&self, target: &str) -> Result<T, CallError> {
        self.call(Method::DELETE, target, None).await
    }

    /// A response that is a document of its own, as it is.
    pub(super) async fn document(&self, target: &str) -> Result<Bytes, CallError> {
        let sent = self.send(Method::GET, target, None).await;
        let response = sent.map_err(|error| CallError::NoResponse(self.with_process(error)))?;
        match refused(&response)? {
            Some(problem) => Err(CallError::Refused(problem)),
            None if response.status() == StatusCode::OK => Ok(response.into_body()),
            None => Err(CallError::Unreadable(response.status())),
        }
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        target: &str,
        body: Option<Vec<u8>>,
    ) -> Result<T, CallError> {
        let sent = self.send(method, target, body).await;
        read(&sent.map_err(|error| CallError::NoResponse(self.with_process(error)))?)
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
        let response = timeout(CALL_TIMEOUT, connection.send_request(request))
            .await
            .context("it did not respond in time")??;
        let (head, body) = response.into_parts();
        let body = timeout(CALL_TIMEOUT, to_bytes(Body::new(body), MAX_RESPONSE)).await??;
        Ok(Response::from_parts(head, body))
    }

    /// A connection to a listener of this user that knows the key.
    pub(super) async fn connect(&self) -> anyhow::Result<SendRequest<Body>> {
        let no_response = || format!("it does not respond at {}", self.origin);
        timeout(PROOF_TIMEOUT, self.verified()).await.with_context(no_response)?
    }

    async fn verified(&self) -> anyhow::Result<SendRequest<Body>> {
        let address: SocketAddr = self
            .origin
            .trim_start_matches("http://")
            .parse()
            .context("its run file holds no valid address")?;
        let stream = TcpStream::connect(address)
            .await
            .with_context(|| format!("nothing listens at {}", self.origin))?;
        let (local, peer) = (stream.local_addr()?, stream.peer_addr()?);
        let (mut connection, driver) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(driver);
        let challenge = secret::random().context("the system has no random numbers")?;
        let request =
            self.request(Method::GET, "/health").header(proof::CHALLENGE, challenge.as_str());
        let response = connection.send_request(request.body(Body::empty())?).await?;
        self.verify_proof(response.headers(), &challenge)?;
        to_bytes(Body::new(response.into_body()), MAX_HEALTH).await?;
        // After the response: the kernel knows no owner before the connection is accepted.
        let me = rustix::process::geteuid().as_raw();
        match Allowed::Users(vec![me, 0]).judge(local, peer) {
            Ok(Peer::Allowed) => {}
            Ok(Peer::OtherUser(user)) => {
                bail!("a program of user {user} listens at {}", self.origin)
            }
            Ok(Peer::Unknown) => {
                bail!("the kernel does not say whose program listens at {}", self.origin)
            }
            // The kernel cannot be asked here: the proof is enough.
            Err(_) => {}
        }
        connection.ready().await?;
        Ok(connection)
    }

    fn verify_proof(&self, headers: &HeaderMap, challenge: &str) -> anyhow::Result<()> {
        let proof = headers.get(proof::PROOF).and_then(|proof| proof.to_str().ok());
        if proof::is_proven(&self.key, &self.origin, challenge, proof.unwrap_or_default()) {
            return Ok(());
        }
        Err(anyhow!("the program at {} does not know the key in admin.key", self.origin))
    }

    fn request(&self, method: Method, target: &str) -> http::request::Builder {
        let port = self.origin.rsplit_once(':').map_or("", |(_, port)| port);
        Request::builder().method(method).uri(target).header(HOST, format!("localhost:{port}"))
    }

    /// Names the process in an error, and says so if it has ended.
    fn with_process(&self, error: anyhow::Error) -> anyhow::Error {
        let pid = self.instance.process.pid;
        match self.instance.process.liveness() {
            Liveness::Dead => {
                anyhow!(
                    "pleo-proxy (process {pid}) has ended in the meantime; start it and try again"
                )
            }
            Liveness::Alive | Liveness::Elsewhere => {
                error.context(format!("pleo-proxy (process {pid})"))
            }
        }
    }
}

/// A response is either a problem or data, whatever its status: a refresh that failed responds with
/// the account.
fn read<T: DeserializeOwned>(response: &Response<Bytes>) -> Result<T, CallError> {
    if let Some(problem) = refused(response)? {
        return Err(CallError::Refused(problem));
    }
    let data: Versioned<T> = parse(response)?;
    Ok(data.body)
}

/// The problem that a response is, if it is one.
fn refused(response: &Response<Bytes>) -> Result<Option<Problem>, CallError> {
    let kind = response.headers().get(CONTENT_TYPE).map(http::HeaderValue::as_bytes);
    if kind == Some(PROBLEM) { parse(response).map(Some) } else { Ok(None) }
}

fn parse<T: DeserializeOwned>(response: &Response<Bytes>) -> Result<T, CallError> {
    serde_json::from_slice(response.body()).map_err(|_| CallError::Unreadable(response.status()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::protocol::{Done, Outcome};

    fn response(status: u16, kind: &str, body: &'static str) -> Response<Bytes> {
        let response = Response::builder().status(status).header(CONTENT_TYPE, kind);
        response.body(Bytes::from_static(body.as_bytes())).unwrap()
    }

    #[test]
    fn the_content_type_tells_data_from_problems() {
        let done: Done =
            read(&response(503, "application/json", r#"{"version":1,"outcome":"stopping"}"#))
                .unwrap();
        assert!(matches!(done.outcome, Outcome::Stopping));
        let exit = |status, kind, body| {
            Failure::from(read::<Done>(&response(status, kind, body)).unwrap_err()).exit
        };
        let problem = "application/problem+json";
        assert_eq!(exit(404, problem, r#"{"code":"account_unknown","detail":"d"}"#), Exit::Usage);
        assert_eq!(
            exit(503, problem, r#"{"code":"store_error","detail":"d","fix":"f"}"#),
            Exit::Failed
        );
        assert_eq!(exit(200, "application/json", r#"{"outcome":1}"#), Exit::Failed);
        assert_eq!(exit(400, "text/plain", "no"), Exit::Failed);
        assert_eq!(exit(400, problem, r#"{"code":"bad_filter"}"#), Exit::Usage);
        assert_eq!(exit(409, problem, r#"{"code":"account_required"}"#), Exit::Usage);
        let invalid = response(400, problem, r#"{"code":"bad_request"}"#);
        assert_eq!(read::<Done>(&invalid).unwrap_err().of_arguments().exit, Exit::Usage);
    }

    #[test]
    fn a_problem_without_detail_says_that_there_is_no_reason() {
        let refused = Failure::from(
            read::<Done>(&response(500, "application/problem+json", "{}")).unwrap_err(),
        );
        assert_eq!(refused.error.to_string(), "the proxy gave no reason");
    }
}

//! Calls to the data listener of a running proxy, as any tool makes them: its guard applies.

use anyhow::Context as _;
use axum::body::Body;
use bytes::Bytes;
use http::header::HOST;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use crate::secret::LocalKey;

const KEY: HeaderName = HeaderName::from_static("pleo-proxy-key");
/// The code of an error of the proxy itself.
pub(super) const ERROR: HeaderName = HeaderName::from_static("pleo-proxy-error");

/// Where a proxy serves tools, and the key that it asks them for. The proxy is known to run, so no
/// other program can have its port.
pub(super) struct DataClient {
    /// `http://ADDRESS`, or `unix:` and a path, as in a run file.
    origin: String,
    key: Option<LocalKey>,
}

/// A request as a tool would send it.
#[derive(Clone, Debug)]
pub(super) struct ToolRequest {
    pub(super) method: Method,
    pub(super) target: Uri,
    pub(super) headers: HeaderMap,
    pub(super) body: Option<Bytes>,
}

impl DataClient {
    pub(super) fn new(origin: String, key: Option<LocalKey>) -> Self {
        Self { origin, key }
    }

    /// Sends a request on a connection of its own. The body of the response comes as it arrives.
    ///
    /// # Errors
    /// There was no response.
    pub(super) async fn send(&self, request: &ToolRequest) -> anyhow::Result<Response<Incoming>> {
        let failed = || format!("the proxy at {} gave no response", self.origin);
        match self.origin.strip_prefix("unix:") {
            Some(path) => {
                let stream = UnixStream::connect(path).await.with_context(failed)?;
                self.send_on(stream, "localhost", request).await.with_context(failed)
            }
            None => {
                let address = self.origin.trim_start_matches("http://");
                let stream = TcpStream::connect(address).await.with_context(failed)?;
                // Always allowed, also where the proxy listens on every address.
                let port = address.rsplit_once(':').map_or("", |(_, port)| port);
                let host = format!("localhost:{port}");
                self.send_on(stream, &host, request).await.with_context(failed)
            }
        }
    }

    async fn send_on(
        &self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        host: &str,
        request: &ToolRequest,
    ) -> anyhow::Result<Response<Incoming>> {
        let (mut connection, driver) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(driver);
        Ok(connection.send_request(self.request(host, request)?).await?)
    }

    fn request(&self, host: &str, wanted: &ToolRequest) -> anyhow::Result<Request<Body>> {
        let mut request = Request::new(wanted.body.clone().map_or_else(Body::empty, Body::from));
        *request.method_mut() = wanted.method.clone();
        *request.uri_mut() = wanted.target.clone();
        *request.headers_mut() = wanted.headers.clone();
        request.headers_mut().insert(HOST, HeaderValue::try_from(host)?);
        if let Some(key) = &self.key {
            let mut value = HeaderValue::try_from(key.expose())
                .context("the local key (guard.local_key_file) cannot be sent in a header")?;
            value.set_sensitive(true);
            request.headers_mut().insert(KEY, value);
        }
        Ok(request)
    }
}

/// True if the proxy itself answered, with this code.
pub(super) fn is_refusal(headers: &HeaderMap, code: &str) -> bool {
    headers.get(ERROR).is_some_and(|value| value == code)
}

//! The life of a request, top to bottom: guard, route, account, lease, upstream, and back. Whatever
//! fails goes to [`reply`], never sideways.

pub mod body;
pub mod guard;
pub mod headers;
mod kept;
pub mod peer;
pub mod reply;
pub mod route;
pub mod upload;
pub mod upstream;

use std::future::poll_fn;
use std::sync::Arc;

use http::header::{self, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode, Uri, Version};
use hyper::body::Incoming;
use tokio::time::Instant;
use tracing::warn;

use crate::accounts::{Account, Accounts, DefaultAccount, Lease, Verdict};
use crate::lazy_timer::LazyTimer;
use crate::store::EndReason;
use body::{Answer, Budget, Original};
use guard::{Admitted, Guard, Tunnelled};
use headers::Exchange;
use reply::{Code, Problem};
use route::Route;
use upload::Upload;
use upstream::{Connection, Pool, SendError, Settings, Way};

/// What forwards requests: one for each worker, sharing everything but the pool.
pub struct Forwarder {
    accounts: Arc<Accounts>,
    guard: Arc<Guard>,
    settings: Settings,
    budget: Arc<Budget>,
    pool: Pool,
}

/// A request that was admitted and routed.
struct Journey<'a> {
    forwarder: &'a Forwarder,
    parts: &'a Parts,
    route: Route,
    origin: Option<HeaderValue>,
    body: Original,
}

/// A response head, and the connection that its body comes over.
struct Arrived {
    response: Response<Incoming>,
    connection: Connection,
}

impl Forwarder {
    /// A forwarder with an empty pool.
    pub fn new(
        accounts: Arc<Accounts>,
        guard: Arc<Guard>,
        settings: Settings,
        budget: Arc<Budget>,
        way: Way,
    ) -> Self {
        Self { accounts, guard, settings, budget, pool: Pool::new(way) }
    }

    /// Keeps a connection to the API ready while the proxy is in use; never ends. One forwarder of
    /// all does it.
    pub async fn keep_ready(&self) {
        if !matches!(*self.accounts.default_account(), DefaultAccount::None) {
            self.pool.touch();
        }
        self.pool.keep_ready(self.accounts.settings().keep_warm).await;
    }

    /// Answers a request, one way or another.
    pub async fn answer(&self, request: Request<Upload>) -> Response<Answer> {
        let (parts, body) = request.into_parts();
        let admitted = match self.guard.check(&parts) {
            Ok(admitted) => admitted,
            Err(problem) => return self.refuse(problem),
        };
        if admitted.tunnel {
            return tunnel();
        }
        if admitted.preflight {
            return preflight(&parts, &admitted);
        }
        let origin = admitted.origin.clone();
        let answer = self.forward(&parts, body, admitted.origin).await;
        answer.unwrap_or_else(|problem| {
            let mut response = self.refuse(problem);
            if let Some(origin) = &origin {
                headers::allow(response.headers_mut(), origin);
            }
            response
        })
    }

    /// Answers with a problem, and counts it.
    pub fn refuse(&self, problem: Problem) -> Response<Answer> {
        self.accounts.metrics().refused(problem.code.word());
        problem.into_response()
    }

    async fn forward(
        &self,
        parts: &Parts,
        body: Upload,
        origin: Option<HeaderValue>,
    ) -> Result<Response<Answer>, Problem> {
        let route = Route::of(parts)?;
        self.guard.check_operation(&parts.method, route.target.path())?;
        if self.accounts.is_closing() {
            return Err(shutting_down());
        }
        let account = self.account(&route).await?;
        let (limit, idle, now) =
            (self.settings.replay_limit, self.settings.idle_timeout, Instant::now());
        let body = Original::new(body, limit, self.budget.clone(), idle, now);
        Journey { forwarder: self, parts, route, origin, body }.run(&account, now).await
    }

    async fn account(&self, route: &Route) -> Result<Arc<Account>, Problem> {
        if let Some(name) = &route.account {
            return self.accounts.find(name).await.ok_or_else(|| {
                let fix = format!("Connect it with `pleo-proxy login {name}`; `pleo-proxy status` lists the accounts.");
                Problem::new(Code::AccountUnknown, format!("there is no account {name}"), fix)
            });
        }
        match &*self.accounts.default_account() {
            DefaultAccount::One(account) => Ok(account.clone()),
            DefaultAccount::Ambiguous(names) => {
                let names: Vec<_> = names.iter().map(|name| name.as_str()).collect();
                let detail = format!("several accounts are connected: {}", names.join(", "));
                let one = names.first().unwrap_or(&"NAME");
                let fix = format!(
                    "Name one by a header (`Pleo-Account: {one}`) or a path prefix (/@{one}/v1/...), or set \
                     default_account = \"{one}\"."
                );
                Err(Problem::new(Code::AccountRequired, detail, fix))
            }
            DefaultAccount::None => {
                let fix = "Run `pleo-proxy login`, or open /connect on the admin listener.";
                Err(Problem::new(Code::LoginRequired, "no account is connected", fix))
            }
        }
    }
}

impl Journey<'_> {
    /// Sends the request, and once more if the upstream refused a token that has a successor.
    async fn run(
        &self,
        account: &Arc<Account>,
        arrival: Instant,
    ) -> Result<Response<Answer>, Problem> {
        let accounts = &self.forwarder.accounts;
        let hold = accounts.settings().hold;
        let (generation, arrived) = self.send(account, arrival + hold).await?;
        if arrived.response.status() != StatusCode::UNAUTHORIZED {
            return self.finish(account, arrived).await;
        }
        if !self.body.is_kept() || !self.body.can_repeat(hold).await {
            if account.snapshot().generation() > generation {
                return Err(rotated());
            }
            accounts.rejected_for_good(account, generation);
            return self.finish(account, arrived).await;
        }
        let patience = Instant::now() + hold;
        match accounts.rejected(account, generation, patience).await {
            Verdict::Give => self.finish(account, arrived).await,
            Verdict::Refuse(refusal) => Err(Problem::refused(refusal, &account.name)),
            Verdict::Again => {
                drop(arrived);
                accounts.metrics().resent();
                let (_, arrived) = self.send(account, patience).await?;
                self.finish(account, arrived).await
            }
        }
    }

    /// From the lease to the response head, where the lease is returned. Waits for a token until
    /// `patience` at most.
    async fn send(
        &self,
        account: &Arc<Account>,
        patience: Instant,
    ) -> Result<(u64, Arrived), Problem> {
        let pool = &self.forwarder.pool;
        let lease = Lease::acquire(account, patience)
            .await
            .map_err(|refusal| Problem::refused(refusal, &account.name))?;
        if let Some(connection) = pool.reuse() {
            match self.try_on(connection, &lease).await? {
                Ok(arrived) => {
                    // A server that is tired of an idle connection may say so, and what was on its
                    // way by then is not answered (RFC 9110 section 15.5.9).
                    let is_stale = arrived.response.status() == StatusCode::REQUEST_TIMEOUT;
                    if !is_stale || !self.may_repeat_stale().await {
                        return Ok((lease.generation, arrived));
                    }
                }
                Err(SendError::Unsent) => {}
                Err(SendError::Failed(error)) => {
                    // An answer that makes no sense is an answer: the connection was not stale.
                    if upstream::is_bad_answer(&error) || !self.may_repeat_stale().await {
                        return Err(broken(&error));
                    }
                }
            }
        }
        // No refresh waits for somebody who is dialling, and whoever has dialled takes the token of
        // that moment.
        drop(lease);
        let connection = pool.connect().await?;
        let lease = Lease::acquire(account, patience)
            .await
            .map_err(|refusal| Problem::refused(refusal, &account.name))?;
        match self.try_on(connection, &lease).await? {
            Ok(arrived) => Ok((lease.generation, arrived)),
            Err(SendError::Unsent) => {
                let detail = "it closed a new connection before the request could be sent";
                Err(Problem::new(Code::UpstreamBroken, detail, "Try again."))
            }
            Err(SendError::Failed(error)) => Err(broken(&error)),
        }
    }

    /// One sending on one connection. The outer error ends the journey, the inner one may be tried
    /// elsewhere.
    async fn try_on(
        &self,
        mut connection: Connection,
        lease: &Lease,
    ) -> Result<Result<Arrived, SendError>, Problem> {
        let limit = self.forwarder.settings.response_timeout;
        let mut alarm = LazyTimer::new(Instant::now() + limit);
        let sent = tokio::select! {
            biased;
            sent = connection.send(self.request(lease)) => sent,
            () = poll_fn(|cx| alarm.poll(|| self.due(), cx)) => return Err(too_late(limit)),
        };
        match sent {
            Ok(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                let detail = "it switched protocols though nobody asked";
                Err(Problem::new(Code::UpstreamBroken, detail, "Try again."))
            }
            Ok(response) => Ok(Ok(Arrived { response, connection })),
            Err(SendError::Failed(_)) if self.body.failed() => {
                let detail = "the request body broke off or stalled";
                Err(Problem::new(Code::BadRequest, detail, "Send the whole body.").closing())
            }
            Err(error) => Ok(Err(error)),
        }
    }

    /// When an answer is too late: `response_timeout` after the end of the request body, or after
    /// nothing of it was taken for longer than a body may rest.
    fn due(&self) -> Option<Instant> {
        let (limit, idle) =
            (self.forwarder.settings.response_timeout, self.forwarder.settings.idle_timeout);
        match self.body.ended() {
            Some(ended) => Some(ended + limit),
            None => idle.map(|idle| self.body.moved() + limit.max(idle)),
        }
    }

    /// A request that a reused connection lost goes once more if its method is safe (RFC 9112
    /// section 9.3.1) and its body is here.
    async fn may_repeat_stale(&self) -> bool {
        let is_safe = matches!(self.parts.method, Method::GET | Method::HEAD | Method::OPTIONS);
        is_safe
            && self.body.is_kept()
            && self.body.can_repeat(self.forwarder.settings.connect_timeout).await
    }

    /// The request as the upstream gets it: raw target, new headers, the credential last.
    fn request(&self, lease: &Lease) -> Request<body::Outgoing> {
        let way = self.forwarder.pool.way();
        let body = self.body.outgoing();
        let mut request = Request::new(body);
        *request.method_mut() = self.parts.method.clone();
        *request.version_mut() = Version::HTTP_11;
        *request.uri_mut() = Uri::from(self.route.target.clone());
        let mut headers = headers::to_upstream(self.parts, &way.host, &lease.credential);
        frame(&mut headers, self.parts, &request);
        *request.headers_mut() = headers;
        request
    }

    /// The upstream's answer as the caller gets it.
    async fn finish(
        &self,
        account: &Account,
        arrived: Arrived,
    ) -> Result<Response<Answer>, Problem> {
        let Arrived { response, connection } = arrived;
        let (mut head, body) = response.into_parts();
        if head.status.is_success()
            && guard::is_disconnect(&self.parts.method, self.route.target.path())
        {
            self.disconnected(account).await;
        }
        let about = Exchange {
            request: self.parts,
            route: &self.route,
            api: &self.forwarder.pool.way().origin,
            origin: self.origin.as_ref(),
        };
        head.headers = headers::to_client(head.headers, &about);
        head.version = Version::HTTP_11;
        head.extensions.clear();
        // A connection whose request is still being written is not fit for the next one.
        let reusable = self.body.ended().is_some();
        let idle = self.forwarder.settings.idle_timeout;
        Ok(Response::from_parts(head, Answer::theirs(body, connection, reusable, idle)))
    }

    /// Pleo has revoked every token of this client for the account.
    async fn disconnected(&self, account: &Account) {
        let logout = self.forwarder.accounts.logout(&account.name, EndReason::Disconnected).await;
        if let Err(error) = logout {
            warn!(account = %account.name, "the disconnected account could not be logged out: {error}");
        }
    }
}

/// A length or the chunked coding, derived anew. hyper needs to be told where a method usually has
/// no body.
fn frame(headers: &mut http::HeaderMap, parts: &Parts, request: &Request<body::Outgoing>) {
    use http_body::Body as _;
    if parts.headers.contains_key(header::TRANSFER_ENCODING)
        && request.body().size_hint().exact().is_none()
    {
        headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    } else if let Some(length) = request.body().size_hint().exact()
        && (length > 0 || parts.headers.contains_key(header::CONTENT_LENGTH))
    {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
}

/// Opens a tunnel, which ends here: the server sees the mark and goes on with the requests that
/// come in it.
fn tunnel() -> Response<Answer> {
    let mut response = Response::new(Answer::Ours(None));
    response.extensions_mut().insert(Tunnelled);
    response
}

/// The answer to a page that asks what it may do: all that a tool may (Fetch standard, CORS
/// protocol).
fn preflight(parts: &Parts, admitted: &Admitted) -> Response<Answer> {
    let mut response = Response::new(Answer::Ours(None));
    *response.status_mut() = StatusCode::NO_CONTENT;
    let to = response.headers_mut();
    if let Some(origin) = &admitted.origin {
        headers::allow(to, origin);
    }
    to.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(reply::METHODS));
    if let Some(asked) = parts.headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
        to.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, asked.clone());
    }
    to.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    response
}

fn shutting_down() -> Problem {
    Problem::new(
        Code::ShuttingDown,
        "the proxy is about to end",
        "Start it again, then repeat the request.",
    )
    .closing()
}

fn rotated() -> Problem {
    Problem::new(
        Code::TokenRotated,
        "a refresh replaced the token while this request's body was under way, and the body is too long to be kept",
        "Send it again; bodies up to upstream.replay_limit are repeated by the proxy itself.",
    )
    .retry_after(std::time::Duration::ZERO)
}

fn broken(error: &hyper::Error) -> Problem {
    Problem::new(
        Code::UpstreamBroken,
        upstream::fault(error),
        "Check whether the request took effect before you repeat it.",
    )
}

fn too_late(limit: std::time::Duration) -> Problem {
    Problem::new(
        Code::UpstreamTimeout,
        format!("no answer within {limit:?}"),
        "Check whether the request took effect before you repeat it, or raise upstream.response_timeout.",
    )
}

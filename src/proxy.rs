//! The path of a request, top to bottom: guard, route, account, lease, upstream, and back. Whatever
//! fails becomes a [`Problem`] in `reply`, never sideways.

pub mod body;
pub mod guard;
pub mod headers;
pub mod hint;
mod limit;
pub mod peer;
pub mod replay;
mod reply;
pub mod route;
pub mod stall;
pub mod upstream;

use std::future::poll_fn;
use std::sync::Arc;

use http::header::{ACCEPT_ENCODING, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode, Uri, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use tokio::time::Instant;
use tracing::warn;

use crate::accounts::{Account, Accounts, DefaultAccount, Lease, Verdict};
use crate::exchange::Exchange;
use crate::exchange::incoming_body::IncomingBody;
use crate::problem::Problem;
use crate::store::EndReason;
use crate::telemetry::Metrics;
use body::ResponseBody;
use guard::Guard;
use headers::{ResponseContext, SpareMaps};
use hint::Refused;
use replay::{OutgoingBody, ReplayBudget, ReplayableBody};
use route::Route;
use upstream::{Connection, Connector, Pool, SendError, Settings};

/// Forwards requests: one for each worker, sharing everything but the pool.
pub struct Forwarder {
    accounts: Arc<Accounts>,
    guard: Arc<Guard>,
    settings: Settings,
    budget: Arc<ReplayBudget>,
    pool: Pool,
    /// The command line that reads the configuration of this process from any folder.
    program: Arc<str>,
    spare_maps: SpareMaps,
}

/// A request that was admitted and routed.
struct ForwardedRequest<'a> {
    forwarder: &'a Forwarder,
    exchange: &'a mut Exchange,
    parts: &'a Parts,
    route: Route,
    /// The page that sent it, if `allow_origins` lists it.
    origin: Option<HeaderValue>,
    body: ReplayableBody,
    /// It was sent again after the API had refused its token.
    has_new_token: bool,
}

/// A response head, and the connection that its body comes over.
struct UpstreamResponse {
    response: Response<Incoming>,
    connection: Connection,
}

impl Forwarder {
    /// A forwarder with an empty pool.
    pub fn new(
        accounts: Arc<Accounts>,
        guard: Arc<Guard>,
        settings: Settings,
        budget: Arc<ReplayBudget>,
        connector: Connector,
        program: Arc<str>,
    ) -> Self {
        let (pool, spare_maps) = (Pool::new(connector), SpareMaps::default());
        Self { accounts, guard, settings, budget, pool, program, spare_maps }
    }

    /// The counters of the proxy.
    pub fn metrics(&self) -> &Arc<Metrics> {
        self.accounts.metrics()
    }

    /// Keeps a connection to the API ready while the proxy is in use; never ends. One of all
    /// forwarders does it.
    pub async fn keep_ready(&self) {
        if !matches!(*self.accounts.default_account(), DefaultAccount::None) {
            self.pool.mark_used();
        }
        self.pool.keep_ready(self.accounts.settings().keep_warm).await;
    }

    /// Answers a request: with the API's response, or with one of the proxy's own.
    pub async fn answer(
        &self,
        request: Request<IncomingBody>,
        exchange: &mut Exchange,
    ) -> Response<ResponseBody> {
        let (parts, body) = request.into_parts();
        let admitted = match self.guard.check(&parts) {
            Ok(admitted) => admitted,
            Err(problem) => return exchange.refuse(problem).map(ResponseBody::own),
        };
        if admitted.tunnel {
            return reply::tunnel().map(ResponseBody::own);
        }
        if admitted.preflight {
            return reply::preflight(&parts, &admitted).map(ResponseBody::own);
        }
        let origin = admitted.origin.clone();
        let forwarded = self.forward(&parts, body, admitted.origin, exchange).await;
        self.spare_maps.give_back(parts.headers);
        forwarded.unwrap_or_else(|problem| {
            let problem = problem.with_program(&self.program);
            let mut response = exchange.refuse(problem).map(ResponseBody::own);
            if let Some(origin) = &origin {
                headers::allow(response.headers_mut(), origin);
            }
            response
        })
    }

    async fn forward(
        &self,
        parts: &Parts,
        body: IncomingBody,
        origin: Option<HeaderValue>,
        exchange: &mut Exchange,
    ) -> Result<Response<ResponseBody>, Problem> {
        let route = Route::of(parts)?;
        self.guard.check_operation(&parts.method, route.target.path())?;
        if self.accounts.is_closing() {
            return Err(reply::shutting_down());
        }
        let account = self.account(&route).await?;
        exchange.set_account(&account.name);
        let Settings { replay_limit, idle_timeout, .. } = self.settings;
        let arrival = exchange.arrival();
        limit::pace(&account, self.settings.pace, (parts, &route), arrival).await?;
        let budget = self.budget.clone();
        let body = ReplayableBody::new(body, replay_limit, budget, idle_timeout, arrival);
        let mut request = ForwardedRequest {
            forwarder: self,
            exchange,
            parts,
            route,
            origin,
            body,
            has_new_token: false,
        };
        request.run(&account, arrival).await
    }

    async fn account(&self, route: &Route) -> Result<Arc<Account>, Problem> {
        if let Some(name) = self.guard.account(route.account.as_ref())? {
            let found = match self.accounts.get(name) {
                Some(account) => Some(account),
                None => Box::pin(self.accounts.find(name)).await,
            };
            return found.ok_or_else(|| reply::account_unknown(name, &self.accounts));
        }
        match &*self.accounts.default_account() {
            DefaultAccount::One(account) => Ok(account.clone()),
            DefaultAccount::Ambiguous(names) => Err(reply::account_required(names)),
            DefaultAccount::None => Err(reply::not_connected()),
        }
    }
}

impl ForwardedRequest<'_> {
    /// Sends the request, and once more if the API refused a token that has a successor.
    async fn run(
        &mut self,
        account: &Arc<Account>,
        arrival: Instant,
    ) -> Result<Response<ResponseBody>, Problem> {
        let accounts = &self.forwarder.accounts;
        let hold = accounts.settings().hold;
        let (generation, upstream) = self.send(account, arrival + hold).await?;
        if upstream.response.status() != StatusCode::UNAUTHORIZED {
            return self.finish(account, upstream).await;
        }
        if !self.body.is_kept() || !self.body.can_replay(hold).await {
            if account.snapshot().generation() != generation {
                return Err(reply::token_rotated());
            }
            accounts.rejected_for_good(account, generation);
            return self.finish(account, upstream).await;
        }
        let deadline = Instant::now() + hold;
        match Box::pin(accounts.rejected(account, generation, deadline)).await {
            Verdict::Give => self.finish(account, upstream).await,
            Verdict::Refuse(refusal) => Err(reply::no_token(refusal, &account.name)),
            Verdict::Again => {
                drop(upstream);
                accounts.metrics().resent();
                self.has_new_token = true;
                let (_, upstream) = self.send(account, deadline).await?;
                self.finish(account, upstream).await
            }
        }
    }

    /// From the lease to the response head, where the lease is returned. Waits for a token until
    /// `deadline`.
    async fn send(
        &mut self,
        account: &Arc<Account>,
        deadline: Instant,
    ) -> Result<(u64, UpstreamResponse), Problem> {
        let pool = &self.forwarder.pool;
        let lease = self.lease(account, deadline).await?;
        if let Some(connection) = pool.checkout() {
            match self.send_on(connection, &lease).await? {
                Ok(upstream) => {
                    // A server that is about to close an idle connection may say so, and ignores
                    // what is sent to it in that moment (RFC 9110 section 15.5.9).
                    let is_stale = upstream.response.status() == StatusCode::REQUEST_TIMEOUT;
                    if !is_stale || !self.may_repeat_stale().await {
                        return Ok((lease.generation, upstream));
                    }
                }
                Err(SendError::Unsent) => {}
                Err(SendError::Failed(error)) => {
                    // An invalid response is a response: the connection was not stale.
                    let is_response = upstream::is_invalid_response(&error);
                    if is_response || !self.may_repeat_stale().await {
                        return Err(reply::broken(&error));
                    }
                }
            }
        }
        // No refresh should wait for a connection to be made; afterwards the token may be another.
        drop(lease);
        // What few requests need stands in a box: every request moves the space for it.
        let connection = Box::pin(pool.connect()).await?;
        let lease = self.lease(account, deadline).await?;
        match self.send_on(connection, &lease).await? {
            Ok(upstream) => Ok((lease.generation, upstream)),
            Err(SendError::Unsent) => Err(reply::closed_at_once()),
            Err(SendError::Failed(error)) => Err(reply::broken(&error)),
        }
    }

    async fn lease(&mut self, account: &Arc<Account>, deadline: Instant) -> Result<Lease, Problem> {
        let lease = Lease::acquire(account, deadline).await;
        let lease = lease.map_err(|refusal| reply::no_token(refusal, &account.name))?;
        let forwarder = self.forwarder;
        if forwarder.guard.is_bound() {
            // Asked after the credential was taken, so it is no older than that.
            let subject = forwarder.accounts.bound_subject(&account.name);
            forwarder.guard.check_subject(&account.name, subject.as_deref())?;
        }
        self.exchange.token_received(lease.generation, lease.is_held);
        Ok(lease)
    }

    /// Sends the request on one connection. After an inner error another connection may be tried,
    /// an outer one is final.
    async fn send_on(
        &mut self,
        mut connection: Connection,
        lease: &Lease,
    ) -> Result<Result<UpstreamResponse, SendError>, Problem> {
        self.exchange.sending(lease.count_send());
        let limit = self.forwarder.settings.response_timeout;
        let begun = Instant::now();
        let mut alarm = self.exchange.activity().take_alarm(begun + limit);
        let sent = tokio::select! {
            biased;
            sent = connection.send(self.request(lease)) => sent,
            () = poll_fn(|cx| alarm.poll(|| self.response_deadline(begun), cx)) => {
                return Err(reply::response_timeout(limit));
            }
        };
        self.exchange.activity().give_back_alarm(alarm);
        match sent {
            Ok(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                Err(reply::switched_protocols())
            }
            Ok(response) => {
                self.exchange.head_received();
                Ok(Ok(UpstreamResponse { response, connection }))
            }
            Err(SendError::Failed(_)) if self.body.failed() => Err(reply::body_failed()),
            Err(SendError::Unsent) => {
                lease.uncount_send();
                self.exchange.not_sent();
                Ok(Err(SendError::Unsent))
            }
            Err(error) => Ok(Err(error)),
        }
    }

    /// When a response is too late: `response_timeout` after the request was sent from `begun` to
    /// the end of its body, or, before that end, once nothing of it was read for longer than a body
    /// may stall.
    fn response_deadline(&self, begun: Instant) -> Option<Instant> {
        let Settings { response_timeout, idle_timeout, .. } = self.forwarder.settings;
        match self.body.ended() {
            Some(ended) => Some(ended.max(begun) + response_timeout),
            None => idle_timeout.map(|idle| self.body.last_read() + response_timeout.max(idle)),
        }
    }

    /// A request that failed on a reused connection is sent again if its method is safe (RFC 9112
    /// section 9.3.1) and its body was kept.
    async fn may_repeat_stale(&self) -> bool {
        let is_safe = matches!(self.parts.method, Method::GET | Method::HEAD | Method::OPTIONS);
        is_safe
            && self.body.is_kept()
            && self.body.can_replay(self.forwarder.settings.connect_timeout).await
    }

    /// The request as the API gets it: raw target, new headers, the credential last.
    fn request(&self, lease: &Lease) -> Request<OutgoingBody> {
        let connector = self.forwarder.pool.connector();
        let mut request = Request::new(self.body.outgoing());
        *request.method_mut() = self.parts.method.clone();
        *request.version_mut() = Version::HTTP_11;
        *request.uri_mut() = Uri::from(self.route.target.clone());
        let spare = self.forwarder.spare_maps.take();
        let mut headers =
            headers::to_upstream(spare, self.parts, &connector.host, &lease.credential);
        if self.exchange.wants_plain_body() {
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        }
        headers::set_framing(&mut headers, self.parts, request.body().size_hint().exact());
        *request.headers_mut() = headers;
        request
    }

    /// The API's response as the caller gets it.
    async fn finish(
        &mut self,
        account: &Account,
        upstream: UpstreamResponse,
    ) -> Result<Response<ResponseBody>, Problem> {
        let UpstreamResponse { response, connection } = upstream;
        let (mut head, body) = response.into_parts();
        if head.status.is_success()
            && guard::is_disconnect(&self.parts.method, self.route.target.path())
        {
            Box::pin(self.log_out(account)).await;
        }
        limit::note(account, &head);
        let context = ResponseContext {
            request: self.parts,
            route: &self.route,
            api: &self.forwarder.pool.connector().origin,
            origin: self.origin.as_ref(),
        };
        head.headers = headers::to_client(head.headers, &context);
        if head.status.is_client_error() && self.exchange.adds_headers() {
            let (method, route) = (&self.parts.method, &self.route);
            let (sent_again, program) = (self.has_new_token, &*self.forwarder.program);
            let refused = Refused { method, route, status: head.status, sent_again, program };
            refused.explain(&mut head.headers, account, &self.forwarder.accounts);
        } else if self.exchange.adds_headers() {
            hint::near_limit(&mut head.headers, account);
        }
        head.version = Version::HTTP_11;
        head.extensions.clear();
        // A connection whose request is still being written is not fit for the next one.
        let is_reusable = self.body.ended().is_some();
        let stall_limit = self.forwarder.settings.idle_timeout;
        self.exchange.passed_on();
        let body = ResponseBody::upstream(body, connection, is_reusable, stall_limit);
        Ok(Response::from_parts(head, body))
    }

    /// The caller has disconnected the account: Pleo has revoked every token of this client for it.
    async fn log_out(&self, account: &Account) {
        let logout = self.forwarder.accounts.logout(&account.name, EndReason::Disconnected).await;
        if let Err(error) = logout {
            warn!(account = %account.name, "the disconnected account could not be logged out: {error}");
        }
    }
}

//! The guard checks a request by its head, before a token is used, a refresh begins or a body is
//! read.
//!
//! A web page can make a browser send nearly anything to loopback. What it cannot do is send our
//! Host after DNS rebinding, hide its Origin on a write, or hide `Sec-Fetch-Site` on a read. Each
//! check alone has a hole, so both listeners do all of them.

mod host;
mod operation;
mod page;
mod refusal;
mod settings;
mod target;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::OnceLock;

use http::header::{CONTENT_LENGTH, ORIGIN, TRANSFER_ENCODING};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use crate::oauth::endpoint::Origin;
use crate::problem::{Code, Problem};
use crate::secret::LocalKey;
use crate::store::AccountName;
use host::Hosts;
pub use host::allowed_host;
pub use operation::{is_disconnect, is_read};
pub use page::allowed_origin;
use page::{Page, Pages};
use refusal::{bad, single};
pub use settings::{Fragment, Settings, Tunnelled};

const FORWARDED: HeaderName = HeaderName::from_static("forwarded");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// Carries the local key.
pub const KEY_HEADER: HeaderName = HeaderName::from_static("pleo-proxy-key");

/// The guard of one listener.
#[derive(Debug)]
pub struct Guard {
    hosts: Hosts,
    pages: Pages,
    local_key: Option<LocalKey>,
    read_only: bool,
    allow_disconnect: bool,
    account: Option<AccountName>,
    /// The company of that account, once it is known.
    subject: OnceLock<String>,
}

/// What the guard found out about an admitted request.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Admitted {
    /// The origin of the page that sent it, if `allow_origins` lists it.
    pub origin: Option<HeaderValue>,
    /// It is a CORS preflight, which the proxy answers itself.
    pub preflight: bool,
    /// It asks for a tunnel to the API, which the proxy serves itself.
    pub tunnel: bool,
}

impl Guard {
    /// The guard of the data listener that is bound to `own`, before an API at `api`.
    pub fn data(settings: &Settings, own: SocketAddr, api: &Origin) -> Self {
        Self {
            hosts: Hosts::new(settings, own, Some(api)),
            pages: Pages {
                listed: settings.allow_origins.clone(),
                own: Vec::new(),
                takes_navigations: false,
            },
            local_key: settings.local_key.clone(),
            read_only: settings.read_only,
            allow_disconnect: settings.allow_disconnect,
            account: settings.account.clone(),
            subject: settings.subject.clone().map(OnceLock::from).unwrap_or_default(),
        }
    }

    /// The guard of the admin listener that is bound to `own`: only its own pages may call it.
    pub fn admin(settings: &Settings, own: SocketAddr) -> Self {
        let hosts = Hosts::new(settings, own, None);
        // Behind a reverse proxy the page is https; the Host check is the same either way.
        let own = hosts
            .own()
            .flat_map(|host| [format!("http://{host}"), format!("https://{host}")])
            .collect();
        Self {
            hosts,
            pages: Pages { listed: Vec::new(), own, takes_navigations: true },
            local_key: None,
            read_only: false,
            allow_disconnect: false,
            account: None,
            subject: OnceLock::new(),
        }
    }

    /// Origins of the listener itself, whose own pages may call it.
    pub fn own_origins(&self) -> &[String] {
        &self.pages.own
    }

    /// Checks a request by its head.
    ///
    /// # Errors
    /// The refusal, which closes the connection.
    pub fn check(&self, parts: &Parts) -> Result<Admitted, Problem> {
        let admitted = if parts.method == Method::CONNECT {
            self.check_tunnel(parts)
        } else {
            self.check_request(parts)
        };
        admitted.map_err(Problem::closing)
    }

    fn check_request(&self, parts: &Parts) -> Result<Admitted, Problem> {
        target::check_method(&parts.method)?;
        target::check_framing(parts)?;
        self.hosts.check(parts)?;
        target::check_target(parts)?;
        let page = self.pages.check(parts)?;
        target::check_upgrade(&parts.headers)?;
        let preflight = page == Page::Listed
            && parts.method == Method::OPTIONS
            && parts.headers.contains_key(http::header::ACCESS_CONTROL_REQUEST_METHOD);
        if !preflight {
            self.check_key(&parts.headers)?;
        }
        let origin = parts.headers.get(ORIGIN).filter(|_| page == Page::Listed).cloned();
        Ok(Admitted { origin, preflight, tunnel: false })
    }

    /// Some HTTP clients ask their proxy for a tunnel even to plain HTTP servers (Node's). One to
    /// the API is granted and ends here: each request inside is checked like any other, including
    /// the local key. No browser lets a page send CONNECT; one that it sends for a page's websocket
    /// is granted, and the request inside refused.
    fn check_tunnel(&self, parts: &Parts) -> Result<Admitted, Problem> {
        let authority = parts.uri.authority().map(http::uri::Authority::as_str).unwrap_or_default();
        if !self.hosts.is_tunnel(authority) || parts.extensions.get::<Tunnelled>().is_some() {
            return Err(self.no_tunnel());
        }
        target::check_framing(parts)?;
        let length = single(&parts.headers, &CONTENT_LENGTH)?;
        if length.is_some_and(|length| length != "0")
            || parts.headers.contains_key(TRANSFER_ENCODING)
        {
            return Err(bad("a CONNECT request has no body"));
        }
        self.hosts.check_api(authority, host::host(parts)?)?;
        target::check_upgrade(&parts.headers)?;
        match self.pages.check(parts)? {
            Page::None => Ok(Admitted { tunnel: true, ..Admitted::default() }),
            _ => Err(page::forbidden("a page sent CONNECT", "Call from a program.".into())),
        }
    }

    fn no_tunnel(&self) -> Problem {
        let detail = "CONNECT would tunnel past the proxy, which then could add no credential";
        let direct = format!("Call {}/v1/... directly", self.hosts.address);
        let fix = match self.hosts.api() {
            Some(api) => {
                format!("{direct}, or use http://{api}/... with this proxy, not https://.")
            }
            None => format!("{direct}."),
        };
        Problem::new(Code::MethodNotAllowed, detail, fix)
    }

    fn check_key(&self, headers: &HeaderMap) -> Result<(), Problem> {
        let Some(key) = &self.local_key else { return Ok(()) };
        if headers.contains_key(FORWARDED) || headers.contains_key(X_FORWARDED_FOR) {
            let detail = "the request came through a relay, which a listener with a local key does not accept";
            let fix = format!("Call {} directly.", self.hosts.address);
            return Err(Problem::new(Code::LocalKeyRequired, detail, fix));
        }
        let sent = single(headers, &KEY_HEADER)?.and_then(|value| value.to_str().ok());
        if sent.is_some_and(|sent| key.matches(sent)) {
            return Ok(());
        }
        // The file is not named: callers from other machines may read this.
        let fix = "Send the content of guard.local_key_file: -H \"Pleo-Proxy-Key: $(cat LOCAL_KEY_FILE)\".";
        Err(Problem::new(
            Code::LocalKeyRequired,
            "the header Pleo-Proxy-Key is missing or wrong",
            fix,
        ))
    }

    /// The account of a request that names `named`, if the listener or the request decides it.
    ///
    /// # Errors
    /// `forbidden_account`: the listener serves another one.
    pub fn account<'a>(
        &'a self,
        named: Option<&'a AccountName>,
    ) -> Result<Option<&'a AccountName>, Problem> {
        let Some(own) = &self.account else { return Ok(named) };
        let Some(other) = named.filter(|named| *named != own) else { return Ok(Some(own)) };
        let detail =
            format!("this listener serves account {own} only, and the request names {other}");
        let fix = format!(
            "Leave the account out of the request, or start `pleo-proxy exec --account {other}`."
        );
        Err(Problem::new(Code::ForbiddenAccount, detail, fix).closing())
    }

    /// True if the account's company matters to the listener.
    pub fn is_bound(&self) -> bool {
        self.account.is_some()
    }

    /// Checks the company of the account whose credential is about to be used.
    ///
    /// # Errors
    /// `forbidden_account`: it is another one than when the listener was opened.
    pub fn check_subject(&self, account: &AccountName, now: Option<&str>) -> Result<(), Problem> {
        let bound = match now {
            Some(now) => self.subject.get_or_init(|| now.to_owned()),
            None => match self.subject.get() {
                Some(bound) => bound,
                None => return Ok(()),
            },
        };
        if now == Some(bound) {
            return Ok(());
        }
        let now = now.unwrap_or("a company that is not known yet");
        let detail = format!(
            "account {account} was logged in as another company since this listener was opened: it is {now} now, and was {bound}"
        );
        let fix =
            "If the program is to work for that company, end it and start `pleo-proxy exec` again.";
        Err(Problem::new(Code::ForbiddenAccount, detail, fix).closing())
    }

    /// Checks the operation, by the raw path that would be forwarded.
    ///
    /// # Errors
    /// `read_only` or `protected_operation`.
    pub fn check_operation(&self, method: &Method, path: &str) -> Result<(), Problem> {
        if is_disconnect(method, path) && !self.allow_disconnect {
            let detail = "DELETE /v1/installations/me revokes every token of this client, the proxy's own included";
            let fix = "Set guard.allow_disconnect = true if that is what you want.";
            return Err(Problem::new(Code::ProtectedOperation, detail, fix).closing());
        }
        if self.read_only && !operation::is_read(method, path) {
            let detail = "guard.read_only forwards only operations that change nothing: GET, HEAD, and searches by POST";
            let fix = if self.account.is_some() {
                "Start `pleo-proxy exec` without --read-only, and with guard.read_only = false, to allow writes."
            } else {
                "Set guard.read_only = false to allow writes."
            };
            return Err(Problem::new(Code::ReadOnly, detail, fix).closing());
        }
        Ok(())
    }
}

//! Web pages: which may call, and how a browser marks the requests of pages.

use http::header::{ORIGIN, REFERER};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method};
use url::Url;

use super::host;
use super::refusal::{list, single};
use crate::problem::{Code, Problem};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The origins of pages that may call one listener.
#[derive(Debug)]
pub(super) struct Pages {
    /// Those in `guard.allow_origins`.
    pub(super) listed: Vec<String>,
    /// Those of the listener itself.
    pub(super) own: Vec<String>,
    /// Other sites may navigate here: on the admin listener.
    pub(super) takes_navigations: bool,
}

/// The page that a request says it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Page {
    None,
    Own,
    Listed,
}

impl Pages {
    pub(super) fn check(&self, parts: &Parts) -> Result<Page, Problem> {
        let page = self.check_origin(parts)?;
        self.check_fetch_site(parts, page)?;
        Ok(page)
    }

    fn check_origin(&self, parts: &Parts) -> Result<Page, Problem> {
        let Some(origin) = single(&parts.headers, &ORIGIN)? else { return Ok(Page::None) };
        let is_in =
            |list: &[String]| list.iter().any(|known| known.as_bytes() == origin.as_bytes());
        match origin {
            _ if is_in(&self.listed) => Ok(Page::Listed),
            _ if is_in(&self.own) => Ok(Page::Own),
            _ => Err(forbidden(
                "a page of another origin sent this request",
                self.fix(origin.to_str().ok()),
            )),
        }
    }

    fn check_fetch_site(&self, parts: &Parts, page: Page) -> Result<(), Problem> {
        let Some(site) = single(&parts.headers, &SEC_FETCH_SITE)? else { return Ok(()) };
        let reads = parts.method == Method::GET || parts.method == Method::HEAD;
        match site.as_bytes() {
            _ if page == Page::Listed => Ok(()),
            b"none" if reads => Ok(()),
            b"same-origin" if self.takes_navigations => Ok(()),
            b"same-origin" if reads && self.is_relayed(parts) => Ok(()),
            b"same-origin" if reads => {
                let origin = parts.headers.get(REFERER).and_then(origin_of);
                let detail = "a page's server passed this request on, and guard.allow_origins does not list the page";
                Err(forbidden(detail, self.fix(origin)))
            }
            // The handlers of the three addresses to which other sites may navigate check it
            // themselves.
            _ if self.takes_navigations && reads && is_navigation(parts) => Ok(()),
            _ => {
                let fix = "Call from a program, or with fetch() from a page whose origin guard.allow_origins lists.";
                Err(forbidden("a browser says that another site caused this request", fix.into()))
            }
        }
    }

    /// True for a read of a listed page that the page's own server passed on, as development
    /// servers do. On such a read a browser sends no Origin, and `same-origin` only if page and
    /// address have the same origin: so it was sent to the page's own server, or to us by a page of
    /// our own origin, which is never listed (responses of Pleo are sandboxed when a browser shows
    /// them). The Referer, which no page can forge, or a Host that the server left unchanged tells
    /// which. A write has an Origin, which is checked as usual.
    fn is_relayed(&self, parts: &Parts) -> bool {
        let mut referers = parts.headers.get_all(REFERER).iter();
        if let (Some(referer), None) = (referers.next(), referers.next()) {
            return origin_of(referer)
                .is_some_and(|origin| self.listed.iter().any(|listed| listed == origin));
        }
        let host = host::host(parts).unwrap_or_default();
        let is_of = |origin: &String| {
            origin.split_once("://").is_some_and(|(_, of)| of.eq_ignore_ascii_case(host))
        };
        self.listed.iter().any(is_of)
    }

    fn fix(&self, origin: Option<&str>) -> String {
        match origin.filter(|origin| is_listable(origin)) {
            Some(origin) if !self.takes_navigations => {
                let origins = list(&self.listed, origin);
                format!(
                    "Call from a program, or, if that page is yours, set guard.allow_origins = {origins}."
                )
            }
            _ => "Call from a program.".into(),
        }
    }
}

/// True if a list of exact origins may contain it.
fn is_listable(origin: &str) -> bool {
    let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:/[]+".contains(&byte);
    origin.len() <= 300 && origin.contains("://") && origin.bytes().all(is_fit)
}

/// The origin in a Referer: browsers send at least `origin/`.
fn origin_of(referer: &HeaderValue) -> Option<&str> {
    let referer = referer.to_str().ok()?;
    let start = referer.find("://")? + 3;
    let end = referer[start..].find('/')?;
    Some(&referer[..start + end])
}

fn is_navigation(parts: &Parts) -> bool {
    let is =
        |name: &str, expected: &str| parts.headers.get(name).is_none_or(|value| value == expected);
    is("sec-fetch-mode", "navigate")
        && is("sec-fetch-dest", "document")
        && matches!(parts.uri.path(), "/" | "/connect" | "/callback")
        && parts.method == Method::GET
        && !parts.headers.contains_key("sec-purpose")
}

pub(super) fn forbidden(detail: &str, fix: String) -> Problem {
    Problem::new(Code::ForbiddenOrigin, detail, fix)
}

/// Schemes whose pages have the origin `null`, or that no page has.
const PAGELESS: [&str; 8] = ["file", "data", "blob", "about", "javascript", "ftp", "ws", "wss"];

/// Reads an item of `guard.allow_origins`: an origin exactly as browsers send it (RFC 6454 section
/// 6.2), a web page's, or an app's or extension's with a scheme of its own.
///
/// # Errors
/// What is wrong with it, and what to write.
pub fn allowed_origin(text: &str) -> Result<String, String> {
    let refuse = |problem: &str| {
        Err(format!(
            "{problem}; write scheme, host and port if it is not the scheme's own, such as \"http://localhost:3000\" or \
             \"tauri://localhost\""
        ))
    };
    if text == "null" || text.contains('*') {
        return refuse("must be exact: `*` and `null` would let any page in");
    }
    let url = Url::parse(text).ok();
    if let Some(scheme) = url.as_ref().map(Url::scheme).filter(|scheme| PAGELESS.contains(scheme)) {
        return refuse(&format!("names no page: browsers send no such origin for {scheme}:"));
    }
    match url.and_then(|url| as_sent(&url)) {
        Some(exact) if exact == text => Ok(exact),
        Some(exact) if exact.eq_ignore_ascii_case(text.trim_end_matches('/')) => {
            Err(format!("is not what browsers send; write \"{exact}\""))
        }
        _ => refuse("must be an origin: scheme, host and port, nothing else"),
    }
}

/// Scheme, host and port as browsers write them; none if there is no host that a page could have.
fn as_sent(url: &Url) -> Option<String> {
    if matches!(url.scheme(), "http" | "https") {
        return Some(url.origin().ascii_serialization());
    }
    let host = url.host_str().filter(|host| host::is_name(host))?;
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    Some(format!("{}://{host}{port}", url.scheme()))
}

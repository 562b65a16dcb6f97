//! All items of a list, page by page. One page is in memory at a time, so a list may be of any
//! length.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use serde_json::json;
use tokio::time::sleep;

use super::answer;
use super::compact::compact;
use super::page::Page;
use super::request::Command;
use super::target::Target;
use crate::cli::data_client::{DataClient, ToolRequest};
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{self, Pipe};
use crate::oauth::token::retry_after;
use crate::proxy::guard;

/// Items of a page that names no `limit`: the most that Pleo gives.
const LIMIT: &str = "100";
/// Longest pause that a response may ask for (`Retry-After`) without ending the command.
const MAX_PAUSE: Duration = Duration::from_secs(10);
/// Most of the body of an error that is shown, in characters.
const MAX_SHOWN: usize = 2000;

/// Fails for a call that would change something: with each page it would do so again.
pub(super) fn ensure_read(request: &ToolRequest) -> Result<(), Failure> {
    if guard::is_read(&request.method, request.target.path()) {
        return Ok(());
    }
    let (method, path) = (&request.method, request.target.path());
    Err(Failure::usage(format!(
        "--all follows lists, and {method} {path} may change something; leave out --all"
    )))
}

/// A list that is printed to its end.
pub(super) struct Pages {
    client: DataClient,
    request: ToolRequest,
    /// The page to ask for.
    target: Target,
    command: Command,
    json: bool,
    printed: u64,
}

/// Why a list was not printed to its end.
struct Stop {
    exit: Exit,
    why: String,
    status: Option<u16>,
}

/// What was asked for, or why there is nothing.
enum Asked {
    Page(Bytes),
    Refused(StatusCode, HeaderMap, Bytes),
}

impl Pages {
    pub(super) fn new(
        client: DataClient,
        request: ToolRequest,
        target: Target,
        command: Command,
        json: bool,
    ) -> Self {
        let target = if target.has("limit") { target } else { target.with("limit", LIMIT) };
        Self { client, request, target, command, json, printed: 0 }
    }

    /// Prints each item as a line of JSON, and how many there were.
    pub(super) async fn print(mut self) -> Result<Exit, Failure> {
        loop {
            let body = match self.page().await {
                Ok(body) => body,
                Err(stop) => return self.stopped(stop),
            };
            let Some(page) = Page::read(&body) else { return self.stopped(self.no_list()) };
            if self.print_items(&page)? == Pipe::Closed {
                return Ok(Exit::Fine);
            }
            match page.next(&self.target) {
                Ok(Some(next)) => self.target = next,
                Ok(None) => return self.ended(),
                Err(why) => {
                    let why = format!("the response is no page as Pleo's are: {why}");
                    return self.stopped(Stop { exit: Exit::Failed, why, status: None });
                }
            }
        }
    }

    /// The body of the page. A refusal that asks for a short pause gets it, once.
    async fn page(&mut self) -> Result<Bytes, Stop> {
        let mut has_paused = false;
        loop {
            let (status, headers, body) = match self.ask().await? {
                Asked::Page(body) => return Ok(body),
                Asked::Refused(status, headers, body) => (status, headers, body),
            };
            let asks_to_wait =
                [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE].contains(&status);
            let pause = retry_after(&headers).filter(|pause| asks_to_wait && *pause <= MAX_PAUSE);
            match pause {
                Some(pause) if !has_paused => {
                    status!("HTTP {status}: asked to wait for {pause:?}; waiting.");
                    sleep(pause).await;
                    has_paused = true;
                }
                _ => return Err(self.refused(status, &headers, &body)),
            }
        }
    }

    async fn ask(&mut self) -> Result<Asked, Stop> {
        let broken = |error| Stop { exit: Exit::Failed, why: format!("{error:#}"), status: None };
        self.request.target = self.target.uri();
        let response = self.client.send(&self.request).await.map_err(broken)?;
        let (head, body) = response.into_parts();
        let body = answer::read(body).await.map_err(|failure| broken(failure.error))?;
        Ok(if head.status.is_success() {
            Asked::Page(body)
        } else {
            Asked::Refused(head.status, head.headers, body)
        })
    }

    fn refused(&self, status: StatusCode, headers: &HeaderMap, body: &Bytes) -> Stop {
        answer::say(status, headers);
        let text: String = String::from_utf8_lossy(body).chars().take(MAX_SHOWN).collect();
        if !text.trim().is_empty() {
            status!("{}", text.trim_end());
        }
        let wait = retry_after(headers).map(|wait| format!(", which asks to wait for {wait:?}"));
        let why = format!("the response was {status}{}", wait.unwrap_or_default());
        // A redirect is no page either.
        let exit = match answer::exit(status, headers) {
            Exit::Fine => Exit::Failed,
            exit => exit,
        };
        Stop { exit, why, status: Some(status.as_u16()) }
    }

    fn no_list(&self) -> Stop {
        let path = self.target.path();
        let why = format!(
            "{path} is no list: its response has no array \"data\", so there are no pages to follow; leave out --all"
        );
        Stop { exit: Exit::Usage, why, status: None }
    }

    fn print_items(&mut self, page: &Page<'_>) -> Result<Pipe, Failure> {
        let mut lines = String::new();
        for item in &page.data {
            let item = compact(item.get());
            if self.json {
                lines += &format!("{{\"version\":1,\"item\":{item}}}\n");
            } else {
                lines += &item;
                lines.push('\n');
            }
        }
        self.printed += page.data.len() as u64;
        output::bytes(lines.as_bytes())
    }

    fn ended(&self) -> Result<Exit, Failure> {
        status!("{}.", counted(self.printed));
        if self.json {
            let items = self.printed;
            output::json(&json!({"version": 1, "outcome": "complete", "items": items}))?;
        }
        Ok(Exit::Fine)
    }

    /// Says how far the list was printed, and the command that goes on from there.
    fn stopped(&self, stop: Stop) -> Result<Exit, Failure> {
        let Stop { exit, why, status } = stop;
        if exit == Exit::Usage {
            return Err(Failure::usage(why));
        }
        let items = self.printed;
        // Before the first item it would be the command that has just failed.
        let command = (items > 0).then(|| self.command.line(&self.target));
        match &command {
            Some(command) => {
                let items = counted(items);
                status!("pleo-proxy: stopped after {items}: {why}. Go on with:");
                status!("{command}");
            }
            None => status!("pleo-proxy: nothing was printed: {why}"),
        }
        if self.json {
            output::json(&json!({
                "version": 1, "outcome": "stopped", "items": items, "why": why, "status": status,
                "go_on": command,
            }))?;
        }
        Ok(exit)
    }
}

/// `1 item`, `2 items`.
fn counted(items: u64) -> String {
    let plural = if items == 1 { "" } else { "s" };
    format!("{items} item{plural}")
}

//! `logs`: the latest exchanges of the running proxy, and those to come.

use std::time::Duration;

use clap::Args;
use tokio::time::sleep;

use crate::admin::protocol::{By, Entry, Requests, RequestsQuery};
use crate::cli::admin_client::AdminClient;
use crate::cli::context::Context;
use crate::cli::exit::{Exit, Failure};
use crate::cli::state::State;
use crate::cli::{locate, output};
use crate::clock;

/// Pause between two questions of `--follow`.
const POLL_INTERVAL: Duration = Duration::from_millis(300);
/// Exchanges of one answer to `--follow`.
const FOLLOWED: usize = 1000;

#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// Go on with the exchanges to come, until Ctrl-C
    #[arg(short, long)]
    follow: bool,
    /// How many of the latest
    #[arg(short = 'n', long, default_value_t = 20, value_name = "COUNT")]
    lines: usize,
    /// Only those that arrived within this time, such as 10m
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only those of this account
    #[arg(long, value_name = "NAME")]
    account: Option<String>,
    /// Only those with this status, such as 403, 4xx or '>=400'
    #[arg(long, value_name = "STATUS")]
    status: Option<String>,
    /// Only those that a filter chooses, such as 'is:error -path:/v1/companies program:python'
    #[arg(value_name = "FILTER")]
    filter: Vec<String>,
}

impl Logs {
    pub(super) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let state = State::locate(&context.config()?)?;
        let proxy = locate::required(&state, locate::NO_LOG).await?;
        let latest = RequestsQuery {
            filter: self.filter(),
            limit: Some(self.lines),
            ..RequestsQuery::default()
        };
        let latest = ask(&proxy, &latest).await?;
        for entry in latest.entries.iter().rev() {
            print(entry, context.json)?;
        }
        if !self.follow {
            if latest.entries.is_empty() {
                let tools = &proxy.instance.api;
                status!("no such request is in the log of the proxy for tools at {tools}");
            }
            return Ok(Exit::Fine);
        }
        self.follow(&proxy, latest.last_seq, context.json).await
    }

    /// The flags and the filter as one filter.
    fn filter(&self) -> String {
        let flags = [("since", &self.since), ("account", &self.account), ("status", &self.status)];
        let flags =
            flags.into_iter().filter_map(|(key, value)| Some(format!("{key}:{}", value.as_ref()?)));
        flags.chain(self.filter.iter().cloned()).collect::<Vec<_>>().join(" ")
    }

    async fn follow(&self, proxy: &AdminClient, mut seq: u64, json: bool) -> Result<Exit, Failure> {
        loop {
            sleep(POLL_INTERVAL).await;
            let query = RequestsQuery {
                filter: self.filter(),
                limit: Some(FOLLOWED),
                after: Some(seq),
                ..RequestsQuery::default()
            };
            let news = ask(proxy, &query).await?;
            let first = news.entries.first().and_then(|entry| entry.seq);
            if first.is_some_and(|first| self.filter().is_empty() && first > seq + 1) {
                status!(
                    "pleo-proxy: more exchanges came than inspect.requests keeps; some are missing here"
                );
            }
            for entry in &news.entries {
                print(entry, json)?;
            }
            seq = news.seq.max(seq);
        }
    }
}

async fn ask(proxy: &AdminClient, query: &RequestsQuery) -> Result<Requests, Failure> {
    Ok(proxy.get(&query.target("/api/requests")).await?)
}

fn print(entry: &Entry, json: bool) -> Result<(), Failure> {
    if json { output::json(entry) } else { out!("{}", line(entry)) }
}

/// One exchange in one line, for people.
fn line(entry: &Entry) -> String {
    let time = clock::rfc3339(entry.at);
    let time = time.get(11..20).unwrap_or(&time);
    let status = entry.status.map_or("---".to_owned(), |status| status.to_string());
    let method = entry.method.as_deref().unwrap_or("?");
    let query = if entry.query.is_empty() {
        String::new()
    } else {
        format!(
            "?{}",
            entry.query.iter().map(|name| format!("{name}=*")).collect::<Vec<_>>().join("&")
        )
    };
    let account = entry.account.as_deref().unwrap_or("-");
    let program = entry.program.as_deref().unwrap_or("?");
    let total = entry.total_ms.unwrap_or_default();
    let notes = notes(entry);
    let line = format!(
        "{time} {status} {method:<6} {}{query}  {account}  {program}  {total:.0} ms  {}{notes}",
        entry.path, entry.id
    );
    line.chars().map(|character| if character.is_control() { '?' } else { character }).collect()
}

fn notes(entry: &Entry) -> String {
    let mut notes = String::new();
    let mut add = |note: &str| {
        notes.push_str("  ");
        notes.push_str(note);
    };
    if let Some(code) = &entry.code {
        add(code);
    }
    if entry.held {
        add("waited for a token");
    }
    if entry.sent_again {
        add("sent again");
    }
    if !entry.complete && entry.by != Some(By::Proxy) {
        add("broke off");
    }
    if let Some(hint) = &entry.hint {
        add(hint);
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_what_was_asked_by_whom_and_how_it_went() {
        let entry = Entry {
            id: "3fa9c1-17".into(),
            at: 1_790_000_000_123,
            account: Some("acme".into()),
            program: Some("curl".into()),
            method: Some("GET".into()),
            path: "/v1/\u{1b}[31mvendors".into(),
            query: vec!["a".into(), "b".into()],
            status: Some(403),
            by: Some(By::Pleo),
            complete: true,
            total_ms: Some(31.4),
            sent_again: true,
            hint: Some("needs vendors:read".into()),
            ..Entry::default()
        };
        let expected = "14:13:20Z 403 GET    /v1/?[31mvendors?a=*&b=*  acme  curl  31 ms  3fa9c1-17  sent again  needs vendors:read";
        assert_eq!(line(&entry), expected);
    }

    #[test]
    fn flags_and_filter_are_one_filter() {
        let logs = Logs {
            follow: false,
            lines: 1,
            since: Some("10m".into()),
            account: None,
            status: Some(">=400".into()),
            filter: vec!["-by:proxy".into(), "vendors".into()],
        };
        assert_eq!(logs.filter(), "since:10m status:>=400 -by:proxy vendors");
    }
}

//! `logs`: the latest requests of the running proxy, and those to come.

use std::ffi::OsString;
use std::time::Duration;

use clap::Args;
use tokio::time::sleep;

use crate::admin::protocol::{By, Entry, Requests, RequestsQuery};
use crate::cli::account_argument::say_if_unknown;
use crate::cli::admin_client::AdminClient;
use crate::cli::context::Context;
use crate::cli::exit::{Exit, Failure};
use crate::cli::state::State;
use crate::cli::{locate, output};
use crate::clock::{self, Clock};

/// Pause between two questions of `--follow`.
const POLL_INTERVAL: Duration = Duration::from_millis(300);
/// Requests of one answer to `--follow`.
const FOLLOWED: usize = 1000;

const EXAMPLES: &str = "\
Examples:
  pleo-proxy logs -f                              # follow what happens
  pleo-proxy logs --status 4xx --since 10m        # what was refused lately
  pleo-proxy logs 'is:error -path:/v1/companies'  # a filter";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Logs {
    /// Go on with the requests to come, until Ctrl-C
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
    /// The program's arguments, with the terms of `logs` that begin with `-` behind all flags and a
    /// `--`: for clap such an argument is a flag, or else every flag after it is a term.
    pub(in crate::cli) fn terms_last(arguments: Vec<OsString>) -> Vec<OsString> {
        // What is behind `--` is no command, such as the arguments of the program of `exec`.
        let mut ours = arguments.iter().take_while(|argument| *argument != "--");
        let Some(command) = ours.position(|argument| argument == "logs") else {
            return arguments;
        };
        let (mut ahead, mut terms) = (Vec::new(), Vec::new());
        let mut rest = arguments.into_iter();
        ahead.extend(rest.by_ref().take(command + 1));
        while let Some(argument) = rest.next() {
            if argument == "--" {
                terms.extend(rest);
                break;
            }
            let place = if is_negated_term(&argument) { &mut terms } else { &mut ahead };
            place.push(argument);
        }
        if !terms.is_empty() {
            ahead.push("--".into());
        }
        ahead.extend(terms);
        ahead
    }

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
        if self.follow {
            return self.follow(&proxy, latest.last_seq, context.json).await;
        }
        for entry in &latest.running {
            print(entry, context.json)?;
        }
        if latest.entries.is_empty() && latest.running.is_empty() {
            let tools = &proxy.instance.api;
            status!("No request matches. This is the log of the proxy for tools at {tools}.");
            if let Some(name) = &self.account {
                say_if_unknown(&proxy, name).await?;
            }
        }
        Ok(Exit::Fine)
    }

    /// The flags and the filter as one filter.
    fn filter(&self) -> String {
        let flags = [("since", &self.since), ("account", &self.account), ("status", &self.status)];
        let flags =
            flags.into_iter().filter_map(|(key, value)| Some(format!("{key}:{}", value.as_ref()?)));
        flags.chain(self.filter.iter().cloned()).collect::<Vec<_>>().join(" ")
    }

    async fn follow(&self, proxy: &AdminClient, mut seq: u64, json: bool) -> Result<Exit, Failure> {
        while !output::is_closed() {
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
                    "pleo-proxy: more requests came than inspect.requests keeps; some are missing here"
                );
            }
            for entry in &news.entries {
                print(entry, json)?;
            }
            seq = news.seq.max(seq);
        }
        // As with `| head`.
        Ok(Exit::Fine)
    }
}

/// True for `-is:error`, and false for flags such as `-f`, `-fn5` and `--json`.
fn is_negated_term(argument: &OsString) -> bool {
    let Some(term) = argument.to_str().and_then(|argument| argument.strip_prefix('-')) else {
        return false;
    };
    let after_flags = term.trim_start_matches('f');
    let count = after_flags.strip_prefix('n').map(|count| count.trim_start_matches('='));
    let is_flag = match count {
        Some(count) => count.bytes().all(|digit| digit.is_ascii_digit()),
        None => after_flags.is_empty() || matches!(term, "h" | "V"),
    };
    !is_flag && !term.starts_with('-')
}

async fn ask(proxy: &AdminClient, query: &RequestsQuery) -> Result<Requests, Failure> {
    Ok(proxy.get(&query.target("/api/requests")).await?)
}

fn print(entry: &Entry, json: bool) -> Result<(), Failure> {
    if json { output::json(entry) } else { out!("{}", line(entry, Clock::system().now().wall)) }
}

/// One request in one line, for people: what has one width first, what varies last.
fn line(entry: &Entry, now: i64) -> String {
    let time = clock::rfc3339(entry.at);
    let time = time.get(11..20).unwrap_or(&time);
    let status = match entry.status {
        _ if entry.running => "...".to_owned(),
        Some(status) => status.to_string(),
        None => "---".to_owned(),
    };
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
    let took = took(entry, now);
    let notes = notes(entry);
    let line = format!(
        "{time} {status} {method:<6} {took:>8} {account:<12} {program:<12} {:<12} {}{query}{notes}",
        entry.id, entry.path
    );
    line.chars().map(|character| if character.is_control() { '?' } else { character }).collect()
}

/// How long it took, or has taken until now.
fn took(entry: &Entry, now: i64) -> String {
    match entry.total_ms {
        Some(total) if total < 9.95 => format!("{total:.1} ms"),
        Some(total) => format!("{total:.0} ms"),
        None if entry.running => format!("{} ms", clock::since(now, entry.at)),
        None => "-".to_owned(),
    }
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
    if !entry.running && !entry.complete && entry.by != Some(By::Proxy) {
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
        let expected = "14:13:20Z 403 GET       31 ms acme         curl         3fa9c1-17    /v1/?[31mvendors?a=*&b=*  sent again  needs vendors:read";
        assert_eq!(line(&entry, 0), expected);
        let quick = Entry { total_ms: Some(0.42), ..entry.clone() };
        assert!(line(&quick, 0).starts_with("14:13:20Z 403 GET      0.4 ms acme  "));
        let running = Entry { running: true, status: None, total_ms: None, ..entry };
        let started = line(&running, running.at + 1234);
        assert!(started.starts_with("14:13:20Z ... GET     1234 ms acme  "), "{started}");
    }

    #[test]
    fn terms_with_a_minus_come_behind_the_flags() {
        let moved = |arguments: &str| {
            let arguments = arguments.split(' ').map(OsString::from).collect();
            let moved = Logs::terms_last(arguments).into_iter();
            moved.map(|argument| argument.into_string().unwrap()).collect::<Vec<_>>().join(" ")
        };
        for (typed, expected) in [
            ("p logs -is:error", "p logs -- -is:error"),
            ("p logs -n 5 -by:proxy vendors", "p logs -n 5 vendors -- -by:proxy"),
            ("p logs -is:error -fn5 --json x", "p logs -fn5 --json x -- -is:error"),
            ("p --json logs -vendors -f", "p --json logs -f -- -vendors"),
            ("p logs -a -- -b:c -n", "p logs -- -a -b:c -n"),
            ("p logs -h -V -n=5 -ffn 5", "p logs -h -V -n=5 -ffn 5"),
            ("p why -is:error", "p why -is:error"),
            ("p exec -- kubectl logs -a x -- y", "p exec -- kubectl logs -a x -- y"),
        ] {
            assert_eq!(moved(typed), expected);
        }
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

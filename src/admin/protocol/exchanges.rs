//! Bodies of the request log's routes.

use serde::{Deserialize, Serialize};

use super::why::Why;
use crate::log::entry::{Capture, Entry};
use crate::log::stats::Slice;

/// Entries that are returned at a time: by default, and at most.
const LIMIT: (usize, usize) = (200, 1000);

/// The query of `GET /api/requests`.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct RequestsQuery {
    /// Chooses exchanges, in the language of [`crate::log::filter`].
    #[serde(skip_serializing_if = "String::is_empty")]
    pub filter: String,
    /// How many at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// Only those that ended after this one, and the oldest of them first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
    /// Only those that ended before this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<u64>,
}

impl RequestsQuery {
    /// How many are returned.
    pub fn limit(&self) -> usize {
        self.limit.unwrap_or(LIMIT.0).min(LIMIT.1)
    }

    /// The target of the request.
    pub fn target(&self, path: &str) -> String {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.append_pair("filter", &self.filter);
        if let Some(limit) = self.limit {
            query.append_pair("limit", &limit.to_string());
        }
        for (name, seq) in [("before", self.before), ("after", self.after)] {
            if let Some(seq) = seq {
                query.append_pair(name, &seq.to_string());
            }
        }
        format!("{path}?{}", query.finish())
    }
}

/// The query of `GET /api/har`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct HarQuery {
    /// Chooses exchanges.
    pub filter: String,
    /// Replaces personal data by placeholders.
    pub pseudonyms: bool,
}

impl HarQuery {
    /// The target of the request.
    pub fn target(&self) -> String {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.append_pair("filter", &self.filter);
        query.append_pair("pseudonyms", if self.pseudonyms { "true" } else { "false" });
        format!("/api/har?{}", query.finish())
    }
}

/// `GET /api/requests`.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Requests {
    /// The run of the process, as it stands in ids.
    pub run: String,
    /// The number of the newest exchange.
    pub last_seq: u64,
    /// The number of the last exchange that was looked at.
    pub seq: u64,
    /// Exchanges that the log could not take in time.
    pub dropped: u64,
    /// Chosen requests that are being answered, oldest first.
    pub running: Vec<Entry>,
    /// Chosen exchanges that have ended, newest first unless `after` was given.
    pub entries: Vec<Entry>,
}

/// `GET /api/requests/ID`.
#[derive(Debug, Deserialize, Serialize)]
pub struct RequestDetail {
    /// The exchange.
    pub entry: Entry,
    /// Why Pleo answered as it did, if anything is known about it.
    #[serde(default)]
    pub why: Option<Why>,
    /// Headers and bodies, if they were captured.
    #[serde(default)]
    pub capture: Option<Capture>,
}

/// The query of `GET /api/events`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct EventsQuery {
    /// Chooses exchanges.
    pub filter: String,
    /// The last event that was received, as `RUN.SEQ`.
    pub last: Option<String>,
}

/// The first event of `GET /api/events`.
#[derive(Debug, Deserialize, Serialize)]
pub struct Hello {
    /// The run of the process.
    pub run: String,
    /// The number of the newest exchange.
    pub last_seq: u64,
}

/// Exchanges that were overwritten before they could be sent.
#[derive(Debug, Deserialize, Serialize)]
pub struct Lost {
    /// The first one's number.
    pub from: u64,
    /// The last one's.
    pub to: u64,
}

/// `GET /api/stats`.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Stats {
    /// Length of a slice, in milliseconds.
    pub slice_ms: i64,
    /// Requests over time; slices without any are left out.
    pub slices: Vec<Slice>,
    /// Attempts to refresh, oldest first.
    pub refreshes: Vec<Refresh>,
}

/// An attempt to refresh.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Refresh {
    /// When it began, in UNIX milliseconds.
    pub at: i64,
    /// The account.
    pub account: String,
    /// Why.
    pub reason: String,
    /// How it ended.
    pub outcome: String,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// Requests that were waiting for it at its end.
    pub held: usize,
}

/// `GET /api/rate`.
#[derive(Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct Rate {
    /// Requests a minute that Pleo allows.
    pub limit: u32,
    /// Requests a minute that Pleo recommends to stay below.
    pub recommended: u32,
    /// The setting `upstream.pace`.
    pub pace: Option<u32>,
    /// Accounts with requests within the last minute, busiest first.
    pub accounts: Vec<AccountRate>,
}

/// The requests of an account within the last minute.
#[derive(Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct AccountRate {
    /// Its name.
    pub account: String,
    /// How many went to Pleo.
    pub last_minute: u32,
    /// Who sent them, busiest first.
    pub programs: Vec<ProgramRate>,
    /// Seconds that Pleo still asks to wait after a 429.
    pub retry_after_s: Option<u64>,
    /// Who sent requests in spite of that.
    pub retried_inside: Vec<Impatient>,
}

/// The requests of a program.
#[derive(Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct ProgramRate {
    /// Its name; empty = unknown.
    pub program: String,
    /// How many went to Pleo within the last minute.
    pub last_minute: u32,
}

/// A program that did not wait.
#[derive(Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct Impatient {
    /// Its name; empty = unknown.
    pub program: String,
    /// How many requests it sent within the last minute while Pleo asked to wait.
    pub requests: u32,
}

/// The body of `POST /api/requests/ID/replay`.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Replay {
    /// True to send a request again that may change something.
    #[serde(default)]
    pub confirm: bool,
}

/// The response to it.
#[derive(Debug, Deserialize, Serialize)]
pub struct Replayed {
    /// The exchange of the second sending.
    #[serde(default)]
    pub id: Option<String>,
    /// The status of its response.
    pub status: u16,
}

/// The body of `POST /api/capture`.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CaptureBody {
    /// How long, in seconds.
    pub for_s: u64,
    /// Only exchanges of this account.
    #[serde(default)]
    pub account: Option<String>,
}

/// `GET /api/capture`.
#[derive(Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct CaptureState {
    /// True while headers and bodies are kept.
    pub active: bool,
    /// Until when, in UNIX milliseconds.
    pub until: Option<i64>,
    /// Only exchanges of this account.
    pub account: Option<String>,
    /// Bodies that were captured since the start.
    pub bodies: usize,
    /// Their bytes.
    pub bytes: usize,
}

//! What is found in the log: many exchanges in short, or all that is known of one.

use super::entry::{Capture, Entry};

/// A part of the log, in the order that was asked for.
#[derive(Debug, Default, PartialEq)]
pub struct Batch {
    /// The exchanges that were chosen.
    pub entries: Vec<Entry>,
    /// The number of the last exchange that was looked at.
    pub seq: u64,
    /// Exchanges that were overwritten before they could be read: the first and the last.
    pub lost: Option<(u64, u64)>,
}

/// All that is known of one exchange.
#[derive(Debug)]
pub struct Detail {
    /// The exchange.
    pub entry: Entry,
    /// The query, without secrets.
    pub query: Option<String>,
    /// Headers and bodies, if they were captured.
    pub capture: Option<Capture>,
}

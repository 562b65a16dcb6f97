//! How often each account used each of Pleo's operations, and what follows for its scopes.
//!
//! The counters outlive the process in [`FILE_NAME`], beside the records: names of
//! accounts and operations, numbers, times; no paths and no values. Proxies of one store add to the
//! same file, one after the other: a lock beside it is held from reading to replacing it.

mod counters;
mod file;
mod keeper;
mod report;
mod total;

pub use counters::{Counter, Use};
pub use file::UsageError;
pub use keeper::Keeper;
pub use report::{AccountReport, DeprecatedUse, Grant, OperationUse};
pub use total::Usage;

/// The file of the counters. No account has such a name, so it is no record.
pub const FILE_NAME: &str = "operation_usage.json";

#[cfg(test)]
mod tests;

//! Exports: jobs of accounting entries that an integration takes, works off and ends.
//!
//! A company has one unfinished job at a time. A job that nobody updates for an hour expires. The
//! versions of the API differ in what they show (`export_items`) and in a few errors.

use std::time::Duration;

use axum::http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use parking_lot::MutexGuard;
use serde_json::json;

use super::call::Call;
use super::dataset::{Dataset, Row, now};
use super::response::Problem;

pub(crate) mod events;
pub(crate) mod export_items;
pub(crate) mod items;
pub(crate) mod jobs;

const JOB_STATUSES: &[&str] =
    &["pending", "in_progress", "failed", "completed", "completed_with_errors"];
const ITEM_STATUSES: &[&str] = &["pending", "in_progress", "failed", "successful", "abandoned"];

/// The data, with every job ended that has expired by now.
fn current<'a>(call: &'a Call<'_>) -> MutexGuard<'a, Dataset> {
    let lifetime = call.sandbox.live().faults.export_job_life();
    let mut dataset = call.dataset();
    expire(&mut dataset, lifetime, Timestamp::now());
    dataset
}

fn expire(dataset: &mut Dataset, lifetime: Duration, at: Timestamp) {
    let lifetime = SignedDuration::try_from(lifetime).unwrap_or(SignedDuration::MAX);
    let is_due = |row: &&Row| {
        let updated = row.text("lastUpdatedAt").parse::<Timestamp>();
        is_running(row) && updated.is_ok_and(|updated| at.duration_since(updated) >= lifetime)
    };
    let due: Vec<String> = dataset.jobs.0.iter().filter(is_due).map(|row| row.id.clone()).collect();
    for id in due {
        end(dataset, &id, "failed");
        let Some(job) = dataset.jobs.0.iter_mut().find(|row| row.id == id) else { continue };
        job.body["expiredAt"] = json!(now());
        job.body["failureReason"] = json!("the job was not updated in time");
        job.body["failureReasonType"] = json!("job_expired");
    }
}

/// Whether a job is still to be worked off.
fn is_running(job: &Row) -> bool {
    job.has("status", "pending") || job.has("status", "in_progress")
}

/// Ends a job; what is left of it is abandoned.
fn end(dataset: &mut Dataset, job: &str, status: &str) {
    let Dataset { jobs, items, entries, .. } = dataset;
    if let Some(row) = jobs.0.iter_mut().find(|row| row.id == job) {
        row.body["status"] = json!(status);
        row.body["lastUpdatedAt"] = json!(now());
    }
    for item in items.0.iter_mut().filter(|item| item.has("exportJobId", job) && is_running(item)) {
        item.body["status"] = json!("abandoned");
        let entry = entries.0.iter_mut().find(|entry| item.has("accountingEntryId", &entry.id));
        if let Some(entry) = entry {
            entry.body["exportStatus"] = json!("NOT_EXPORTED");
        }
    }
}

/// Sets the export status of the entry of an item.
fn mark(dataset: &mut Dataset, entry: &str, status: &str) {
    if let Some(entry) = dataset.entries.0.iter_mut().find(|row| row.id == entry) {
        entry.body["exportStatus"] = json!(status);
    }
}

fn find_job<'a>(call: &Call<'_>, dataset: &'a Dataset, id: &str) -> Result<&'a Row, Problem> {
    let mut visible = dataset.jobs.visible(call.subject());
    visible.find(|row| row.id == id).ok_or_else(|| {
        Problem::new(StatusCode::NOT_FOUND, "EXPORT_NOT_FOUND", "export job not found")
    })
}

fn finished() -> Problem {
    let message = "the export job is finished";
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "EXPORT_JOB_STATUS_UNPROCESSABLE", message)
}

/// From version 3 on, nothing is exported while contra accounts are not mapped.
fn ensure_contra_accounts(call: &Call<'_>) -> Result<(), Problem> {
    if call.version() >= 3 && call.sandbox.live().faults.missing_contra_accounts {
        let message = "the company's contra accounts are not mapped";
        return Err(Problem::new(StatusCode::BAD_REQUEST, "MISSING_CONTRA_ACCOUNTS", message));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::fixtures;

    fn after(minutes: i64) -> (Value, Value) {
        let mut dataset = fixtures::dataset(0);
        let at = Timestamp::now() + SignedDuration::from_mins(minutes);
        expire(&mut dataset, Duration::from_secs(3600), at);
        (dataset.jobs.0[0].body.clone(), dataset.items.0[0].body.clone())
    }

    #[test]
    fn a_job_expires_an_hour_after_its_last_update() {
        let (job, item) = after(59);
        assert_eq!((&job["status"], &item["status"]), (&json!("pending"), &json!("pending")));
        let (job, item) = after(61);
        assert_eq!((&job["status"], &item["status"]), (&json!("failed"), &json!("abandoned")));
        assert_eq!(job["failureReasonType"], "job_expired");
        assert!(job["expiredAt"].is_string());
    }
}

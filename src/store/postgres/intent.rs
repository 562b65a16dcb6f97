//! The intent of a row: which it is, and how old.

use std::time::Duration;

use super::trouble::Trouble;
use crate::store::record::Record;

/// Names an open intent, through all times it is sent again.
pub(super) fn intent_id(record: &Record) -> Option<String> {
    let intent = record.open_intent()?;
    Some(format!("{}-{}-{}", intent.generation, intent.token, intent.first_sent_at))
}

/// An intent of a row, whoever wrote it.
#[derive(Debug)]
pub(super) struct OpenIntent {
    id: String,
    /// How old it was by the clock of the database, in milliseconds, when its row was read: at this
    /// reading of this machine's boot clock.
    age: u64,
    read: u64,
}

impl OpenIntent {
    /// From the second and third column of a claim's row; `read` is now.
    pub(super) fn of(row: &tokio_postgres::Row, read: u64) -> Result<Option<Self>, Trouble> {
        let (id, age): (Option<String>, Option<i64>) = (row.try_get(1)?, row.try_get(2)?);
        let open = id.zip(age);
        Ok(open.map(|(id, age)| Self { id, age: u64::try_from(age).unwrap_or(0), read }))
    }

    /// How old it is at this reading of the boot clock; none if the record has another one.
    pub(super) fn age(&self, record: &Record, now: u64) -> Option<Duration> {
        let since = now.saturating_sub(self.read);
        let age = Duration::from_millis(self.age.saturating_add(since));
        intent_id(record).is_some_and(|id| id == self.id).then_some(age)
    }
}

//! A reader of a store's changes, whatever its kind.

use super::change::{Change, Watched};
use super::file::Changes as FileChanges;
#[cfg(test)]
use super::memory::Changes as MemoryChanges;
#[cfg(feature = "postgres")]
use super::postgres::Changes as RowChanges;

/// A reader of a store's changes: see [`Store::changes`](super::Store::changes).
#[derive(Debug)]
pub struct Changes(pub(super) ChangesOf);

#[derive(Debug)]
pub(super) enum ChangesOf {
    File(FileChanges),
    #[cfg(feature = "postgres")]
    Postgres(RowChanges),
    #[cfg(test)]
    Memory(MemoryChanges),
}

impl Changes {
    /// Changes since the last call, made by any process. The first call reports every record, later
    /// ones the records that came since. What happens to an existing record is reported for watched
    /// accounts only, and again at each call until the reader has its version. How soon a change is
    /// noticed is up to the reader: it is there at the next call.
    pub async fn poll(&mut self, watched: Vec<Watched>) -> Vec<Change> {
        match &mut self.0 {
            ChangesOf::File(changes) => changes.poll(watched).await,
            #[cfg(feature = "postgres")]
            ChangesOf::Postgres(changes) => changes.poll(&watched).await,
            #[cfg(test)]
            ChangesOf::Memory(changes) => changes.poll(&watched),
        }
    }

    /// Ends when another process has told of a change since the last call. Only those that share a
    /// database tell; changes on this machine are cheap to ask for.
    pub async fn news(&self) {
        #[cfg(feature = "postgres")]
        if let ChangesOf::Postgres(changes) = &self.0 {
            return changes.news().await;
        }
        std::future::pending().await
    }
}

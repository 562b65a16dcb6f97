//! Notices what other processes did to a folder of records, by polling it.

use std::collections::BTreeSet;
use std::io;
use std::mem;

use super::folder::Folder;
use crate::store::change::{Change, Version, Watched};
use crate::store::name::AccountName;

/// What earlier polls found in the folder.
#[derive(Debug, Default)]
pub(super) struct Poller {
    /// All accounts that have had a record.
    names: BTreeSet<AccountName>,
    /// Version of the folder at the last poll.
    seen: Version,
    /// Version of the folder at which `names` is known to be complete.
    listed: Version,
    was_missing: bool,
}

impl Poller {
    /// Changes since the last poll, and every watched record that has another version than its
    /// reader knows.
    pub(super) fn poll(&mut self, folder: &Folder, watched: &[Watched]) -> Vec<Change> {
        let version = folder.version();
        if version.is_absent() {
            // Whether a record exists is not known until the folder is back.
            self.was_missing = true;
            return Vec::new();
        }
        let mut changes = Vec::new();
        if mem::take(&mut self.was_missing) {
            self.listed = Version::default();
            changes.push(Change::Resync);
        }
        changes.extend(
            watched
                .iter()
                .filter(|it| it.version != Some(folder.record_version(&it.account)))
                .map(|it| Change::Changed(it.account.clone())),
        );
        if self.listed != version {
            let new = self.compare(folder.list(), version);
            changes.extend(new.into_iter().map(Change::Changed));
        }
        self.seen = version;
        changes
    }

    /// The accounts that are new in this listing of the folder. One that failed is repeated at the
    /// next poll.
    fn compare(
        &mut self,
        listing: io::Result<Vec<AccountName>>,
        version: Version,
    ) -> Vec<AccountName> {
        let Ok(names) = listing else { return Vec::new() };
        // Time stamps are coarse: a record that came right after this listing may leave the
        // folder's version as it is. So the folder is listed once more.
        if self.seen == version {
            self.listed = version;
        }
        let names = BTreeSet::from_iter(names);
        let new = names.difference(&self.names).cloned().collect();
        self.names = names;
        new
    }
}

#[cfg(test)]
mod tests {
    use crate::store::seal::Sealing;
    use std::fs::{self, File, FileTimes};
    use std::path::Path;
    use std::time::SystemTime;

    use super::*;

    fn add(folder: &Path, account: &str) {
        fs::write(folder.join(format!("{account}.json")), "").unwrap();
    }

    fn changed(accounts: &[&str]) -> Vec<Change> {
        accounts.iter().map(|account| Change::Changed(account.parse().unwrap())).collect()
    }

    #[test]
    fn a_record_that_came_within_the_same_tick_of_the_clock_is_found_by_the_second_listing() {
        let temporary = tempfile::tempdir().unwrap();
        let (path, mut poller) = (temporary.path(), Poller::default());
        let folder = Folder::open(path, Sealing::none()).unwrap();
        let (modified, tick) = (FileTimes::new(), SystemTime::UNIX_EPOCH);
        let freeze = || {
            File::open(path).unwrap().set_times(modified.set_modified(tick)).unwrap();
        };
        add(path, "acme");
        freeze();
        assert_eq!(poller.poll(&folder, &[]), changed(&["acme"]));
        add(path, "beta");
        freeze();
        assert_eq!(poller.poll(&folder, &[]), changed(&["beta"]));
        assert_eq!(poller.poll(&folder, &[]), []);
    }

    #[test]
    fn a_listing_that_fails_is_tried_again() {
        let temporary = tempfile::tempdir().unwrap();
        let (path, mut poller) = (temporary.path(), Poller::default());
        let folder = Folder::open(path, Sealing::none()).unwrap();
        add(path, "acme");
        poller.seen = folder.version();
        let refused = Err(io::ErrorKind::PermissionDenied.into());
        assert_eq!(poller.compare(refused, folder.version()), []);
        assert_eq!(poller.poll(&folder, &[]), changed(&["acme"]));
        assert_eq!(poller.poll(&folder, &[]), []);
    }
}

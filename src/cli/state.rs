//! The state folder of an environment: located by commands, created by a process that serves.

use std::fs::{self, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::exit::Failure;
use super::run_file;
use crate::config::Config;
use crate::private_file::access::{current_user, parent_of_another_user};
use crate::private_file::folder::{self, FolderError};
use crate::store::OpenError;

/// The folders of an environment's state.
#[derive(Debug)]
pub(super) struct State {
    /// `admin.key` and `run/`.
    pub(super) folder: PathBuf,
    /// The records.
    pub(super) records: PathBuf,
    /// True if the records are deleted with the process: the embedded sandbox without `store.path`.
    pub(super) is_temporary: bool,
    /// The folders in which other proxies of this user may have their run files.
    pub(super) all_folders: Vec<PathBuf>,
    /// Removed with everything in it when dropped.
    _temporary: Option<tempfile::TempDir>,
}

impl State {
    /// Creates the folders of a process that serves. Those of the embedded sandbox are temporary.
    pub(super) fn create(config: &Config) -> Result<Self, Failure> {
        let is_temporary = config.embedded_sandbox && config.store.path.is_none();
        let temporary = is_temporary.then(private_tempdir).transpose();
        let temporary = temporary.context("no temporary folder can be created")?;
        let own = temporary.as_ref().map(|folder| folder.path().to_owned());
        let folder =
            config.state_folder().or_else(|| own.clone()).context("no state folder is known")?;
        folder::make_or_check(&folder).map_err(|error| unusable(&folder, error))?;
        // Canonical, because two paths to one folder are one store.
        let records =
            own.unwrap_or_else(|| folder.clone()).canonicalize().context("the state folder")?;
        let all_folders = run_file::folders(config);
        Ok(Self { folder, records, is_temporary, all_folders, _temporary: temporary })
    }

    /// The folders as they are; nothing is created.
    pub(super) fn locate(config: &Config) -> Result<Self, Failure> {
        let is_temporary = config.embedded_sandbox && config.store.path.is_none();
        let unknown =
            "HOME and XDG_STATE_HOME are not set, so a running proxy cannot be found; set HOME";
        let folder = config.state_folder().ok_or_else(|| Failure::usage(unknown))?;
        match folder::check(&folder) {
            Err(FolderError::Unreadable(_, error)) if error.kind() == ErrorKind::NotFound => {}
            checked => checked.map_err(|error| unusable(&folder, error))?,
        }
        let records = folder.canonicalize().unwrap_or_else(|_| folder.clone());
        let all_folders = run_file::folders(config);
        Ok(Self { folder, records, is_temporary, all_folders, _temporary: None })
    }

    /// The same folder with the records of a process that runs.
    pub(super) fn with_records(self, records: PathBuf) -> Self {
        Self { records, ..self }
    }

    /// The records that a running proxy must serve to be the right one; `None`: any proxy of the
    /// state folder is.
    pub(super) fn wanted(&self) -> Option<&Path> {
        (!self.is_temporary).then_some(self.records.as_path())
    }
}

/// Why a state folder cannot be used. If it belongs to another user, the command was probably run
/// as the wrong user, so the advice is not to change the owner.
fn unusable(folder: &Path, error: FolderError) -> Failure {
    let owner = match &error {
        FolderError::AnotherUsers(folder, owner) => Some((folder.as_path(), *owner)),
        FolderError::Uncreatable(..) | FolderError::Unreadable(..) if is_out_of_reach(folder) => {
            parent_of_another_user(folder)
        }
        _ => None,
    };
    let Some((at, owner)) = owner else { return Failure::usage(OpenError::from(error)) };
    Failure::usage(format!(
        "the state folder {}: {} belongs to user {owner}, and you are user {}; run this as user {owner}, or set \
         store.path to a folder of yours",
        folder.display(),
        at.display(),
        current_user(),
    ))
}

/// True if we have no access to a parent of the folder.
fn is_out_of_reach(folder: &Path) -> bool {
    fs::symlink_metadata(folder).is_err_and(|error| error.kind() == ErrorKind::PermissionDenied)
}

fn private_tempdir() -> std::io::Result<tempfile::TempDir> {
    tempfile::Builder::new()
        .prefix("pleo-proxy-")
        .permissions(Permissions::from_mode(0o700))
        .tempdir()
}

//! The folder of a service manager's units: what is there, what is written and what is removed.

use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::units::{Unit, is_as_written};

/// How a unit's file compares with what would be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub(super) enum State {
    /// There is none.
    Missing,
    /// It is what would be written.
    Current,
    /// It is as it was written once: by another version, or for another configuration.
    Outdated,
    /// Somebody changed it, or wrote it.
    Changed,
}

/// The folder of units.
#[derive(Debug)]
pub(super) struct Folder(PathBuf);

impl Folder {
    pub(super) fn new(path: PathBuf) -> Self {
        Self(path)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// The file of a unit.
    pub(super) fn file(&self, unit: &str) -> PathBuf {
        self.0.join(unit)
    }

    /// How a unit's file compares with the text that it should have, if that is known.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(super) fn state(&self, unit: &str, wanted: Option<&str>) -> io::Result<State> {
        match fs::read_to_string(self.file(unit)) {
            Ok(text) if wanted == Some(&text) => Ok(State::Current),
            Ok(text) if is_as_written(&text) => Ok(State::Outdated),
            Ok(_) => Ok(State::Changed),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(State::Missing),
            // Bytes that are no text were not written by us.
            Err(error) if error.kind() == ErrorKind::InvalidData => Ok(State::Changed),
            Err(error) => Err(error),
        }
    }

    /// Writes a unit as a whole, readable for everybody: it holds no secret, and systemd warns
    /// about others.
    ///
    /// # Errors
    /// The system's reason; a file that was there is as it was.
    pub(super) fn write(&self, unit: &Unit) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o755).create(&self.0)?;
        let mut file = tempfile::NamedTempFile::new_in(&self.0)?;
        file.write_all(unit.text.as_bytes())?;
        file.as_file().set_permissions(Permissions::from_mode(0o644))?;
        file.as_file().sync_all()?;
        file.persist(self.file(unit.name)).map(drop).map_err(|error| error.error)
    }

    /// # Errors
    /// The file cannot be removed.
    pub(super) fn remove(&self, unit: &str) -> io::Result<()> {
        fs::remove_file(self.file(unit))
    }
}

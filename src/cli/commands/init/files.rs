//! The files that `init` writes: both, or none.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};

use crate::cli::exit::Failure;
use crate::private_file;

/// The name of the file of the client secret.
const SECRET: &str = "client-secret";

/// The configuration file, and the file of the client secret beside it.
pub(super) struct Files {
    pub(super) folder: PathBuf,
    /// As it was named.
    pub(super) config: PathBuf,
    pub(super) secret: PathBuf,
    /// True if the program finds the configuration in this folder by itself.
    pub(super) is_default: bool,
    force: bool,
}

impl Files {
    pub(super) fn beside(config: &Path, force: bool) -> Result<Self, Failure> {
        let path = std::path::absolute(config).context("the current folder")?;
        let named = || Failure::usage(format!("{} is no file's name", config.display()));
        let folder = path.parent().ok_or_else(named)?.to_owned();
        let secret = folder.join(SECRET);
        let is_default = config == Path::new("proxy.toml");
        Ok(Self { folder, config: config.to_owned(), secret, is_default, force })
    }

    /// The file of the secret as the configuration was named: from the current folder or not.
    pub(super) fn shown_secret(&self) -> String {
        self.config.with_file_name(SECRET).display().to_string()
    }

    /// # Errors
    /// The configuration exists and is not to be replaced.
    pub(super) fn ensure_free(&self) -> Result<(), Failure> {
        self.ensure(&self.config)
    }

    /// # Errors
    /// The file of the secret exists and is not to be replaced.
    pub(super) fn ensure_secret_is_free(&self) -> Result<(), Failure> {
        self.ensure(&self.secret)
    }

    fn ensure(&self, path: &Path) -> Result<(), Failure> {
        if self.force || fs::symlink_metadata(path).is_err() {
            return Ok(());
        }
        Err(anyhow!(
            "{} exists already, and nothing was written; add --force to replace it, or name another file with --config",
            path.display()
        )
        .into())
    }

    /// Writes the secret, then the configuration. If that fails, the secret's file is as it was.
    pub(super) fn write(&self, config: &str, secret: Option<&str>) -> Result<(), Failure> {
        fs::create_dir_all(&self.folder)
            .with_context(|| format!("{} cannot be created", self.folder.display()))?;
        let before = secret.and_then(|_| fs::read(&self.secret).ok());
        if let Some(secret) = secret {
            self.put(&self.secret, &format!("{secret}\n"))?;
        }
        let written = self.put(&self.config, config);
        if written.is_err() && secret.is_some() {
            // The first failure is the one to report.
            let _ = match before {
                Some(before) => private_file::replace(&self.secret, &before),
                None => fs::remove_file(&self.secret),
            };
        }
        written
    }

    fn put(&self, path: &Path, text: &str) -> Result<(), Failure> {
        let written = if self.force {
            private_file::replace(path, text.as_bytes())
        } else {
            private_file::create(path, text.as_bytes())
        };
        written.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => anyhow!(
                "{} has just been made by another program; nothing was written",
                path.display()
            )
            .into(),
            _ => anyhow!("{} cannot be written: {error}", path.display()).into(),
        })
    }
}

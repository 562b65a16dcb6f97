//! Whether a running proxy has the settings that its file has now.

use crate::admin::protocol::About;
use crate::config::{self, Config};

/// The names of the settings that have changed in the file since the proxy was started; none of a
/// release that does not tell its settings.
pub(super) fn changed_since_start(config: &Config, about: &About) -> Vec<String> {
    let has_changed = |(name, now): &(String, String)| match about.settings.get(name) {
        Some(then) => then != now,
        // A table that is new in the file.
        None => !about.settings.is_empty() && name.starts_with("accounts."),
    };
    config::of_file(config).into_iter().filter(has_changed).map(|(name, _)| name).collect()
}

/// How the proxy gets them.
pub(super) fn restart(program: &str) -> String {
    format!("start it again, so that it reads them: {program} stop, then: {program} serve")
}

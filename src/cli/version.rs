//! What `--version` says: the version, and how this binary was built.

use serde::Serialize;

use super::exit::{Exit, Failure};
use super::output;

/// Version and build, as `--version --json` prints them.
#[derive(Debug, Serialize)]
struct Build {
    version: u32,
    name: &'static str,
    release: &'static str,
    /// None if the sources were no repository, and in builds for tests.
    commit: Option<&'static str>,
    target: &'static str,
    rustc: &'static str,
    /// `debug` for one with all checks and no optimisation.
    profile: &'static str,
    profile_guided: bool,
}

/// Of this binary. `build.rs` sets the variables.
const BUILD: Build = Build {
    version: 1,
    name: "pleo-proxy",
    release: env!("CARGO_PKG_VERSION"),
    commit: known(env!("PLEO_BUILD_COMMIT")),
    target: env!("PLEO_BUILD_TARGET"),
    rustc: env!("PLEO_BUILD_RUSTC"),
    profile: if cfg!(debug_assertions) { "debug" } else { "release" },
    profile_guided: matches!(env!("PLEO_BUILD_PROFILE_GUIDED").as_bytes(), b"true"),
};

const fn known(text: &'static str) -> Option<&'static str> {
    if text.is_empty() { None } else { Some(text) }
}

/// `--version`, with `--json` as JSON.
pub(super) fn print(json: bool) -> Result<Exit, Failure> {
    if json {
        output::json(&BUILD)?;
        return Ok(Exit::Fine);
    }
    let Build { name, release, target, rustc, profile, .. } = BUILD;
    let commit = BUILD.commit.unwrap_or("not known");
    let guided = if BUILD.profile_guided { ", profile-guided" } else { "" };
    out!(
        "{name} {release}\ncommit: {commit}\ntarget: {target}\nbuilt:  {profile}{guided}, {rustc}"
    )?;
    Ok(Exit::Fine)
}

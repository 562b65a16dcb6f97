//! What `--version` says about this build. Nothing of it names a path or a time, so that the same
//! sources, compiler and flags give the same binary.

use std::env;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=PLEO_BUILD_COMMIT");
    let variable = |name: &str| env::var(name).unwrap_or_default();
    let rustc = said(Command::new(variable("RUSTC")).arg("--version")).unwrap_or_default();
    let is_profile_guided = variable("CARGO_ENCODED_RUSTFLAGS").contains("profile-use=");
    // A build for tests is not made again at every commit.
    let is_release = variable("PROFILE") == "release";
    let named = Some(variable("PLEO_BUILD_COMMIT")).filter(|commit| !commit.is_empty());
    let commit = named.or_else(|| is_release.then(commit)?).unwrap_or_default();
    for (name, value) in [
        ("COMMIT", commit),
        ("TARGET", variable("TARGET")),
        ("RUSTC", rustc),
        ("PROFILE_GUIDED", is_profile_guided.to_string()),
    ] {
        println!("cargo:rustc-env=PLEO_BUILD_{name}={value}");
    }
}

/// The commit that is checked out, marked if a file differs from it. None outside a repository, as
/// in a source archive.
fn commit() -> Option<String> {
    // Not the commit of another repository that an unpacked archive lies in.
    said(Command::new("git").args(["rev-parse", "--show-cdup"])).filter(String::is_empty)?;
    for followed in ["src", "crates", "Cargo.toml", "Cargo.lock"] {
        println!("cargo:rerun-if-changed={followed}");
    }
    let log = said(Command::new("git").args(["rev-parse", "--git-path", "logs/HEAD"]))?;
    println!("cargo:rerun-if-changed={log}");
    let describe = ["describe", "--always", "--exclude=*", "--abbrev=12", "--dirty=-modified"];
    said(Command::new("git").args(describe))
}

/// The one line that a program prints; none if it fails or is not there.
fn said(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    let line = String::from_utf8(output.stdout).ok()?;
    Some(line.trim().to_owned())
}

//! Asking systemd, by its own command.

use std::path::Path;
use std::process::{Command, Stdio};

use super::units::Manager;

/// True if systemd manages this machine (sd_booted(3)).
pub(super) fn is_running() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// What systemd says of a unit.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Report {
    /// Such as `active`; empty if systemd does not say.
    pub(super) active: String,
    /// Such as `enabled`.
    pub(super) enabled: String,
    /// The service's own line.
    pub(super) status: String,
}

/// `systemctl` for one of the managers, as it is typed.
pub(super) fn command_line(manager: Manager) -> &'static str {
    match manager {
        Manager::User => "systemctl --user",
        Manager::System => "systemctl",
    }
}

fn systemctl(manager: Manager) -> Command {
    let mut command = Command::new("systemctl");
    if manager == Manager::User {
        command.arg("--user");
    }
    command.stdin(Stdio::null());
    command
}

/// What systemd says of a unit; nothing if it cannot be asked.
pub(super) fn report(manager: Manager, unit: &str) -> Report {
    let properties = "--property=ActiveState,UnitFileState,StatusText";
    let output = systemctl(manager).args(["show", properties, unit]).output();
    output.map_or_else(|_| Report::default(), |it| parse(&String::from_utf8_lossy(&it.stdout)))
}

fn parse(text: &str) -> Report {
    let value = |name: &str| {
        let mut lines = text.lines();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).unwrap_or_default()
    };
    Report {
        active: value("ActiveState").to_owned(),
        enabled: value("UnitFileState").to_owned(),
        status: value("StatusText").to_owned(),
    }
}

/// Ends units and starts them no more.
///
/// # Errors
/// What `systemctl` says.
pub(super) fn disable(manager: Manager, units: &[&str]) -> Result<(), String> {
    run(systemctl(manager).args(["disable", "--now"]).args(units))
}

/// Reads the unit files again.
///
/// # Errors
/// What `systemctl` says.
pub(super) fn reload(manager: Manager) -> Result<(), String> {
    run(systemctl(manager).arg("daemon-reload"))
}

fn run(command: &mut Command) -> Result<(), String> {
    match command.output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Err(format!("systemctl cannot be run: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_are_read_in_any_order_and_may_be_missing() {
        let report =
            parse("UnitFileState=enabled\nStatusText=1 account=fine\nActiveState=active\n");
        let expected = ["active", "enabled", "1 account=fine"].map(str::to_owned);
        assert_eq!([report.active, report.enabled, report.status], expected);
        assert_eq!(
            parse("ActiveState=inactive"),
            Report { active: "inactive".into(), ..Report::default() }
        );
    }
}

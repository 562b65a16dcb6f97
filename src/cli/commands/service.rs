//! `service`: the units by which systemd runs the proxy, and passes it sockets that outlive it.

mod facts;
mod folder;
mod systemctl;
mod units;

use std::io::ErrorKind;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::cli::context::{Context, variables};
use crate::cli::exit::{Exit, Failure};
use crate::cli::output;
use facts::Plan;
use folder::{Folder, State};
use units::{Manager, NAMES, SERVICE, SOCKET, Unit};

pub(super) const EXAMPLES: &str = "\
Examples:
  pleo-proxy service install
  pleo-proxy service status";

const INSTALL_EXAMPLES: &str = "\
Examples:
  pleo-proxy service install
  pleo-proxy service install --config ~/pleo/proxy.toml
  sudo pleo-proxy service install --system";

const UNINSTALL_EXAMPLES: &str = "\
Examples:
  pleo-proxy service uninstall";

const STATUS_EXAMPLES: &str = "\
Examples:
  pleo-proxy service status
  pleo-proxy service status --system --json";

const PRINT_EXAMPLES: &str = "\
Examples:
  pleo-proxy service print
  pleo-proxy service print --system pleo-proxy.service";

#[derive(Debug, Subcommand)]
pub(crate) enum ServiceCommand {
    /// Write the units, and say how to start them
    ///
    /// The other flags of this command become flags of the service, such as --config FILE.
    #[command(after_help = INSTALL_EXAMPLES)]
    Install {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        program: Program,
        /// Overwrite units that were changed
        #[arg(long)]
        force: bool,
    },
    /// End the service and remove its units; configuration and store stay
    #[command(after_help = UNINSTALL_EXAMPLES)]
    Uninstall {
        #[command(flatten)]
        target: Target,
        /// Remove units that were changed, too
        #[arg(long)]
        force: bool,
    },
    /// Show the units and whether they run
    #[command(after_help = STATUS_EXAMPLES)]
    Status {
        #[command(flatten)]
        target: Target,
    },
    /// Print the units
    #[command(after_help = PRINT_EXAMPLES)]
    Print {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        program: Program,
        /// One of the units alone, such as pleo-proxy.service
        unit: Option<String>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Target {
    /// A service of your own user (the default)
    #[arg(long, conflicts_with = "system")]
    user: bool,
    /// A service of the machine, with a user of its own
    #[arg(long)]
    system: bool,
    /// Use the folders below this one, as for an image; systemd need not run here
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Program {
    /// What the service starts [default: this program]
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
}

impl ServiceCommand {
    pub(super) fn run(self, context: &Context) -> Result<Exit, Failure> {
        match self {
            Self::Install { target, program, force } => {
                install(context, &target, program.program, force)
            }
            Self::Uninstall { target, force } => uninstall(context, &target, force),
            Self::Status { target } => status(context, &target),
            Self::Print { target, program, unit } => {
                let plan = Plan::new(context, target.manager(), program.program)?;
                print(context, plan.facts.units(), &target.folder()?, unit.as_deref())
            }
        }
    }
}

impl Target {
    fn manager(&self) -> Manager {
        if self.system { Manager::System } else { Manager::User }
    }

    /// Where the units of an administrator or of a user belong (systemd.unit(5)).
    fn folder(&self) -> Result<Folder, Failure> {
        let path = match (self.manager(), &self.root) {
            (Manager::System, root) => {
                root.clone().unwrap_or_else(|| "/".into()).join("etc/systemd/system")
            }
            (Manager::User, Some(root)) => root.join("etc/systemd/user"),
            (Manager::User, None) => {
                let variables = variables();
                let absolute = |name: &str| {
                    variables.get(name).map(PathBuf::from).filter(|path| path.is_absolute())
                };
                let home = || absolute("HOME").map(|home| home.join(".config"));
                let base = absolute("XDG_CONFIG_HOME").or_else(home);
                base.ok_or_else(|| {
                    Failure::usage(
                        "HOME is not set, so the folder of your units is not known; set HOME",
                    )
                })?
                .join("systemd/user")
            }
        };
        Ok(Folder::new(path))
    }

    /// Fails where no systemd would ever read the units.
    fn needs_systemd(&self, context: &Context) -> Result<(), Failure> {
        if self.root.is_some() || systemctl::is_running() {
            return Ok(());
        }
        Err(Failure::new(
            Exit::Failed,
            format!(
                "systemd does not manage this machine (there is no /run/systemd/system); let the service manager that \
                 does run `{} serve`, or write the units for another machine: pleo-proxy service install --root DIR",
                context.program
            ),
        ))
    }

    /// The flags that select the same units.
    fn flags(&self) -> &'static str {
        if self.system { " --system" } else { "" }
    }
}

fn install(
    context: &Context,
    target: &Target,
    program: Option<PathBuf>,
    force: bool,
) -> Result<Exit, Failure> {
    target.needs_systemd(context)?;
    let (folder, manager) = (target.folder()?, target.manager());
    let plan = Plan::new(context, manager, program)?;
    let units = plan.facts.units();
    let states = states(&folder, &units)?;
    let changed: Vec<_> = names_of(&states, State::Changed);
    if !changed.is_empty() && !force {
        return Err(Failure::new(
            Exit::Failed,
            format!(
                "{} in {} was changed, and nothing was written; keep the change as a drop-in ({} edit pleo-proxy), then \
                 overwrite it: pleo-proxy service install{} --force",
                changed.join(", "),
                folder.path().display(),
                systemctl::command_line(manager),
                target.flags(),
            ),
        ));
    }
    for (unit, _) in states.iter().filter(|(_, state)| *state != State::Current) {
        folder.write(unit).map_err(|error| unwritable(&folder, &error))?;
    }
    let next = plan.next(target.root.is_none());
    report_install(context, &folder, &states, &next)?;
    plan.notes.iter().for_each(|note| status!("warning: {note}"));
    Ok(Exit::Fine)
}

fn report_install(
    context: &Context,
    folder: &Folder,
    states: &[(&Unit, State)],
    next: &[String],
) -> Result<(), Failure> {
    let is_news = states.iter().any(|(_, state)| *state != State::Current);
    if context.json {
        let files: Vec<_> = states
            .iter()
            .map(|(unit, state)| {
                json!({"file": folder.file(unit.name), "written": *state != State::Current})
            })
            .collect();
        let outcome = if is_news { "installed" } else { "unchanged" };
        output::json(&json!({"version": 1, "outcome": outcome, "units": files, "next": next}))?;
    } else {
        for (unit, state) in states {
            let how = if *state == State::Current { " (as it was)" } else { "" };
            out!("{}{how}", folder.file(unit.name).display())?;
        }
    }
    if !next.is_empty() {
        status!("Now run:");
        next.iter().for_each(|command| status!("  {command}"));
    }
    Ok(())
}

fn uninstall(context: &Context, target: &Target, force: bool) -> Result<Exit, Failure> {
    target.needs_systemd(context)?;
    let (folder, manager) = (target.folder()?, target.manager());
    let mut present = Vec::new();
    for name in NAMES {
        match folder.state(name, None).context("a unit cannot be read")? {
            State::Missing => {}
            State::Changed if !force => {
                return Err(Failure::new(
                    Exit::Failed,
                    format!(
                        "{} was changed, and nothing was removed; remove it nevertheless: pleo-proxy service \
                         uninstall{} --force",
                        folder.file(name).display(),
                        target.flags(),
                    ),
                ));
            }
            State::Current | State::Outdated | State::Changed => present.push(name),
        }
    }
    let is_live = target.root.is_none() && !present.is_empty();
    if is_live && let Err(error) = systemctl::disable(manager, &present) {
        status!("warning: the service may still run: {error}");
    }
    for name in &present {
        folder.remove(name).map_err(|error| unwritable(&folder, &error))?;
    }
    if is_live && let Err(error) = systemctl::reload(manager) {
        status!("warning: systemd still knows the units: {error}");
    }
    let files: Vec<_> = present.iter().map(|name| folder.file(name)).collect();
    if context.json {
        let outcome = if files.is_empty() { "unchanged" } else { "removed" };
        output::json(&json!({"version": 1, "outcome": outcome, "units": files}))?;
        return Ok(Exit::Fine);
    }
    if files.is_empty() {
        status!("There are no units in {}.", folder.path().display());
    }
    files.iter().try_for_each(|file| out!("{}", file.display()))?;
    Ok(Exit::Fine)
}

/// Fine if the service runs, or would with the next request.
fn status(context: &Context, target: &Target) -> Result<Exit, Failure> {
    target.needs_systemd(context)?;
    let (folder, manager) = (target.folder()?, target.manager());
    let (mut units, mut active) = (Vec::new(), Vec::new());
    for name in NAMES {
        let state = folder.state(name, None).context("a unit cannot be read")?;
        let report = match target.root {
            None => systemctl::report(manager, name),
            Some(_) => systemctl::Report::default(),
        };
        if [SERVICE, SOCKET].contains(&name) {
            active.push(report.active.clone());
        }
        if context.json {
            units.push(json!({
                "unit": name, "file": folder.file(name), "installed": state != State::Missing,
                "changed": state == State::Changed, "active": known(&report.active),
                "enabled": known(&report.enabled), "status": known(&report.status),
            }));
            continue;
        }
        let file = match state {
            State::Missing => "no file",
            State::Changed => "changed",
            State::Current | State::Outdated => "installed",
        };
        let words = [file, &report.enabled, &report.active, &report.status];
        let words: Vec<_> = words.into_iter().filter(|word| !word.is_empty()).collect();
        out!("{name}: {}", words.join(", "))?;
    }
    let is_up = is_up(&active);
    if context.json {
        let outcome = if is_up { "running" } else { "not_running" };
        output::json(&json!({"version": 1, "outcome": outcome, "units": units}))?;
    } else if !is_up {
        status!(
            "It does not run. Its log: journalctl{} -u pleo-proxy",
            if manager == Manager::User { " --user" } else { "" }
        );
    }
    Ok(if is_up { Exit::Fine } else { Exit::NotRunning })
}

/// From the states of the service and of its socket: without the service, the next request starts
/// it, unless it has failed.
fn is_up(active: &[String]) -> bool {
    let is = |state: &str| active.iter().any(|active| active == state);
    is("active") && !is("failed")
}

fn print(
    context: &Context,
    units: Vec<Unit>,
    folder: &Folder,
    name: Option<&str>,
) -> Result<Exit, Failure> {
    let names: Vec<_> = units.iter().map(|unit| unit.name).collect();
    if let Some(name) = name
        && !names.contains(&name)
    {
        let known = names.join(", ");
        return Err(Failure::usage(format!("there is no unit {name}; there are: {known}")));
    }
    let wanted: Vec<_> =
        units.iter().filter(|unit| name.is_none_or(|name| name == unit.name)).collect();
    if context.json {
        let units: Vec<_> = wanted
            .iter()
            .map(|unit| json!({"file": folder.file(unit.name), "text": unit.text}))
            .collect();
        output::json(&json!({"version": 1, "units": units}))?;
    } else if let (Some(_), [unit]) = (name, wanted.as_slice()) {
        out!("{}", unit.text.trim_end())?;
    } else {
        for unit in wanted {
            out!("# {}\n{}", folder.file(unit.name).display(), unit.text)?;
        }
    }
    Ok(Exit::Fine)
}

fn states<'a>(folder: &Folder, units: &'a [Unit]) -> Result<Vec<(&'a Unit, State)>, Failure> {
    let state = |unit: &'a Unit| Ok((unit, folder.state(unit.name, Some(&unit.text))?));
    let states: std::io::Result<_> = units.iter().map(state).collect();
    Ok(states.context("a unit cannot be read")?)
}

fn names_of(states: &[(&Unit, State)], wanted: State) -> Vec<&'static str> {
    states.iter().filter(|(_, state)| *state == wanted).map(|(unit, _)| unit.name).collect()
}

fn unwritable(folder: &Folder, error: &std::io::Error) -> Failure {
    let hint = if error.kind() == ErrorKind::PermissionDenied { "; run it with sudo" } else { "" };
    let path = folder.path().display();
    Failure::new(Exit::Failed, format!("{path} cannot be changed: {error}{hint}"))
}

fn known(text: &str) -> Value {
    if text.is_empty() { Value::Null } else { text.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_up_if_it_runs_or_would_with_the_next_request() {
        let is_up = |states: [&str; 2]| is_up(&states.map(str::to_owned));
        assert!(is_up(["active", "active"]) && is_up(["active", "inactive"]));
        assert!(!is_up(["active", "failed"]) && !is_up(["failed", "inactive"]));
        assert!(!is_up(["inactive", "inactive"]) && !is_up(["", ""]));
    }
}

//! The text of a configuration file: the settings that flags have set, each below what the table
//! says about it.

use std::path::Path;

use super::inputs::Origin;
use super::settings::Config;
use super::show::settings;

/// Widest line of a comment.
const WIDTH: usize = 100;

const HEAD: &str = "\
# Settings of pleo-proxy. Whatever is not here has its default: `pleo-proxy config show` prints all
# settings in effect, docs/settings.md explains each. Relative paths start at this file's folder.
";

/// A file for `folder` with the settings that flags have set.
pub fn document(config: &Config, folder: &Path) -> String {
    let mut text = HEAD.to_owned();
    let mut heading = None;
    let is_chosen = |name: &str| config.origins.get(name) == Some(&Origin::Flag);
    for (name, row, value) in settings(config).into_iter().filter(|(name, ..)| is_chosen(name)) {
        let own = name.rsplit_once('.').map(|(heading, _)| heading.to_owned());
        if own != heading {
            text += &own.as_ref().map(|name| format!("\n[{name}]\n")).unwrap_or_default();
            heading = own;
        } else {
            text.push('\n');
        }
        text += &comment(row.doc);
        text += &format!("{} = {}\n", row.short(), below(value, folder));
    }
    text
}

/// Documentation as comment lines.
fn comment(doc: &str) -> String {
    let mut lines = vec!["#".to_owned()];
    for word in doc.split(' ') {
        if lines.last().is_some_and(|line| line.len() + 1 + word.len() > WIDTH) {
            lines.push("#".to_owned());
        }
        if let Some(line) = lines.last_mut() {
            *line = format!("{line} {word}");
        }
    }
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// A path below the folder as the file would have it.
fn below(value: toml::Value, folder: &Path) -> toml::Value {
    let relative = value.as_str().and_then(|text| Path::new(text).strip_prefix(folder).ok());
    match relative.and_then(Path::to_str) {
        Some(path) if !path.is_empty() => path.into(),
        _ => value,
    }
}

//! Suggestions for unknown names.

use super::inputs::{
    FILE_VARIABLE, SECRET_VARIABLE, STORE_KEY_VARIABLE, STORE_URL_VARIABLE, VARIABLE_PREFIX,
};
use super::table::{Row, Table};
use crate::nearest::nearest;

/// What to write instead of an unknown key or section; `name` includes the section.
pub(super) fn key(name: &str, table: &Table) -> String {
    let (section, short) = name.rsplit_once('.').unwrap_or(("", name));
    if let Some((_, new)) = table.renamed.iter().find(|(old, _)| *old == name) {
        return format!("`{name}` is called `{new}` now");
    }
    if short.contains("secret") || short.contains("password") {
        return format!(
            "secrets do not belong here: use client.secret_file or the variable {SECRET_VARIABLE}"
        );
    }
    if let Some(row) = table.rows().find(|row| row.short() == short) {
        return match row.heading() {
            Some(heading) => format!("`{short}` belongs below [{heading}]"),
            None => format!("`{short}` belongs at the top, before the first section"),
        };
    }
    let siblings: Vec<String> = table.rows().filter_map(|row| row.below(section)).collect();
    let names = siblings.iter().map(String::as_str);
    match nearest(name, names.chain(table.sections())) {
        Some(near) => format!("did you mean `{near}`?"),
        None => listing(section, &siblings, &table.sections()),
    }
}

fn listing(section: &str, names: &[String], sections: &[&str]) -> String {
    let short = |name: &String| name.rsplit('.').next().unwrap_or(name).to_owned();
    let keys = names.iter().map(short).collect::<Vec<_>>().join(", ");
    let sections = sections.join(", ");
    match (keys.is_empty(), section.is_empty()) {
        (true, _) => format!("the sections are: {sections}"),
        (false, true) => format!("the keys at the top are {keys}; the sections are {sections}"),
        (false, false) => format!("the keys of [{section}] are: {keys}"),
    }
}

/// What to set instead of an unknown variable.
pub(super) fn variable(name: &str, table: &Table) -> String {
    let variable =
        |key: &str| format!("{VARIABLE_PREFIX}{}", key.replace('.', "_").to_ascii_uppercase());
    if let Some((_, new)) = table.renamed.iter().find(|(old, _)| variable(old) == name) {
        return format!("`{name}` is called `{}` now", variable(new));
    }
    let mut names: Vec<String> = table.rows().map(Row::variable).collect();
    names.extend(
        [SECRET_VARIABLE, STORE_KEY_VARIABLE, STORE_URL_VARIABLE, FILE_VARIABLE].map(str::to_owned),
    );
    match nearest(name, names.iter().map(String::as_str)) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!(
            "variables are called {VARIABLE_PREFIX}<SECTION>_<KEY>, such as PLEO_PROXY_LISTEN_API"
        ),
    }
}

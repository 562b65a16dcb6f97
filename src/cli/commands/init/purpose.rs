//! What tools do at Pleo, and the scopes for it.

use crate::nearest::nearest;
use crate::oauth;
use crate::operations;

/// Something that a tool does at Pleo.
#[derive(Debug)]
pub(super) struct Purpose {
    /// The name on the command line.
    pub(super) name: &'static str,
    /// What it is, for people.
    pub(super) what: &'static str,
    /// The scopes that read; then those that write.
    scopes: (&'static [&'static str], &'static [&'static str]),
}

/// All that Pleo publishes scopes for.
pub(super) static PURPOSES: [Purpose; 7] = [
    Purpose {
        name: "export",
        what: "export expenses into accounting: take export jobs and report on them",
        scopes: (&["export-jobs:read", "export-items:read"], &["export-jobs:write"]),
    },
    Purpose {
        name: "employees",
        what: "read the company's employees",
        scopes: (&["users:read"], &[]),
    },
    Purpose {
        name: "companies",
        what: "read companies and their names",
        scopes: (&["companies:read"], &[]),
    },
    Purpose {
        name: "accounts",
        what: "the chart of accounts",
        scopes: (&["accounts:read"], &["accounts:write"]),
    },
    Purpose {
        name: "tax-codes",
        what: "tax codes",
        scopes: (&["tax-codes:read"], &["tax-codes:write"]),
    },
    Purpose {
        name: "tags",
        what: "tags and tag groups",
        scopes: (&["tag-groups:read"], &["tag-groups:write"]),
    },
    Purpose { name: "vendors", what: "vendors", scopes: (&["vendors:read"], &["vendors:write"]) },
];

impl Purpose {
    /// Its scopes; with `reads_only` those that change nothing.
    pub(super) fn scopes(&self, reads_only: bool) -> impl Iterator<Item = &'static str> {
        let (reads, writes) = self.scopes;
        reads.iter().chain(writes.iter().filter(move |_| !reads_only)).copied()
    }

    pub(super) fn writes(&self) -> bool {
        !self.scopes.1.is_empty()
    }

    /// The purpose of this name or number, counted from 1.
    pub(super) fn find(text: &str) -> Result<&'static Self, String> {
        // `export, vendors` is one argument with a blank behind its comma.
        let lower = text.trim().to_ascii_lowercase();
        let text = lower.as_str();
        let by_number = || PURPOSES.get(text.parse::<usize>().ok()?.checked_sub(1)?);
        let named = PURPOSES.iter().find(|purpose| purpose.name == text).or_else(by_number);
        named.ok_or_else(|| match nearest(text, PURPOSES.iter().map(|it| it.name)) {
            Some(near) => format!("{text:?} is none of them; did you mean {near}?"),
            None => {
                let names: Vec<_> = PURPOSES.iter().map(|it| it.name).collect();
                format!("{text:?} is none of them: {}", names.join(", "))
            }
        })
    }
}

/// The scopes of some purposes, each once.
pub(super) fn scopes_of(purposes: &[&Purpose], reads_only: bool) -> Vec<String> {
    let mut scopes: Vec<String> = Vec::new();
    for scope in purposes.iter().flat_map(|purpose| purpose.scopes(reads_only)) {
        if !scopes.iter().any(|known| known == scope) {
            scopes.push(scope.to_owned());
        }
    }
    scopes
}

/// A note about a scope that Pleo does not publish. It may exist all the same.
pub(super) fn note_on(scope: &str) -> Option<String> {
    let published = || {
        operations::ALL.iter().filter_map(|operation| match operation.scope {
            operations::Scope::Named(scope) => Some(scope),
            _ => None,
        })
    };
    if published().any(|known| known == scope) {
        return None;
    }
    let hint = nearest(scope, published()).map(|near| format!(", as {near} is"));
    let hint = hint.unwrap_or_default();
    Some(format!("{scope} is not among the scopes that Pleo publishes{hint}; check it"))
}

/// A scope from the command line.
pub(super) fn scope(text: &str) -> Result<String, &'static str> {
    oauth::scope(text.trim())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_purposes_cover_the_published_scopes_and_no_others() {
        let published: BTreeSet<_> = operations::ALL
            .iter()
            .filter_map(|operation| match operation.scope {
                operations::Scope::Named(scope) => Some(scope),
                _ => None,
            })
            .collect();
        let offered: BTreeSet<_> = PURPOSES.iter().flat_map(|it| it.scopes(false)).collect();
        assert_eq!(offered, published);
        let reads: Vec<_> = PURPOSES.iter().flat_map(|it| it.scopes(true)).collect();
        assert!(reads.iter().all(|scope| scope.ends_with(":read")), "{reads:?}");
    }

    #[test]
    fn a_purpose_is_named_or_numbered() {
        assert_eq!(Purpose::find("vendors").unwrap().name, "vendors");
        assert_eq!(Purpose::find("1").unwrap().name, "export");
        assert_eq!(Purpose::find(" Vendors").unwrap().name, "vendors");
        for wrong in ["0", "8", "vendor", "money"] {
            let why = Purpose::find(wrong).err().unwrap();
            assert!(why.contains("vendors"), "{why}");
        }
    }
}

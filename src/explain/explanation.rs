//! What is told about a request.

use crate::operations::Operation;

/// Longest text of a hint, in bytes: it is a header.
const MAX_HINT: usize = 500;

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Verdict {
    /// Pleo refuses it, or did.
    Refused,
    /// Nothing speaks against it.
    Allowed,
    /// It is not known.
    Unknown,
}

/// A reason and the next step. All texts are one line of ASCII.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// What becomes of the request.
    pub verdict: Verdict,
    /// The operation, if Pleo lists it.
    pub operation: Option<&'static Operation>,
    /// The reason.
    pub reason: String,
    /// What to do.
    pub next: Option<String>,
    /// The reason is published by Pleo or was observed; otherwise it is a possibility.
    pub is_certain: bool,
    /// Where the reason is from, such as `docs:vendor-api-scopes`.
    pub source: Option<&'static str>,
}

impl Explanation {
    /// A certain one without a next step.
    pub(super) fn new(verdict: Verdict, reason: impl Into<String>) -> Self {
        let reason = reason.into();
        Self { verdict, operation: None, reason, next: None, is_certain: true, source: None }
    }

    pub(super) fn next(self, next: impl Into<Option<String>>) -> Self {
        Self { next: next.into(), ..self }
    }

    pub(super) fn source(self, source: &'static str) -> Self {
        Self { source: Some(source), ..self }
    }

    pub(super) fn of(self, operation: &'static Operation) -> Self {
        Self { operation: Some(operation), ..self }
    }

    pub(super) fn verdict(self, verdict: Verdict) -> Self {
        Self { verdict, ..self }
    }

    /// Marks the reason as a possibility.
    pub(super) fn possible(self) -> Self {
        Self { is_certain: false, ..self }
    }

    /// Adds that the operation is deprecated, and the next step if there is no other.
    pub(super) fn deprecated(self, deprecation: Option<(&str, Option<String>)>) -> Self {
        let Some((how, instead)) = deprecation else { return self };
        Self { reason: format!("{}; {how}", self.reason), next: self.next.or(instead), ..self }
    }

    /// Reason and next step for the header `Pleo-Proxy-Hint`.
    pub fn hint(&self) -> String {
        let mut hint = match &self.next {
            Some(next) => format!("{}; {next}", self.reason),
            None => self.reason.clone(),
        };
        if hint.len() > MAX_HINT {
            hint.truncate(MAX_HINT - 3);
            hint.push_str("...");
        }
        hint
    }
}

/// Text from elsewhere as it may stand in a reason: visible ASCII, at most `limit` characters.
pub(super) fn visible(text: &str, limit: usize) -> String {
    let shown = |character: char| if character.is_ascii_graphic() { character } else { '?' };
    text.chars().take(limit).map(shown).collect()
}

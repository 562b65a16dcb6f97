//! One request of the API, as its handler sees it: admitted, matched, its body read.

use parking_lot::MutexGuard;
use serde_json::{Map, Value};

use super::dataset::Dataset;
use super::fields::{self, Field};
use super::operations::Operation;
use super::paging::Query;
use super::response::Problem;
use super::state::SandboxState;
use super::subject::{ORGANISATION_ID, Subject};

/// Who called: what the access token stands for and allows.
#[derive(Clone)]
pub(crate) struct Caller {
    pub(crate) subject: Subject,
    pub(crate) scope: String,
    /// It sent an API key, not the token of a login.
    pub(crate) has_api_key: bool,
}

impl Caller {
    /// Refuses an API key where Pleo takes bearer tokens only.
    pub(crate) fn ensure_may_use(&self, operation: &Operation) -> Result<(), Problem> {
        match self.has_api_key && operation.bearer_only() {
            true => Err(Problem::unauthorized("an API key is not accepted here")),
            false => Ok(()),
        }
    }

    /// Refuses a caller whose login lacks the scope.
    pub(crate) fn ensure(&self, scope: Option<&str>) -> Result<(), Problem> {
        let granted = |needed| self.scope.split([' ', '+']).any(|scope| scope == needed);
        scope.is_none_or(granted).then_some(()).ok_or_else(Problem::denied)
    }

    /// Refuses a company that the caller does not see.
    pub(crate) fn ensure_sees(&self, company: &str) -> Result<(), Problem> {
        self.subject.sees(company).then_some(()).ok_or_else(Problem::denied)
    }
}

/// A request that passed every check before its handler.
pub(crate) struct Call<'a> {
    pub(crate) sandbox: &'a SandboxState,
    pub(crate) caller: Caller,
    /// The path as it was sent.
    pub(crate) path: &'a str,
    /// What stands in the path for the placeholders of its template, in their order.
    pub(crate) ids: Vec<&'a str>,
    pub(crate) query: Query,
    pub(crate) body: &'a [u8],
}

impl Call<'_> {
    pub(crate) fn dataset(&self) -> MutexGuard<'_, Dataset> {
        self.sandbox.dataset()
    }

    pub(crate) fn subject(&self) -> Subject {
        self.caller.subject
    }

    /// The object in the body, with the fields of `shape` checked and all others left out.
    pub(crate) fn read(&self, shape: &[Field]) -> Result<Map<String, Value>, Problem> {
        fields::read(&fields::object(self.body)?, shape)
    }

    /// The same for a search, whose body may be left out.
    pub(crate) fn filters(&self, shape: &[Field]) -> Result<Map<String, Value>, Problem> {
        if self.body.is_empty() { Ok(Map::new()) } else { self.read(shape) }
    }

    /// The major version at the beginning of the path.
    pub(crate) fn version(&self) -> u32 {
        let digits = self.path.trim_start_matches("/v");
        digits.chars().next().and_then(|digit| digit.to_digit(10)).unwrap_or_default()
    }

    /// The companies that a search covers: the one of `company_id`, else all of `organization_id`.
    pub(crate) fn covered(&self) -> Result<Covered, Problem> {
        match (self.query.get("company_id"), self.query.get("organization_id")) {
            (None, None) => Err(Problem::invalid("company_id or organization_id is required")),
            (Some(company), _) => self.company(company),
            (None, Some(ORGANISATION_ID)) if self.subject() == Subject::Organisation => {
                Ok(Covered(None))
            }
            (None, Some(_)) => Err(Problem::denied()),
        }
    }

    /// The same where the query need not name any: then all that the caller sees.
    pub(crate) fn covered_or_all(&self) -> Result<Covered, Problem> {
        self.query.get("company_id").map_or(Ok(Covered(None)), |company| self.company(company))
    }

    fn company(&self, id: &str) -> Result<Covered, Problem> {
        self.caller.ensure_sees(id)?;
        Ok(Covered(Some(id.to_owned())))
    }
}

/// One company, or all that the caller sees.
pub(crate) struct Covered(Option<String>);

impl Covered {
    pub(crate) fn holds(&self, company: &str) -> bool {
        self.0.as_deref().is_none_or(|covered| covered == company)
    }

    /// The one company; a search over all of them has none.
    pub(crate) fn one(&self) -> Result<&str, Problem> {
        self.0.as_deref().ok_or_else(|| Problem::invalid("company_id is required"))
    }
}

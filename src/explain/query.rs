//! What the query of a request lacks, or has too much.

use super::explanation::{Explanation, Verdict};
use super::facts::{Facts, Request, SubjectKind};
use crate::operations::Operation;

const ADD_COMPANY: &str = "add ?company_id=ID; GET /v1/companies lists the ids";

/// The search for accounting entries needs a company or an organisation in its query.
pub(super) fn missing_company(operation: &Operation, request: &Request<'_>) -> Option<Explanation> {
    let is_missing = operation.path == "/v1/accounting-entries:search"
        && request.lacks(&["company_id", "organization_id"]);
    is_missing.then(|| {
        let reason = "needs company_id or organization_id in the query, and has neither";
        Explanation::new(Verdict::Refused, reason).next(ADD_COMPANY.to_owned()).source("spec")
    })
}

/// `status` in a query for export jobs: deprecated up to v2, unknown in v3.
pub(super) fn replaced_parameter(
    operation: &Operation,
    request: &Request<'_>,
) -> Option<Explanation> {
    (lists_export_jobs(operation) && request.has("status")).then(|| {
        let reason = if operation.path.starts_with("/v3/") {
            "the query has status, which v3 does not know"
        } else {
            "the query has status, which is deprecated"
        };
        let explanation = Explanation::new(Verdict::Unknown, reason);
        explanation.next("write statuses instead".to_owned()).source("spec")
    })
}

/// A login for an organisation must say which company it means. Pleo's pages contradict each other
/// about it.
pub(super) fn organisation_alone(
    operation: &Operation,
    request: &Request<'_>,
    facts: &Facts<'_>,
) -> Option<Explanation> {
    let is_alone = facts.subject == SubjectKind::Organisation
        && lists_export_jobs(operation)
        && request.lacks(&["company_id"]);
    is_alone.then(|| {
        let reason = "this login is for an organisation, and the query names no company";
        let explanation = Explanation::new(Verdict::Unknown, reason).possible();
        explanation.next(ADD_COMPANY.to_owned()).source("docs:export-api-scopes")
    })
}

fn lists_export_jobs(operation: &Operation) -> bool {
    operation.method == "GET" && operation.path.ends_with("/export-jobs")
}

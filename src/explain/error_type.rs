//! The error types that Pleo documents, and what each means. Sources: the Export API's
//! specification 32.1.0, and that of the vendors.

use super::explanation::{Explanation, Verdict};
use super::facts::Answer;
use crate::operations::Operation;

const BAD_REQUEST: u16 = 400;

/// The meaning of an answer by the type in its body; if that was not read, by the only type that
/// Pleo documents for this status of this operation, which is then a possibility. A 400 has always
/// other reasons: any value or the JSON itself may be wrong.
pub(super) fn explain(operation: &Operation, answer: &Answer<'_>) -> Option<Explanation> {
    let documented =
        || operation.documented_type(answer.status).filter(|_| answer.status != BAD_REQUEST);
    let known = answer.error_type.or_else(documented)?;
    let (reason, next) = meaning(known)?;
    let next = match operation.successor {
        Some(successor) if known == "UNSUPPORTED_API_VERSION" => format!("use {successor}"),
        _ => next.to_owned(),
    };
    let reason = format!("{reason} ({known})");
    let explanation = Explanation::new(Verdict::Refused, reason).next(next).source("spec");
    Some(if answer.error_type.is_some() { explanation } else { explanation.possible() })
}

/// Reason and next step of an error type.
fn meaning(error_type: &str) -> Option<(&'static str, &'static str)> {
    Some(match error_type {
        "EXPORT_ALREADY_IN_PROGRESS" => (
            "another export job of this company is pending or in progress",
            "finish it first; a job expires one hour after its last update",
        ),
        "EXPORT_JOB_ITEMS_UPDATE_LIMIT" => {
            ("one update holds more than 100 items", "send at most 100 items in one request")
        }
        "EXPORT_JOB_STATUS_UNPROCESSABLE" => (
            "the job is not pending or in progress, and only then its items can be used",
            "create a new export job; a job expires one hour after its last update",
        ),
        "INVALID_EXPORT_JOB_STATUS_CHANGE" => (
            "the export job cannot go from its status to this one",
            "read the job's status first; a job expires one hour after its last update",
        ),
        "INVALID_STATUS_TRANSITION" => {
            ("the import job cannot go from its status to this one", "read the job's status first")
        }
        "MISSING_CONTRA_ACCOUNTS" => (
            "the company has no contra accounts that the export needs",
            "set the contra accounts in Pleo, then send it again",
        ),
        "UNSUPPORTED_API_VERSION" => (
            "this version does not serve a company with multi-currency on",
            "use the newest version of this operation",
        ),
        "EXPORT_NOT_FOUND" => (
            "there is no export job with this id for this login",
            "check the id; it may be one of another company",
        ),
        "EXPORT_ENTRY_NOT_FOUND" => (
            "there is no entry of an export with this id for this login",
            "check the id; it may be one of another company",
        ),
        "IMPORT_JOB_NOT_FOUND" => (
            "there is no import job with this id for this login",
            "check the id; it may be one of another company",
        ),
        "VALIDATION_FAILED" | "PARAMETER_VALIDATION_FAILED" => (
            "Pleo does not accept a value of the request",
            "the message in the response's body names it",
        ),
        "JSON_MAPPING_EXCEPTION" => (
            "Pleo cannot read the JSON of the request",
            "the message in the response's body says where",
        ),
        _ => return None,
    })
}

//! Pleo's operations: which scope each needs, and what answers it here.
//!
//! The sandbox's own copy of the facts: the proxy has another, and a test compares them.

use axum::http::{Method, StatusCode};
use axum::response::Response;

use super::call::Call;
use super::exports::{events, export_items, items, jobs};
use super::response::Problem;
use super::tags::{aggregations, dimensions, groups, values};
use super::{
    accounts, company, entries, installations, receipts, subscriptions, tags, tax_codes, vendors,
};

type Handler = fn(&Call<'_>) -> Result<Response, Problem>;

/// One operation of Pleo's API.
pub(crate) struct Operation {
    method: &'static str,
    /// Path template, such as `/v1/vendors/{id}:archive`.
    path: &'static str,
    /// The scope that a login needs; none where Pleo publishes none.
    pub(crate) scope: Option<&'static str>,
    pub(crate) handler: Handler,
}

impl Operation {
    /// Pleo takes bearer tokens only, no API key.
    pub(crate) fn bearer_only(&self) -> bool {
        self.path.starts_with("/v1-beta/")
    }
}

/// What a request asks for.
pub(crate) enum Found<'a> {
    /// An operation, and what stands in the path for its placeholders.
    Operation(&'static Operation, Vec<&'a str>),
    /// The path is known with other methods.
    OtherMethod,
    Nothing,
}

/// The operation of a request. The path is compared as it was sent; HEAD counts as GET.
pub(crate) fn find<'a>(method: &Method, path: &'a str) -> Found<'a> {
    let method = if method == Method::HEAD { "GET" } else { method.as_str() };
    let mut found = Found::Nothing;
    for operation in OPERATIONS {
        let Some(ids) = values_in(operation.path, path) else { continue };
        if operation.method == method {
            return Found::Operation(operation, ids);
        }
        found = Found::OtherMethod;
    }
    found
}

/// The values of the placeholders, if the path fits the template.
fn values_in<'a>(template: &str, path: &'a str) -> Option<Vec<&'a str>> {
    let (mut parts, mut segments) = (template.split('/'), path.split('/'));
    let mut values = Vec::new();
    loop {
        match (parts.next(), segments.next()) {
            (None, None) => return Some(values),
            (Some(part), Some(segment)) => values.extend(value_in(part, segment)?),
            _ => return None,
        }
    }
}

/// The value of the part's placeholder, if it has one. A colon begins an action (`{id}:archive`)
/// and is not part of an id.
fn value_in<'a>(part: &str, segment: &'a str) -> Option<Option<&'a str>> {
    let Some((_, action)) = part.strip_prefix('{').and_then(|rest| rest.split_once('}')) else {
        return (part == segment).then_some(None);
    };
    let id = segment.strip_suffix(action)?;
    (!id.is_empty() && !id.contains(':')).then_some(Some(id))
}

fn not_imitated(_: &Call<'_>) -> Result<Response, Problem> {
    Err(Problem::new(
        StatusCode::NOT_IMPLEMENTED,
        "NOT_IMPLEMENTED",
        "Pleo has this operation, but the sandbox does not imitate it",
    ))
}

const fn get(path: &'static str, scope: Option<&'static str>, handler: Handler) -> Operation {
    Operation { method: "GET", path, scope, handler }
}

const fn post(path: &'static str, scope: Option<&'static str>, handler: Handler) -> Operation {
    Operation { method: "POST", path, scope, handler }
}

const fn put(path: &'static str, scope: Option<&'static str>, handler: Handler) -> Operation {
    Operation { method: "PUT", path, scope, handler }
}

const fn delete(path: &'static str, scope: Option<&'static str>, handler: Handler) -> Operation {
    Operation { method: "DELETE", path, scope, handler }
}

const EXPORT_JOBS_WRITE: Option<&str> = Some("export-jobs:write");
const EXPORT_JOBS_READ: Option<&str> = Some("export-jobs:read");
const EXPORT_ITEMS_READ: Option<&str> = Some("export-items:read");
const ACCOUNTS_WRITE: Option<&str> = Some("accounts:write");
const ACCOUNTS_READ: Option<&str> = Some("accounts:read");
const VENDORS_WRITE: Option<&str> = Some("vendors:write");
const VENDORS_READ: Option<&str> = Some("vendors:read");
const COMPANIES_READ: Option<&str> = Some("companies:read");
const USERS_READ: Option<&str> = Some("users:read");
const TAG_GROUPS_READ: Option<&str> = Some("tag-groups:read");
const TAG_GROUPS_WRITE: Option<&str> = Some("tag-groups:write");
const TAX_CODES_WRITE: Option<&str> = Some("tax-codes:write");
const TAX_CODES_READ: Option<&str> = Some("tax-codes:read");
/// Pleo publishes no scope for it, or it needs none. Subscriptions check the scopes of their events
/// themselves.
const NO_SCOPE: Option<&str> = None;

static OPERATIONS: &[Operation] = &[
    post("/v0/export-job-events", EXPORT_JOBS_WRITE, events::create),
    get("/v0/export-jobs", EXPORT_JOBS_READ, jobs::list),
    post("/v0/export-jobs", EXPORT_JOBS_WRITE, jobs::create),
    get("/v0/export-jobs/{jobId}", EXPORT_JOBS_READ, jobs::find),
    get("/v0/export-jobs/{jobId}/items", EXPORT_JOBS_READ, items::list),
    put("/v0/export-jobs/{jobId}/items", EXPORT_JOBS_WRITE, items::update),
    get("/v0/export-items", EXPORT_ITEMS_READ, export_items::list),
    post("/v1/export-job-events", EXPORT_JOBS_WRITE, events::create),
    get("/v1/export-jobs", EXPORT_JOBS_READ, jobs::list),
    post("/v1/export-jobs", EXPORT_JOBS_WRITE, jobs::create),
    get("/v1/export-jobs/{jobId}", EXPORT_JOBS_READ, jobs::find),
    get("/v1/export-jobs/{jobId}/items", EXPORT_JOBS_READ, items::list),
    put("/v1/export-jobs/{jobId}/items", EXPORT_JOBS_WRITE, items::update),
    get("/v1/export-items", EXPORT_ITEMS_READ, export_items::list),
    post("/v2/export-job-events", EXPORT_JOBS_WRITE, events::create),
    get("/v2/export-jobs", EXPORT_JOBS_READ, jobs::list),
    post("/v2/export-jobs", EXPORT_JOBS_WRITE, jobs::create),
    get("/v2/export-jobs/{jobId}", EXPORT_JOBS_READ, jobs::find),
    get("/v2/export-jobs/{jobId}/items", EXPORT_JOBS_READ, items::list),
    put("/v2/export-jobs/{jobId}/items", EXPORT_JOBS_WRITE, items::update),
    get("/v2/export-items", EXPORT_ITEMS_READ, export_items::list),
    post("/v3/export-job-events", EXPORT_JOBS_WRITE, events::create),
    get("/v3/export-jobs", EXPORT_JOBS_READ, jobs::list),
    post("/v3/export-jobs", EXPORT_JOBS_WRITE, jobs::create),
    get("/v3/export-jobs/{jobId}", EXPORT_JOBS_READ, jobs::find),
    get("/v3/export-jobs/{jobId}/items", EXPORT_JOBS_READ, items::list),
    put("/v3/export-jobs/{jobId}/items", EXPORT_JOBS_WRITE, items::update),
    get("/v3/export-items", EXPORT_ITEMS_READ, export_items::list),
    get("/v3/export-job-items", EXPORT_JOBS_READ, items::of_entry),
    post("/v3/export-job-items:search", EXPORT_JOBS_READ, items::search),
    post("/v1/chart-of-accounts", ACCOUNTS_WRITE, accounts::create),
    post("/v1/chart-of-accounts/batch", ACCOUNTS_WRITE, accounts::create_batch),
    get("/v1/chart-of-accounts/{accountId}", ACCOUNTS_READ, accounts::find),
    put("/v1/chart-of-accounts/{accountId}", ACCOUNTS_WRITE, accounts::update),
    delete("/v1/chart-of-accounts/{accountId}", ACCOUNTS_WRITE, accounts::remove),
    post("/v1/chart-of-accounts:search", ACCOUNTS_READ, accounts::search),
    post("/v1-beta/accounts", ACCOUNTS_WRITE, accounts::create),
    get("/v1-beta/accounts/{accountId}", ACCOUNTS_READ, accounts::find),
    put("/v1-beta/accounts/{accountId}", ACCOUNTS_WRITE, accounts::update),
    delete("/v1-beta/accounts/{accountId}", ACCOUNTS_WRITE, accounts::remove),
    post("/v1-beta/accounts:search", ACCOUNTS_READ, accounts::search),
    post("/v1/vendors", VENDORS_WRITE, vendors::create),
    get("/v1/vendors/{id}", VENDORS_READ, vendors::find),
    put("/v1/vendors/{id}", VENDORS_WRITE, vendors::update),
    post("/v1/vendors/{id}:activate", VENDORS_WRITE, vendors::activate),
    post("/v1/vendors/{id}:archive", VENDORS_WRITE, vendors::archive),
    post("/v1/vendors:search", VENDORS_READ, vendors::search),
    post("/v1/vendors/csv-import/jobs", VENDORS_WRITE, not_imitated),
    get("/v1/vendors/csv-import/jobs/{jobId}", VENDORS_READ, not_imitated),
    get("/v1/vendors/csv-import/jobs/{jobId}/errors", VENDORS_READ, not_imitated),
    put("/v1/vendors/csv-import/jobs/{jobId}/metadata", VENDORS_WRITE, not_imitated),
    put("/v1/vendors/csv-import/jobs/{jobId}/status", VENDORS_WRITE, not_imitated),
    post("/v1/vendors/csv-import/jobs/{jobId}:get-presigned-url", VENDORS_WRITE, not_imitated),
    post("/v1/vendors/csv-import/jobs/{jobId}:run", VENDORS_WRITE, not_imitated),
    post("/v1/vendors/csv-import/jobs:search", VENDORS_READ, not_imitated),
    get("/v1/companies", COMPANIES_READ, company::companies),
    get("/v1/companies/{companyId}", COMPANIES_READ, company::company),
    get("/v2/employees", USERS_READ, company::employees),
    get("/v2/employees/{employeeId}", USERS_READ, company::employee),
    post("/v1/accounting-entries:search", NO_SCOPE, entries::search),
    get("/v1/accounting-entries/{accountingEntryId}", NO_SCOPE, entries::find),
    get("/v1/accounting-entries/{accountingEntryId}/receipts", NO_SCOPE, receipts::list),
    get(
        "/v1/accounting-entries/{accountingEntryId}/receipts/{receiptId}",
        NO_SCOPE,
        receipts::find,
    ),
    post("/v1/accounting-entries/receipts:search", NO_SCOPE, receipts::search),
    post("/v1/accounting-entries/core:search", NO_SCOPE, entries::search_core),
    get("/v1/accounting-entries/{accountingEntryId}/core", NO_SCOPE, entries::find_core),
    post("/v2/accounting-entries:enrich", NO_SCOPE, not_imitated),
    get("/v0/aggregations/tag-groups", TAG_GROUPS_READ, aggregations::groups),
    get("/v0/tag-groups", TAG_GROUPS_READ, groups::list),
    post("/v0/tag-groups", TAG_GROUPS_WRITE, groups::create),
    get("/v0/tag-groups/{groupId}", TAG_GROUPS_READ, groups::find),
    put("/v0/tag-groups/{groupId}", TAG_GROUPS_WRITE, groups::update),
    delete("/v0/tag-groups/{groupId}", TAG_GROUPS_WRITE, groups::remove),
    get("/v0/tag-groups/{groupId}/usage", TAG_GROUPS_READ, aggregations::usage),
    get("/v0/tag-groups/{groupId}/dimensions", TAG_GROUPS_READ, dimensions::list),
    post("/v0/tag-groups/{groupId}/dimensions", TAG_GROUPS_WRITE, dimensions::create),
    get("/v0/tag-groups/{groupId}/dimensions/{dimensionId}", TAG_GROUPS_READ, dimensions::find),
    put("/v0/tag-groups/{groupId}/dimensions/{dimensionId}", TAG_GROUPS_WRITE, dimensions::update),
    delete(
        "/v0/tag-groups/{groupId}/dimensions/{dimensionId}",
        TAG_GROUPS_WRITE,
        dimensions::remove,
    ),
    post("/v0/aggregations/tags", TAG_GROUPS_READ, aggregations::tags),
    get("/v0/tag-groups/{groupId}/tags", TAG_GROUPS_READ, tags::list),
    post("/v0/tag-groups/{groupId}/tags", TAG_GROUPS_WRITE, tags::create),
    get("/v0/tags", TAG_GROUPS_READ, tags::search),
    delete("/v0/tags", TAG_GROUPS_WRITE, tags::remove_many),
    post("/v0/tags/archive", TAG_GROUPS_WRITE, tags::archive_many),
    get("/v0/tags/{tagId}", TAG_GROUPS_READ, tags::find),
    put("/v0/tags/{tagId}", TAG_GROUPS_WRITE, tags::update),
    delete("/v0/tags/{tagId}", TAG_GROUPS_WRITE, tags::remove),
    get("/v0/tags/{tagId}/dimensions", TAG_GROUPS_READ, values::list),
    get("/v0/tags/{tagId}/dimensions/{dimensionId}", TAG_GROUPS_READ, values::find),
    put("/v0/tags/{tagId}/dimensions/{dimensionId}", TAG_GROUPS_WRITE, values::update),
    post("/v0/tags/{tagId}/dimensions/{dimensionId}", TAG_GROUPS_WRITE, values::create),
    delete("/v0/tags/{tagId}/dimensions/{dimensionId}", TAG_GROUPS_WRITE, values::remove),
    post("/v0/tax-codes", TAX_CODES_WRITE, tax_codes::create),
    get("/v0/tax-codes/{taxCodeId}", TAX_CODES_READ, tax_codes::find),
    put("/v0/tax-codes/{taxCodeId}", TAX_CODES_WRITE, tax_codes::update),
    delete("/v0/tax-codes/{taxCodeId}", TAX_CODES_WRITE, tax_codes::remove),
    post("/v0/tax-codes:search", TAX_CODES_READ, tax_codes::search),
    post("/v0/tax-codes:calculate-tax-amounts", TAX_CODES_READ, tax_codes::calculate),
    get("/v1/introspect", NO_SCOPE, company::introspect),
    get("/v1/installations/me", NO_SCOPE, installations::find),
    post("/v1/installations/me", NO_SCOPE, installations::create),
    put("/v1/installations/me", NO_SCOPE, installations::update),
    delete("/v1/installations/me", NO_SCOPE, installations::remove),
    post("/v1/installations/me:activate", NO_SCOPE, installations::activate),
    put("/v1/installations/completions", NO_SCOPE, installations::activate),
    get("/v1/subscriptions", NO_SCOPE, subscriptions::list),
    post("/v1/subscriptions", NO_SCOPE, subscriptions::create),
    get("/v1/subscriptions/{id}", NO_SCOPE, subscriptions::find),
    put("/v1/subscriptions/{id}", NO_SCOPE, subscriptions::update),
    delete("/v1/subscriptions/{id}", NO_SCOPE, subscriptions::remove),
    get("/v1/subscriptions/{id}/activities", NO_SCOPE, subscriptions::activities),
    get("/v1/subscriptions/{id}/secret", NO_SCOPE, subscriptions::secret),
];

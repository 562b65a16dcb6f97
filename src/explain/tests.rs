use http::Method;
use proptest::prelude::*;

use super::*;

/// What a company's integration asks for.
const REALISTIC: [&str; 8] = [
    "export-jobs:read",
    "export-jobs:write",
    "export-items:read",
    "vendors:read",
    "vendors:write",
    "users:read",
    "accounts:read",
    "tag-groups:read",
];

/// A line of the table, read without the code under test.
struct Line {
    method: Method,
    path: String,
    scope: &'static str,
    source: &'static str,
    keys: &'static str,
    deprecated: &'static str,
}

fn lines() -> Vec<Line> {
    let table = include_str!("../operations.tsv").lines().skip(2);
    let read = |line: &'static str| {
        let cells: Vec<_> = line.split('\t').collect();
        let mut path = cells[1].to_owned();
        while let Some((before, rest)) = path.split_once('{') {
            path = format!("{before}17{}", rest.split_once('}').unwrap().1);
        }
        Line {
            method: cells[0].parse().unwrap(),
            path,
            scope: cells[3],
            source: cells[4],
            keys: cells[5],
            deprecated: cells[6],
        }
    };
    table.map(read).collect()
}

fn strings(scopes: &[&str]) -> Vec<String> {
    scopes.iter().map(ToString::to_string).collect()
}

fn facts<'a>(granted: &'a [String], asked: &'a [String]) -> Facts<'a> {
    Facts {
        account: "acme",
        granted: Some(granted),
        asked,
        credential: CredentialKind::Token,
        subject: SubjectKind::Company,
        environment: Some("production"),
    }
}

fn request<'a>(method: &'a Method, target: &'a str) -> Request<'a> {
    match target.split_once('?') {
        Some((path, query)) => Request::new(method, path, Some(query)),
        None => Request::new(method, target, None),
    }
}

fn assert_is_header(explanation: &Explanation) {
    let hint = explanation.hint();
    assert!(hint.bytes().all(|byte| (0x20..0x7f).contains(&byte)), "{hint}");
    assert!(!hint.is_empty() && hint.len() <= 500, "{hint}");
}

/// Every claim about a scope, against the table as this test reads it.
fn assert_no_wrong_claim(line: &Line, granted: &[String], told: &Explanation, was_sent: bool) {
    let at = format!("{} {} with {granted:?}: {told:?}", line.method, line.path);
    let names_scope = line.scope.split_once(':').is_some();
    let is_documented = names_scope && line.source.starts_with("docs:");
    let has = granted.iter().any(|scope| scope == line.scope);
    let is_missing = told.reason.contains("; this login has");
    if is_documented {
        assert_eq!(told.verdict == Verdict::Refused, was_sent || !has, "{at}");
        assert!(told.reason.contains(&format!("needs {}", line.scope)), "{at}");
        assert!(!told.reason.contains("probably"), "{at}");
        assert_eq!(told.source, Some(line.source), "{at}");
        assert_eq!(told.is_certain, !(was_sent && has), "{at}");
    } else if names_scope {
        assert_eq!(told.verdict == Verdict::Refused, was_sent, "{at}");
        assert!(told.reason.contains(&format!("probably needs {}", line.scope)), "{at}");
        assert!(!told.is_certain, "{at}");
        assert!(!told.source.unwrap().starts_with("docs:"), "{at}");
    } else {
        assert_eq!(told.verdict == Verdict::Refused, was_sent, "{at}");
        let named = REALISTIC.iter().any(|scope| told.reason.contains(&format!("needs {scope}")));
        assert!(!named, "{at}");
        let is_unpublished = ["?", "none?"].contains(&line.scope);
        assert_eq!(told.reason.contains("Pleo publishes no scope"), is_unpublished, "{at}");
    }
    if names_scope {
        assert_eq!(is_missing, !has, "{at}");
    }
    if told.verdict == Verdict::Allowed {
        assert!(has || line.scope == "none", "{at}");
    }
    let is_old = !["", "not read"].contains(&line.deprecated);
    let is_called_old =
        told.reason.contains("deprecated") || told.reason.contains("there is a newer");
    assert_eq!(is_called_old, is_old, "{at}");
}

#[test]
fn no_operation_with_any_grant_gets_a_wrong_claim() {
    let lines = lines();
    assert_eq!(lines.len(), 113);
    let denied = Answer { status: 403, ..Answer::default() };
    for subset in 0..1_u32 << REALISTIC.len() {
        let granted: Vec<String> = (0..REALISTIC.len())
            .filter(|scope| subset >> scope & 1 == 1)
            .map(|scope| REALISTIC[scope].to_owned())
            .collect();
        let facts = facts(&granted, &[]);
        for line in &lines {
            let request = Request::new(&line.method, &line.path, Some("company_id=1"));
            let told = before(&request, &facts);
            assert_no_wrong_claim(line, &granted, &told, false);
            let told = after(&request, &denied, &facts).unwrap();
            assert_no_wrong_claim(line, &granted, &told, true);
            if subset % 16 == 0 {
                assert_is_header(&told);
            }
        }
    }
}

#[test]
fn an_api_key_is_refused_where_only_bearer_tokens_are_taken_and_nowhere_else() {
    let all = strings(&["accounts:read", "accounts:write"]);
    let facts = Facts { credential: CredentialKind::ApiKey, ..facts(&all, &[]) };
    for line in lines() {
        let told = before(&Request::new(&line.method, &line.path, Some("company_id=1")), &facts);
        let is_refused = told.reason.contains("takes bearer tokens only");
        assert_eq!(is_refused, line.keys == "bearer only", "{told:?}");
    }
}

/// A request that failed, and what has to be said about it.
struct Failure {
    method: Method,
    target: &'static str,
    answer: Answer<'static>,
    /// What differs from a login that has `vendors:read users:read`.
    facts: fn(Facts<'static>) -> Facts<'static>,
    reason: &'static str,
    next: &'static str,
}

const GET: Method = Method::GET;
const POST: Method = Method::POST;

fn failed(
    method: Method,
    target: &'static str,
    answer: Answer<'static>,
    reason: &'static str,
    next: &'static str,
) -> Failure {
    Failure { method, target, answer, facts: |facts| facts, reason, next }
}

fn status(status: u16) -> Answer<'static> {
    Answer { status, ..Answer::default() }
}

fn typed(status: u16, error_type: &'static str) -> Answer<'static> {
    Answer { error_type: Some(error_type), ..self::status(status) }
}

fn wrong_scopes_and_keys() -> Vec<Failure> {
    let key = |facts| Facts { credential: CredentialKind::ApiKey, granted: None, ..facts };
    vec![
        failed(
            POST,
            "/v1/vendors",
            status(403),
            "needs vendors:write; this login has vendors:read users:read",
            "add vendors:write to client.scopes, restart the proxy, then: pleo-proxy login acme",
        ),
        failed(
            GET,
            "/v3/export-jobs",
            status(403),
            "needs export-jobs:read; this login has",
            "client.scopes asks for it, so: pleo-proxy login acme; if Pleo still does not grant it, ask Pleo to register it for your client in production",
        ),
        Failure {
            facts: |facts| Facts { granted: Some(tag_group()), ..facts },
            ..failed(
                GET,
                "/v0/tag-groups",
                status(403),
                "probably needs tag-groups:read; this login has tag-group:read, which may be the same scope",
                "add tag-groups:read",
            )
        },
        failed(
            POST,
            "/v1/accounting-entries:search?company_id=1",
            status(403),
            "Pleo publishes no scope for this operation",
            "ask Pleo which scope it needs",
        ),
        failed(
            GET,
            "/v1/vendors/17",
            status(403),
            "needs vendors:read, which this login has, so there is another reason",
            "another company",
        ),
        Failure {
            facts: key,
            ..failed(
                POST,
                "/v1-beta/accounts",
                status(403),
                "takes bearer tokens only, and this account has an API key",
                "use POST /v1/chart-of-accounts",
            )
        },
        Failure {
            facts: key,
            ..failed(
                GET,
                "/v1/companies",
                status(401),
                "Pleo refuses the API key",
                "replace the key",
            )
        },
        failed(
            GET,
            "/v1/companies",
            Answer { sent_again: true, ..status(401) },
            "Pleo refuses the token even after a refresh",
            "belong to the same environment, then: pleo-proxy login acme",
        ),
    ]
}

fn wrong_paths() -> Vec<Failure> {
    vec![
        failed(
            GET,
            "/v1/expenses",
            status(404),
            "/v1/expenses is a path of Pleo's old API",
            "use POST /v1/accounting-entries:search",
        ),
        failed(
            GET,
            "/v4/export-jobs",
            status(404),
            "Pleo lists no v4 of this operation",
            "use GET /v3/export-jobs",
        ),
        failed(
            POST,
            "/v1/vendors:serach",
            status(404),
            "none of Pleo's published operations",
            "did you mean POST /v1/vendors:search?",
        ),
        failed(
            Method::PATCH,
            "/v1/vendors/17",
            status(405),
            "Pleo lists this path with GET, PUT only",
            "use GET /v1/vendors/{id}",
        ),
        failed(
            POST,
            "/v1/vendors:search/",
            status(404),
            "the path ends in a slash",
            "use POST /v1/vendors:search",
        ),
        failed(GET, "//v1/companies", status(404), "an empty segment", "use GET /v1/companies"),
        failed(GET, "/V1/Companies", status(404), "not in lower case", "use GET /v1/companies"),
        failed(
            GET,
            "/v1/vendors/17",
            status(404),
            "there is nothing with this id for this login",
            "may be one of another company",
        ),
        failed(
            GET,
            "/v1/export-jobs/17",
            typed(404, "EXPORT_NOT_FOUND"),
            "no export job with this id for this login (EXPORT_NOT_FOUND); deprecated",
            "check the id",
        ),
    ]
}

fn wrong_requests() -> Vec<Failure> {
    let organisation = |facts: Facts<'static>| Facts {
        subject: SubjectKind::Organisation,
        granted: Some(export_jobs()),
        ..facts
    };
    vec![
        failed(
            POST,
            "/v1/accounting-entries:search",
            status(400),
            "needs company_id or organization_id",
            "add ?company_id=ID",
        ),
        Failure {
            facts: organisation,
            ..failed(
                GET,
                "/v3/export-jobs",
                status(403),
                "this login is for an organisation",
                "add ?company_id=ID",
            )
        },
        failed(
            GET,
            "/v3/export-jobs?status=pending",
            status(400),
            "status, which v3 does not know",
            "write statuses instead",
        ),
        failed(
            POST,
            "/v3/export-jobs",
            typed(409, "EXPORT_ALREADY_IN_PROGRESS"),
            "another export job of this company",
            "expires one hour after its last update",
        ),
        failed(
            Method::PUT,
            "/v3/export-jobs/17/items",
            status(413),
            "more than 100 items (EXPORT_JOB_ITEMS_UPDATE_LIMIT)",
            "at most 100 items",
        ),
        failed(
            POST,
            "/v3/export-job-events",
            typed(422, "INVALID_EXPORT_JOB_STATUS_CHANGE"),
            "cannot go from its status",
            "read the job's status",
        ),
        failed(
            GET,
            "/v3/export-items?job_id=1",
            typed(400, "MISSING_CONTRA_ACCOUNTS"),
            "contra accounts",
            "set the contra accounts",
        ),
        failed(
            GET,
            "/v2/export-items?job_id=1",
            typed(400, "UNSUPPORTED_API_VERSION"),
            "multi-currency",
            "use GET /v3/export-items",
        ),
        failed(
            GET,
            "/v1/companies",
            Answer { retry_after: Some(7), ..status(429) },
            "600 a minute and recommends at most 500",
            "wait 7 s",
        ),
    ]
}

fn leaked(scopes: &[&str]) -> &'static [String] {
    strings(scopes).leak()
}

fn tag_group() -> &'static [String] {
    leaked(&["tag-group:read"])
}

fn export_jobs() -> &'static [String] {
    leaked(&["export-jobs:read"])
}

#[test]
fn each_failure_gets_its_reason_and_its_next_step() {
    let usual = facts(leaked(&["vendors:read", "users:read"]), leaked(&["export-jobs:read"]));
    let lists = [wrong_scopes_and_keys(), wrong_paths(), wrong_requests()];
    let failures: Vec<_> = lists.into_iter().flatten().collect();
    assert!(failures.len() >= 22, "{}", failures.len());
    for failure in failures {
        let at = format!("{} {}", failure.method, failure.target);
        let facts = (failure.facts)(usual);
        let told = after(&request(&failure.method, failure.target), &failure.answer, &facts);
        let told = told.unwrap_or_else(|| panic!("{at}"));
        assert!(told.reason.contains(failure.reason), "{at}: {told:?}");
        let next = told.next.clone().unwrap_or_default();
        assert!(next.contains(failure.next), "{at}: {told:?}");
        assert_eq!(told.verdict, Verdict::Refused, "{at}");
        assert_is_header(&told);
    }
}

#[test]
fn what_is_only_possible_is_not_called_certain() {
    let usual = facts(leaked(&["vendors:read"]), &[]);
    let certain = |method: Method, target, answer: Answer<'_>, facts: &Facts<'_>| {
        after(&request(&method, target), &answer, facts).unwrap().is_certain
    };
    assert!(certain(POST, "/v1/vendors", status(403), &usual));
    assert!(!certain(POST, "/v1/vendors/csv-import/jobs", status(403), &usual), "inferred");
    assert!(!certain(GET, "/v1/vendors/17", status(404), &usual));
    assert!(!certain(POST, "/v3/export-jobs", status(409), &usual), "its type was not read");
    assert!(certain(POST, "/v3/export-jobs", typed(409, "EXPORT_ALREADY_IN_PROGRESS"), &usual));
}

#[test]
fn where_nothing_is_known_nothing_is_said() {
    let usual = facts(leaked(&["vendors:read"]), &[]);
    for (method, target, answer) in [
        (GET, "/v1/vendors/17", status(200)),
        (GET, "/v9/x", status(200)),
        (GET, "/v1/vendors/17", status(400)),
        (GET, "/v1/vendors/17", status(418)),
        (POST, "/v1/vendors:search", typed(400, "A_NEW_TYPE")),
        (GET, "/v1/companies", status(404)),
    ] {
        assert_eq!(after(&request(&method, target), &answer, &usual), None, "{target}");
    }
}

#[test]
fn a_deprecated_operation_names_its_successor_even_when_it_works() {
    let granted = leaked(&["export-jobs:read", "accounts:read"]);
    for (target, reason, next) in [
        ("/v1/export-jobs", "deprecated", Some("use GET /v3/export-jobs")),
        (
            "/v1-beta/accounts/17",
            "there is a newer operation",
            Some("use GET /v1/chart-of-accounts/{accountId}"),
        ),
        ("/v0/tags", "deprecated", None),
    ] {
        let told = after(&request(&GET, target), &status(200), &facts(granted, &[])).unwrap();
        assert_eq!((told.verdict, told.reason.as_str()), (Verdict::Allowed, reason));
        assert_eq!(told.next.as_deref(), next);
    }
    let told = before(&request(&GET, "/v1/export-jobs"), &facts(granted, &[]));
    assert_eq!(told.reason, "needs export-jobs:read, which this login has; deprecated");
    assert_eq!(
        (told.verdict, told.next.as_deref()),
        (Verdict::Allowed, Some("use GET /v3/export-jobs"),)
    );
}

#[test]
fn an_account_that_is_not_connected_is_told_to_log_in() {
    let nothing = Facts { credential: CredentialKind::None, granted: None, ..facts(&[], &[]) };
    let told = before(&request(&POST, "/v1/vendors"), &nothing);
    assert_eq!(told.reason, "needs vendors:write; this account is not connected");
    assert_eq!(told.next.as_deref(), Some("pleo-proxy login acme"));
    assert_eq!(told.verdict, Verdict::Unknown);
}

#[test]
fn addresses_and_names_of_other_apis_are_recognized() {
    let usual = facts(&[], &[]);
    for (target, reason, next) in [
        ("https://openapi.pleo.io/v1/expenses", "address of Pleo's old API", "new API"),
        ("https://external.pleo.io/v1/expenses", "a path of Pleo's old API", "accounting-entries"),
        ("/v1/employees/17", "a path of Pleo's old API", "use GET /v2/employees"),
        ("/v1/me", "has no /v1/me", "GET /v1/introspect"),
        ("/companies", "has no version", "use GET /v1/companies"),
        ("/v2/companies", "lists no v2", "use GET /v1/companies"),
        ("/v1/accounting-entries%3Asearch", "colon escaped", "use POST"),
        ("/v1/compaines", "none of Pleo's", "did you mean GET /v1/companies?"),
        ("/v3/export-job/17/items", "none of Pleo's", "GET /v3/export-jobs/{jobId}/items?"),
    ] {
        let method = if target.contains("%3A") { POST } else { GET };
        let told = before(&request(&method, target), &usual);
        assert!(told.reason.contains(reason), "{target}: {told:?}");
        assert!(told.next.as_ref().is_some_and(|it| it.contains(next)), "{target}: {told:?}");
        assert_eq!((told.verdict, told.operation), (Verdict::Unknown, None), "{target}");
    }
    let told = before(&request(&GET, "/v1/teams"), &usual);
    assert!(told.reason.contains("old API") && told.next.is_none(), "{told:?}");
    let told = before(&request(&GET, "/something/else/entirely"), &usual);
    assert_eq!(
        (told.reason.as_str(), told.next),
        ("this is none of Pleo's published operations", None)
    );
}

#[test]
fn subjects_are_told_apart() {
    let kind = |urn| SubjectKind::of(Some(urn));
    assert_eq!(kind("urn:pleo:company:1"), SubjectKind::Company);
    assert_eq!(kind("urn:pleo:organisation:1"), SubjectKind::Organisation);
    assert_eq!((kind("urn:pleo:user:1"), kind("")), (SubjectKind::Unknown, SubjectKind::Unknown));
    assert_eq!(SubjectKind::of(None), SubjectKind::Unknown);
}

proptest! {
    #[test]
    fn any_request_gets_one_line_of_ascii_and_no_panic(
        method in prop::sample::select(vec!["GET", "POST", "PATCH", "OPTIONS", "HEAD"]),
        path in "(/|//|v1|v9|v|\\PC|vendors|:search|%3A|expenses|://|openapi\\.|é){0,12}",
        long in 0_usize..300,
        scopes in prop::collection::vec("\\PC{0,60}", 0..12),
        code in 100_u16..600,
    ) {
        let method: Method = method.parse().unwrap();
        let path = path + &"x".repeat(if long > 200 { long } else { 0 });
        let facts = facts(&scopes, &scopes);
        let told = before(&Request::new(&method, &path, None), &facts);
        assert_is_header(&told);
        if let Some(told) = after(&Request::new(&method, &path, None), &status(code), &facts) {
            assert_is_header(&told);
        }
    }
}

#[test]
fn a_400_whose_body_was_not_read_is_not_put_down_to_one_of_its_reasons() {
    let granted = strings(&["export-jobs:write", "export-items:read"]);
    let facts = facts(&granted, &granted);
    for (method, path) in [(&Method::POST, "/v3/export-jobs"), (&Method::GET, "/v3/export-items")] {
        let request = Request::new(method, path, Some("job_id=1"));
        let hint = after(&request, &status(400), &facts).map(|it| it.hint()).unwrap_or_default();
        assert!(!hint.contains("contra"), "{path}: {hint}");
    }
}

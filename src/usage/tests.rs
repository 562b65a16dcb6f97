use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use http::Method;

use super::*;
use crate::operations;

const NOON: i64 = 1_800_000_000_000;

fn strings(scopes: &[&str]) -> Vec<String> {
    scopes.iter().map(ToString::to_string).collect()
}

/// Counts requests of the account `acme`, each with its status.
fn used(requests: &[(&str, u16)]) -> Usage {
    let mut usage = Usage::new(NOON);
    count(&mut usage, requests);
    usage
}

fn count(usage: &mut Usage, requests: &[(&str, u16)]) {
    for (at, (request, status)) in (1..).zip(requests) {
        let (method, path) = request.split_once(' ').unwrap();
        let what = Use::of(&method.parse::<Method>().unwrap(), path);
        usage.record("acme", what, Some(*status).filter(|status| *status > 0), NOON + at);
    }
}

fn report(usage: &Usage, granted: &[&str]) -> AccountReport {
    let granted = strings(granted);
    usage.report("acme", &Grant { granted: &granted, ..Grant::default() })
}

#[test]
fn scopes_are_what_the_operations_in_use_need() {
    let usage = used(&[
        ("GET /v3/export-jobs", 200),
        ("GET /v3/export-jobs/17", 404),
        ("GET /v2/employees", 200),
        ("GET /v1/introspect", 200),
        ("POST /v1/vendors:search", 403),
    ]);
    let granted = ["companies:read", "export-jobs:read", "users:read", "vendors:write"];
    let told = report(&usage, &granted);
    assert_eq!(told.used, ["export-jobs:read", "users:read"]);
    assert_eq!(told.smallest_scopes, ["export-jobs:read", "users:read", "vendors:read"]);
    assert!(told.unknown_scope_operations.is_empty() && told.read_only_would_do);
    assert_eq!(told.granted, granted);
}

#[test]
fn granted_scopes_that_may_be_needed_are_not_called_superfluous() {
    let granted = ["accounting-entries:read", "users:read", "vendors:read"];
    let entries = used(&[("POST /v1/accounting-entries:search", 200), ("GET /v2/employees", 200)]);
    let told = report(&entries, &granted);
    assert_eq!(told.smallest_scopes, ["accounting-entries:read", "users:read"]);
    assert_eq!(told.unknown_scope_operations, ["POST /v1/accounting-entries:search"]);
    let told = report(&used(&[("GET /v2/employees", 200)]), &granted);
    assert_eq!(told.smallest_scopes, ["users:read"]);
    let told = report(&used(&[("GET /v1/subscriptions", 200)]), &granted);
    assert_eq!(told.smallest_scopes, granted, "subscriptions need the scopes of their events");
    let told = report(&used(&[("GET /v0/tag-groups", 200)]), &["tag-group:read"]);
    assert_eq!(
        (told.used, told.smallest_scopes),
        (strings(&["tag-group:read"]), strings(&["tag-group:read"]))
    );
}

#[test]
fn deprecated_operations_name_their_successors() {
    let usage = used(&[
        ("GET /v1/export-jobs", 200),
        ("GET /v1/export-jobs", 500),
        ("GET /v0/tags", 200),
        ("GET /v3/export-jobs", 200),
    ]);
    let told: Vec<_> = report(&usage, &[])
        .deprecated
        .into_iter()
        .map(|it| (it.operation, it.requests, it.successor))
        .collect();
    let successor = Some("GET /v3/export-jobs".to_owned());
    assert_eq!(
        told,
        [("GET /v1/export-jobs".to_owned(), 2, successor), ("GET /v0/tags".to_owned(), 1, None)]
    );
}

#[test]
fn read_only_would_do_unless_something_may_have_been_written() {
    for (requests, expected) in [
        (&[][..], false),
        (&[("POST /v1/vendors:search", 200), ("GET /v9/unknown", 404)], true),
        (&[("GET /v2/employees", 200), ("POST /v1/vendors", 403)], false),
        (&[("PATCH /v9/unknown", 404)], false),
    ] {
        assert_eq!(report(&used(requests), &[]).read_only_would_do, expected, "{requests:?}");
    }
}

#[test]
fn requests_errors_and_the_last_time_are_counted() {
    let usage = used(&[
        ("GET /v2/employees", 200),
        ("HEAD /v2/employees", 429),
        ("GET /v2/employees", 0),
        ("GET /v2/employees", 304),
    ]);
    let told = report(&usage, &[]);
    let expected = OperationUse {
        operation: "GET /v2/employees".into(),
        requests: 4,
        errors: 2,
        last_at: NOON + 4,
    };
    assert_eq!(told.operations, [expected]);
}

#[test]
fn counters_outlive_the_process_and_proxies_of_one_store_add_up() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(FILE_NAME);
    let mut first = Usage::load(&path, NOON).unwrap();
    let mut second = Usage::load(&path, NOON + 1000).unwrap();
    assert!(!first.is_changed());
    first.save(&path).unwrap();
    assert!(!path.exists(), "nothing was counted");
    count(&mut first, &[("GET /v2/employees", 200), ("PATCH /v9/unknown", 404)]);
    count(&mut second, &[("GET /v2/employees", 403)]);
    first.save(&path).unwrap();
    second.save(&path).unwrap();
    count(&mut first, &[("GET /v2/employees", 200)]);
    first.save(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let third = Usage::load(&path, NOON + 9000).unwrap();
    let told = report(&third, &[]);
    assert_eq!((told.operations[0].requests, told.operations[0].errors), (3, 1));
    assert!(!told.read_only_would_do, "the unknown write is remembered");
    assert_eq!((third.since(), third.accounts().len()), (NOON, 1));
    assert_eq!(report(&first, &[]), told);
}

#[test]
fn a_file_of_another_release_keeps_what_is_known_and_a_damaged_one_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(FILE_NAME);
    let write = |text: &str| {
        let _ = fs::remove_file(&path);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    };
    write(
        r#"{"version":1,"since":5,"later":1,"accounts":{"acme":{"operations":{
            "GET /v2/employees":{"requests":7},"GET /v9/gone":{"requests":1}}}}}"#,
    );
    let usage = Usage::load(&path, NOON).unwrap();
    let told = report(&usage, &[]);
    assert_eq!((told.operations.len(), told.operations[0].requests), (1, 7));
    for damaged in ["{", r#"{"version":2,"since":5,"accounts":{}}"#, "[1]"] {
        write(damaged);
        let error = Usage::load(&path, NOON).unwrap_err().to_string();
        assert!(error.contains(FILE_NAME) && error.contains("replaced"), "{error}");
        let mut usage = used(&[("GET /v2/employees", 200)]);
        usage.save(&path).unwrap();
        assert_eq!(report(&Usage::load(&path, NOON).unwrap(), &[]).operations[0].requests, 1);
    }
}

#[test]
fn accounts_are_bounded_and_every_operation_has_its_counter() {
    let mut usage = Usage::new(NOON);
    for number in 0..1500 {
        usage.record(&format!("a{number}"), Use::OtherRead, Some(200), NOON);
    }
    assert_eq!(usage.accounts().len(), 1000);
    let mut usage = Usage::new(NOON);
    for index in 0..operations::ALL.len() {
        usage.record("acme", Use::Listed(index), Some(200), NOON);
    }
    usage.record("acme", Use::Listed(usize::MAX), Some(200), NOON);
    assert_eq!(report(&usage, &[]).operations.len(), operations::ALL.len());
}

#[test]
fn what_is_counted_while_counters_are_saved_is_kept_whether_that_succeeds_or_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("absent").join(FILE_NAME);
    let mut usage = used(&[("GET /v2/employees", 200)]);
    let mut requests = 1;
    for is_disk_well in [false, true, true] {
        if is_disk_well {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
        }
        let mut copy = usage.begin_save();
        count(&mut usage, &[("GET /v2/employees", 200)]);
        requests += 1;
        assert_eq!(report(&usage, &[]).operations[0].requests, requests, "while it is saved");
        assert_eq!(copy.save(&path).is_ok(), is_disk_well);
        usage.end_save(copy);
        assert_eq!(report(&usage, &[]).operations[0].requests, requests);
    }
    let saved = Usage::load(&path, NOON).unwrap();
    assert_eq!(report(&saved, &[]).operations[0].requests, requests - 1);
    usage.save(&path).unwrap();
    let saved = Usage::load(&path, NOON).unwrap();
    assert_eq!(report(&saved, &[]).operations[0].requests, requests);
}

#[test]
fn the_file_is_not_taken_for_a_record() {
    let name = FILE_NAME.strip_suffix(".json").unwrap();
    assert!(name.contains('_'), "names of accounts have no underscore");
}

#[tokio::test]
async fn a_keeper_saves_and_reports_what_it_cannot_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(FILE_NAME);
    let clock = crate::clock::Clock::system();
    let keeper = std::sync::Arc::new(Keeper::open(path.clone(), &clock));
    keeper.with(|usage| count(usage, &[("GET /v2/employees", 200)]));
    keeper.save().await;
    let again = Keeper::open(path.clone(), &clock);
    assert_eq!(again.with(|usage| usage.accounts().len()), 1);
    fs::write(&path, "{").unwrap();
    let anew = Keeper::open(path, &clock);
    assert_eq!(anew.with(|usage| usage.accounts().len()), 0);
}

#[tokio::test]
async fn counters_follow_an_account_to_its_new_name_and_end_with_it_in_the_file_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(FILE_NAME);
    let clock = crate::clock::Clock::system();
    let keeper = std::sync::Arc::new(Keeper::open(path.clone(), &clock));
    keeper.move_account("acme", Some("beta")).await.unwrap();
    assert!(!path.exists(), "there was nothing to move");
    keeper.with(|usage| count(usage, &[("GET /v2/employees", 200)]));
    keeper.save().await;
    keeper.with(|usage| count(usage, &[("GET /v2/employees", 200)]));
    keeper.move_account("acme", Some("beta")).await.unwrap();
    keeper.save().await;
    for usage in [keeper.with(|usage| usage.clone()), Usage::load(&path, NOON).unwrap()] {
        assert_eq!(usage.accounts().into_iter().collect::<Vec<_>>(), ["beta"]);
        assert_eq!(usage.report("beta", &Grant::default()).operations[0].requests, 2);
    }
    keeper.move_account("beta", None).await.unwrap();
    assert!(Usage::load(&path, NOON).unwrap().accounts().is_empty());
    assert!(keeper.with(|usage| usage.accounts()).is_empty());
}

#[test]
fn those_that_save_in_the_same_moment_lose_no_counts() {
    const ROUNDS: u64 = 100;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(FILE_NAME);
    let barrier = std::sync::Barrier::new(2);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut usage = Usage::new(NOON);
                for _ in 0..ROUNDS {
                    count(&mut usage, &[("GET /v2/employees", 200)]);
                    barrier.wait();
                    usage.save(&path).unwrap();
                }
            });
        }
    });
    let (_, counters) = file::read(&path).unwrap().unwrap();
    let requests: u64 = counters.accounts["acme"].used().map(|(_, it)| it.requests).sum();
    assert_eq!(requests, 2 * ROUNDS);
}

#[test]
fn a_process_that_keeps_the_lock_is_named_and_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(FILE_NAME);
    let held = file::lock(&path).unwrap();
    let mut usage = used(&[("GET /v2/employees", 200)]);
    let why = usage.save(&path).unwrap_err().to_string();
    assert!(why.contains(&format!("locked by process {}", std::process::id())), "{why}");
    assert!(usage.is_changed(), "kept for the next save");
    drop(held);
    usage.save(&path).unwrap();
    assert!(!usage.is_changed());
}

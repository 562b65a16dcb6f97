//! The data at the start: always the same, so that examples and tests can refer to it by id.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::dataset::{Dataset, Row, Table, now};
use super::exports::items;
use super::files::receipt_file;
use super::subject::{COMPANY_ID, ORGANISATION_ID, SECOND_COMPANY_ID, Subject};

mod bookkeeping;

/// 2026-05-04T09:12:00Z.
const FIRST_PURCHASE: i64 = 1_777_885_920;
const HOURS_BETWEEN: i64 = 17;
const LIVE_ENTRIES: u64 = 45;
const DELETED_ENTRIES: u64 = 2;
const SECOND_COMPANY_ENTRIES: u64 = 12;
/// Number of the first of the entries that only [`Options::more_entries`](super::Options) adds.
const FIRST_OF_MORE: u64 = 1_000_001;
const PEOPLE: [(&str, &str, &str, &str); 5] = [
    ("Ada", "Byron", "Buyer", COMPANY_ID),
    ("Grace", "Hopper", "Bookkeeper", COMPANY_ID),
    ("Edsger", "Dijkstra", "Barista", COMPANY_ID),
    ("Emmy", "Noether", "Roaster", SECOND_COMPANY_ID),
    ("Konrad", "Zuse", "Driver", SECOND_COMPANY_ID),
];
const NOTES: [&str; 5] = ["cables", "oat milk", "train to Aarhus", "team lunch", "paper cups"];
const FAMILIES: [&str; 4] = ["CARD_PURCHASE", "OUT_OF_POCKET", "MILEAGE", "BILL_INVOICE"];
const VENDORS: [(&str, &str); 4] = [
    ("Bean Brothers", COMPANY_ID),
    ("Cup & Saucer Ltd", COMPANY_ID),
    ("Nordic Milk", COMPANY_ID),
    ("Rhein Röster", SECOND_COMPANY_ID),
];

/// The data, with so many more accounting entries of the first company.
pub(crate) fn dataset(more_entries: u64) -> Dataset {
    let mut dataset = Dataset {
        companies: companies(),
        employees: employees(),
        vendors: vendors(),
        accounts: bookkeeping::accounts(),
        tax_codes: bookkeeping::tax_codes(),
        tag_groups: bookkeeping::tag_groups(),
        dimensions: bookkeeping::dimensions(),
        tags: bookkeeping::tags(),
        tag_values: bookkeeping::tag_values(),
        ..Dataset::default()
    };
    let first = (1..=LIVE_ENTRIES + DELETED_ENTRIES).map(|n| (n, COMPANY_ID));
    let second = (1001..=1000 + SECOND_COMPANY_ENTRIES).map(|n| (n, SECOND_COMPANY_ID));
    let more = (FIRST_OF_MORE..FIRST_OF_MORE + more_entries).map(|n| (n, COMPANY_ID));
    for (n, company) in first.chain(second).chain(more) {
        dataset.receipts.0.extend((0..receipts_of(n)).map(|k| receipt(n, k, company)));
        dataset.entries.0.push(entry(n, company));
    }
    let (job, item) = export();
    dataset.jobs.0.push(job);
    dataset.items.0.push(item);
    dataset
}

/// A recognizable UUID: the kind first, the number last.
fn id(kind: &str, n: u64) -> String {
    format!("{kind}-0000-4000-8000-{n:012x}")
}

fn entry_id(n: u64) -> String {
    id("e4721e50", n)
}

/// A row without the fields that are null: Pleo leaves out what is not set.
fn row(company: &str, mut body: Value) -> Row {
    if let Value::Object(fields) = &mut body {
        fields.retain(|_, value| !value.is_null());
    }
    Row::of(company, body)
}

fn at(hours: i64) -> String {
    let start = Timestamp::from_second(FIRST_PURCHASE).expect("the constant is a time in 2026");
    (start + SignedDuration::from_hours(hours)).to_string()
}

fn companies() -> Table {
    Table(vec![
        company(Subject::FirstCompany, "DK10000001", "Copenhagen", "DK"),
        company(Subject::SecondCompany, "HRB20000002", "Hamburg", "DE"),
    ])
}

/// Adds a company from number 3 on when it is authorized for the first time.
pub(crate) fn add_company(companies: &mut Table, subject: Subject) {
    if let Subject::Company(number) = subject
        && companies.find(subject, &subject.id(), "company").is_err()
    {
        companies.0.push(company(subject, &format!("SE{number:08}"), "Gothenburg", "SE"));
    }
}

fn company(subject: Subject, number: &str, town: &str, country: &str) -> Row {
    let body = json!({
        "id": subject.id(), "name": subject.title(), "organizationId": ORGANISATION_ID,
        "registrationNumber": number, "address": {
            "addressLine1": "1 Quay", "locality": town, "postalCode": "1000", "country": country,
        },
    });
    row(&subject.id(), body)
}

fn employees() -> Table {
    let employee = |(n, (first, last, job, company)): (u64, (&str, &str, &str, &str))| {
        let body = json!({
            "id": id("e3b10e00", n), "companyId": company, "firstName": first, "lastName": last,
            "email": format!("{}@harbour.example", first.to_lowercase()), "code": format!("E-{n:02}"), "jobTitle": job,
            "phone": format!("+45 00 00 00 {n:02}"),
        });
        row(company, body)
    };
    Table((1..).zip(PEOPLE).map(employee).collect())
}

fn vendors() -> Table {
    let vendor = |(n, (name, company)): (u64, (&str, &str))| {
        row(
            company,
            json!({
                "id": id("7e4d0500", n), "companyId": company, "name": name, "state": "ACTIVE", "defaultCurrency": "DKK",
                "externalId": format!("V-{n:03}"), "code": format!("V-{n:03}"), "country": "DK", "createdAt": at(0),
                "updatedAt": at(0),
            }),
        )
    };
    Table((1..).zip(VENDORS).map(vendor).collect())
}

fn receipts_of(n: u64) -> u64 {
    if n < FIRST_OF_MORE { n % 3 } else { 0 }
}

fn entry(n: u64, company: &str) -> Row {
    let buyers: Vec<u64> =
        (1..).zip(PEOPLE).filter(|(_, person)| person.3 == company).map(|(k, _)| k).collect();
    let pick = n as usize;
    let hours = pick as i64 % 1000 * HOURS_BETWEEN;
    let receipts: Vec<String> = (0..receipts_of(n)).map(|k| receipt_id(n, k)).collect();
    let minors = 100 + n * 7919 % 90_000;
    let deleted = (LIVE_ENTRIES + 1..=LIVE_ENTRIES + DELETED_ENTRIES).contains(&n);
    let body = json!({
        "id": entry_id(n), "companyId": company, "employeeId": id("e3b10e00", buyers[pick % buyers.len()]),
        "family": FAMILIES[pick % FAMILIES.len()], "status": "COMPLETED",
        "exportStatus": if n == 1 { "QUEUED" } else { "NOT_EXPORTED" }, "reviewStatus": "NOT_REQUIRED",
        "transactionValue": { "currency": "EUR", "minors": minors },
        "totalBillValue": { "currency": "DKK", "minors": minors * 746 / 100 },
        "performedAt": at(hours), "settledAt": at(hours + 40), "bookkeepingDate": at(hours + 40),
        "createdAt": at(hours), "updatedAt": at(hours + 41),
        "deletedAt": if deleted { json!(at(hours + 50)) } else { Value::Null },
        "accountId": bookkeeping::account_id(n, company), "accountCode": bookkeeping::account_code(n),
        "taxCodeId": bookkeeping::tax_code_id(company), "note": NOTES[pick % NOTES.len()], "receiptIds": receipts, "tags": [],
        "splitItems": [], "attendees": [],
    });
    row(company, body)
}

fn receipt_id(n: u64, k: u64) -> String {
    id("4ece1970", n * 16 + k)
}

fn receipt(n: u64, k: u64, company: &str) -> Row {
    let receipt = receipt_id(n, k);
    let size = receipt_file(&receipt).len();
    let body = json!({
        "id": receipt, "accountingEntryId": entry_id(n), "createdAt": at(n as i64 % 1000 * HOURS_BETWEEN),
        "source": "CAMERA", "fileType": "ORIGINAL", "mimeType": "application/pdf", "sizeInBytes": size,
    });
    row(company, body)
}

/// The job that a person has begun in Pleo when the sandbox starts.
fn export() -> (Row, Row) {
    let (job, now) = (id("e890420b", 1), now());
    let body = json!({
        "id": job, "companyId": COMPANY_ID, "status": "pending", "numberOfItems": 1, "expiresIn": 3600,
        "isInteractive": true, "createdAt": now, "createdBy": id("e3b10e00", 2), "lastUpdatedAt": now,
        "startedAt": null, "completedAt": null, "expiredAt": null, "failureReason": null,
        "vendorBasedBookkeeping": false,
    });
    (Row::of(COMPANY_ID, body), items::new(COMPANY_ID, &job, &entry_id(1)))
}

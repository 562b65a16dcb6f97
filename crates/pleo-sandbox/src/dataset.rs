//! The data of the fake companies.

use serde_json::Value;

use super::response::Problem;
use super::state::hex;
use super::subject::Subject;

/// One object of the API and the company it belongs to.
#[derive(Clone)]
pub(crate) struct Row {
    pub(crate) id: String,
    pub(crate) company: String,
    /// The object as the API shows it.
    pub(crate) body: Value,
}

impl Row {
    /// Whether a field of the object has this value.
    pub(crate) fn has(&self, field: &str, value: &str) -> bool {
        self.body[field] == value
    }
}

/// Objects of one kind, in the order in which they were created.
#[derive(Default)]
pub(crate) struct Table(pub(crate) Vec<Row>);

impl Table {
    pub(crate) fn visible(&self, subject: Subject) -> impl Iterator<Item = &Row> {
        self.0.iter().filter(move |row| subject.sees(&row.company))
    }

    /// Finds an object that the caller may see; others are reported as not found.
    pub(crate) fn find(&self, subject: Subject, id: &str, what: &str) -> Result<&Row, Problem> {
        self.visible(subject).find(|row| row.id == id).ok_or_else(|| Problem::not_found(what))
    }

    pub(crate) fn find_mut(
        &mut self,
        subject: Subject,
        id: &str,
        what: &str,
    ) -> Result<&mut Row, Problem> {
        let mut visible = self.0.iter_mut().filter(|row| subject.sees(&row.company));
        visible.find(|row| row.id == id).ok_or_else(|| Problem::not_found(what))
    }
}

#[derive(Default)]
pub(crate) struct Dataset {
    pub(crate) companies: Table,
    pub(crate) employees: Table,
    pub(crate) entries: Table,
    /// Without their URLs, which are signed for each response.
    pub(crate) receipts: Table,
    pub(crate) jobs: Table,
    pub(crate) items: Table,
    pub(crate) vendors: Table,
}

/// A random UUID (version 4).
pub(crate) fn new_id() -> String {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes after boot");
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let digits = hex(&bytes);
    format!(
        "{}-{}-{}-{}-{}",
        &digits[..8],
        &digits[8..12],
        &digits[12..16],
        &digits[16..20],
        &digits[20..]
    )
}

/// The current time as the API writes it, to the second.
pub(crate) fn now() -> String {
    let now = jiff::Timestamp::now();
    jiff::Timestamp::from_second(now.as_second()).unwrap_or(now).to_string()
}

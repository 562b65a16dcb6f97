//! The data of the fake companies.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

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
    /// An object under the id in its body.
    pub(crate) fn of(company: &str, body: Value) -> Self {
        let id = body["id"].as_str().unwrap_or_default().to_owned();
        Self { id, company: company.to_owned(), body }
    }

    /// A new object: it gets an id.
    pub(crate) fn new(company: &str, mut fields: Map<String, Value>) -> Self {
        fields.insert("id".to_owned(), json!(new_id()));
        Self::of(company, Value::Object(fields))
    }

    /// A new object with the times of its creation and last change.
    pub(crate) fn stamped(company: &str, mut fields: Map<String, Value>) -> Self {
        for name in ["createdAt", "updatedAt"] {
            fields.insert(name.to_owned(), json!(now()));
        }
        Self::new(company, fields)
    }

    /// Whether a field of the object has this value.
    pub(crate) fn has(&self, field: &str, value: &str) -> bool {
        self.body[field] == value
    }

    /// A field of the object; empty if it is missing or not a text.
    pub(crate) fn text(&self, field: &str) -> &str {
        self.body[field].as_str().unwrap_or_default()
    }

    /// Replaces these fields, and the time of the last change if the object shows it.
    pub(crate) fn change(&mut self, fields: Map<String, Value>) {
        for (name, value) in fields {
            self.body[name] = value;
        }
        if self.body.get("updatedAt").is_some() {
            self.body["updatedAt"] = json!(now());
        }
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

    /// Removes an object that the caller may see.
    pub(crate) fn remove(&mut self, subject: Subject, id: &str, what: &str) -> Result<(), Problem> {
        self.find(subject, id, what)?;
        self.0.retain(|row| row.id != id);
        Ok(())
    }

    /// Adds an object; returns it as the API shows it.
    pub(crate) fn add(&mut self, row: Row) -> Value {
        let body = row.body.clone();
        self.0.push(row);
        body
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
    pub(crate) accounts: Table,
    pub(crate) tax_codes: Table,
    pub(crate) tag_groups: Table,
    /// Dimensions of tag groups.
    pub(crate) dimensions: Table,
    pub(crate) tags: Table,
    /// Values of dimensions for tags.
    pub(crate) tag_values: Table,
    /// They belong to the subject that made them, whose id stands for the company.
    pub(crate) subscriptions: Table,
    pub(crate) activities: Table,
    /// Signing secrets of the subscriptions, by the subscription's id.
    pub(crate) webhook_secrets: HashMap<String, String>,
    pub(crate) installations: HashMap<Subject, Value>,
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

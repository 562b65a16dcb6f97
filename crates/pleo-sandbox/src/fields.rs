//! The fields of JSON bodies: a list says which there are, what they hold and which are required.

use axum::http::StatusCode;
use serde_json::{Map, Value};

use super::response::Problem;

/// What a field holds.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Text,
    /// A text that is not blank.
    Name,
    /// A UUID.
    Id,
    /// A time as in RFC 3339.
    Time,
    Flag,
    Integer,
    Number,
    Object,
    Texts,
    Ids,
    /// Any JSON, checked by its handler.
    Any,
    /// One of these words.
    Word(&'static [&'static str]),
    /// An array of these words.
    Words(&'static [&'static str]),
}

/// One field of a body.
#[derive(Clone, Copy)]
pub(crate) struct Field {
    name: &'static str,
    kind: Kind,
    is_required: bool,
}

impl Field {
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }
}

pub(crate) const fn required(name: &'static str, kind: Kind) -> Field {
    Field { name, kind, is_required: true }
}

pub(crate) const fn optional(name: &'static str, kind: Kind) -> Field {
    Field { name, kind, is_required: false }
}

/// Parses a JSON body; anything else is the API's own error.
pub(crate) fn json(body: &[u8]) -> Result<Value, Problem> {
    serde_json::from_slice(body).map_err(|_| unreadable("the body is not JSON"))
}

/// Parses a body that must be a JSON object.
pub(crate) fn object(body: &[u8]) -> Result<Map<String, Value>, Problem> {
    match json(body)? {
        Value::Object(object) => Ok(object),
        _ => Err(unreadable("the body is not a JSON object")),
    }
}

/// Parses a body that must be a JSON array of objects.
pub(crate) fn objects(body: &[u8]) -> Result<Vec<Map<String, Value>>, Problem> {
    serde_json::from_slice(body).map_err(|_| unreadable("the body is not an array of objects"))
}

/// The fields of `shape`. Those that are null count as absent; those without a place in `shape` are
/// left out.
pub(crate) fn read(
    object: &Map<String, Value>,
    shape: &[Field],
) -> Result<Map<String, Value>, Problem> {
    let mut found = Map::new();
    for field in shape {
        match object.get(field.name).filter(|value| !value.is_null()) {
            Some(value) if fits(field.kind, value) => {
                found.insert(field.name.to_owned(), value.clone());
            }
            Some(_) => return Err(unreadable(&format!("{} is not valid", field.name))),
            None if field.is_required => {
                return Err(Problem::invalid(format!("{} is required", field.name)));
            }
            None => {}
        }
    }
    Ok(found)
}

fn unreadable(message: &str) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "JSON_MAPPING_EXCEPTION", message)
}

fn fits(kind: Kind, value: &Value) -> bool {
    let text = value.as_str();
    let all = |fits: &dyn Fn(&str) -> bool| {
        let items = value.as_array();
        items.is_some_and(|items| items.iter().all(|item| item.as_str().is_some_and(fits)))
    };
    match kind {
        Kind::Text => text.is_some(),
        Kind::Name => text.is_some_and(|text| !text.trim().is_empty()),
        Kind::Id => text.is_some_and(is_uuid),
        Kind::Time => text.is_some_and(|text| text.parse::<jiff::Timestamp>().is_ok()),
        Kind::Flag => value.is_boolean(),
        Kind::Integer => value.is_i64() || value.is_u64(),
        Kind::Number => value.is_number(),
        Kind::Object => value.is_object(),
        Kind::Texts => all(&|_| true),
        Kind::Ids => all(&is_uuid),
        Kind::Any => true,
        Kind::Word(words) => text.is_some_and(|text| words.contains(&text)),
        Kind::Words(words) => all(&|text| words.contains(&text)),
    }
}

fn is_uuid(text: &str) -> bool {
    let is_part = |(part, length): (&str, usize)| {
        part.len() == length && part.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    let parts: Vec<&str> = text.split('-').collect();
    parts.len() == 5 && parts.into_iter().zip([8, 4, 4, 4, 12]).all(is_part)
}

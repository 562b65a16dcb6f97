//! Checks JSON against the models of Pleo's OpenAPI files (`tests/openapi`): required fields, types,
//! and that nothing is there which the models do not know.

use std::collections::HashMap;

use serde_json::Value;

const MODELS: &str = include_str!("../openapi/models.txt");

/// The models by name; a field is its name, whether it is required, and its type.
pub(super) struct Models {
    fields: HashMap<&'static str, Vec<(&'static str, bool, &'static str)>>,
    /// Names for types that are no objects.
    aliases: HashMap<&'static str, &'static str>,
}

impl Models {
    pub(super) fn read() -> Self {
        let mut models = Self { fields: HashMap::new(), aliases: HashMap::new() };
        let mut name = "";
        for line in MODELS.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            match line.strip_prefix("  ") {
                Some(field) => {
                    let (field, kind) = field.split_once(' ').unwrap();
                    let required = !field.ends_with('?');
                    let field = (field.trim_end_matches('?'), required, kind);
                    models.fields.get_mut(name).unwrap().push(field);
                }
                None => match line.split_once(" = ") {
                    Some((alias, kind)) => drop(models.aliases.insert(alias, kind)),
                    None => {
                        name = line;
                        assert!(models.fields.insert(name, Vec::new()).is_none(), "{name} twice");
                    }
                },
            }
        }
        assert!(models.fields.len() > 50, "{} models", models.fields.len());
        models
    }

    /// What is wrong with a response body in its envelope; nothing if it fits.
    pub(super) fn faults(&self, envelope: &str, body: &Value) -> Vec<String> {
        let mut faults = Vec::new();
        let (wrapper, model) = envelope.split_once(' ').unwrap_or((envelope, ""));
        let data = &body["data"];
        let names: &[&str] = match wrapper {
            "Empty" => return if body.is_null() { faults } else { vec!["a body".to_owned()] },
            "Bare" => {
                self.check(model, body, "body", &mut faults);
                return faults;
            }
            "Page" => &["data", "pagination"],
            _ => &["data"],
        };
        let own = body.as_object().into_iter().flat_map(serde_json::Map::keys);
        faults.extend(own.filter(|name| !names.contains(&&name[..])).cloned());
        if wrapper == "Page" {
            self.check("CursorPageInfo", &body["pagination"], "pagination", &mut faults);
        }
        if wrapper == "Data" {
            self.check(model, data, "data", &mut faults);
        } else {
            self.check(&format!("[{model}]"), data, "data", &mut faults);
        }
        faults
    }

    fn check(&self, kind: &str, value: &Value, at: &str, faults: &mut Vec<String>) {
        if let Some(kind) = kind.strip_suffix("|null") {
            if !value.is_null() {
                self.check(kind, value, at, faults);
            }
        } else if let Some(items) = enclosed(kind, '[', ']') {
            match value.as_array() {
                Some(values) => {
                    values.iter().for_each(|value| self.check(items, value, at, faults));
                }
                None => faults.push(format!("{at}: {value} is no array")),
            }
        } else if let Some(values) = enclosed(kind, '{', '}') {
            match value.as_object() {
                Some(object) => {
                    object.values().for_each(|value| self.check(values, value, at, faults));
                }
                None => faults.push(format!("{at}: {value} is no object")),
            }
        } else if let Some(alias) = self.aliases.get(kind) {
            self.check(alias, value, at, faults);
        } else if let Some(fields) = self.fields.get(kind) {
            check_fields(self, fields, value, at, faults);
        } else if !is_scalar(kind, value) {
            faults.push(format!("{at}: {value} is no {kind}"));
        }
    }
}

fn check_fields(
    models: &Models,
    fields: &[(&'static str, bool, &'static str)],
    value: &Value,
    at: &str,
    faults: &mut Vec<String>,
) {
    let Some(object) = value.as_object() else {
        return faults.push(format!("{at}: {value} is no object"));
    };
    let unknown = object.keys().filter(|name| !fields.iter().any(|(known, ..)| known == name));
    faults.extend(unknown.map(|name| format!("{at}.{name} is unknown")));
    for (name, required, kind) in fields {
        match object.get(*name) {
            Some(value) => models.check(kind, value, &format!("{at}.{name}"), faults),
            None if *required => faults.push(format!("{at}.{name} is missing")),
            None => {}
        }
    }
}

fn enclosed(kind: &str, open: char, close: char) -> Option<&str> {
    kind.strip_prefix(open)?.strip_suffix(close)
}

fn is_scalar(kind: &str, value: &Value) -> bool {
    let text = value.as_str();
    let capitals = |count| {
        text.is_some_and(|text| text.len() == count && text.bytes().all(|b| b.is_ascii_uppercase()))
    };
    if let Some(words) = kind.strip_prefix("one(").and_then(|rest| rest.strip_suffix(')')) {
        return text.is_some_and(|text| words.split(' ').any(|word| word == text));
    }
    match kind {
        "any" => true,
        "bool" => value.is_boolean(),
        "int" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "text" => text.is_some(),
        "country" => capitals(2),
        "currency" => capitals(3),
        "cursor" => text.is_some_and(|text| {
            !text.is_empty() && text.chars().all(|c| matches!(c, 'A'..='Z' | '2'..='7' | '=' | '~'))
        }),
        "url" => text.is_some_and(|text| url::Url::parse(text).is_ok()),
        "uuid" => text.is_some_and(is_uuid),
        // To the second, in UTC.
        "time" => text.is_some_and(|text| {
            text.len() == 20 && text.ends_with('Z') && text.parse::<jiff::Timestamp>().is_ok()
        }),
        _ => panic!("{kind} is no known type"),
    }
}

fn is_uuid(text: &str) -> bool {
    let lengths: Vec<usize> = text.split('-').map(str::len).collect();
    lengths == [8, 4, 4, 4, 12] && text.chars().all(|c| c == '-' || c.is_ascii_hexdigit())
}

#[test]
fn missing_unknown_and_wrong_fields_are_faults() {
    let models = Models::read();
    let money = |body: &str| models.faults("Bare Money", &serde_json::from_str(body).unwrap());
    assert!(money(r#"{"currency": "EUR", "minors": 1}"#).is_empty());
    for body in [
        r#"{"currency": "EUR"}"#,
        r#"{"currency": "EUR", "minors": 1, "more": 1}"#,
        r#"{"currency": "EUR", "minors": 1.5}"#,
        r#"{"currency": null, "minors": 1}"#,
        r#"[]"#,
    ] {
        assert_eq!(money(body).len(), 1, "{body}");
    }
    let page = serde_json::json!({ "data": [1], "pagination": {}, "more": 1 });
    assert_eq!(models.faults("Page Money", &page).len(), 5);
}

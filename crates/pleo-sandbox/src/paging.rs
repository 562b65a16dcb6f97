//! Query parameters and pages: cursors, limits, sorting.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use axum::http::StatusCode;
use axum::response::Response;
use data_encoding::BASE32;
use serde_json::{Value, json};
use url::form_urlencoded;

use super::dataset::Row;
use super::response::{Problem, json_response};

const MAX_LIMIT: usize = 100;
const PAGING_PARAMETERS: [&str; 6] =
    ["limit", "after", "before", "offset", "sorting_keys", "sorting_order"];
const ORDERS: [&str; 6] =
    ["ASC", "ASC_NULLS_FIRST", "ASC_NULLS_LAST", "DESC", "DESC_NULLS_FIRST", "DESC_NULLS_LAST"];

/// Query parameters; names may occur more than once.
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn read(raw: Option<&str>) -> Self {
        Self(form_urlencoded::parse(raw.unwrap_or_default().as_bytes()).into_owned().collect())
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    /// All values of a parameter that may be repeated.
    pub(crate) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The same query, sorted by `key` if it names no other.
    pub(crate) fn sorted_by(&self, key: &str) -> Self {
        let mut pairs = self.0.clone();
        if self.get("sorting_keys").is_none() {
            pairs.push(("sorting_keys".to_owned(), key.to_owned()));
        }
        Self(pairs)
    }

    /// A number; `default` where it is absent.
    pub(crate) fn number(&self, name: &str, default: u64) -> Result<u64, Problem> {
        let value = self.get(name).map(str::parse).transpose();
        value.map(|value| value.unwrap_or(default)).map_err(|_| invalid(name))
    }

    fn limit(&self, default: usize) -> Result<usize, Problem> {
        let limit = self.number("limit", default as u64)?;
        usize::try_from(limit)
            .ok()
            .filter(|limit| (1..=MAX_LIMIT).contains(limit))
            .ok_or_else(|| invalid("limit"))
    }

    /// All parameters but those of paging, which the response repeats.
    fn parameters(&self) -> BTreeMap<&str, Vec<&str>> {
        let mut parameters: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (name, value) in
            self.0.iter().filter(|(name, _)| !PAGING_PARAMETERS.contains(&name.as_str()))
        {
            parameters.entry(name).or_default().push(value);
        }
        parameters
    }
}

fn invalid(name: &str) -> Problem {
    Problem::invalid_parameter(format!("{name} is not valid"))
}

/// The rows of one page, and the envelope's `pagination`.
pub(crate) struct Page<'a> {
    pub(crate) rows: Vec<&'a Row>,
    pagination: Value,
}

impl Page<'_> {
    /// The page in its envelope, each row mapped by `show`.
    pub(crate) fn response_with(&self, show: impl Fn(&Row) -> Value) -> Response {
        let data: Vec<Value> = self.rows.iter().map(|row| show(row)).collect();
        json_response(StatusCode::OK, &json!({ "data": data, "pagination": self.pagination }))
    }

    /// The page in its envelope.
    pub(crate) fn response(&self) -> Response {
        self.response_with(|row| row.body.clone())
    }
}

/// The page of `rows` that `query` asks for.
pub(crate) fn page<'a>(
    mut rows: Vec<&'a Row>,
    query: &Query,
    default_limit: usize,
) -> Result<Page<'a>, Problem> {
    let limit = query.limit(default_limit)?;
    let sorting = sort(&mut rows, query)?;
    let total = rows.len();
    let (start, end) = window(&rows, query, limit)?;
    let shown = rows[start..end].to_vec();
    let mut request = json!({
        "limit": limit,
        "parameters": query.parameters(),
        "sortingKeys": sorting.iter().map(|(key, _)| key).collect::<Vec<_>>(),
        "sortingOrder": sorting.iter().map(|(_, order)| order).collect::<Vec<_>>(),
    });
    for name in ["after", "before"] {
        if let Some(value) = query.get(name) {
            request[name] = json!(value);
        }
    }
    if query.get("offset").is_some() {
        request["offset"] = json!(query.number("offset", 0)?);
    }
    let mut pagination = json!({
        "hasNextPage": end < total, "hasPreviousPage": start > 0, "total": total,
        "currentRequestPagination": request,
    });
    // A page without rows has no cursors.
    if let [first, ..] = shown.as_slice() {
        pagination["startCursor"] = json!(cursor(&first.id));
        pagination["endCursor"] = json!(cursor(&shown[shown.len() - 1].id));
    }
    Ok(Page { rows: shown, pagination })
}

/// Start and end of the page in the sorted rows.
fn window(rows: &[&Row], query: &Query, limit: usize) -> Result<(usize, usize), Problem> {
    let total = rows.len();
    let place = |name: &str, cursor_text: &str| {
        let id = BASE32.decode(cursor_text.as_bytes()).map_err(|_| invalid(name))?;
        rows.iter().position(|row| row.id.as_bytes() == id).ok_or_else(|| invalid(name))
    };
    match (query.get("after"), query.get("before"), query.get("offset")) {
        (None, None, None) => Ok((0, limit.min(total))),
        (Some(after), None, None) => {
            let start = place("after", after)? + 1;
            Ok((start, total.min(start + limit)))
        }
        (None, Some(before), None) => {
            let end = place("before", before)?;
            Ok((end.saturating_sub(limit), end))
        }
        (None, None, Some(_)) => {
            let offset = usize::try_from(query.number("offset", 0)?)
                .map_err(|_| invalid("offset"))?
                .min(total);
            Ok((offset, total.min(offset + limit)))
        }
        _ => Err(Problem::invalid_parameter("after, before and offset exclude each other")),
    }
}

/// Sorts by the requested keys, else by id; what is equal stays in the order of creation. Returns the keys and their orders.
fn sort(rows: &mut [&Row], query: &Query) -> Result<Vec<(String, String)>, Problem> {
    let mut orders = query.all("sorting_order");
    let mut sorting: Vec<(String, String)> = query
        .all("sorting_keys")
        .map(|key| (key.to_owned(), orders.next().unwrap_or("ASC").to_owned()))
        .collect();
    if sorting.is_empty() {
        sorting.push(("id".to_owned(), query.get("sorting_order").unwrap_or("ASC").to_owned()));
    }
    for (key, order) in &sorting {
        if !ORDERS.contains(&order.as_str()) {
            return Err(invalid("sorting_order"));
        }
        let is_known = key == "id" || rows.iter().any(|row| row.body.get(key).is_some());
        if !is_known && !rows.is_empty() {
            return Err(invalid("sorting_keys"));
        }
    }
    rows.sort_by(|a, b| {
        let by_keys = sorting.iter().map(|(key, order)| {
            let compared = value(a, key).cmp(value(b, key));
            if order.starts_with("DESC") { compared.reverse() } else { compared }
        });
        by_keys.fold(Ordering::Equal, Ordering::then)
    });
    Ok(sorting)
}

fn value<'a>(row: &'a Row, key: &str) -> &'a str {
    if key == "id" { &row.id } else { row.text(key) }
}

/// The id in padded Base32, the form of Pleo's cursors.
fn cursor(id: &str) -> String {
    BASE32.encode(id.as_bytes())
}

//! Tags and their groups with everything that belongs to them, and how often tags are used.

use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Map, Value, json};

use super::dimensions::of_group;
use super::values::find_in;
use crate::call::Call;
use crate::dataset::{Dataset, Row};
use crate::fields::{Field, Kind, optional};
use crate::paging::page;
use crate::response::{Problem, data};

const SEARCH: [Field; 5] = [
    optional("archived", Kind::Flag),
    optional("includeArchived", Kind::Flag),
    optional("tagGroupIds", Kind::Ids),
    optional("tagIds", Kind::Ids),
    optional("textSearch", Kind::Text),
];

/// Groups with their dimensions. Groups that are asked for by id are shown although they are
/// archived.
pub(crate) fn groups(call: &Call<'_>) -> Result<Response, Problem> {
    let covered = call.covered()?;
    let ids: Vec<&str> = call.query.all("tag_group_ids").collect();
    let dataset = call.dataset();
    let rows = dataset.tag_groups.visible(call.subject()).filter(|row| {
        let is_asked_for =
            if ids.is_empty() { row.body["archived"] == false } else { ids.contains(&&row.id[..]) };
        covered.holds(&row.company) && is_asked_for
    });
    let show = |row: &Row| {
        let mut group = without(&row.body, &["metadata"]);
        let dimensions = of_group(&dataset, &row.id);
        let dimensions = dimensions.iter().map(|row| without(&row.body, &["groupId"]));
        group["dimensions"] = dimensions.collect();
        group
    };
    Ok(data(StatusCode::OK, &rows.map(show).collect::<Vec<Value>>().into()))
}

/// Tags with their group and their values.
pub(crate) fn tags(call: &Call<'_>) -> Result<Response, Problem> {
    let covered = call.covered_or_all()?;
    let filters = call.filters(&SEARCH)?;
    let dataset = call.dataset();
    let rows = dataset.tags.visible(call.subject());
    let rows = rows.filter(|row| covered.holds(&row.company) && fits(&filters, row)).collect();
    Ok(page(rows, &call.query, 20)?.response_with(|row| with_all(&dataset, row)))
}

/// `archived` has precedence over `includeArchived`.
fn fits(filters: &Map<String, Value>, row: &Row) -> bool {
    let is_archived = row.body["archived"] == true;
    let flag = |name: &str| filters.get(name).and_then(Value::as_bool);
    let by_archive = match flag("archived") {
        Some(asked) => asked == is_archived,
        None => !is_archived || flag("includeArchived") == Some(true),
    };
    let lists = |name: &str, value: &Value| {
        filters.get(name).and_then(Value::as_array).is_none_or(|list| list.contains(value))
    };
    let text = filters.get("textSearch").and_then(Value::as_str).unwrap_or_default();
    by_archive
        && lists("tagIds", &row.body["id"])
        && lists("tagGroupIds", &row.body["groupId"])
        && row.text("name").to_lowercase().contains(&text.to_lowercase())
}

fn with_all(dataset: &Dataset, row: &Row) -> Value {
    let group = row.text("groupId");
    let value = |dimension: &Row| {
        let value =
            find_in(dataset, &row.id, &dimension.id).map_or("", |value| value.text("value"));
        let mut shown = without(&dimension.body, &["groupId", "createdAt", "updatedAt"]);
        shown["value"] = json!(value);
        shown
    };
    let mut tag = without(&row.body, &["groupId"]);
    tag["companyId"] = json!(row.company);
    tag["dimensions"] = of_group(dataset, group).iter().map(value).collect();
    let group = dataset.tag_groups.0.iter().find(|row| row.id == group);
    let group = group
        .map(|row| json!({ "id": row.id, "code": row.body["code"], "name": row.body["name"] }));
    tag["group"] = group.into();
    tag
}

fn without(body: &Value, names: &[&str]) -> Value {
    let mut body = body.clone();
    if let Value::Object(fields) = &mut body {
        fields.retain(|name, _| !names.contains(&name.as_str()));
    }
    body
}

/// How many entries have each tag of a group.
pub(crate) fn usage(call: &Call<'_>) -> Result<Response, Problem> {
    let group = call.ids[0];
    let dataset = call.dataset();
    dataset.tag_groups.find(call.subject(), group, "tag group")?;
    let is_tagged = |entry: &Row, tag: &str| {
        entry.body["tags"].as_array().into_iter().flatten().any(|own| own["tagId"] == tag)
    };
    let count = |tag: &Row| dataset.entries.0.iter().filter(|row| is_tagged(row, &tag.id)).count();
    let tags = dataset.tags.0.iter().filter(|tag| tag.has("groupId", group));
    let usages: Vec<Value> = tags.map(|tag| json!({ "id": tag.id, "count": count(tag) })).collect();
    Ok(data(StatusCode::OK, &json!({ "usages": usages })))
}

//! Webhook subscriptions. They belong to the subject that made them; nothing is delivered.

use axum::http::StatusCode;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use parking_lot::MutexGuard;
use serde_json::{Map, Value, json};

use super::call::Call;
use super::dataset::{Dataset, Row, now};
use super::fields::{self, Field, Kind, optional, required};
use super::paging::page;
use super::response::{Problem, data, no_content};

/// Events, and the scope without which nobody may subscribe to them.
const EVENTS: [(&str, &str); 2] =
    [("v1.export-job.created", "export-jobs:read"), ("v1.vendor.created", "vendors:read")];
const STATUSES: Kind = Kind::Word(&["INACTIVE", "ACTIVE"]);
const SHAPE: [Field; 5] = [
    required("endpointUrl", Kind::Name),
    required("eventTypes", Kind::Texts),
    optional("status", STATUSES),
    optional("customHeaders", Kind::Object),
    optional("endpointAuth", Kind::Object),
];
const AUTHENTICATION: [Field; 2] =
    [optional("type", Kind::Word(&["NONE", "BASIC"])), optional("credentials", Kind::Object)];

pub(crate) fn list(call: &Call<'_>) -> Result<Response, Problem> {
    let status = call.query.get("status");
    let events: Vec<&str> = call.query.all("event_types").collect();
    let is_asked_for = |row: &&Row| {
        let own = row.body["eventTypes"].as_array().into_iter().flatten().filter_map(Value::as_str);
        status.is_none_or(|status| row.has("status", status))
            && (events.is_empty() || own.into_iter().any(|event| events.contains(&event)))
    };
    let dataset = call.dataset();
    let own = dataset.subscriptions.0.iter().filter(|row| row.company == call.subject().id());
    let rows = own.filter(is_asked_for).collect();
    Ok(page(rows, &call.query, 20)?.response())
}

pub(crate) fn create(call: &Call<'_>) -> Result<Response, Problem> {
    let mut fields = read(call)?;
    fields.entry("status").or_insert(json!("ACTIVE"));
    let mut dataset = call.dataset();
    let row = Row::stamped(&call.subject().id(), fields);
    dataset.webhook_secrets.insert(row.id.clone(), new_secret());
    note(&mut dataset, call, &row.id, "CREATE");
    Ok(data(StatusCode::OK, &dataset.subscriptions.add(row)))
}

fn read(call: &Call<'_>) -> Result<Map<String, Value>, Problem> {
    let fields = call.read(&SHAPE)?;
    let url = fields["endpointUrl"].as_str().and_then(|url| url::Url::parse(url).ok());
    if url.is_none_or(|url| url.scheme() != "https") {
        return Err(Problem::invalid("endpointUrl must be an https URL"));
    }
    if let Some(authentication) = fields.get("endpointAuth").and_then(Value::as_object) {
        fields::read(authentication, &AUTHENTICATION)?;
    }
    let events: Vec<&str> =
        fields["eventTypes"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if events.is_empty() {
        return Err(Problem::invalid("eventTypes must hold an event"));
    }
    for event in events {
        let known = EVENTS.iter().find(|(name, _)| *name == event);
        let (_, scope) =
            known.ok_or_else(|| Problem::invalid(format!("{event} is no known event type")))?;
        call.caller.ensure(Some(*scope))?;
    }
    Ok(fields)
}

/// As Standard Webhooks write it.
fn new_secret() -> String {
    let mut bytes = [0; 24];
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes after boot");
    format!("whsec_{}", STANDARD.encode(bytes))
}

fn note(dataset: &mut Dataset, call: &Call<'_>, subscription: &str, operation: &str) {
    let description = match operation {
        "CREATE" => "Subscription created",
        _ => "Subscription updated",
    };
    let fields = json!({
        "subscriptionId": subscription, "operationType": operation, "description": description,
        "actorUrn": call.subject().urn(), "createdAt": now(),
    });
    if let Value::Object(fields) = fields {
        dataset.activities.0.push(Row::new(&call.subject().id(), fields));
    }
}

/// The dataset and the place of the subscription in it; 403 without the scopes of its events.
fn own<'a>(call: &'a Call<'_>) -> Result<(MutexGuard<'a, Dataset>, usize), Problem> {
    let dataset = call.dataset();
    let owner = call.subject().id();
    let mut rows = dataset.subscriptions.0.iter();
    let at = rows.position(|row| row.company == owner && row.id == call.ids[0]);
    let at = at.ok_or_else(|| Problem::not_found("subscription"))?;
    let events = &dataset.subscriptions.0[at].body["eventTypes"];
    let is_subscribed =
        |name: &str| events.as_array().is_some_and(|events| events.contains(&json!(name)));
    for (_, scope) in EVENTS.iter().filter(|(name, _)| is_subscribed(name)) {
        call.caller.ensure(Some(*scope))?;
    }
    Ok((dataset, at))
}

pub(crate) fn find(call: &Call<'_>) -> Result<Response, Problem> {
    let (dataset, at) = own(call)?;
    Ok(data(StatusCode::OK, &dataset.subscriptions.0[at].body))
}

pub(crate) fn update(call: &Call<'_>) -> Result<Response, Problem> {
    let fields = read(call)?;
    let (mut dataset, at) = own(call)?;
    dataset.subscriptions.0[at].change(fields);
    note(&mut dataset, call, call.ids[0], "UPDATE");
    Ok(data(StatusCode::OK, &dataset.subscriptions.0[at].body))
}

pub(crate) fn remove(call: &Call<'_>) -> Result<Response, Problem> {
    let (mut dataset, at) = own(call)?;
    dataset.subscriptions.0.remove(at);
    dataset.webhook_secrets.remove(call.ids[0]);
    Ok(no_content())
}

pub(crate) fn activities(call: &Call<'_>) -> Result<Response, Problem> {
    let kinds: Vec<&str> = call.query.all("operation_types").collect();
    let (dataset, _) = own(call)?;
    let rows = dataset.activities.0.iter().filter(|row| row.has("subscriptionId", call.ids[0]));
    let rows = rows.filter(|row| kinds.is_empty() || kinds.contains(&row.text("operationType")));
    Ok(page(rows.collect(), &call.query, 20)?.response())
}

pub(crate) fn secret(call: &Call<'_>) -> Result<Response, Problem> {
    let (dataset, _) = own(call)?;
    let secret = dataset.webhook_secrets.get(call.ids[0]);
    let secret = secret.ok_or_else(|| Problem::not_found("subscription secret"))?;
    Ok(data(StatusCode::OK, &json!({ "secretKey": secret })))
}

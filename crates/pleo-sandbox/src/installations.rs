//! The installation of the app for a subject. It is shown without the `data` envelope, unlike all
//! else.

use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Map, Value, json};

use super::call::Call;
use super::dataset::{Dataset, new_id, now};
use super::fields::{Field, Kind, optional, required};
use super::response::{Problem, json_response, no_content};
use super::subject::Subject;

const STATUSES: Kind =
    Kind::Word(&["ACTIVATED", "INACTIVE", "AUTHORIZED", "PENDING_INTEGRATION", "ERROR"]);
const CREATE: [Field; 2] = [optional("status", STATUSES), optional("metadata", Kind::Object)];
const UPDATE: [Field; 3] = [
    required("status", STATUSES),
    optional("metadata", Kind::Object),
    optional("errorCode", Kind::Word(&["NOT_ENTITLED", "AUTH_ERROR"])),
];

/// Adds the installation that every authorization makes.
pub(crate) fn install(dataset: &mut Dataset, subject: Subject) {
    dataset.installations.entry(subject).or_insert_with(|| {
        let now = now();
        json!({
            "id": new_id(), "applicationId": "a9911ca0-0000-4000-8000-000000000001", "resource": subject.urn(),
            "status": "AUTHORIZED", "metadata": {}, "createdAt": now, "updatedAt": now,
        })
    });
}

pub(crate) fn find(call: &Call<'_>) -> Result<Response, Problem> {
    changed(call, Map::new())
}

/// Needed with API keys only: an authorization has made the installation.
pub(crate) fn create(call: &Call<'_>) -> Result<Response, Problem> {
    let fields = call.filters(&CREATE)?;
    install(&mut call.dataset(), call.subject());
    changed(call, fields)
}

pub(crate) fn update(call: &Call<'_>) -> Result<Response, Problem> {
    changed(call, call.read(&UPDATE)?)
}

pub(crate) fn activate(call: &Call<'_>) -> Result<Response, Problem> {
    changed(call, Map::from_iter([("status".to_owned(), json!("ACTIVATED"))]))
}

fn changed(call: &Call<'_>, fields: Map<String, Value>) -> Result<Response, Problem> {
    let mut dataset = call.dataset();
    let installation = dataset.installations.get_mut(&call.subject());
    let installation = installation.ok_or_else(|| Problem::not_found("installation"))?;
    if !fields.is_empty() {
        installation["updatedAt"] = json!(now());
    }
    for (name, value) in fields {
        installation[name] = value;
    }
    Ok(json_response(StatusCode::OK, installation))
}

/// Revokes every authorization of the client, not only the caller's.
pub(crate) fn remove(call: &Call<'_>) -> Result<Response, Problem> {
    call.dataset().installations.remove(&call.subject());
    call.sandbox.live().revoke_all();
    Ok(no_content())
}

//! Tax codes, and the calculation of taxes.

use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Map, Value, json};

use super::call::Call;
use super::dataset::Row;
use super::fields::{self, Field, Kind, optional, required};
use super::paging::page;
use super::response::{Problem, data, no_content};

const TYPES: &[&str] = &["inclusive", "exclusive", "reverse"];
const SHAPE: [Field; 8] = [
    required("companyId", Kind::Id),
    required("archived", Kind::Flag),
    required("name", Kind::Name),
    required("rate", Kind::Number),
    required("type", Kind::Word(TYPES)),
    optional("code", Kind::Text),
    optional("ingoingTaxAccount", Kind::Text),
    optional("outgoingTaxAccount", Kind::Text),
];
const SEARCH: [Field; 4] = [
    optional("archived", Kind::Flag),
    optional("code", Kind::Text),
    optional("taxCodeIds", Kind::Ids),
    optional("type", Kind::Word(TYPES)),
];
const CALCULATE: [Field; 1] = [required("amountsByTaxCodeId", Kind::Object)];
const AMOUNT: [Field; 2] = [required("id", Kind::Text), required("amount", Kind::Object)];
const MONEY: [Field; 2] = [required("currency", Kind::Text), required("minors", Kind::Integer)];

fn read(call: &Call<'_>) -> Result<(String, Map<String, Value>), Problem> {
    let fields = call.read(&SHAPE)?;
    let company = fields["companyId"].as_str().unwrap_or_default().to_owned();
    call.caller.ensure_sees(&company)?;
    Ok((company, fields))
}

pub(crate) fn create(call: &Call<'_>) -> Result<Response, Problem> {
    let (company, fields) = read(call)?;
    let added = call.dataset().tax_codes.add(Row::stamped(&company, fields));
    Ok(data(StatusCode::CREATED, &added))
}

pub(crate) fn find(call: &Call<'_>) -> Result<Response, Problem> {
    let dataset = call.dataset();
    let row = dataset.tax_codes.find(call.subject(), call.ids[0], "tax code")?;
    Ok(data(StatusCode::OK, &row.body))
}

pub(crate) fn update(call: &Call<'_>) -> Result<Response, Problem> {
    let (company, fields) = read(call)?;
    let mut dataset = call.dataset();
    let row = dataset.tax_codes.find_mut(call.subject(), call.ids[0], "tax code")?;
    if row.company != company {
        return Err(Problem::invalid("a tax code stays with its company"));
    }
    row.change(fields);
    Ok(data(StatusCode::OK, &row.body))
}

pub(crate) fn remove(call: &Call<'_>) -> Result<Response, Problem> {
    call.dataset().tax_codes.remove(call.subject(), call.ids[0], "tax code")?;
    Ok(no_content())
}

pub(crate) fn search(call: &Call<'_>) -> Result<Response, Problem> {
    let covered = call.covered_or_all()?;
    let filters = call.filters(&SEARCH)?;
    let ids = filters.get("taxCodeIds").and_then(Value::as_array);
    let equal = |name: &&str, row: &Row| {
        filters.get(*name).is_none_or(|value| row.body.get(*name) == Some(value))
    };
    let dataset = call.dataset();
    let rows = dataset.tax_codes.visible(call.subject()).filter(|row| {
        covered.holds(&row.company)
            && ids.is_none_or(|ids| ids.contains(&row.body["id"]))
            && ["archived", "code", "type"].iter().all(|name| equal(name, row))
    });
    Ok(page(rows.collect(), &call.query, 20)?.response())
}

/// Amounts by tax code in, their parts out.
pub(crate) fn calculate(call: &Call<'_>) -> Result<Response, Problem> {
    let request = call.read(&CALCULATE)?;
    let dataset = call.dataset();
    let mut taxes = Map::new();
    for (id, amounts) in request["amountsByTaxCodeId"].as_object().into_iter().flatten() {
        let code = dataset.tax_codes.find(call.subject(), id, "tax code")?;
        let amounts = amounts.as_array().ok_or_else(|| Problem::invalid("amounts are a list"))?;
        let parts = amounts.iter().map(|amount| parts(code, amount)).collect::<Result<_, _>>()?;
        taxes.insert(id.clone(), Value::Array(parts));
    }
    Ok(data(StatusCode::OK, &json!({ "taxes": taxes })))
}

fn parts(code: &Row, amount: &Value) -> Result<Value, Problem> {
    let object = |value: &Value, shape: &[Field]| {
        let object = value.as_object().ok_or_else(|| Problem::invalid("an amount is an object"));
        object.and_then(|object| fields::read(object, shape))
    };
    let amount = object(amount, &AMOUNT)?;
    let money = object(&amount["amount"], &MONEY)?;
    let minors = money["minors"].as_i64().unwrap_or_default();
    let rate = code.body["rate"].as_f64().unwrap_or_default();
    let (gross, net, tax) = split(minors, rate, code.text("type"));
    let money = |minors| json!({ "currency": money["currency"], "minors": minors });
    Ok(json!({
        "id": amount["id"],
        "amountTaxBreakdown": { "gross": money(gross), "net": money(net), "tax": money(tax) },
    }))
}

/// Gross, net and tax in minor units. With reverse charge the buyer owes the tax, so that the
/// amount is gross and net alike.
fn split(minors: i64, rate: f64, kind: &str) -> (i64, i64, i64) {
    let amount = minors as f64;
    match kind {
        "inclusive" => {
            let net = (amount / (1.0 + rate)).round() as i64;
            (minors, net, minors.saturating_sub(net))
        }
        "exclusive" => {
            let tax = (amount * rate).round() as i64;
            (minors.saturating_add(tax), minors, tax)
        }
        _ => (minors, minors, (amount * rate).round() as i64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tax_is_within_on_top_or_owed_by_the_buyer() {
        assert_eq!(split(12_500, 0.25, "inclusive"), (12_500, 10_000, 2_500));
        assert_eq!(split(10_000, 0.25, "exclusive"), (12_500, 10_000, 2_500));
        assert_eq!(split(10_000, 0.25, "reverse"), (10_000, 10_000, 2_500));
        assert_eq!(split(999, 0.25, "inclusive"), (999, 799, 200));
    }
}

//! Whatever is in a record's place: nothing is read but what has its own checksum, all of it is
//! read, and it is written and read again the same.
//!
//! Each input is tried as a whole file, and as the content of one whose checksum is right.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pleo_proxy::store::{DecodeError, Record};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

fuzz_target!(|data: &[u8]| {
    survives(data);
    let Ok(content) = std::str::from_utf8(data) else { return };
    let content = content.trim_ascii();
    let sum: String = Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect();
    if let Some(written) = survives(whole(&sum, content).as_bytes()) {
        let (mut read, mut written) = (value(content.as_bytes()), value(&written));
        // The sentence of version 1 is written as a reason; that it survives is asserted below.
        for ended in
            [read.get_mut("ended"), written["record"].get_mut("ended")].into_iter().flatten()
        {
            *ended = Value::Null;
        }
        assert!(is_all_of(&read, &written["record"]), "{read}\n{written}");
    }
    let other: String = sum.chars().rev().collect();
    assert!(other == sum || Record::decode(whole(&other, content).as_bytes()).is_err());
});

fn whole(sum: &str, content: &str) -> String {
    format!("{{\"version\":2,\"sha256\":\"{sum}\",\"record\":{content}}}")
}

fn value(json: &[u8]) -> Value {
    serde_json::from_slice(json).expect("a record is JSON")
}

/// True if the one says all that the other says; what is not said is null.
fn is_all_of(read: &Value, written: &Value) -> bool {
    match (read, written) {
        (Value::Object(read), Value::Object(written)) => {
            written
                .iter()
                .all(|(name, value)| is_all_of(read.get(name).unwrap_or(&Value::Null), value))
                && read.keys().all(|name| written.contains_key(name))
        }
        _ => read == written,
    }
}

/// The bytes that a record is written as, if these bytes are one.
fn survives(bytes: &[u8]) -> Option<Vec<u8>> {
    match Record::decode(bytes) {
        Ok(record) => {
            let written = record.encode();
            let again = Record::decode(&written).expect("what is written is read");
            assert_eq!(again.encode(), written);
            is_same(&record, &again);
            Some(written.to_vec())
        }
        Err(DecodeError::Version(version)) => {
            assert!(![1, 2, 3].contains(&version));
            None
        }
        Err(error) => {
            assert!(error.to_string().len() < 80);
            None
        }
    }
}

fn is_same(one: &Record, other: &Record) {
    assert_eq!(
        (one.generation, &one.subject, &one.intent),
        (other.generation, &other.subject, &other.intent)
    );
    assert_eq!(one.ended, other.ended);
    assert_eq!(one.open_intent(), other.open_intent());
    assert_eq!(one.grant.is_some(), other.grant.is_some());
    let (Some(one), Some(other)) = (&one.grant, &other.grant) else { return };
    assert_eq!(
        one.access.as_ref().map(|token| token.expose()),
        other.access.as_ref().map(|token| token.expose())
    );
    assert_eq!(one.refresh.expose(), other.refresh.expose());
    assert_eq!(
        (one.expires_at, one.lifetime, &one.scope),
        (other.expires_at, other.lifetime, &other.scope)
    );
    assert_eq!(
        (&one.issued, one.logged_in_at, one.refreshed_at),
        (&other.issued, other.logged_in_at, other.refreshed_at)
    );
    assert_eq!(one.introspection_trusted, other.introspection_trusted);
}

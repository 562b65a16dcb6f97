//! JSON in one line.

/// A JSON value without the white space between its parts: what it says stays as it was written,
/// numbers too.
pub(super) fn compact(json: &str) -> String {
    let mut line = String::with_capacity(json.len());
    let (mut in_text, mut is_escaped) = (false, false);
    for character in json.chars() {
        if !in_text && character.is_ascii_whitespace() {
            continue;
        }
        line.push(character);
        if character == '"' && !is_escaped {
            in_text = !in_text;
        }
        is_escaped = character == '\\' && !is_escaped;
    }
    line
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    #[test]
    fn only_what_stands_between_the_parts_is_left_out() {
        let written = "{ \"a b\" : [ 1.10 ,\n\t\"c \\\" d\\\\\" , true ] }\r\n";
        assert_eq!(compact(written), "{\"a b\":[1.10,\"c \\\" d\\\\\",true]}");
    }

    proptest! {
        #[test]
        fn the_value_stays_the_same(texts in prop::collection::vec(any::<String>(), 0..5)) {
            let value = Value::from(texts);
            let pretty = serde_json::to_string_pretty(&value).unwrap();
            let line = compact(&pretty);
            prop_assert!(!line.contains('\n'));
            prop_assert_eq!(line, serde_json::to_string(&value).unwrap());
        }
    }
}

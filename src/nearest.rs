//! "Did you mean": the known name that a mistyped one probably stands for.

/// Longer names are not compared: they are not typing mistakes.
const MAX_NAME: usize = 64;

/// The candidate that a mistyped name probably means; letters may be in another case.
pub fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let tolerated = (name.len() / 3).clamp(1, 4);
    let lower = name.to_ascii_lowercase();
    let distance = |candidate: &str| {
        strsim::levenshtein(name, candidate).min(strsim::levenshtein(&lower, candidate))
    };
    let scored = candidates.map(|candidate| (distance(candidate), candidate));
    let near = scored.filter(|(distance, _)| *distance <= tolerated).min();
    near.filter(|_| name.len() <= MAX_NAME).map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_mistake_leads_to_the_name_and_another_word_does_not() {
        let near = |name| nearest(name, ["acme", "acme-berlin", "default"].into_iter());
        for (name, meant) in
            [("acem-berlin", Some("acme-berlin")), ("acm", Some("acme")), ("ACME", Some("acme"))]
        {
            assert_eq!(near(name), meant, "{name}");
        }
        assert_eq!(near("harbour"), None);
        assert_eq!(near(&"a".repeat(65)), None);
    }
}

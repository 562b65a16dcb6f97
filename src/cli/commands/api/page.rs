//! One page of a list in Pleo's envelope, and where the next one begins.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::target::Target;

/// A page: `{"data": [...], "pagination": {...}}`. A list without `pagination` is complete.
#[derive(Deserialize)]
pub(super) struct Page<'a> {
    /// The items as they were written.
    #[serde(borrow)]
    pub(super) data: Vec<&'a RawValue>,
    #[serde(default)]
    pagination: Option<Pagination>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Pagination {
    has_next_page: bool,
    has_previous_page: bool,
    start_cursor: Option<String>,
    end_cursor: Option<String>,
}

impl<'a> Page<'a> {
    /// Reads a response; none if it is no list.
    pub(super) fn read(body: &'a [u8]) -> Option<Self> {
        serde_json::from_slice(body).ok()
    }

    /// The page after this one, which `target` has asked for; none if this is the last one. A query
    /// with `before` goes backwards, one with `offset` goes on by offsets, any other by `after`.
    ///
    /// # Errors
    /// There are more, and the response does not say where they begin.
    pub(super) fn next(&self, target: &Target) -> Result<Option<Target>, &'static str> {
        let Some(pagination) = &self.pagination else { return Ok(None) };
        let backwards = target.has("before");
        let has_more =
            if backwards { pagination.has_previous_page } else { pagination.has_next_page };
        if !has_more {
            return Ok(None);
        }
        let next = if backwards {
            pagination.start_cursor.as_ref().map(|cursor| target.with("before", cursor))
        } else if target.has("offset") {
            let offset = target.value("offset").and_then(|offset| offset.parse::<u64>().ok());
            let next = offset.map(|offset| offset + self.data.len() as u64);
            next.filter(|_| !self.data.is_empty())
                .map(|offset| target.with("offset", &offset.to_string()))
        } else {
            pagination.end_cursor.as_ref().map(|cursor| target.with("after", cursor))
        };
        match next {
            None => Err("it says that there are more pages, but not where the next one begins"),
            Some(next) if next == *target => Err("it names its own beginning as the next page's"),
            next => Ok(next),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(target: &str, pagination: &str) -> Result<Option<String>, &'static str> {
        let body = format!(r#"{{"data": [1, {{"a": 2}}], "pagination": {pagination}}}"#);
        let page = Page::read(body.as_bytes()).unwrap();
        assert_eq!(page.data[1].get(), r#"{"a": 2}"#);
        Ok(page.next(&Target::read(target).unwrap())?.map(|target| target.to_string()))
    }

    #[test]
    fn the_next_page_begins_where_the_response_says_in_the_way_that_the_query_asks_for() {
        let middle = r#"{"hasNextPage": true, "hasPreviousPage": true, "startCursor": "MA==", "endCursor": "MZ==", "total": 9}"#;
        let last = r#"{"hasNextPage": false, "hasPreviousPage": false, "startCursor": "MA==", "endCursor": "MZ=="}"#;
        for (target, following) in [
            ("/x?limit=2", "/x?limit=2&after=MZ=="),
            ("/x?after=MY==&limit=2", "/x?limit=2&after=MZ=="),
            ("/x?before=MB==&limit=2", "/x?limit=2&before=MA=="),
            ("/x?offset=4&limit=2", "/x?limit=2&offset=6"),
        ] {
            assert_eq!(next(target, middle).unwrap().as_deref(), Some(following));
            assert_eq!(next(target, last).unwrap(), None, "{target}");
        }
        assert_eq!(next("/x", "null").unwrap(), None, "a list that is complete");
        for (target, pagination) in [
            ("/x", r#"{"hasNextPage": true}"#),
            ("/x?after=MZ==", middle),
            ("/x?offset=no", middle),
        ] {
            assert!(next(target, pagination).is_err(), "{target} {pagination}");
        }
    }

    #[test]
    fn what_is_no_list_is_none() {
        for body in [r#"{"data": {}}"#, "{}", "[]", "not JSON", "", r#"{"id": 1}"#] {
            assert!(Page::read(body.as_bytes()).is_none(), "{body}");
        }
        assert!(Page::read(br#"{"data": []}"#).is_some());
    }
}

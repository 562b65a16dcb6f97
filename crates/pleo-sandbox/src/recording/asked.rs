//! A request, and whether a recorded one answers it.

use serde_json::Value;
use url::Url;

/// Stands for what was taken out of a recording.
const MASK: &str = "[redacted]";

/// A request, recorded or live.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) method: String,
    pub(super) path: String,
    /// Sorted.
    query: Vec<(String, String)>,
    /// None: it was not recorded, and any fits.
    body: Option<Vec<u8>>,
}

impl Asked {
    pub(super) fn new(method: String, url: &Url, body: Option<Vec<u8>>) -> Self {
        let mut query: Vec<(String, String)> = url.query_pairs().into_owned().collect();
        query.sort();
        Self { method, path: url.path().to_owned(), query, body }
    }

    /// Whether this recorded request is the one that is `asked` now.
    pub(super) fn fits(&self, asked: &Self, is_fitting: fn(&str, &str) -> bool) -> bool {
        self.method == asked.method
            && fits_path(&self.path, &asked.path, is_fitting)
            && fits_query(&self.query, &asked.query, is_fitting)
            && self.fits_body(asked, is_fitting)
    }

    fn fits_body(&self, asked: &Self, is_fitting: fn(&str, &str) -> bool) -> bool {
        let Some(recorded) = &self.body else { return true };
        let live = asked.body.as_deref().unwrap_or_default();
        if recorded == live {
            return true;
        }
        match (serde_json::from_slice(recorded), serde_json::from_slice(live)) {
            (Ok(recorded), Ok(live)) => fits_json(&recorded, &live, is_fitting),
            _ => {
                let (recorded, live) =
                    (String::from_utf8_lossy(recorded), String::from_utf8_lossy(live));
                recorded.contains(MASK) && is_fitting(MASK, &live)
            }
        }
    }

    /// How little this recorded request is like the one that is asked; 0 = it fits.
    pub(super) fn distance(&self, asked: &Self) -> usize {
        let segments = |path: &str| path.split('/').map(str::to_owned).collect::<Vec<_>>();
        let (own, other) = (segments(&self.path), segments(&asked.path));
        let different = own.iter().zip(&other).filter(|(a, b)| !fits_mask(a, b)).count();
        let path = different + own.len().abs_diff(other.len());
        let lacks = |a: &[(String, String)], b: &[(String, String)]| {
            a.iter().filter(|pair| !b.contains(pair)).count()
        };
        let query = lacks(&self.query, &asked.query) + lacks(&asked.query, &self.query);
        let method = usize::from(self.method != asked.method);
        path * 100 + method * 50 + query * 2 + usize::from(!self.fits_body(asked, fits_mask))
    }

    /// In what it differs, for users.
    pub(super) fn difference(&self, asked: &Self) -> &'static str {
        if !fits_path(&self.path, &asked.path, fits_mask) {
            "its path differs"
        } else if self.method != asked.method {
            "its method differs"
        } else if !fits_query(&self.query, &asked.query, fits_mask) {
            "its query differs"
        } else {
            "its body differs"
        }
    }
}

impl std::fmt::Display for Asked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.method, self.path)?;
        for (number, (name, value)) in self.query.iter().enumerate() {
            write!(f, "{}{name}={value}", if number == 0 { '?' } else { '&' })?;
        }
        Ok(())
    }
}

/// A value that was taken out fits every value.
pub(super) fn fits_mask(recorded: &str, live: &str) -> bool {
    recorded == live || recorded.contains(MASK)
}

pub(super) fn fits_path(recorded: &str, live: &str, is_fitting: fn(&str, &str) -> bool) -> bool {
    let (mut recorded, mut live) = (recorded.split('/'), live.split('/'));
    loop {
        match (recorded.next(), live.next()) {
            (None, None) => return true,
            (Some(recorded), Some(live)) if is_fitting(recorded, live) => {}
            _ => return false,
        }
    }
}

/// The pairs of both are sorted. A parameter whose name was taken out fits any.
fn fits_query(
    recorded: &[(String, String)],
    live: &[(String, String)],
    is_fitting: fn(&str, &str) -> bool,
) -> bool {
    let mut left: Vec<_> = live.iter().collect();
    // Exact values first, so that a mask does not take the parameter of another.
    let (masked, exact): (Vec<_>, Vec<_>) =
        recorded.iter().partition(|(name, value)| name.contains(MASK) || value.contains(MASK));
    for (name, value) in exact.into_iter().chain(masked) {
        let fits =
            |pair: &&(String, String)| is_fitting(name, &pair.0) && is_fitting(value, &pair.1);
        // A parameter without a name has its mask in place of the name.
        let is_bare = |pair: &&(String, String)| {
            value.is_empty() && name == MASK && is_fitting(name, &pair.0)
        };
        let Some(at) = left.iter().position(|pair| fits(pair) || is_bare(pair)) else {
            return false;
        };
        left.remove(at);
    }
    left.is_empty()
}

fn fits_json(recorded: &Value, live: &Value, is_fitting: fn(&str, &str) -> bool) -> bool {
    match (recorded, live) {
        (Value::Object(recorded), Value::Object(live)) => {
            recorded.len() == live.len()
                && recorded.iter().all(|(key, value)| {
                    live.get(key).is_some_and(|other| fits_json(value, other, is_fitting))
                })
        }
        (Value::Array(recorded), Value::Array(live)) => {
            let pairs = recorded.iter().zip(live);
            recorded.len() == live.len()
                && pairs.into_iter().all(|(recorded, live)| fits_json(recorded, live, is_fitting))
        }
        (Value::String(recorded), Value::String(live)) => is_fitting(recorded, live),
        // What was taken out may have been of any type.
        (Value::String(recorded), live) => {
            recorded == MASK && is_fitting(recorded, &live.to_string())
        }
        (recorded, live) => recorded == live,
    }
}

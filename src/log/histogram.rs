//! Durations in buckets that grow by a quarter: a quantile is at most that much too large.

/// Buckets: 0.1 ms to about 10 minutes.
const BUCKETS: usize = 72;
/// Upper bound of the first bucket, in milliseconds.
const FIRST: f64 = 0.1;
/// Each bucket's bound is this many times the one before.
const GROWTH: f64 = 1.25;

/// How often durations of each size occurred.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Histogram {
    counts: [u32; BUCKETS],
    total: u32,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: [0; BUCKETS], total: 0 }
    }
}

impl Histogram {
    /// Counts a duration, in milliseconds.
    pub(super) fn add(&mut self, duration: f64) {
        let steps = (duration / FIRST).max(1.0).ln() / GROWTH.ln();
        let bucket = (steps.ceil() as usize).min(BUCKETS - 1);
        self.counts[bucket] = self.counts[bucket].saturating_add(1);
        self.total = self.total.saturating_add(1);
    }

    /// The duration that this share of all durations does not exceed, in milliseconds; none if
    /// there are none.
    pub(super) fn quantile(&self, share: f64) -> Option<f64> {
        let rank = (f64::from(self.total) * share).ceil().max(1.0);
        let mut seen = 0.0;
        let mut bound = FIRST;
        for count in self.counts {
            seen += f64::from(count);
            if seen >= rank {
                return Some(bound);
            }
            bound *= GROWTH;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_at_most_a_quarter_too_large() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.5), None);
        for duration in 1..=1000 {
            histogram.add(f64::from(duration));
        }
        for (share, expected) in [(0.5, 500.0), (0.99, 990.0), (1.0, 1000.0), (0.0, 1.0)] {
            let got = histogram.quantile(share).unwrap();
            assert!(got >= expected && got <= expected * GROWTH + 0.01, "{share}: {got}");
        }
        histogram.add(f64::INFINITY);
        histogram.add(f64::NAN);
        histogram.add(-1.0);
        assert!(histogram.quantile(1.0).unwrap() > 600_000.0);
    }
}

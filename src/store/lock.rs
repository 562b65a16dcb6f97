//! How an attempt to lock an account ends.

/// How an attempt to lock ended.
#[derive(Debug)]
pub(super) enum Try<T> {
    /// By this lock.
    Locked(T),
    /// Another process holds it, named if that is known.
    Busy(Option<String>),
}

impl<T> Try<T> {
    pub(super) fn map<U>(self, convert: impl FnOnce(T) -> U) -> Try<U> {
        match self {
            Self::Locked(held) => Try::Locked(convert(held)),
            Self::Busy(holder) => Try::Busy(holder),
        }
    }
}

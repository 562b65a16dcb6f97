//! The order in which logins and logouts of one account were asked for: the last one to be asked
//! wins.

/// Numbers what is asked for. A login counts once it is saved, so that one that fails takes no
/// earlier one's place; a logout counts from the moment it is asked for until it is given up.
#[derive(Debug, Default)]
pub(super) struct ChangeOrder {
    /// The last number that was given out.
    last: u64,
    /// The highest number whose outcome is saved.
    saved: u64,
    logouts_under_way: Vec<u64>,
}

impl ChangeOrder {
    /// The number of what is asked for now.
    pub(super) fn next_number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// From here on nothing that was asked for before is saved.
    pub(super) fn logout_began(&mut self, number: u64) {
        self.logouts_under_way.push(number);
    }

    /// It was saved, or given up.
    pub(super) fn logout_ended(&mut self, number: u64) {
        self.logouts_under_way.retain(|under_way| *under_way != number);
    }

    pub(super) fn saved(&mut self, number: u64) {
        self.saved = self.saved.max(number);
    }

    /// True if something that was asked for later counts.
    pub(super) fn is_superseded(&self, number: u64) -> bool {
        self.saved > number || self.logouts_under_way.iter().any(|logout| *logout > number)
    }

    /// True while a logout waits for the refresh lock: nothing serves until it is done.
    pub(super) fn is_logging_out(&self) -> bool {
        !self.logouts_under_way.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_counts_once_it_is_saved_and_a_logout_from_the_start_until_it_is_given_up() {
        let mut order = ChangeOrder::default();
        let (first, second) = (order.next_number(), order.next_number());
        assert!(!order.is_superseded(first), "the second may fail");
        let logout = order.next_number();
        order.logout_began(logout);
        assert!(
            order.is_superseded(second) && order.is_logging_out() && !order.is_superseded(logout)
        );
        let third = order.next_number();
        assert!(!order.is_superseded(third));
        order.logout_ended(logout);
        assert!(!order.is_superseded(first) && !order.is_logging_out(), "it was given up");
        order.saved(second);
        order.saved(first);
        assert!(
            order.is_superseded(first)
                && !order.is_superseded(second)
                && !order.is_superseded(third)
        );
    }
}

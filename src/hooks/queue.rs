//! What waits for its turn: one command at a time for an account, the others in their order.

use std::collections::{HashMap, VecDeque};

use tokio::task::Id;

use super::edges::Occurrence;
use crate::store::AccountName;

/// Holds at most one occurrence of each kind for each account.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: VecDeque<Occurrence>,
    running: HashMap<Id, AccountName>,
}

impl Queue {
    /// A later one of the same kind takes the place of one that still waits.
    pub(super) fn add(&mut self, occurrence: Occurrence) {
        let is_same = |it: &&mut Occurrence| {
            (&it.account, it.event) == (&occurrence.account, occurrence.event)
        };
        match self.waiting.iter_mut().find(is_same) {
            Some(waiting) => *waiting = occurrence,
            None => self.waiting.push_back(occurrence),
        }
    }

    /// The next one whose account runs none.
    pub(super) fn next(&mut self) -> Option<Occurrence> {
        let is_free = |it: &Occurrence| self.running.values().all(|account| *account != it.account);
        let at = self.waiting.iter().position(is_free)?;
        self.waiting.remove(at)
    }

    pub(super) fn started(&mut self, task: Id, account: AccountName) {
        self.running.insert(task, account);
    }

    pub(super) fn ended(&mut self, task: Id) {
        self.running.remove(&task);
    }
}

#[cfg(test)]
mod tests {
    use super::super::edges::Event;
    use super::*;

    fn occurrence(account: &str, event: Event) -> Occurrence {
        Occurrence { account: account.parse().unwrap(), event, reason: String::new(), login: None }
    }

    #[tokio::test]
    async fn an_account_runs_one_command_at_a_time_and_does_not_hold_up_others() {
        let mut queue = Queue::default();
        let fallen = occurrence("a", Event::LoginRequired);
        queue.add(fallen.clone());
        queue.add(fallen.clone());
        queue.add(occurrence("a", Event::Recovered));
        queue.add(occurrence("b", Event::LoginRequired));
        assert_eq!(queue.next(), Some(fallen));
        let task = tokio::spawn(async {});
        queue.started(task.id(), "a".parse().unwrap());
        assert_eq!(queue.next(), Some(occurrence("b", Event::LoginRequired)));
        assert_eq!(queue.next(), None);
        queue.ended(task.id());
        assert_eq!(queue.next(), Some(occurrence("a", Event::Recovered)));
    }
}

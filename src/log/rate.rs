//! Which programs sent an account's requests within the last minute.

use std::collections::HashMap;
use std::sync::Arc;

use crate::exchange::Client;
use crate::exchange::record::Record;
use crate::store::AccountName;

/// Seconds of the window.
const WINDOW: usize = 60;
/// Programs that are told apart, over all accounts. More are counted as unknown.
const MAX_PROGRAMS: usize = 512;
/// How long a program is waited for that has not been looked up yet, in seconds.
const PATIENCE: i64 = 10;
/// Counts that wait for the name of their program, at most.
const MAX_UNNAMED: usize = 1024;

/// Requests by account and program. All times are in seconds since boot.
#[derive(Debug, Default)]
pub(super) struct Senders {
    accounts: HashMap<AccountName, Vec<Sender>>,
    /// All of them.
    count: usize,
    unnamed: Vec<Unnamed>,
}

/// What was sent by a program that is being looked up.
#[derive(Debug)]
struct Unnamed {
    client: Arc<Client>,
    account: AccountName,
    at: i64,
    sends: u32,
    impatient: u32,
}

/// What one program sent for one account.
#[derive(Debug)]
struct Sender {
    /// Its name; empty = unknown.
    program: String,
    sent: Window,
    impatient: Window,
}

/// Counts of the last seconds.
#[derive(Debug)]
struct Window {
    counts: [u32; WINDOW],
    /// The newest second.
    at: i64,
}

/// What a program sent within the last minute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Its name; empty = unknown.
    pub program: String,
    /// Requests that went to Pleo.
    pub requests: u32,
    /// Those of them that were sent while Pleo asked to wait.
    pub impatient: u32,
}

impl Default for Window {
    fn default() -> Self {
        Self { counts: [0; WINDOW], at: 0 }
    }
}

impl Window {
    fn add(&mut self, now: i64, count: u32) {
        self.advance(now);
        let place = self.at.rem_euclid(WINDOW as i64) as usize;
        self.counts[place] = self.counts[place].saturating_add(count);
    }

    /// Forgets the seconds that have left the window.
    fn advance(&mut self, now: i64) {
        let passed = now.saturating_sub(self.at).clamp(0, WINDOW as i64);
        for second in 1..=passed {
            let place = (self.at.max(now - WINDOW as i64) + second).rem_euclid(WINDOW as i64);
            self.counts[place as usize] = 0;
        }
        self.at = self.at.max(now);
    }

    fn sum(&mut self, now: i64) -> u32 {
        self.advance(now);
        self.counts.iter().sum()
    }
}

impl Senders {
    /// Counts an exchange.
    pub(super) fn add(&mut self, record: &Record, now: i64) {
        let Some(account) = record.arrival.account().filter(|_| record.sends > 0) else { return };
        let (client, sends) = (&record.arrival.client, u32::from(record.sends));
        let impatient = if record.is_impatient { sends } else { 0 };
        if client.is_looked_up() {
            return self.count_for(account, client, now, (sends, impatient));
        }
        let is_same = |last: &&mut Unnamed| {
            Arc::ptr_eq(&last.client, client) && last.account == *account && last.at == now
        };
        if let Some(last) = self.unnamed.last_mut().filter(is_same) {
            (last.sends, last.impatient) = (last.sends + sends, last.impatient + impatient);
            return;
        }
        let (client, account) = (client.clone(), account.clone());
        self.unnamed.push(Unnamed { client, account, at: now, sends, impatient });
        if self.unnamed.len() > MAX_UNNAMED {
            self.name(now);
        }
    }

    /// Counts what waits for a name, if it is known by now or will hardly become known.
    fn name(&mut self, now: i64) {
        let is_crowded = self.unnamed.len() > MAX_UNNAMED;
        let is_due = |it: &mut Unnamed| {
            is_crowded || it.client.is_looked_up() || !(0..PATIENCE).contains(&(now - it.at))
        };
        let due: Vec<_> = self.unnamed.extract_if(.., is_due).collect();
        for Unnamed { client, account, at, sends, impatient } in due {
            self.count_for(&account, &client, at, (sends, impatient));
        }
    }

    fn count_for(
        &mut self,
        account: &AccountName,
        client: &Client,
        at: i64,
        (sends, impatient): (u32, u32),
    ) {
        let program = client.program().map_or("", |program| &program.name);
        match self.known(account, program) {
            Some(sender) => sender.add(at, sends, impatient),
            None => self.new_sender(account, program, at).add(at, sends, impatient),
        }
    }

    fn known(&mut self, account: &AccountName, program: &str) -> Option<&mut Sender> {
        self.accounts.get_mut(account)?.iter_mut().find(|sender| sender.program == program)
    }

    /// A place for a program that has none: that of unknown ones if there are too many.
    fn new_sender(&mut self, account: &AccountName, program: &str, now: i64) -> &mut Sender {
        if self.count >= MAX_PROGRAMS {
            self.forget_silent(now);
        }
        let program = if self.count >= MAX_PROGRAMS { "" } else { program };
        let senders = self.accounts.entry(account.clone()).or_default();
        let known = senders.iter().position(|sender| sender.program == program);
        let place = known.unwrap_or_else(|| {
            self.count += 1;
            senders.push(Sender::new(program));
            senders.len() - 1
        });
        &mut senders[place]
    }

    fn forget_silent(&mut self, now: i64) {
        self.accounts.retain(|_, senders| {
            senders.retain_mut(|sender| sender.sent.sum(now) > 0);
            !senders.is_empty()
        });
        self.count = self.accounts.values().map(Vec::len).sum();
    }

    /// What was sent for an account within the last minute, busiest first.
    pub(super) fn of(&mut self, account: &AccountName, now: i64) -> Vec<Sent> {
        self.name(now);
        let own = self.accounts.get_mut(account).into_iter().flatten();
        let sent = own.map(|sender| Sent {
            program: sender.program.clone(),
            requests: sender.sent.sum(now),
            impatient: sender.impatient.sum(now),
        });
        let mut sent: Vec<_> = sent.filter(|sent| sent.requests > 0).collect();
        for unnamed in self.unnamed.iter().filter(|unnamed| unnamed.account == *account) {
            let place = sent.iter().position(|sent| sent.program.is_empty()).unwrap_or_else(|| {
                sent.push(Sent { program: String::new(), requests: 0, impatient: 0 });
                sent.len() - 1
            });
            sent[place].requests += unnamed.sends;
            sent[place].impatient += unnamed.impatient;
        }
        sent.sort_by(|one, other| {
            other.requests.cmp(&one.requests).then_with(|| one.program.cmp(&other.program))
        });
        sent
    }
}

impl Sender {
    fn new(program: &str) -> Self {
        Self { program: program.to_owned(), sent: Window::default(), impatient: Window::default() }
    }

    fn add(&mut self, at: i64, sends: u32, impatient: u32) {
        self.sent.add(at, sends);
        if impatient > 0 {
            self.impatient.add(at, impatient);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::Request;

    use super::*;
    use crate::exchange::record::Arrival;
    use crate::exchange::{Caller, Client, Program};

    fn name(name: &str) -> AccountName {
        name.parse().unwrap()
    }

    fn record(account: &str, program: Option<&str>, sends: u8, is_impatient: bool) -> Record {
        let client = Client::new(Caller::Unix { user: None, process: None });
        client.set_program(program.map(|name| Program { pid: 1, name: name.to_owned() }));
        let request = Request::get("/v1/x").body(()).unwrap();
        let arrival = Arrival::new(1, Arc::new(client), &request);
        arrival.set_account(&name(account));
        let mut record = Record::new(Arc::new(arrival));
        (record.sends, record.is_impatient) = (sends, is_impatient);
        record
    }

    #[test]
    fn requests_are_counted_by_program_for_a_minute() {
        let mut senders = Senders::default();
        for now in 1000..1010 {
            senders.add(&record("acme", Some("curl"), 1, false), now);
            senders.add(&record("acme", Some("python3"), 2, now >= 1005), now);
            senders.add(&record("acme", None, 0, false), now);
            senders.add(&record("other", None, 1, false), now);
        }
        let sent = |program: &str, requests, impatient| Sent {
            program: program.into(),
            requests,
            impatient,
        };
        let acme = name("acme");
        assert_eq!(senders.of(&acme, 1009), [sent("python3", 20, 10), sent("curl", 10, 0)]);
        assert_eq!(senders.of(&name("other"), 1009), [sent("", 10, 0)]);
        assert_eq!(senders.of(&acme, 1062), [sent("python3", 14, 10), sent("curl", 7, 0)]);
        assert_eq!(senders.of(&acme, 1069), []);
        assert_eq!(senders.of(&acme, 900), []);
    }

    #[test]
    fn a_program_that_is_found_late_is_counted_by_name_from_its_first_request() {
        let (mut senders, acme) = (Senders::default(), name("acme"));
        let client = Arc::new(Client::new(Caller::Unix { user: None, process: None }));
        let record = |client: &Arc<Client>| {
            let request = Request::get("/v1/x").body(()).unwrap();
            let arrival = Arrival::new(1, client.clone(), &request);
            arrival.set_account(&name("acme"));
            let mut record = Record::new(Arc::new(arrival));
            record.sends = 1;
            record
        };
        (0..3).for_each(|at| senders.add(&record(&client), 1000 + at));
        let sent =
            |program: &str, requests| Sent { program: program.into(), requests, impatient: 0 };
        assert_eq!(senders.of(&acme, 1003), [sent("", 3)]);
        client.set_program(Some(Program { pid: 1, name: "curl".into() }));
        senders.add(&record(&client), 1003);
        assert_eq!(senders.of(&acme, 1003), [sent("curl", 4)]);
        // One that is never looked up, and more of them than are waited for.
        for _ in 0..3 * MAX_UNNAMED {
            let unknown = Arc::new(Client::new(Caller::Unix { user: None, process: None }));
            senders.add(&record(&unknown), 1004);
        }
        assert!(senders.unnamed.len() <= MAX_UNNAMED + 1);
        assert_eq!(senders.of(&acme, 1004), [sent("", 3 * MAX_UNNAMED as u32), sent("curl", 4)]);
        senders.of(&acme, 1004 + PATIENCE);
        assert!(senders.unnamed.is_empty());
    }

    #[test]
    fn many_programs_take_bounded_memory() {
        let mut senders = Senders::default();
        for number in 0..10_000 {
            senders.add(&record("acme", Some(&format!("p{number}")), 1, false), 1000);
        }
        assert!(senders.count <= MAX_PROGRAMS + 1);
        assert_eq!(
            senders.of(&name("acme"), 1000).iter().map(|it| it.requests).sum::<u32>(),
            10_000
        );
        senders.add(&record("acme", Some("late"), 1, false), 2000);
        assert_eq!((senders.count, senders.accounts.len()), (1, 1));
    }
}

//! The gate in every order of its steps: requests that come and go, one exchange that closes and
//! opens.
//!
//! The clock is in the arguments: every call gets an epoch, and the scenarios run through the
//! epochs that a clock could have shown, also the stale ones. They straddle the turn of the twelve
//! bits.
//!
//! The token is a cell that requests read inside and the exchange writes while the gate is closed.
//! Loom refuses a read and a write that no ordering separates: so the cell proves both that nobody
//! is inside during the exchange and that the orderings of the atomics suffice. A wake-up that gets
//! lost is a deadlock, which loom refuses too.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::task::Poll;
use std::time::{Duration, Instant};

use loom::cell::UnsafeCell;
use loom::future::block_on;
use loom::sync::Arc;
use loom::thread;
use pleo_proxy_model::gate::{Gate, Ticket};

/// The last epoch before the turn.
const E: u64 = 4095;
const FOREVER: Duration = Duration::MAX;

/// A gate and what is behind it. The plain atomics are the test's own notes: loom does not see
/// them, and between a step of the gate and the note about it nothing else runs.
struct World {
    gate: Gate,
    token: UnsafeCell<()>,
    /// `close` has returned and its guard is not yet being dropped.
    closed: AtomicBool,
    entered: AtomicUsize,
    inside: AtomicUsize,
    /// How many were told that they were the last.
    last: AtomicUsize,
}

impl World {
    fn new() -> Arc<Self> {
        let gate = Gate::default();
        // Brings the clock of the gate near the turn; more than half a turn at once would count as
        // going back.
        for epoch in [E / 2, E - 1] {
            assert!(gate.leave(gate.enter(epoch).unwrap()));
        }
        Arc::new(Self {
            gate,
            token: UnsafeCell::new(()),
            closed: AtomicBool::new(false),
            entered: AtomicUsize::new(0),
            inside: AtomicUsize::new(0),
            last: AtomicUsize::new(0),
        })
    }

    fn enter(&self, epoch: u64) -> Option<Ticket> {
        let ticket = self.gate.enter(epoch)?;
        assert!(!self.closed.load(SeqCst), "came in through a closed gate");
        self.entered.fetch_add(1, SeqCst);
        self.inside.fetch_add(1, SeqCst);
        Some(ticket)
    }

    /// Comes in as a request does: asks for news, looks, waits.
    async fn wait(&self, epoch: u64) -> Ticket {
        loop {
            let news = self.gate.changed();
            if let Some(ticket) = self.enter(epoch) {
                return ticket;
            }
            news.await;
        }
    }

    fn leave(&self, ticket: Ticket) -> bool {
        self.inside.fetch_sub(1, SeqCst);
        let last = self.gate.leave(ticket);
        self.last.fetch_add(usize::from(last), SeqCst);
        last
    }

    fn read(&self) {
        self.token.with(|_| ());
    }

    /// A request that waits until it is served.
    fn request(&self, epoch: u64) {
        let ticket = block_on(self.wait(epoch));
        self.read();
        self.leave(ticket);
    }

    /// An exchange whose patience never ends.
    fn exchange(&self, epoch: u64) {
        let guard = block_on(self.gate.close(epoch, FOREVER));
        self.closed.store(true, SeqCst);
        self.token.with_mut(|_| ());
        self.closed.store(false, SeqCst);
        drop(guard);
    }

    /// Everybody has gone: the counts are zero, the gate is open, and somebody was told to be the
    /// last.
    fn finish(&self, epoch: u64) {
        assert_eq!(self.inside.load(SeqCst), 0);
        assert!(
            self.entered.load(SeqCst) == 0 || self.last.load(SeqCst) > 0,
            "nobody was the last"
        );
        let ticket = self.gate.enter(epoch).expect("the gate stayed closed");
        assert!(self.gate.leave(ticket), "a count did not return to zero");
    }
}

/// Runs all schedules of the scenario for each case: all there are, or all with at most so many
/// preemptions. The environment variable LOOM_MAX_PREEMPTIONS sets another bound for all scenarios.
fn check<C: Copy + Send + Sync + 'static>(
    name: &str,
    most: Option<usize>,
    cases: impl IntoIterator<Item = C>,
    scenario: fn(C),
) {
    let start = Instant::now();
    let (mut total, mut count, mut bound) = (0, 0, most);
    for case in cases {
        let schedules = std::sync::Arc::new(AtomicUsize::new(0));
        let mut model = loom::model::Builder::new();
        model.preemption_bound = model.preemption_bound.or(most);
        bound = model.preemption_bound;
        model.check({
            let schedules = schedules.clone();
            move || {
                schedules.fetch_add(1, SeqCst);
                scenario(case);
            }
        });
        total += schedules.load(SeqCst);
        count += 1;
    }
    let bound = bound.map_or("all".to_owned(), |most| format!("up to {most} preemptions"));
    println!(
        "model: {name}: {total} schedules ({bound}) of {count} cases in {:.1?}",
        start.elapsed()
    );
}

fn spawn(world: &Arc<World>, act: impl FnOnce(&World) + 'static) -> thread::JoinHandle<()> {
    let world = world.clone();
    thread::spawn(move || act(&world))
}

fn join(threads: impl IntoIterator<Item = thread::JoinHandle<()>>) {
    for it in threads {
        it.join().unwrap();
    }
}

#[test]
fn young_requests_are_waited_for_and_held_ones_are_woken() {
    // Whatever the three read, as long as no reading makes a lease old.
    let cases =
        (E..E + 2).flat_map(|a| (a..E + 2).flat_map(move |b| (E..E + 2).map(move |c| (a, b, c))));
    check("two requests, an exchange", Some(2), cases, |(a, b, c)| {
        let world = World::new();
        let others =
            [spawn(&world, move |it| it.request(a)), spawn(&world, move |it| it.request(b))];
        world.exchange(c);
        join(others);
        world.finish(c);
    });
}

#[test]
fn one_request_and_the_exchange_in_every_schedule() {
    let cases = [(E, E), (E, E + 1), (E + 1, E)];
    check("a request, an exchange", None, cases, |(a, c)| {
        let world = World::new();
        let other = spawn(&world, move |it| it.request(a));
        world.exchange(c);
        join([other]);
        world.finish(c);
    });
}

#[test]
fn three_requests() {
    check("three requests, an exchange", Some(1), [(E, E + 1, E + 1)], |(a, b, c)| {
        let world = World::new();
        let others = [a, b, c].map(|epoch| spawn(&world, move |it| it.request(epoch)));
        world.exchange(c);
        join(others);
        world.finish(c);
    });
}

#[test]
fn the_gate_closes_again_and_again() {
    check("two requests, two exchanges", Some(2), [(E, E + 1)], |(first, second)| {
        let world = World::new();
        let others = [E, second].map(|epoch| spawn(&world, move |it| it.request(epoch)));
        world.exchange(first);
        world.exchange(second);
        join(others);
        world.finish(second);
    });
}

#[test]
fn the_old_are_not_waited_for() {
    check("an old lease, a request, an exchange", Some(3), [E + 2, E + 3, E + 2000], |c| {
        let world = World::new();
        let old = world.enter(E).unwrap();
        let other = spawn(&world, move |it| it.request(c));
        world.exchange(c);
        join([other]);
        // Were it waited for, this would never be reached.
        assert!(world.leave(old));
        world.finish(c);
    });
}

#[test]
fn an_impatient_exchange_leaves_nobody_behind() {
    check(
        "two requests, an exchange without patience, one with",
        Some(2),
        [(E, E), (E, E + 1), (E, E + 3)],
        |(a, c)| {
            let world = World::new();
            let come_and_go = move |it: &World| {
                if let Some(ticket) = it.enter(a) {
                    thread::yield_now();
                    it.leave(ticket);
                }
            };
            let others = [spawn(&world, come_and_go), spawn(&world, come_and_go)];
            let guard = block_on(world.gate.close(c, Duration::ZERO));
            world.closed.store(true, SeqCst);
            assert!(world.gate.enter(c).is_none(), "closed, even with young leases out");
            world.closed.store(false, SeqCst);
            drop(guard);
            drop(block_on(world.gate.close(c, FOREVER)));
            join(others);
            world.finish(c);
        },
    );
}

#[test]
fn an_exchange_given_up_opens_the_gate() {
    check("two requests, an exchange given up", Some(2), [(E, E), (E, E + 1)], |(a, c)| {
        let world = World::new();
        let others =
            [spawn(&world, move |it| it.request(a)), spawn(&world, move |it| it.request(a))];
        block_on(async {
            let mut closing = pin!(world.gate.close(c, FOREVER));
            poll_fn(|context| Poll::Ready(closing.as_mut().poll(context).is_ready())).await;
        });
        join(others);
        world.finish(c);
    });
}

#[test]
fn news_of_a_publication_reach_those_who_asked_before_looking() {
    check("two that wait, a publication", Some(3), [()], |()| {
        let world = World::new();
        let published = Arc::new(loom::sync::atomic::AtomicBool::new(false));
        let others = [(), ()].map(|()| {
            let published = published.clone();
            spawn(&world, move |it| {
                block_on(async {
                    loop {
                        let news = it.gate.changed();
                        if published.load(SeqCst) {
                            return it.read();
                        }
                        news.await;
                    }
                });
            })
        });
        world.token.with_mut(|_| ());
        published.store(true, SeqCst);
        world.gate.notify();
        join(others);
    });
}

#[test]
fn the_last_is_told_so() {
    let cases = (0..3).flat_map(|a| (0..3).map(move |b| (E + a, E + b)));
    check("three requests, no exchange", Some(2), cases, |(a, b)| {
        let world = World::new();
        let visit = |it: &World, epoch| {
            let ticket = it.enter(epoch).unwrap();
            // An open gate tells nobody, so nothing runs between the last step of `leave` and this
            // look.
            assert!(
                !it.leave(ticket) || it.inside.load(SeqCst) == 0,
                "told to be the last, but somebody is inside"
            );
        };
        let others = [spawn(&world, move |it| visit(it, a)), spawn(&world, move |it| visit(it, b))];
        visit(&world, E + 1);
        join(others);
        world.finish(E + 2);
    });
}

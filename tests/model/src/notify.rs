//! Tokio's `Notify` as far as `notify_waiters` goes, with its orderings: a counter of calls that a
//! future reads when it is made, and a list of wakers under a lock.

use alloc::vec::Vec;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll, Waker};

use loom::sync::Mutex;
use loom::sync::atomic::{AtomicUsize, Ordering};

/// See the module.
#[derive(Debug, Default)]
pub struct Notify {
    calls: AtomicUsize,
    waiters: Mutex<Waiters>,
}

#[derive(Debug, Default)]
struct Waiters {
    next: usize,
    list: Vec<(usize, Waker)>,
}

/// Ready at the next `notify_waiters` after it was made.
#[derive(Debug)]
pub struct Notified<'a> {
    notify: &'a Notify,
    calls: usize,
    /// Its place in the list.
    place: Option<usize>,
}

impl Notify {
    /// As in tokio.
    pub fn notified(&self) -> Notified<'_> {
        Notified { notify: self, calls: self.calls.load(Ordering::Acquire), place: None }
    }

    /// As in tokio: wakes those who wait, and those who have asked but were not polled yet.
    pub fn notify_waiters(&self) {
        let woken = {
            let mut waiters = self.waiters.lock().unwrap();
            self.calls.fetch_add(1, Ordering::AcqRel);
            core::mem::take(&mut waiters.list)
        };
        for (_, waker) in woken {
            waker.wake();
        }
    }
}

impl Future for Notified<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let notify = self.notify;
        let mut waiters = notify.waiters.lock().unwrap();
        if notify.calls.load(Ordering::Acquire) != self.calls {
            self.place = None;
            return Poll::Ready(());
        }
        if self.place.is_none() {
            let place = waiters.next;
            waiters.next += 1;
            waiters.list.push((place, context.waker().clone()));
            self.place = Some(place);
        }
        Poll::Pending
    }
}

impl Drop for Notified<'_> {
    /// A forgotten waker would wake a later wait of the same thread and hide a bug.
    fn drop(&mut self) {
        if let Some(place) = self.place {
            self.notify.waiters.lock().unwrap().list.retain(|it| it.0 != place);
        }
    }
}

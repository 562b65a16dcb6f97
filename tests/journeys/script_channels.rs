//! Channels between a test and the script of its upstream.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use std::sync::{Mutex, mpsc};

use support::TIMEOUT;

/// A sender for scripts, which many threads share.
pub(super) fn shared<T>() -> (Mutex<mpsc::Sender<T>>, mpsc::Receiver<T>) {
    let (sender, receiver) = mpsc::channel();
    (Mutex::new(sender), receiver)
}

/// Something for a script to wait for.
pub(super) fn signal() -> (mpsc::Sender<()>, Mutex<mpsc::Receiver<()>>) {
    let (sender, receiver) = mpsc::channel();
    (sender, Mutex::new(receiver))
}

pub(super) fn told<T>(receiver: &mpsc::Receiver<T>) -> T {
    receiver.recv_timeout(TIMEOUT).expect("the upstream says so")
}

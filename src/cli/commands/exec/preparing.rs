//! Work before the program is started: a signal ends it at any point, and Ctrl-Z stops this process
//! as it does any other, only not while it holds a lock of the store.

use std::future::Future;
use std::pin::{Pin, pin};

use super::signals::{OwnSignal, Signals};
use super::stop::{stop, without_locks};
use crate::cli::exit::{Exit, Failure};
use crate::store::Store;

/// What signals ask of this process while it prepares.
pub(super) struct Preparing<'a> {
    signals: &'a mut Signals,
    is_to_stop: bool,
}

impl<'a> Preparing<'a> {
    pub(super) fn new(signals: &'a mut Signals) -> Self {
        Self { signals, is_to_stop: false }
    }

    /// Does the work, unless a signal ends the process. It stops where the store is known, whose
    /// locks nobody else could get meanwhile; a stop that was asked for before is made up for.
    pub(super) async fn unless_ended<T>(
        &mut self,
        work: impl Future<Output = Result<T, Failure>>,
        store: Option<&Store>,
    ) -> Result<T, Failure> {
        let (mut work, mut done) = (pin!(work), None);
        loop {
            if let (true, Some(store)) = (self.is_to_stop, store) {
                self.stop(store, work.as_mut(), &mut done).await?;
            }
            if let Some(done) = done {
                return done;
            }
            tokio::select! {
                biased;
                signal = self.signals.own() => self.note(signal)?,
                result = work.as_mut() => done = Some(result),
            }
        }
    }

    /// Stops this process, unless it is told to go on before it has returned its locks; the work may
    /// be what holds one.
    async fn stop<T>(
        &mut self,
        store: &Store,
        mut work: Pin<&mut impl Future<Output = T>>,
        done: &mut Option<T>,
    ) -> Result<(), Failure> {
        let mut pausing = pin!(without_locks(store));
        while self.is_to_stop {
            tokio::select! {
                biased;
                paused = &mut pausing => {
                    self.is_to_stop = false;
                    stop();
                    drop(paused);
                }
                result = work.as_mut(), if done.is_none() => *done = Some(result),
                signal = self.signals.own() => self.note(signal)?,
            }
        }
        Ok(())
    }

    fn note(&mut self, signal: OwnSignal) -> Result<(), Failure> {
        match signal {
            OwnSignal::Stop => self.is_to_stop = true,
            OwnSignal::GoOn => self.is_to_stop = false,
            OwnSignal::End(signal) => {
                let why = "ended by a signal before the program was started";
                return Err(Failure::new(Exit::Signal(signal.as_raw()), why));
            }
        }
        Ok(())
    }
}

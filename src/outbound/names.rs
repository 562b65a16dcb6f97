//! Resolves names as the system does (`getaddrinfo`: hosts file, search domains, `nsswitch.conf`),
//! on its own threads. A name server that hangs delays its callers until their own deadline, and
//! nothing else: the end of the process does not wait for these threads, and a thread that cannot
//! be started is one failed attempt.

use parking_lot::{Mutex, MutexGuard};
use std::net::{IpAddr, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// Look-ups at the same time; further ones wait for one of them to end.
const MAX_LOOKUPS: usize = 16;
/// A look-up that has run for longer is not shared any more: the network may be back by now.
const MAX_SHARED_AGE: Duration = Duration::from_secs(3);
/// How long an address that failed is tried only after all others.
const DOUBT_TIME: Duration = Duration::from_secs(60);
/// Names whose addresses are remembered: those of the endpoints and of a proxy are fewer.
const MAX_GIVEN: usize = 16;
/// Addresses that are remembered as failed.
const MAX_DOUBTED: usize = 32;

/// Why a name has no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The system does not know it.
    #[error("the name {host} was not found: {why}")]
    NotFound {
        /// The name.
        host: String,
        /// The system's error.
        why: String,
    },
    /// No thread could be started, or it ended without an answer.
    #[error("the name {host} could not be looked up: {why}")]
    NoThread {
        /// The name.
        host: String,
        /// The system's error.
        why: String,
    },
    /// The look-up took too long.
    #[error("the look-up of the name {host} took too long")]
    Late {
        /// The name.
        host: String,
    },
}

pub(crate) type Answer = Result<Vec<IpAddr>, NameError>;

/// Looks names up; clones share the look-ups in flight and the addresses that failed recently.
#[derive(Clone, Debug)]
pub struct Names(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    resolve: fn(&str) -> Answer,
    in_flight: Mutex<Vec<LookUp>>,
    permits: Arc<Semaphore>,
    doubted: Mutex<Vec<(IpAddr, Instant)>>,
    /// Addresses last given to the client that makes its connections itself (reqwest), by name.
    given: Mutex<Vec<(String, Vec<IpAddr>)>>,
}

#[derive(Debug)]
struct LookUp {
    host: String,
    since: Instant,
    answer: watch::Receiver<Option<Answer>>,
}

impl Default for Names {
    fn default() -> Self {
        Self::by(resolve)
    }
}

impl Names {
    /// Resolves in another way than the system's, for tests.
    pub(crate) fn by(resolve: fn(&str) -> Answer) -> Self {
        let permits = Arc::new(Semaphore::new(MAX_LOOKUPS));
        Self(Arc::new(Shared {
            resolve,
            in_flight: Mutex::default(),
            permits,
            doubted: Mutex::default(),
            given: Mutex::default(),
        }))
    }

    /// The addresses of a name or of an address literal, at least one: in the system's order, those
    /// that failed recently last.
    ///
    /// # Errors
    /// [`NameError`]. The caller sets the deadline.
    pub async fn look_up(&self, host: &str) -> Result<Vec<IpAddr>, NameError> {
        if let Ok(literal) = host.trim_matches(['[', ']']).parse() {
            return Ok(vec![literal]);
        }
        let mut answer = self.ask(host).await?;
        let found = answer.wait_for(Option::is_some).await.ok().and_then(|answer| answer.clone());
        let ended = || NameError::NoThread {
            host: host.into(),
            why: "the look-up ended without an answer".into(),
        };
        found.unwrap_or_else(|| Err(ended())).map(|addresses| self.ordered(addresses))
    }

    fn ordered(&self, mut addresses: Vec<IpAddr>) -> Vec<IpAddr> {
        let doubted = lock(&self.0.doubted);
        addresses.sort_by_key(|address| {
            doubted.iter().any(|(ip, since)| ip == address && since.elapsed() < DOUBT_TIME)
        });
        addresses
    }

    /// An address that failed, or was slower than another: it is tried last for a minute.
    pub fn doubt(&self, address: IpAddr) {
        let mut doubted = lock(&self.0.doubted);
        doubted.retain(|(ip, since)| *ip != address && since.elapsed() < DOUBT_TIME);
        if doubted.len() < MAX_DOUBTED {
            doubted.push((address, Instant::now()));
        }
    }

    /// An address that works.
    pub fn trust(&self, address: IpAddr) {
        lock(&self.0.doubted).retain(|(ip, _)| *ip != address);
    }

    /// The first address that was given for a name did not connect; true if there is another one to
    /// try, which then comes first.
    pub fn pass_over(&self, host: &str) -> bool {
        let first = match lock(&self.0.given).iter().find(|(given, _)| given == host) {
            Some((_, addresses)) if addresses.len() > 1 => addresses[0],
            _ => return false,
        };
        self.doubt(first);
        true
    }

    fn give(&self, host: &str, addresses: &[IpAddr]) {
        let mut given = lock(&self.0.given);
        given.retain(|(other, _)| other != host);
        if given.len() < MAX_GIVEN {
            given.push((host.to_owned(), addresses.to_vec()));
        }
    }

    /// Joins the look-up of that name which is in flight, or starts one as soon as there is a
    /// permit.
    async fn ask(&self, host: &str) -> Result<watch::Receiver<Option<Answer>>, NameError> {
        loop {
            {
                let mut in_flight = lock(&self.0.in_flight);
                let now = Instant::now();
                in_flight.retain(|other| {
                    other.answer.borrow().is_none() && now - other.since < MAX_SHARED_AGE
                });
                if let Some(other) = in_flight.iter().find(|other| other.host == host) {
                    return Ok(other.answer.clone());
                }
                if let Ok(permit) = self.0.permits.clone().try_acquire_owned() {
                    let answer = start(host.to_owned(), permit, self.0.resolve)?;
                    in_flight.push(LookUp {
                        host: host.to_owned(),
                        since: now,
                        answer: answer.clone(),
                    });
                    return Ok(answer);
                }
            }
            drop(self.0.permits.acquire().await);
        }
    }
}

fn start(
    host: String,
    permit: OwnedSemaphorePermit,
    resolve: fn(&str) -> Answer,
) -> Result<watch::Receiver<Option<Answer>>, NameError> {
    let (tell, answer) = watch::channel(None);
    let name = host.clone();
    let thread = std::thread::Builder::new().name("name-lookup".into()).spawn(move || {
        let found = resolve(&host);
        // The permit is free before the waiters are woken.
        drop(permit);
        tell.send_replace(Some(found));
    });
    match thread {
        Ok(_detached) => Ok(answer),
        Err(error) => Err(NameError::NoThread { host: name, why: error.to_string() }),
    }
}

fn resolve(host: &str) -> Answer {
    let not_found = |why: String| NameError::NotFound { host: host.to_owned(), why };
    let found = (host, 0).to_socket_addrs().map_err(|error| not_found(said(&error.to_string())))?;
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in found.map(|address| address.ip()) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    if addresses.is_empty() { Err(not_found("it has no address".into())) } else { Ok(addresses) }
}

/// The error text of `getaddrinfo`, without the prefix of the standard library.
fn said(error: &str) -> String {
    error.rsplit_once("address information: ").map_or(error, |(_, said)| said).to_owned()
}

impl reqwest::dns::Resolve for Names {
    fn resolve(&self, name: reqwest::dns::Name) -> reqwest::dns::Resolving {
        let names = self.clone();
        Box::pin(async move {
            let addresses = names.look_up(name.as_str()).await?;
            names.give(name.as_str(), &addresses);
            let addresses: reqwest::dns::Addrs =
                Box::new(addresses.into_iter().map(|address| (address, 0).into()));
            Ok(addresses)
        })
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hang(_: &str) -> Answer {
        std::thread::park();
        Ok(Vec::new())
    }

    #[tokio::test]
    async fn literals_need_no_thread_and_hosts_are_read() {
        let names = Names::default();
        let all = names
            .0
            .permits
            .clone()
            .try_acquire_many_owned(u32::try_from(MAX_LOOKUPS).unwrap())
            .unwrap();
        assert_eq!(names.look_up("[::1]").await.unwrap(), ["::1".parse::<IpAddr>().unwrap()]);
        assert_eq!(
            names.look_up("127.0.0.9").await.unwrap(),
            ["127.0.0.9".parse::<IpAddr>().unwrap()]
        );
        drop(all);
        assert!(names.look_up("localhost").await.unwrap().iter().all(IpAddr::is_loopback));
        let error = names.look_up("nowhere.invalid").await.unwrap_err();
        assert!(
            matches!(&error, NameError::NotFound { host, .. } if host == "nowhere.invalid"),
            "{error:?}"
        );
    }

    #[tokio::test]
    async fn what_hangs_takes_one_thread_for_a_name_and_a_bounded_number_in_all() {
        let names = Names::by(hang);
        let asked = async {
            for _ in 0..100 {
                drop(names.ask("slow.invalid").await.unwrap());
            }
        };
        assert!(
            tokio::time::timeout(Duration::from_secs(10), asked).await.is_ok(),
            "each took a permit"
        );
        assert_eq!(
            names.0.permits.available_permits(),
            MAX_LOOKUPS - 1,
            "callers of one name share its look-up"
        );
        for number in 1..MAX_LOOKUPS {
            drop(names.ask(&format!("slow-{number}.invalid")).await.unwrap());
        }
        let late =
            tokio::time::timeout(Duration::from_millis(20), names.ask("one-more.invalid")).await;
        assert!(late.is_err(), "the caller waits until its own deadline");
    }

    #[tokio::test]
    async fn a_look_up_that_panics_is_a_failed_attempt() {
        let names = Names::by(|_| panic!("as a resolver plug-in may"));
        let mut answer = names.ask("odd.invalid").await.unwrap();
        assert!(answer.wait_for(Option::is_some).await.is_err());
        assert_eq!(names.0.permits.available_permits(), MAX_LOOKUPS);
    }

    #[test]
    fn an_address_that_failed_comes_last_until_it_works() {
        let names = Names::default();
        let three =
            ["192.0.2.1", "192.0.2.2", "192.0.2.3"].map(|text| text.parse::<IpAddr>().unwrap());
        names.doubt(three[0]);
        assert_eq!(names.ordered(three.to_vec()), [three[1], three[2], three[0]]);
        names.trust(three[0]);
        assert_eq!(names.ordered(three.to_vec()), three);
        names.give("three.invalid", &three);
        names.give("one.invalid", &three[..1]);
        assert!(
            names.pass_over("three.invalid")
                && !names.pass_over("one.invalid")
                && !names.pass_over("none.invalid")
        );
        assert_eq!(names.ordered(three.to_vec()), [three[1], three[2], three[0]]);
    }
}

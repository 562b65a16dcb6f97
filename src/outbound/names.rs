//! Names to addresses, as the system does it (`getaddrinfo`: hosts file, search domains,
//! `nsswitch.conf`), on threads of our own. A name server that hangs holds up whoever asked, until
//! their own deadline, and nothing else: no end of the process waits for these threads, and a
//! thread that cannot be had is one failed attempt.

use parking_lot::{Mutex, MutexGuard};
use std::net::{IpAddr, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// Look-ups at once; whoever comes later waits for one of them to end.
const MOST: usize = 16;
/// A look-up that has run for longer is not shared any more: the network may be back meanwhile.
const SHARED: Duration = Duration::from_secs(3);
/// How long an address that failed is tried after all others.
const DOUBT: Duration = Duration::from_secs(60);
/// Names whose addresses are remembered: those of the endpoints and of a proxy are fewer.
const MOST_GIVEN: usize = 16;
/// Addresses that are remembered as failed.
const MOST_DOUBTED: usize = 32;

/// Why a name has no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The system's answer.
    #[error("the name {host} was not found: {why}")]
    NotFound {
        /// The name.
        host: String,
        /// In the system's words.
        why: String,
    },
    /// No thread could be started, or it ended without an answer.
    #[error("the name {host} could not be looked up: {why}")]
    NoThread {
        /// The name.
        host: String,
        /// In the system's words.
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

/// Looks names up; clones share what is under way and which addresses failed lately.
#[derive(Clone, Debug)]
pub struct Names(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    resolve: fn(&str) -> Answer,
    under_way: Mutex<Vec<LookUp>>,
    places: Arc<Semaphore>,
    doubted: Mutex<Vec<(IpAddr, Instant)>>,
    /// What a client that makes its connections itself was given last, by name.
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
    /// By another way than the system's, which tests have.
    pub(crate) fn by(resolve: fn(&str) -> Answer) -> Self {
        let places = Arc::new(Semaphore::new(MOST));
        Self(Arc::new(Shared {
            resolve,
            under_way: Mutex::default(),
            places,
            doubted: Mutex::default(),
            given: Mutex::default(),
        }))
    }

    /// The addresses of a name or of an address literal, at least one: in the system's order, those
    /// that failed lately last.
    ///
    /// # Errors
    /// There is none. A deadline is the caller's.
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

    /// Those that failed lately last, else as they are.
    fn ordered(&self, mut addresses: Vec<IpAddr>) -> Vec<IpAddr> {
        let doubted = lock(&self.0.doubted);
        addresses.sort_by_key(|address| {
            doubted.iter().any(|(ip, since)| ip == address && since.elapsed() < DOUBT)
        });
        addresses
    }

    /// An address that failed, or was overtaken by another: it is tried last for a minute.
    pub fn doubt(&self, address: IpAddr) {
        let mut doubted = lock(&self.0.doubted);
        doubted.retain(|(ip, since)| *ip != address && since.elapsed() < DOUBT);
        if doubted.len() < MOST_DOUBTED {
            doubted.push((address, Instant::now()));
        }
    }

    /// An address that works.
    pub fn trust(&self, address: IpAddr) {
        lock(&self.0.doubted).retain(|(ip, _)| *ip != address);
    }

    /// No connection came about at the address that such a client was given first; true if there is
    /// another to try, which then comes first.
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
        if given.len() < MOST_GIVEN {
            given.push((host.to_owned(), addresses.to_vec()));
        }
    }

    /// Joins the look-up of that name which is under way, or starts one as soon as there is a
    /// place.
    async fn ask(&self, host: &str) -> Result<watch::Receiver<Option<Answer>>, NameError> {
        loop {
            {
                let mut under_way = lock(&self.0.under_way);
                let now = Instant::now();
                under_way
                    .retain(|other| other.answer.borrow().is_none() && now - other.since < SHARED);
                if let Some(other) = under_way.iter().find(|other| other.host == host) {
                    return Ok(other.answer.clone());
                }
                if let Ok(place) = self.0.places.clone().try_acquire_owned() {
                    let answer = start(host.to_owned(), place, self.0.resolve)?;
                    under_way.push(LookUp {
                        host: host.to_owned(),
                        since: now,
                        answer: answer.clone(),
                    });
                    return Ok(answer);
                }
            }
            drop(self.0.places.acquire().await);
        }
    }
}

fn start(
    host: String,
    place: OwnedSemaphorePermit,
    resolve: fn(&str) -> Answer,
) -> Result<watch::Receiver<Option<Answer>>, NameError> {
    let (tell, answer) = watch::channel(None);
    let name = host.clone();
    let thread = std::thread::Builder::new().name("name-lookup".into()).spawn(move || {
        let found = resolve(&host);
        // The place is free before anybody hears of it.
        drop(place);
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

/// `getaddrinfo`'s own words, without what the standard library puts before them.
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
        let all =
            names.0.places.clone().try_acquire_many_owned(u32::try_from(MOST).unwrap()).unwrap();
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
            "each took a place"
        );
        assert_eq!(
            names.0.places.available_permits(),
            MOST - 1,
            "callers of one name share its look-up"
        );
        for number in 1..MOST {
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
        assert_eq!(names.0.places.available_permits(), MOST);
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

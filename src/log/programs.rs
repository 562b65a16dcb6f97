//! Finds the program at the other end of a connection: the system says which socket it is, and
//! which process holds it. Looked up beside the requests, never on their way.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::exchange::recorder::Recorders;
use crate::exchange::{Caller, Client, Program};
use crate::platform::processes;
use crate::proxy::peer;

/// Look-ups may take this share of the time, as one part of so many.
const SHARE: u32 = 10;
/// Time for look-ups that is saved while there are none: callers come in bursts.
const MAX_SAVED: Duration = Duration::from_millis(250);

/// Looks up the program of each caller as soon as it is connected, since it may be gone a moment
/// later; never ends.
pub(super) async fn identify(recorders: Arc<Recorders>) {
    let (mut saved, mut since) = (MAX_SAVED, Instant::now());
    loop {
        recorders.connected.notified().await;
        let clients = recorders.take_clients();
        let began = Instant::now();
        saved = (saved + (began - since) / SHARE).min(MAX_SAVED);
        since = began;
        // If there is no thread, the programs stay unknown.
        let _ = spawn_blocking(move || look_up(&clients)).await;
        let took = began.elapsed();
        match saved.checked_sub(took) {
            Some(left) => saved = left,
            None => {
                sleep((took - saved) * SHARE).await;
                (saved, since) = (Duration::ZERO, Instant::now());
            }
        }
    }
}

/// The program that holds a socket, by its inode; none if it is another user's or does not let
/// itself be looked at.
pub fn holder(inode: u32) -> Option<Program> {
    let holder = processes::newest_first().into_iter().find(|pid| holds(*pid, inode))?;
    program(opener(holder, inode))
}

fn look_up(clients: &[Arc<Client>]) {
    let mut sockets = Vec::new();
    for client in clients {
        match client.caller {
            Caller::Unix { process, .. } => {
                let pid = process.and_then(|process| u32::try_from(process).ok());
                client.set_program(pid.and_then(program));
            }
            Caller::Tcp { local, peer } => match peer::socket_inode(peer, local) {
                Some(inode) => sockets.push((inode, client)),
                None => client.set_program(None),
            },
        }
    }
    find_holders(&sockets);
    for (_, client) in sockets {
        client.set_program(None);
    }
}

/// Notes the programs of those whose sockets are found. The newest processes first: a program that
/// sends one request was most likely started a moment ago.
fn find_holders(sockets: &[(u32, &Arc<Client>)]) {
    let mut missing: Vec<_> = sockets.iter().collect();
    for pid in processes::newest_first() {
        if missing.is_empty() {
            return;
        }
        let inodes = processes::sockets(pid);
        // A process may hold a socket several times, and several processes may hold one.
        missing.retain(|(socket, client)| {
            let is_held = inodes.contains(socket);
            if is_held {
                client.set_program(program(opener(pid, *socket)));
            }
            !is_held
        });
    }
}

fn holds(pid: u32, socket: u32) -> bool {
    processes::sockets(pid).contains(&socket)
}

/// The process that has opened a socket which `holder` holds: a program that is being started holds
/// what its parent holds until it runs.
fn opener(mut holder: u32, socket: u32) -> u32 {
    while let Some(parent) = processes::parent(holder).filter(|parent| holds(*parent, socket)) {
        holder = parent;
    }
    holder
}

/// The program of a process, if it is still there.
fn program(pid: u32) -> Option<Program> {
    processes::name(pid).map(|name| Program { pid, name })
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn own() -> Program {
        program(std::process::id()).unwrap()
    }

    #[test]
    fn the_program_at_the_other_end_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let caller = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let local = listener.local_addr().unwrap();
        let there = Caller::Tcp { local, peer: caller.local_addr().unwrap() };
        let gone = Caller::Tcp { local, peer: "127.0.0.1:1".parse().unwrap() };
        let pid = i32::try_from(std::process::id()).ok();
        let unix = Caller::Unix { user: None, process: pid };
        // The same socket under two numbers, as programs have it that start others.
        let _copy = caller.try_clone().unwrap();
        let clients = [there, gone, unix].map(|caller| Arc::new(Client::new(caller)));
        look_up(&clients);
        assert_eq!(clients[0].program(), Some(&own()));
        assert_eq!(clients[1].program(), None);
        assert_eq!(clients[2].program(), Some(&own()));
    }
}

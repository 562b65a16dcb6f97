//! Who is at the other end of a client connection.

use std::net::SocketAddr;
use std::sync::OnceLock;

/// How a caller is connected.
#[derive(Clone, Copy, Debug)]
pub enum Caller {
    /// A TCP connection.
    Tcp {
        /// Our end.
        local: SocketAddr,
        /// The caller's end.
        peer: SocketAddr,
    },
    /// A connection to a unix socket; none where the kernel does not say.
    Unix {
        /// The caller's user id.
        user: Option<u32>,
        /// The caller's process id.
        process: Option<i32>,
    },
}

/// The program that holds the caller's end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Its process id.
    pub pid: u32,
    /// Its name, as the kernel has it: at most 15 bytes.
    pub name: String,
}

/// The caller of one connection, and its program once that has been looked up.
#[derive(Debug)]
pub struct Client {
    /// How it is connected.
    pub caller: Caller,
    program: OnceLock<Option<Program>>,
}

impl Client {
    /// A caller whose program is not known yet.
    pub fn new(caller: Caller) -> Self {
        Self { caller, program: OnceLock::new() }
    }

    /// The program, if it is known.
    pub fn program(&self) -> Option<&Program> {
        self.program.get()?.as_ref()
    }

    /// True once the program has been looked up, found or not.
    pub fn is_looked_up(&self) -> bool {
        self.program.get().is_some()
    }

    /// Notes the program, or that it cannot be found. Only the first note counts.
    pub fn set_program(&self, program: Option<Program>) {
        let _ = self.program.set(program);
    }
}

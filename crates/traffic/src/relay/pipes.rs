//! Pipes of the kernel, through which a socket's bytes reach another socket without being copied to us.
//!
//! A pipe is held only by who has bytes in it: an idle flow holds none. What may lie in pipes is bounded by
//! their number; whoever gets none copies.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use rustix::io::{Errno, retry_on_intr};
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

/// What one may hold, where the system allows it; an unprivileged process has 64 MiB of such in all.
const SIZE: usize = 1 << 20;
/// So many may hold bytes at a time.
const MOST: usize = 64;
/// So many empty ones are kept for the next.
const SPARE: usize = 8;

/// The pipes of one worker.
#[derive(Clone, Debug)]
pub(crate) struct Pipes(Rc<Pool>);

#[derive(Debug)]
struct Pool {
    spare: RefCell<Vec<Ends>>,
    lent: Cell<usize>,
    most: Cell<usize>,
}

#[derive(Debug)]
struct Ends {
    read: OwnedFd,
    write: OwnedFd,
}

impl Default for Pipes {
    fn default() -> Self {
        Self::at_most(MOST)
    }
}

impl Pipes {
    pub(crate) fn at_most(most: usize) -> Self {
        let pool = Pool { spare: RefCell::default(), lent: Cell::default(), most: Cell::new(most) };
        Self(Rc::new(pool))
    }

    /// An empty pipe; none where all are in use, or the system has none left.
    pub(crate) fn take(&self) -> Option<Pipe> {
        let pool = &self.0;
        if pool.lent.get() >= pool.most.get() {
            return None;
        }
        let spare = pool.spare.borrow_mut().pop();
        let ends = spare.or_else(|| Ends::new().ok())?;
        pool.lent.set(pool.lent.get() + 1);
        Some(Pipe { pool: pool.clone(), ends: Some(ends), holds: 0 })
    }

    #[cfg(test)]
    pub(crate) fn lent(&self) -> usize {
        self.0.lent.get()
    }
}

impl Ends {
    fn new() -> io::Result<Self> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // A smaller one is slower, and otherwise as good.
        let _ = fcntl_setpipe_size(&write, SIZE);
        Ok(Self { read, write })
    }
}

/// A pipe in use.
#[derive(Debug)]
pub(crate) struct Pipe {
    pool: Rc<Pool>,
    /// Always there, until it is dropped.
    ends: Option<Ends>,
    /// Bytes that came in and did not go out yet.
    holds: usize,
}

impl Pipe {
    pub(crate) fn is_empty(&self) -> bool {
        self.holds == 0
    }

    /// Takes in what a socket has, into an empty pipe: 0 is the socket's end, `WouldBlock` means that it has
    /// nothing now.
    pub(crate) fn fill(&mut self, socket: impl AsFd) -> io::Result<usize> {
        debug_assert!(self.is_empty(), "a full pipe would look like a socket that has nothing");
        let Some(ends) = &self.ends else { return Err(io::ErrorKind::BrokenPipe.into()) };
        let moved = retry_on_intr(|| splice(&socket, None, &ends.write, None, SIZE, FLAGS));
        if let Err(Errno::INVAL | Errno::NOSYS) = moved {
            // A system that cannot do this will not learn it.
            self.pool.most.set(0);
        }
        let moved = moved?;
        self.holds += moved;
        Ok(moved)
    }

    /// Gives a socket as much as it takes; `WouldBlock` means that it takes nothing now.
    ///
    /// Where the peer is gone this raises SIGPIPE, which the runtime of the language ignores.
    pub(crate) fn pour(&mut self, socket: impl AsFd) -> io::Result<usize> {
        let Some(ends) = &self.ends else { return Err(io::ErrorKind::BrokenPipe.into()) };
        let moved = retry_on_intr(|| splice(&ends.read, None, &socket, None, self.holds, FLAGS))?;
        self.holds -= moved;
        Ok(moved)
    }
}

const FLAGS: SpliceFlags = SpliceFlags::NONBLOCK.union(SpliceFlags::MOVE);

impl Drop for Pipe {
    fn drop(&mut self) {
        self.pool.lent.set(self.pool.lent.get() - 1);
        let mut spare = self.pool.spare.borrow_mut();
        // What is left of a flow that was cut must not reach another.
        if self.holds == 0
            && spare.len() < SPARE
            && let Some(ends) = self.ends.take()
        {
            spare.push(ends);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn sockets() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (near, listener.accept().unwrap().0)
    }

    #[test]
    fn a_pipe_is_used_again_only_if_it_is_empty() {
        let pipes = Pipes::default();
        let spare = || pipes.0.spare.borrow().len();
        let (mut near, far) = sockets();
        let mut pipe = pipes.take().unwrap();
        near.write_all(b"of another").unwrap();
        far.peek(&mut [0]).unwrap();
        assert_eq!(pipe.fill(&far).unwrap(), 10);
        drop(pipe);
        assert_eq!(spare(), 0);

        let mut pipe = pipes.take().unwrap();
        near.write_all(b"again").unwrap();
        far.peek(&mut [0]).unwrap();
        assert_eq!((pipe.fill(&far).unwrap(), pipe.pour(&far).unwrap()), (5, 5));
        drop(pipe);
        assert_eq!(spare(), 1);
        let again = pipes.take().unwrap();
        assert_eq!((spare(), again.is_empty()), (0, true));
    }

    #[test]
    fn there_are_only_so_many() {
        let pipes = Pipes::at_most(2);
        let held = [pipes.take().unwrap(), pipes.take().unwrap()];
        assert!(pipes.take().is_none());
        drop(held);
        assert!(pipes.take().is_some());
        assert_eq!(pipes.lent(), 0);
    }
}

//! Moves the bytes of a flow both ways: by copying, and where much flows in one direction inside the kernel.
//!
//! Both ways look the same from outside: an end of one half is passed on and the other goes on, and an error
//! of either side ends both. A direction with nothing to move holds neither buffer nor pipe.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll, ready};

use tokio::io::Interest;
use tokio::net::TcpStream;

use super::pipes::{Pipe, Pipes};
use crate::transport::{Half, Scratch, Transport};

/// A direction that moved so much is likely to go on, and is worth a pipe.
const BULK: u64 = 128 * 1024;
/// Less at a time is moved for less by copying.
const TRICKLE: usize = 16 * 1024;
/// Then others have their turn.
const TURN: usize = 4 << 20;

/// By what bytes are moved, for all flows of a worker.
#[derive(Clone, Debug, Default)]
pub(crate) struct Means {
    pub(crate) scratch: Scratch,
    pub(crate) pipes: Pipes,
}

/// Carries both ways until both sides ended their half, and returns how many bytes went from `a` to `b` and
/// back. After an error the caller passes it on as a reset.
pub(crate) async fn carry(
    a: &mut impl Transport,
    b: &mut impl Transport,
    means: &Means,
) -> io::Result<(u64, u64)> {
    let may_splice = a.socket().is_some() && b.socket().is_some();
    let (mut there, mut back) = (Direction::new(may_splice), Direction::new(may_splice));
    poll_fn(|cx| {
        let one = there.poll(cx, a, b, means)?;
        let other = back.poll(cx, b, a, means)?;
        if one.is_ready() && other.is_ready() {
            return Poll::Ready(Ok((there.moved(), back.moved())));
        }
        Poll::Pending
    })
    .await
}

struct Direction {
    copying: Half,
    splicing: Splicing,
    way: Way,
}

#[derive(Clone, Copy)]
enum Way {
    Copying,
    Splicing,
}

impl Direction {
    fn new(may_splice: bool) -> Self {
        let mut copying = Half::default();
        if may_splice {
            copying.pause_after(BULK);
        }
        Self { copying, splicing: Splicing::default(), way: Way::Copying }
    }

    fn moved(&self) -> u64 {
        self.copying.moved() + self.splicing.moved
    }

    /// Ready when the end was passed on.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut impl Transport,
        to: &mut impl Transport,
        means: &Means,
    ) -> Poll<io::Result<()>> {
        loop {
            match (self.way, from.socket(), to.socket()) {
                (Way::Splicing, Some(from), Some(to)) => {
                    match ready!(self.splicing.poll(cx, from, to, &means.pipes))? {
                        Spliced::Enough => self.copying.pause_after(BULK),
                        Spliced::All => self.copying.end(),
                    }
                    self.way = Way::Copying;
                }
                _ => {
                    ready!(self.copying.poll(cx, from, to, &means.scratch))?;
                    if self.copying.is_closed() {
                        return Poll::Ready(Ok(()));
                    }
                    self.way = Way::Splicing;
                }
            }
        }
    }
}

#[derive(Default)]
struct Splicing {
    /// While there is something in it.
    pipe: Option<Pipe>,
    /// How much came into it last.
    last: usize,
    moved: u64,
}

enum Spliced {
    /// For now copying is better, or the only way.
    Enough,
    /// To the end, which is not passed on yet.
    All,
}

impl Splicing {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &TcpStream,
        to: &TcpStream,
        pipes: &Pipes,
    ) -> Poll<io::Result<Spliced>> {
        let mut turn = 0;
        loop {
            if let Some(pipe) = &mut self.pipe {
                while !pipe.is_empty() {
                    ready!(to.poll_write_ready(cx))?;
                    unless_blocked(to.try_io(Interest::WRITABLE, || pipe.pour(to)))?;
                }
                self.pipe = None;
                if self.last < TRICKLE {
                    return Poll::Ready(Ok(Spliced::Enough));
                }
            }
            if turn >= TURN {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            ready!(from.poll_read_ready(cx))?;
            let Some(mut pipe) = pipes.take() else {
                return Poll::Ready(Ok(Spliced::Enough));
            };
            match unless_blocked(from.try_io(Interest::READABLE, || pipe.fill(from)))? {
                None => {}
                Some(0) => return Poll::Ready(Ok(Spliced::All)),
                Some(moved) => {
                    self.moved += moved as u64;
                    self.last = moved;
                    self.pipe = Some(pipe);
                    turn += moved;
                }
            }
        }
    }
}

fn unless_blocked(moved: io::Result<usize>) -> io::Result<Option<usize>> {
    match moved {
        Ok(moved) => Ok(Some(moved)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::time;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn means(pipes: usize) -> Means {
        Means { pipes: Pipes::at_most(pipes), ..Means::default() }
    }

    async fn sockets() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (near, listener.accept().await.unwrap().0)
    }

    /// What one side does with its connection.
    #[derive(Clone, Debug)]
    struct Part {
        sends: Vec<usize>,
        end: End,
        /// How much it reads at a time.
        reads: usize,
    }

    #[derive(Clone, Copy, Debug, Eq, PartialEq)]
    enum End {
        /// Ends its half when it has sent everything, and reads to the other's end.
        Orderly,
        /// Ends its half when it has read to the other's end, and sends before that.
        Last,
        /// Resets the connection when it has sent everything.
        Reset,
    }

    /// What one side saw of the other.
    #[derive(Debug, Eq, PartialEq)]
    struct Seen {
        received: Vec<u8>,
        orderly: bool,
    }

    fn content(seed: u8, sends: &[usize]) -> Vec<u8> {
        let length = sends.iter().sum::<usize>() as u32;
        (0..length).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8 ^ seed).collect()
    }

    async fn play(stream: TcpStream, part: Part, seed: u8) -> Seen {
        let (mut read, mut write) = stream.into_split();
        let sending = async {
            let mut all = &content(seed, &part.sends)[..];
            let mut broken = false;
            for size in &part.sends {
                let (now, later) = all.split_at(*size);
                if write.write_all(now).await.is_err() {
                    broken = true;
                    break;
                }
                all = later;
                tokio::task::yield_now().await;
            }
            match part.end {
                End::Orderly => broken |= write.shutdown().await.is_err(),
                End::Last => {}
                End::Reset => write.as_ref().set_zero_linger().unwrap(),
            }
            (write, broken)
        };
        let receiving = async {
            let mut seen = Seen { received: Vec::new(), orderly: true };
            let mut buffer = vec![0; part.reads];
            loop {
                match read.read(&mut buffer).await {
                    Ok(0) => return seen,
                    Ok(size) => seen.received.extend_from_slice(&buffer[..size]),
                    Err(_) => {
                        seen.orderly = false;
                        return seen;
                    }
                }
            }
        };
        if part.end == End::Reset {
            // Dropped, it would end its half first.
            sending.await.0.forget();
            return Seen { received: Vec::new(), orderly: false };
        }
        let ((_write, broken), mut seen) = tokio::join!(sending, receiving);
        // A reset is told once: to who writes, or to who reads.
        seen.orderly &= !broken;
        seen
    }

    /// What both sides see of each other.
    async fn flow(means: &Means, client: Part, server: Part) -> [Seen; 2] {
        let ((near, mut a), (mut b, far)) = (sockets().await, sockets().await);
        let carrying = async {
            let carried = carry(&mut a, &mut b, means).await;
            if carried.is_err() {
                a.reset_on_drop();
                b.reset_on_drop();
            }
            drop((a, b));
            carried
        };
        let (c, s) = (client.clone(), server.clone());
        let all = async { tokio::join!(carrying, play(near, client, 1), play(far, server, 2)) };
        let (carried, at_client, at_server) = time::timeout(PATIENCE, all).await.expect("it hangs");
        if let Ok(carried) = carried {
            let sent = [&c, &s].map(|part| part.sends.iter().sum::<usize>() as u64);
            assert_eq!(<[u64; 2]>::from(carried), sent);
        }
        assert!(content(1, &c.sends).starts_with(&at_server.received));
        assert!(content(2, &s.sends).starts_with(&at_client.received));
        assert_eq!(means.pipes.lent(), 0, "whoever has ended holds no pipe");
        let mut seen = [at_client, at_server];
        if [c.end, s.end].contains(&End::Reset) {
            // How much arrives before a reset is left to chance.
            seen.iter_mut().for_each(|seen| seen.received.clear());
        }
        seen
    }

    fn part() -> impl Strategy<Value = Part> {
        let sends = prop::collection::vec(prop_oneof![1..2000_usize, 1..400_000_usize], 0..8);
        let end = prop_oneof![4 => Just(End::Orderly), 1 => Just(End::Reset)];
        let reads = prop_oneof![Just(100_usize), Just(5000), Just(300_000)];
        (sends, end, reads).prop_map(|(sends, end, reads)| Part { sends, end, reads })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(24) })]

        #[test]
        fn from_outside_splicing_is_copying(client in part(), mut server in part(), last in any::<bool>()) {
            if last && server.end == End::Orderly {
                server.end = End::Last;
            }
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let seen = runtime.block_on(async {
                let copied = flow(&means(0), client.clone(), server.clone()).await;
                let spliced = flow(&means(2), client.clone(), server.clone()).await;
                // There is one for one direction only, and the other has to copy.
                let mixed = flow(&means(1), client, server).await;
                [copied, spliced, mixed]
            });
            prop_assert!(seen[0] == seen[1] && seen[0] == seen[2]);
        }
    }

    #[tokio::test]
    async fn what_flows_on_is_spliced_and_what_rests_holds_no_pipe() {
        let ((mut near, mut a), (mut b, mut far)) = (sockets().await, sockets().await);
        let means = means(4);
        let talk = async {
            let sent = vec![7; 8 << 20];
            let mut received = vec![0; sent.len()];
            let (written, read) = tokio::join!(near.write_all(&sent), far.read_exact(&mut received));
            written.unwrap();
            read.unwrap();
            // It has what came, and waits for more.
            far.write_all(b"x").await.unwrap();
            near.read_exact(&mut [0]).await.unwrap();
            assert_eq!(means.pipes.lent(), 0);

            // Nobody reads: what the system does not take stays in one pipe.
            let stuck = time::timeout(Duration::from_millis(300), near.write_all(&vec![7; 64 << 20])).await;
            assert!(stuck.is_err(), "a reader that does not read slows down who writes");
            assert_eq!(means.pipes.lent(), 1);
        };
        tokio::select! {
            _ = carry(&mut a, &mut b, &means) => panic!("nobody ended it"),
            () = talk => {}
        }
        assert_eq!(means.pipes.lent(), 0, "cut off, it gives the pipe back");
    }
}

//! UDP sockets that the transfers of one process share: a [`Hub`] hands out slots and sockets, and every transfer's
//! `Io` receives and sends on them as if each were its own.
//!
//! There is no task that receives for all. Whoever polls an empty queue reads the socket itself: what is for its own
//! transfer stays in the buffers that it gave, what is for others goes into their queues and wakes them. So a transfer
//! alone does nothing more than with a socket of its own. When the socket becomes readable one transfer is woken, the
//! one that read last if it waits. A transfer that ends while others wait wakes one of them.
//!
//! Which transfer a datagram is for, and the bounds of what waits, are decided by [`tallow_proto::share`].

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError, Weak};
use std::task::{Context, Poll, Wake, Waker, ready};
use std::time::Instant;

use tallow_proto::drive::Received;
use tallow_proto::net::{Bind, Slot, SlotKey, SocketId, Transmit};
use tallow_proto::seed::Seed;
use tallow_proto::share::Switch;

/// Receive calls of one poll that bring only datagrams of others; then the task yields.
const READS: usize = 8;

/// A bound UDP socket of a runtime. Of each direction the waker of the last call is woken.
pub trait Udp: Send + Sync + 'static {
    /// The address that it is bound to.
    ///
    /// # Errors
    /// What the system reports.
    fn local_addr(&self) -> io::Result<SocketAddr>;
    /// See [`tallow_proto::drive::Io::max_segments`].
    fn max_segments(&self) -> NonZeroUsize;
    /// See [`tallow_proto::drive::Io::poll_recv`].
    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        received: &mut [Received],
    ) -> Poll<io::Result<usize>>;
    /// See [`tallow_proto::drive::Io::poll_send`].
    fn poll_send(&self, cx: &mut Context<'_>, transmit: &Transmit, contents: &[u8]) -> Poll<io::Result<()>>;
}

/// What the transfers of a pool have in common.
pub struct Hub<S> {
    key: SlotKey,
    common: Mutex<Common<S>>,
}

struct Common<S> {
    /// Numbers are used in turn, so that what arrives late for a transfer that ended is for nobody.
    last: u16,
    taken: BTreeSet<u16>,
    sockets: Vec<(SocketId, Bind, Weak<Shared<S>>)>,
}

impl<S: Udp> Hub<S> {
    /// No sockets yet: each is bound when the first transfer asks for it, and closed with the last one that uses it.
    #[must_use]
    pub fn new(seed: &Seed) -> Arc<Self> {
        let common = Common { last: 0, taken: BTreeSet::new(), sockets: Vec::new() };
        Arc::new(Self { key: SlotKey::new(seed), common: Mutex::new(common) })
    }

    /// A slot that nobody has. `None`: there are 65,536 transfers already, and this one has sockets of its own.
    pub fn slot(self: &Arc<Self>) -> Option<Lease<S>> {
        let mut common = lock(&self.common);
        let after = common.last.wrapping_add(1);
        let number = (after..=u16::MAX).chain(0..after).find(|number| !common.taken.contains(number))?;
        common.last = number;
        common.taken.insert(number);
        Some(Lease { slot: self.key.slot(number), hub: self.clone() })
    }

    /// A socket for a node: a shared one where it allows that, else one of its own. `open` binds one.
    ///
    /// # Errors
    /// Those of `open`.
    pub fn bind(&self, id: SocketId, bind: &Bind, open: impl Fn(&Bind) -> io::Result<S>) -> io::Result<Socket<S>> {
        let Some(slot) = bind.slot.map(|slot| slot.number()) else { return open(bind).map(Socket::Own) };
        let mut common = lock(&self.common);
        let key = Bind { slot: None, ..*bind };
        common.sockets.retain(|(.., shared)| shared.strong_count() > 0);
        let known = common.sockets.iter().find(|(known, bind, _)| (*known, *bind) == (id, key));
        let shared = match known.and_then(|(.., shared)| shared.upgrade()) {
            Some(shared) => shared,
            None => {
                let shared = Arc::new(Shared::new(open(bind)?, Switch::new(self.key, bind.group.is_some())));
                common.sockets.push((id, key, Arc::downgrade(&shared)));
                shared
            }
        };
        let joined = lock(&shared.sharing).switch.join(slot);
        if joined { Ok(Socket::Shared(Seat { slot, noted: None, shared })) } else { open(bind).map(Socket::Own) }
    }
}

impl<S> std::fmt::Debug for Hub<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub").field("slots", &lock(&self.common).taken.len()).finish_non_exhaustive()
    }
}

/// A slot, for as long as a transfer runs.
pub struct Lease<S> {
    slot: Slot,
    hub: Arc<Hub<S>>,
}

impl<S> Lease<S> {
    /// What the transfer's configuration gets.
    #[must_use]
    pub const fn slot(&self) -> Slot {
        self.slot
    }
}

impl<S> Drop for Lease<S> {
    fn drop(&mut self) {
        lock(&self.hub.common).taken.remove(&self.slot.number());
    }
}

/// A socket of a node.
pub enum Socket<S: Udp> {
    /// Nobody else uses it.
    Own(S),
    /// A part of a shared one.
    Shared(Seat<S>),
}

impl<S: Udp> Socket<S> {
    /// The address that it is bound to.
    ///
    /// # Errors
    /// What the system reports.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket().local_addr()
    }

    /// See [`tallow_proto::drive::Io::max_segments`].
    #[must_use]
    pub fn max_segments(&self) -> NonZeroUsize {
        self.socket().max_segments()
    }

    /// See [`tallow_proto::drive::Io::poll_recv`].
    pub fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        received: &mut [Received],
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Own(socket) => socket.poll_recv(cx, bufs, received),
            Self::Shared(seat) => seat.shared.poll_recv(cx, seat.slot, bufs, received),
        }
    }

    /// See [`tallow_proto::drive::Io::poll_send`].
    pub fn poll_send(&mut self, cx: &mut Context<'_>, transmit: &Transmit, contents: &[u8]) -> Poll<io::Result<()>> {
        match self {
            Self::Own(socket) => socket.poll_send(cx, transmit, contents),
            Self::Shared(seat) => {
                if seat.noted != Some(transmit.to) {
                    seat.noted = Some(transmit.to);
                    lock(&seat.shared.sharing).switch.note(seat.slot, transmit.to);
                }
                seat.shared.poll_send(cx, seat.slot, transmit, contents)
            }
        }
    }

    fn socket(&self) -> &S {
        match self {
            Self::Own(socket) => socket,
            Self::Shared(seat) => &seat.shared.socket,
        }
    }
}

impl<S: Udp> std::fmt::Debug for Socket<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Own(_) => f.write_str("Own"),
            Self::Shared(seat) => write!(f, "Shared({})", seat.slot),
        }
    }
}

/// A node's part of a shared socket.
pub struct Seat<S: Udp> {
    slot: u16,
    /// Where it sent to last.
    noted: Option<SocketAddr>,
    shared: Arc<Shared<S>>,
}

impl<S: Udp> Drop for Seat<S> {
    fn drop(&mut self) {
        let next = {
            let mut sharing = lock(&self.shared.sharing);
            sharing.switch.leave(self.slot);
            sharing.readers.remove(&self.slot);
            sharing.writers.remove(&self.slot);
            sharing.next_reader()
        };
        // Perhaps it was this one's turn to read.
        next.into_iter().for_each(Waker::wake);
    }
}

struct Shared<S> {
    socket: S,
    /// Held while the socket is read; within, whom the last buffers were for.
    reading: Mutex<Vec<u16>>,
    sharing: Arc<Mutex<Sharing>>,
    /// What the runtime wakes.
    readable: Waker,
    writable: Waker,
}

struct Sharing {
    switch: Switch,
    /// Who waits for datagrams, and for room.
    readers: BTreeMap<u16, Waker>,
    writers: BTreeMap<u16, Waker>,
    /// The socket became readable since it was read last.
    is_readable: bool,
    /// Who read it last.
    reader: u16,
}

impl Sharing {
    fn next_reader(&mut self) -> Option<Waker> {
        let last = self.readers.remove(&self.reader);
        last.or_else(|| self.readers.pop_first().map(|(_, waker)| waker))
    }
}

/// Wakes one that reads.
struct Readable(Arc<Mutex<Sharing>>);

impl Wake for Readable {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let next = {
            let mut sharing = lock(&self.0);
            sharing.is_readable = true;
            sharing.next_reader()
        };
        next.into_iter().for_each(Waker::wake);
    }
}

/// Wakes all that wait for room.
struct Writable(Arc<Mutex<Sharing>>);

impl Wake for Writable {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let writers = std::mem::take(&mut lock(&self.0).writers);
        writers.into_values().for_each(Waker::wake);
    }
}

impl<S: Udp> Shared<S> {
    fn new(socket: S, switch: Switch) -> Self {
        let (readers, writers) = (BTreeMap::new(), BTreeMap::new());
        let sharing = Arc::new(Mutex::new(Sharing { switch, readers, writers, is_readable: false, reader: 0 }));
        let readable = Waker::from(Arc::new(Readable(sharing.clone())));
        let writable = Waker::from(Arc::new(Writable(sharing.clone())));
        Self { socket, reading: Mutex::default(), sharing, readable, writable }
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        slot: u16,
        bufs: &mut [IoSliceMut<'_>],
        received: &mut [Received],
    ) -> Poll<io::Result<usize>> {
        loop {
            {
                let mut sharing = lock(&self.sharing);
                let count = sharing.switch.take(slot, bufs, received);
                if count > 0 {
                    return Poll::Ready(Ok(count));
                }
                wait(&mut sharing.readers, slot, cx);
            }
            let mut others = match self.reading.try_lock() {
                Ok(others) => others,
                Err(TryLockError::Poisoned(others)) => others.into_inner(),
                // Who reads now wakes this one if anything is for it, and reads again if there is more.
                Err(TryLockError::WouldBlock) => return Poll::Pending,
            };
            let read = self.read(slot, bufs, received, &mut others);
            drop(others);
            match read {
                Poll::Ready(Ok(0)) => {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Poll::Ready(Ok(count)) => return Poll::Ready(Ok(count)),
                Poll::Ready(Err(error)) => {
                    // This one may pause now.
                    let next = lock(&self.sharing).next_reader();
                    next.into_iter().for_each(Waker::wake);
                    return Poll::Ready(Err(error));
                }
                Poll::Pending => {
                    // Whoever was woken while this one held the lock could not read.
                    let sharing = lock(&self.sharing);
                    if !sharing.is_readable && !sharing.switch.has_waiting(slot) {
                        return Poll::Pending;
                    }
                }
            }
        }
    }

    /// Reads until something is for this slot, and returns how many buffers are; 0 after enough for others.
    fn read(
        &self,
        slot: u16,
        bufs: &mut [IoSliceMut<'_>],
        received: &mut [Received],
        others: &mut Vec<u16>,
    ) -> Poll<io::Result<usize>> {
        {
            let mut sharing = lock(&self.sharing);
            sharing.is_readable = false;
            sharing.reader = slot;
        }
        for _ in 0..READS {
            let count = ready!(self.socket.poll_recv(&mut Context::from_waker(&self.readable), bufs, received))?;
            let (mut kept, now) = (0, Instant::now());
            others.clear();
            let mut sharing = lock(&self.sharing);
            for index in 0..count {
                sharing.switch.sort(now, slot, &mut received[index], &mut bufs[index], others);
                if received[index].len > 0 {
                    received.swap(kept, index);
                    bufs.swap(kept, index);
                    kept += 1;
                }
            }
            let woken: Vec<Waker> = others.iter().filter_map(|slot| sharing.readers.remove(slot)).collect();
            drop(sharing);
            woken.into_iter().for_each(Waker::wake);
            if kept > 0 {
                return Poll::Ready(Ok(kept));
            }
        }
        Poll::Ready(Ok(0))
    }

    fn poll_send(&self, cx: &Context<'_>, slot: u16, transmit: &Transmit, contents: &[u8]) -> Poll<io::Result<()>> {
        let mut writable = Context::from_waker(&self.writable);
        let sent = self.socket.poll_send(&mut writable, transmit, contents);
        if sent.is_ready() {
            return sent;
        }
        wait(&mut lock(&self.sharing).writers, slot, cx);
        // The room may have come before this one was on the list.
        self.socket.poll_send(&mut writable, transmit, contents)
    }
}

/// Remembers whom to wake.
fn wait(waiting: &mut BTreeMap<u16, Waker>, slot: u16, cx: &Context<'_>) {
    if !waiting.get(&slot).is_some_and(|known| known.will_wake(cx.waker())) {
        waiting.insert(slot, cx.waker().clone());
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;

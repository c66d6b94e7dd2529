use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};

use tallow_proto::net::Ecn;

use super::*;

const ID: SocketId = SocketId(4);

fn addr(port: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], port))
}

/// A socket whose system is the test.
#[derive(Default)]
struct Fake(Mutex<System>);

#[derive(Default)]
struct System {
    arrivals: VecDeque<io::Result<Vec<u8>>>,
    is_full: bool,
    sent: Vec<Vec<u8>>,
    reads: usize,
    readable: Option<Waker>,
    writable: Option<Waker>,
    /// What happens while the socket is found empty, once.
    meanwhile: Option<Box<dyn FnOnce() + Send>>,
}

impl Udp for Arc<Fake> {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(addr(1))
    }
    fn max_segments(&self) -> NonZeroUsize {
        NonZeroUsize::MIN
    }
    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        received: &mut [Received],
    ) -> Poll<io::Result<usize>> {
        let mut system = lock(&self.0);
        system.reads += 1;
        let Some(arrival) = system.arrivals.pop_front() else {
            system.readable = Some(cx.waker().clone());
            let meanwhile = system.meanwhile.take();
            drop(system);
            meanwhile.into_iter().for_each(|happens| happens());
            return Poll::Pending;
        };
        let data = arrival?;
        bufs[0][..data.len()].copy_from_slice(&data);
        let len = data.len();
        received[0] = Received { from: addr(9), local_ip: None, ecn: Ecn::NotEct, len, stride: len };
        Poll::Ready(Ok(1))
    }
    fn poll_send(&self, cx: &mut Context<'_>, _: &Transmit, contents: &[u8]) -> Poll<io::Result<()>> {
        let mut system = lock(&self.0);
        if system.is_full {
            system.writable = Some(cx.waker().clone());
            return Poll::Pending;
        }
        system.sent.push(contents.to_vec());
        Poll::Ready(Ok(()))
    }
}

#[derive(Default)]
struct Counter(AtomicUsize);

impl Wake for Counter {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Transfers behind one socket.
struct Pool {
    fake: Arc<Fake>,
    hub: Arc<Hub<Arc<Fake>>>,
    opened: Arc<AtomicUsize>,
}

struct Member {
    lease: Lease<Arc<Fake>>,
    socket: Socket<Arc<Fake>>,
    wakes: Arc<Counter>,
}

impl Pool {
    fn new() -> Self {
        Self { fake: Arc::default(), hub: Hub::new(&Seed::new([1; 32])), opened: Arc::default() }
    }

    fn bind(&self, id: SocketId, addr: SocketAddr, slot: Option<Slot>) -> Socket<Arc<Fake>> {
        let bind = Bind { addr, dual_stack: false, share_port: false, group: None, slot };
        let open = |_: &Bind| {
            self.opened.fetch_add(1, Ordering::Relaxed);
            Ok(self.fake.clone())
        };
        self.hub.bind(id, &bind, open).unwrap()
    }

    fn member(&self) -> Member {
        let lease = self.hub.slot().unwrap();
        let socket = self.bind(ID, addr(0), Some(lease.slot()));
        Member { lease, socket, wakes: Arc::default() }
    }

    fn opened(&self) -> usize {
        self.opened.load(Ordering::Relaxed)
    }

    /// Arrives, and the runtime notices.
    fn arrive(&self, data: Vec<u8>) {
        arrive(&self.fake, data);
    }
}

fn arrive(fake: &Fake, data: Vec<u8>) {
    let waker = {
        let mut system = lock(&fake.0);
        system.arrivals.push_back(Ok(data));
        system.readable.take()
    };
    waker.into_iter().for_each(Waker::wake);
}

impl Member {
    /// A datagram for it.
    fn datagram(&self, salt: u8) -> Vec<u8> {
        datagram(&self.lease.slot(), salt)
    }

    fn poll(&mut self) -> Poll<io::Result<Vec<u8>>> {
        let waker = Waker::from(self.wakes.clone());
        let mut buf = vec![0; 2000];
        let mut received = [Received::NONE];
        let polled =
            self.socket.poll_recv(&mut Context::from_waker(&waker), &mut [IoSliceMut::new(&mut buf)], &mut received);
        polled.map_ok(|count| {
            assert_eq!(count, 1);
            buf[..received[0].len].to_vec()
        })
    }

    fn send(&mut self) -> Poll<io::Result<()>> {
        let waker = Waker::from(self.wakes.clone());
        let transmit = Transmit { to: addr(9), src_ip: None, ecn: Ecn::NotEct, size: 1, segment_size: None };
        self.socket.poll_send(&mut Context::from_waker(&waker), &transmit, &[7])
    }

    fn wakes(&self) -> usize {
        self.wakes.0.swap(0, Ordering::Relaxed)
    }
}

fn datagram(slot: &Slot, salt: u8) -> Vec<u8> {
    let mut mark = [salt; 8];
    slot.mark(&mut mark);
    [&[0x40][..], &mark, &[salt; 30]].concat()
}

fn got(polled: Poll<io::Result<Vec<u8>>>) -> Option<Vec<u8>> {
    match polled {
        Poll::Ready(result) => Some(result.unwrap()),
        Poll::Pending => None,
    }
}

#[test]
fn nodes_share_a_socket_where_id_and_options_agree() {
    let pool = Pool::new();
    let (first, second) = (pool.member(), pool.member());
    assert_eq!(pool.opened(), 1);
    assert_ne!(first.lease.slot().number(), second.lease.slot().number());
    let slot = Some(first.lease.slot());
    let others = [pool.bind(SocketId(5), addr(0), slot), pool.bind(ID, addr(7), slot), pool.bind(ID, addr(0), None)];
    assert_eq!(pool.opened(), 4);
    // The same node twice: the second socket is its own.
    assert!(matches!(pool.bind(ID, addr(0), slot), Socket::Own(_)));
    drop((others, first, second));
    let again = pool.member();
    assert_eq!(pool.opened(), 6, "it was closed with the last one");
    assert_eq!(again.lease.slot().number(), 3, "a number is not used again at once");
}

#[test]
fn whoever_reads_gives_the_others_theirs() {
    let pool = Pool::new();
    let (mut first, mut second) = (pool.member(), pool.member());
    assert!(first.poll().is_pending() && second.poll().is_pending());
    let theirs = first.datagram(1);
    pool.arrive(theirs.clone());
    // One is woken, the one that read last; what it finds is for the other.
    assert_eq!((first.wakes(), second.wakes()), (0, 1));
    assert!(second.poll().is_pending());
    assert_eq!((first.wakes(), second.wakes()), (1, 0));
    assert_eq!(got(first.poll()), Some(theirs));
    let own = first.datagram(2);
    pool.arrive(own.clone());
    assert_eq!(got(first.poll()), Some(own));
}

#[test]
fn a_reader_that_ends_hands_over_its_turn() {
    let pool = Pool::new();
    let (mut first, mut second) = (pool.member(), pool.member());
    assert!(first.poll().is_pending() && second.poll().is_pending());
    pool.arrive(first.datagram(1));
    assert_eq!((first.wakes(), second.wakes()), (0, 1));
    let theirs = first.datagram(1);
    drop(second);
    assert_eq!(first.wakes(), 1);
    assert_eq!(got(first.poll()), Some(theirs));
}

#[test]
fn a_reader_that_takes_its_time_holds_up_nobody() {
    let pool = Pool::new();
    let (mut slow, mut other) = (pool.member(), pool.member());
    assert!(other.poll().is_pending() && slow.poll().is_pending());
    let mut expected = Vec::new();
    (0..20).for_each(|salt| pool.arrive(slow.datagram(salt)));
    for salt in 0..20 {
        pool.arrive(other.datagram(salt));
        expected.push(other.datagram(salt));
    }
    // It was woken and does nothing. The other one comes for another reason.
    assert_eq!((slow.wakes(), other.wakes()), (1, 0));
    let mut all = Vec::new();
    while let Poll::Ready(data) = other.poll() {
        all.push(data.unwrap());
    }
    assert!(all.is_empty(), "it yields after so many datagrams of others");
    assert_eq!(other.wakes(), 1);
    loop {
        match other.poll() {
            Poll::Ready(data) => all.push(data.unwrap()),
            Poll::Pending if other.wakes() == 0 => break,
            Poll::Pending => {}
        }
    }
    assert_eq!(all, expected);
    assert_eq!(got(slow.poll()), Some(slow.datagram(0)));
}

#[test]
fn what_arrives_while_another_one_reads_is_not_left() {
    let pool = Pool::new();
    let (mut first, mut second) = (pool.member(), pool.member());
    assert!(second.poll().is_pending());
    // While the first one finds nothing, something arrives, and the second one, woken for it, cannot read.
    let (fake, theirs) = (pool.fake.clone(), datagram(&first.lease.slot(), 3));
    let arrives = theirs.clone();
    let slot = second.lease.slot();
    let tried = Arc::new(Mutex::new(Some(second)));
    let inside = tried.clone();
    lock(&pool.fake.0).meanwhile = Some(Box::new(move || {
        arrive(&fake, arrives);
        arrive(&fake, datagram(&slot, 4));
        let mut second = lock(&inside);
        assert!(second.as_mut().unwrap().poll().is_pending());
    }));
    assert_eq!(got(first.poll()), Some(theirs));
    assert!(first.poll().is_pending());
    let mut second = lock(&tried).take().unwrap();
    assert!(second.wakes() > 0);
    assert_eq!(got(second.poll()), Some(second.datagram(4)));
}

#[test]
fn an_error_of_the_socket_lets_another_one_read() {
    let pool = Pool::new();
    let (mut first, mut second) = (pool.member(), pool.member());
    assert!(first.poll().is_pending() && second.poll().is_pending());
    lock(&pool.fake.0).arrivals.push_back(Err(io::ErrorKind::ConnectionRefused.into()));
    pool.arrive(first.datagram(1));
    assert!(matches!(second.poll(), Poll::Ready(Err(_))));
    assert_eq!(first.wakes() + second.wakes(), 2);
    assert_eq!(got(first.poll()), Some(first.datagram(1)));
}

#[test]
fn room_wakes_all_that_wait_for_it() {
    let pool = Pool::new();
    let (mut first, mut second) = (pool.member(), pool.member());
    lock(&pool.fake.0).is_full = true;
    assert!(first.send().is_pending() && second.send().is_pending());
    let waker = {
        let mut system = lock(&pool.fake.0);
        system.is_full = false;
        system.writable.take()
    };
    waker.unwrap().wake();
    assert_eq!((first.wakes(), second.wakes()), (1, 1));
    assert!(first.send().is_ready() && second.send().is_ready());
    assert_eq!(lock(&pool.fake.0).sent.len(), 2);
}

#[test]
fn one_alone_reads_once_for_each_datagram() {
    let pool = Pool::new();
    let mut only = pool.member();
    (0..10).for_each(|salt| pool.arrive(vec![salt; 100]));
    for salt in 0..10 {
        assert_eq!(got(only.poll()), Some(vec![salt; 100]), "it gets everything as it is");
    }
    assert!(only.poll().is_pending());
    assert_eq!(lock(&pool.fake.0).reads, 11);
}

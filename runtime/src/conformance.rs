//! Tests that every implementation of [`Io`] has to pass: they run the driver with real sockets, timers and threads.
//!
//! Implement [`Runtime`] for a type of your own and call
//! [`conformance_tests!`](crate::conformance_tests) in a test module:
//!
//! ```ignore
//! struct Mine;
//!
//! impl tallow_runtime::conformance::Runtime for Mine {
//!     type Io = MyIo;
//!     fn io() -> MyIo {
//!         MyIo::new()
//!     }
//!     fn spawn<N: Node + Send + 'static>(node: N) -> Handle<N> {
//!         let (handle, driver) = Driver::new(node, MyIo::new());
//!         my_executor::spawn(driver.run());
//!         handle
//!     }
//!     fn block_on<T>(test: impl Future<Output = T>) -> T {
//!         my_executor::block_on(test)
//!     }
//! }
//!
//! mod on_mine {
//!     tallow_runtime::conformance_tests!(super::Mine);
//! }
//! ```
//!
//! A test panics when it fails. If an expected event does not arrive, the test waits without limit, so `block_on`
//! should panic after about a minute. With `TALLOW_BENCH=1`, `quic_delivers_all_bytes` transfers more data and prints
//! its throughput.

#![expect(clippy::missing_panics_doc, reason = "these are tests")]

mod bulk;
mod fragile;
mod tcp;
mod test_node;

use std::collections::BTreeSet;
use std::future::Future;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::pin::Pin;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant, SystemTime};

use bulk::Bulk;
use fragile::{Counted, Fragile};
use futures_core::Stream;
use tallow_proto::drive::{Driver, Ending, Handle, Io};
use tallow_proto::node::Node;
use tcp::TcpConnections;
use test_node::{Command, Event, TestNode, job};

/// Long enough for any machine; a test waits this long only if it fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// A runtime under test.
pub trait Runtime {
    /// Whether [`Io::poll_news`] reports the machine's addresses.
    const REPORTS_INTERFACES: bool = true;
    /// The `Io` of its driver.
    type Io: Io;
    /// Creates the `Io`; called inside [`Runtime::block_on`].
    fn io() -> Self::Io;
    /// Drives the node to its end, concurrently with the caller.
    fn spawn<N: Node + Send + 'static>(node: N) -> Handle<N>;
    /// Runs a test to its end.
    fn block_on<T>(test: impl Future<Output = T>) -> T;
}

/// Creates a `#[test]` for each conformance test, for one [`Runtime`](crate::conformance::Runtime).
#[macro_export]
macro_rules! conformance_tests {
    ($runtime:ty) => {
        $crate::conformance_tests!(
            $runtime:
            datagrams_round_trip_in_batches,
            a_released_socket_can_be_bound_again,
            timers_fire_in_order_and_never_early,
            jobs_run_concurrently_and_block_nothing,
            panicking_job_reports_failure,
            a_panicking_node_ends_with_an_error,
            a_closed_node_ends_in_order,
            dropped_driver_is_reported_as_abnormal_end,
            a_bind_that_fails_is_reported,
            host_names_are_resolved,
            many_handles_run_concurrently,
            dropped_handle_lets_node_send_its_goodbye,
            handle_is_a_stream_of_events,
            quic_delivers_all_bytes,
            tcp_delivers_all_bytes_in_both_directions,
            empty_tcp_connection_ends_on_both_sides,
            refused_or_unroutable_dial_fails,
            aborted_tcp_connection_is_reset,
            closed_listener_refuses_connections,
            a_taken_port_is_reported_to_a_listener,
            many_tcp_connections_run_concurrently,
            the_addresses_of_the_machine_are_reported,
            serve_until_the_input_ends,
        );

        #[cfg(unix)]
        #[test]
        fn listener_without_descriptors_pauses_and_recovers() {
            $crate::conformance::listener_without_descriptors_pauses_and_recovers(module_path!());
        }
    };
    ($runtime:ty: $($test:ident),* $(,)?) => {
        $(
            #[test]
            fn $test() {
                <$runtime as $crate::conformance::Runtime>::block_on($crate::conformance::$test::<$runtime>());
            }
        )*
    };
}

const LOOPBACK: &str = "127.0.0.1:0";

/// A node with a bound socket, and its address.
async fn bound<R: Runtime>() -> (Handle<TestNode>, SocketAddr) {
    let mut handle = R::spawn(TestNode::bound_to(LOOPBACK.parse().unwrap()));
    match handle.next_event().await {
        Some(Event::Bound(Ok(addr))) => (handle, addr),
        other => panic!("{other:?}"),
    }
}

/// Datagrams arrive complete, with their destination address, and are sent in batches where the system supports it.
pub async fn datagrams_round_trip_in_batches<R: Runtime>() {
    let (mut client, _) = bound::<R>().await;
    let (_server, to) = bound::<R>().await;
    client.command(Command::Ping { to, total: 20_000, size: 1200 }).unwrap();
    match client.next_event().await {
        Some(Event::AllBack { largest_batch, local_ip }) => {
            assert_eq!(local_ip, Some(to.ip()));
            if cfg!(target_os = "linux") {
                assert!(largest_batch > 1, "segmentation offload is in use");
            }
        }
        other => panic!("{other:?}"),
    }
}

/// Timers fire in the order of their deadlines, and never early.
pub async fn timers_fire_in_order_and_never_early<R: Runtime>() {
    let (mut node, _) = bound::<R>().await;
    for ms in [40, 5, 20, 5] {
        node.command(Command::Alarm(Duration::from_millis(ms))).unwrap();
    }
    let mut rung = Vec::new();
    while rung.len() < 4 {
        match node.next_event().await {
            Some(Event::Rang { after, asked }) => {
                assert!(after >= asked);
                rung.push(asked.as_millis());
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(rung, [5, 5, 20, 40]);
}

/// Jobs run on several threads, and block neither sockets nor commands.
pub async fn jobs_run_concurrently_and_block_nothing<R: Runtime>() {
    let (mut node, _) = bound::<R>().await;
    let (_server, to) = bound::<R>().await;
    // Each job waits for the others, and all of them wait for this test.
    let barrier = Arc::new(Barrier::new(4));
    for id in 0..3 {
        let barrier = barrier.clone();
        let work = move || {
            barrier.wait();
            Ok(true)
        };
        node.command(Command::Work(Box::new(job(id, work)))).unwrap();
    }
    node.command(Command::Ping { to, total: 10, size: 100 }).unwrap();
    assert!(matches!(node.next_event().await, Some(Event::AllBack { .. })));
    std::thread::spawn(move || barrier.wait());
    let mut done = BTreeSet::new();
    while done.len() < 3 {
        match node.next_event().await {
            Some(Event::Worked { id, well: true }) => assert!(done.insert(id)),
            other => panic!("{other:?}"),
        }
    }
}

/// A node that panics ends, its handle reports the panic, and the runtime's threads continue.
pub async fn a_panicking_node_ends_with_an_error<R: Runtime>() {
    let mut handle = R::spawn(Fragile::default());
    for count in 1..3 {
        handle.command(fragile::Command::Count).unwrap();
        assert_eq!(handle.next_event().await, Some(Counted(count)));
        assert_eq!(handle.ending(), None);
    }
    handle.command(fragile::Command::Count).unwrap();
    assert_eq!(handle.next_event().await, None);
    assert_eq!(handle.ending(), Some(Ending::Panicked));
    assert!(handle.command(fragile::Command::Count).is_err());
    let (_station, _) = bound::<R>().await;
}

/// A node that closes itself ends without an error.
pub async fn a_closed_node_ends_in_order<R: Runtime>() {
    let mut handle = R::spawn(Fragile::default());
    handle.command(fragile::Command::Close).unwrap();
    assert_eq!(handle.next_event().await, None);
    assert_eq!(handle.ending(), Some(Ending::Closed));
}

/// The handle reports a driver that was dropped before it ran, as by a runtime that shuts down.
pub async fn dropped_driver_is_reported_as_abnormal_end<R: Runtime>() {
    let mut handle = Driver::new(Fragile::default(), R::io()).0;
    assert_eq!(handle.next_event().await, None);
    assert_eq!(handle.ending(), Some(Ending::Dropped));
}

/// A job that panics fails, and other jobs continue.
pub async fn panicking_job_reports_failure<R: Runtime>() {
    let (mut node, _) = bound::<R>().await;
    node.command(Command::Work(Box::new(job(1, || panic!("on purpose"))))).unwrap();
    assert!(matches!(node.next_event().await, Some(Event::Worked { id: 1, well: false })));
    node.command(Command::Work(Box::new(job(2, || Ok(true))))).unwrap();
    assert!(matches!(node.next_event().await, Some(Event::Worked { id: 2, well: true })));
}

/// Binding a port that is in use reports an error.
pub async fn a_bind_that_fails_is_reported<R: Runtime>() {
    let taken = UdpSocket::bind(LOOPBACK).unwrap();
    let mut node = R::spawn(TestNode::bound_to(taken.local_addr().unwrap()));
    assert!(matches!(node.next_event().await, Some(Event::Bound(Err(std::io::ErrorKind::AddrInUse)))));
}

/// IP addresses resolve to themselves, and a query without addresses gets an answer too.
pub async fn host_names_are_resolved<R: Runtime>() {
    let (mut node, _) = bound::<R>().await;
    for (host, found) in [("127.0.0.1", vec![SocketAddr::from(([127, 0, 0, 1], 4433))]), ("a\0b", vec![])] {
        node.command(Command::Resolve(host.into(), 4433)).unwrap();
        assert!(matches!(node.next_event().await, Some(Event::Resolved(addrs)) if addrs == found));
    }
    // Many queries at once; each gets one answer.
    for _ in 0..10 {
        node.command(Command::Resolve("127.0.0.1".into(), 1)).unwrap();
    }
    for _ in 0..10 {
        assert!(matches!(node.next_event().await, Some(Event::Resolved(addrs)) if addrs.len() == 1));
    }
}

/// After a socket is released its id can be used again, and datagrams arrive at the new socket.
pub async fn a_released_socket_can_be_bound_again<R: Runtime>() {
    let (mut client, first) = bound::<R>().await;
    let (_server, to) = bound::<R>().await;
    client.command(Command::Rebind(LOOPBACK.parse().unwrap())).unwrap();
    let Some(Event::Bound(Ok(second))) = client.next_event().await else { panic!("not bound") };
    while UdpSocket::bind(first).is_err() {
        assert_ne!(first, second);
        std::thread::yield_now();
    }
    client.command(Command::Ping { to, total: 100, size: 100 }).unwrap();
    assert!(matches!(client.next_event().await, Some(Event::AllBack { .. })));
}

/// Many drivers run concurrently.
pub async fn many_handles_run_concurrently<R: Runtime>() {
    let (_server, to) = bound::<R>().await;
    let mut stations = Vec::new();
    for id in 0..100 {
        let (node, _) = bound::<R>().await;
        node.command(Command::Ping { to, total: 20, size: 500 }).unwrap();
        node.command(Command::Alarm(Duration::from_millis(id % 7))).unwrap();
        node.command(Command::Work(Box::new(job(id, || Ok(true))))).unwrap();
        stations.push(node);
    }
    for node in &mut stations {
        let (mut back, mut rang, mut worked) = (false, false, false);
        while !(back && rang && worked) {
            match node.next_event().await {
                Some(Event::AllBack { .. }) => back = true,
                Some(Event::Rang { .. }) => rang = true,
                Some(Event::Worked { well: true, .. }) => worked = true,
                other => panic!("{other:?}"),
            }
        }
    }
}

/// When its handle is dropped, the node ends gracefully: it sends its last datagram and closes its socket.
pub async fn dropped_handle_lets_node_send_its_goodbye<R: Runtime>() {
    let listener = UdpSocket::bind(LOOPBACK).unwrap();
    listener.set_read_timeout(Some(PATIENCE)).unwrap();
    let (node, addr) = bound::<R>().await;
    node.command(Command::GoodbyeTo(listener.local_addr().unwrap())).unwrap();
    drop(node);
    let mut buf = [0; 100];
    let (len, from) = listener.recv_from(&mut buf).unwrap();
    assert_eq!((&buf[..len], from), (&b"goodbye"[..], addr));
    // The task has ended and its socket is closed: the address is free again.
    while UdpSocket::bind(addr).is_err() {
        std::thread::yield_now();
    }
}

/// A server that echoes bytes, and its address.
async fn echo<R: Runtime>() -> (Handle<TcpConnections>, SocketAddr) {
    let mut handle = R::spawn(TcpConnections::server(LOOPBACK.parse().unwrap()));
    match handle.next_event().await {
        Some(tcp::Event::Listening(Ok(addr))) => (handle, addr),
        other => panic!("{other:?}"),
    }
}

/// The next event, except for events that report the state of existing connections.
async fn next(handle: &mut Handle<TcpConnections>) -> tcp::Event {
    loop {
        match handle.next_event().await.expect("an event") {
            tcp::Event::Up(_) | tcp::Event::Accepted(_) => {}
            event => return event,
        }
    }
}

/// The bytes of a TCP connection arrive completely, in order and once, in both directions at the same time.
pub async fn tcp_delivers_all_bytes_in_both_directions<R: Runtime>() {
    const TOTAL: u64 = 64 << 20;
    let (_server, to) = echo::<R>().await;
    let mut client = R::spawn(TcpConnections::client());
    client.command(tcp::Command::Echo { to, total: TOTAL }).unwrap();
    // The server buffers a thousandth of it: it reads again only after it has written.
    let tcp::Event::Echoed { bytes, calls } = next(&mut client).await else { panic!("an echo") };
    assert_eq!(bytes, TOTAL);
    assert!(calls >= TOTAL / (256 << 10), "{calls}");
}

/// The end of an empty TCP connection reaches the other side.
pub async fn empty_tcp_connection_ends_on_both_sides<R: Runtime>() {
    let (_server, to) = echo::<R>().await;
    let mut client = R::spawn(TcpConnections::client());
    client.command(tcp::Command::Echo { to, total: 0 }).unwrap();
    assert_eq!(next(&mut client).await, tcp::Event::Echoed { bytes: 0, calls: 0 });
}

/// A refused connection fails with that kind of error; a connection without a route fails at once or later.
pub async fn refused_or_unroutable_dial_fails<R: Runtime>() {
    let to = std::net::TcpListener::bind(LOOPBACK).unwrap().local_addr().unwrap();
    let mut client = R::spawn(TcpConnections::client());
    client.command(tcp::Command::Echo { to, total: 1 }).unwrap();
    let refused = std::io::ErrorKind::ConnectionRefused;
    assert!(matches!(next(&mut client).await, tcp::Event::Failed(_, kind) if kind == refused));
    // A connection to a multicast group is impossible.
    client.command(tcp::Command::Echo { to: "224.0.0.1:9".parse().unwrap(), total: 1 }).unwrap();
    assert!(matches!(next(&mut client).await, tcp::Event::Failed(..)));
}

/// Aborting a TCP connection resets it.
pub async fn aborted_tcp_connection_is_reset<R: Runtime>() {
    let (mut server, to) = echo::<R>().await;
    let mut client = R::spawn(TcpConnections::client());
    client.command(tcp::Command::Hold { to }).unwrap();
    assert!(matches!(server.next_event().await, Some(tcp::Event::Accepted(1))));
    assert!(matches!(client.next_event().await, Some(tcp::Event::Up(_))));
    client.command(tcp::Command::AbortAll).unwrap();
    assert_eq!(next(&mut server).await, tcp::Event::ServerLost(std::io::ErrorKind::ConnectionReset));
}

/// A closed listener refuses connections; accepted connections stay open.
pub async fn closed_listener_refuses_connections<R: Runtime>() {
    let (mut server, to) = echo::<R>().await;
    let mut client = R::spawn(TcpConnections::client());
    client.command(tcp::Command::Hold { to }).unwrap();
    assert!(matches!(server.next_event().await, Some(tcp::Event::Accepted(1))));
    server.command(tcp::Command::Unlisten).unwrap();
    // The command takes effect at some later time; connections that were accepted stay open.
    loop {
        client.command(tcp::Command::Echo { to, total: 1 }).unwrap();
        match next(&mut client).await {
            tcp::Event::Failed(_, std::io::ErrorKind::ConnectionRefused) => break,
            // This connection was in the backlog when the listener closed.
            tcp::Event::Failed(_, std::io::ErrorKind::ConnectionReset) | tcp::Event::Echoed { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    client.command(tcp::Command::AbortAll).unwrap();
    assert_eq!(next(&mut server).await, tcp::Event::ServerLost(std::io::ErrorKind::ConnectionReset));
}

/// Listening at a port that is in use reports an error.
pub async fn a_taken_port_is_reported_to_a_listener<R: Runtime>() {
    let (_server, taken) = echo::<R>().await;
    let mut other = R::spawn(TcpConnections::server(taken));
    assert_eq!(next(&mut other).await, tcp::Event::Listening(Err(std::io::ErrorKind::AddrInUse)));
}

/// Hundreds of TCP connections of one driver make progress concurrently.
pub async fn many_tcp_connections_run_concurrently<R: Runtime>() {
    const TCP_CONNECTIONS: usize = 200;
    const TOTAL: u64 = 100_000;
    let (_server, to) = echo::<R>().await;
    let mut client = R::spawn(TcpConnections::client());
    let (mut asked, mut echoed) = (0, 0);
    while echoed < TCP_CONNECTIONS {
        while asked < TCP_CONNECTIONS && client.command(tcp::Command::Echo { to, total: TOTAL }).is_ok() {
            asked += 1;
        }
        match client.next_event().await {
            Some(tcp::Event::Echoed { bytes: TOTAL, .. }) => echoed += 1,
            Some(tcp::Event::Up(_)) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// A helper for the next test, which runs it in a process with few descriptors; it ends with its input.
pub async fn serve_until_the_input_ends<R: Runtime>() {
    if std::env::var_os(FEW).is_none() {
        return;
    }
    let (server, addr) = echo::<R>().await;
    println!("\n{addr}");
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    drop(server);
}

const FEW: &str = "TALLOW_TEST_FEW_DESCRIPTORS";

/// Connections wait in the backlog while there is no free descriptor, and are accepted as soon as there is one.
/// `module` is the path of the module with the tests.
#[cfg(unix)]
pub fn listener_without_descriptors_pauses_and_recovers(module: &str) {
    const TCP_CONNECTIONS: usize = 200;
    // The name of the test does not begin with that of the crate.
    let module = module.split_once("::").map_or(String::new(), |(_, module)| format!("{module}::"));
    let helper = format!("{module}serve_until_the_input_ends");
    let mut server = std::process::Command::new("sh")
        .args(["-c", "ulimit -n 64 && exec \"$0\" --exact --nocapture \"$1\""])
        .arg(std::env::current_exe().unwrap())
        .arg(helper)
        .env(FEW, "1")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines().map_while(Result::ok);
    let addr: SocketAddr = lines.find_map(|line| line.parse().ok()).expect("an address");
    let mut tcp_connections: Vec<TcpStream> = (0..TCP_CONNECTIONS).map(|_| TcpStream::connect(addr).unwrap()).collect();
    let mut byte = [0];
    for tcp in &tcp_connections {
        tcp.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    // The first connections are accepted, and occupy the available descriptors.
    for tcp in &mut tcp_connections[..20] {
        tcp.write_all(&[7]).unwrap();
        tcp.read_exact(&mut byte).unwrap();
    }
    // The server reaches its limit at some time: all connections are served, in whichever order.
    for (index, mut tcp) in tcp_connections.into_iter().enumerate() {
        tcp.write_all(&[index as u8]).unwrap();
        tcp.shutdown(Shutdown::Write).unwrap();
        tcp.read_exact(&mut byte).unwrap();
        assert_eq!(byte, [index as u8]);
        assert_eq!(tcp.read(&mut byte).unwrap(), 0);
    }
    drop(server.stdin.take());
    lines.for_each(drop);
    assert!(server.wait().unwrap().success());
}

/// The node gets the addresses of the machine.
pub async fn the_addresses_of_the_machine_are_reported<R: Runtime>() {
    if !R::REPORTS_INTERFACES {
        return;
    }
    let mut node = R::spawn(TcpConnections::curious());
    let tcp::Event::Interfaces(interfaces) = next(&mut node).await else { panic!("addresses") };
    assert_eq!(Some(interfaces), crate::interfaces());
}

/// A handle is a stream, which ends with the node.
pub async fn handle_is_a_stream_of_events<R: Runtime>() {
    let (mut node, _) = bound::<R>().await;
    node.command(Command::Alarm(Duration::ZERO)).unwrap();
    node.command(Command::Close).unwrap();
    let mut events = Vec::new();
    while let Some(event) = std::future::poll_fn(|cx| Pin::new(&mut node).poll_next(cx)).await {
        events.push(event);
    }
    assert!(matches!(events[..], [Event::Rang { .. }]), "{events:?}");
}

/// QUIC over the runtime's sockets. With `TALLOW_BENCH` set it transfers more data and prints the time it took.
pub async fn quic_delivers_all_bytes<R: Runtime>() {
    let bench = std::env::var_os("TALLOW_BENCH").is_some();
    let total = if bench { 4 << 30 } else { 256 << 20 };
    let identity = bulk::identity();
    let unix_time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let mut receiver = R::spawn(Bulk::receiver(LOOPBACK.parse().unwrap(), &identity, total, unix_time));
    let Some(bulk::Event::Bound(Ok(to))) = receiver.next_event().await else { panic!("not bound") };
    let (start, cpu) = (Instant::now(), cpu_seconds());
    let mut sender = R::spawn(Bulk::sender(to, &identity, total, unix_time));
    assert!(matches!(sender.next_event().await, Some(bulk::Event::Bound(Ok(_)))));
    for end in [&mut sender, &mut receiver] {
        assert!(matches!(end.next_event().await, Some(bulk::Event::Done(bytes)) if bytes == total));
        assert!(end.next_event().await.is_none());
    }
    if bench {
        let gigabytes = total as f64 / 1e9;
        let (wall, cpu) = (start.elapsed().as_secs_f64(), cpu_seconds() - cpu);
        println!("{:.0} MB/s, {:.2} CPU-s/GB for both ends", 1000.0 * gigabytes / wall, cpu / gigabytes);
    }
}

/// User and system time of this process (Linux; steps of 10 ms).
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(") ").next().unwrap_or_default().split(' ').skip(11).take(2);
    fields.filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

//! TCP connections and listeners with a scripted runtime.

use std::io;
use std::task::Waker;
use std::time::Duration;

use super::listeners::ACCEPTS;
use super::tcp::{CALLS, LINGER};
use super::{FLUSH, REST, ROUNDS};
use crate::drive::fake::{Ended, Incoming, Received, Theatre, addr};
use crate::net::{Action, Dial, Interface, Listen, ListenerId, TcpEvent, TcpId};
use crate::node::Input;

const MS: Duration = Duration::from_millis(1);

/// What the node received from TCP connections and listeners since the last call.
fn received(theatre: &Theatre) -> Vec<Received> {
    let received = std::mem::take(&mut theatre.plan().received);
    received.into_iter().filter(|received| !matches!(received, Received::Settled | Received::Timeout)).collect()
}

fn told(tcp: u32, event: TcpEvent) -> Received {
    Received::Tcp(TcpId(tcp), event)
}

fn dial(theatre: &mut Theatre, tcp: u32) {
    theatre.plan().actions.push_back(Action::Dial(TcpId(tcp), Dial::from(addr(1))));
    assert!(theatre.poll().is_pending());
}

/// A theatre with these TCP connections, all dialled and established.
fn with_tcp(tcp_connections: impl IntoIterator<Item = u32>) -> Theatre {
    let mut theatre = Theatre::new(&[]);
    for tcp in tcp_connections {
        dial(&mut theatre, tcp);
        theatre.line(tcp).dialled = Some(Ok(()));
        ring(theatre.line(tcp).writer.take());
        assert!(theatre.poll().is_pending());
        assert_eq!(received(&theatre), [told(tcp, TcpEvent::Up)]);
    }
    theatre
}

fn listening() -> Theatre {
    let mut theatre = Theatre::new(&[]);
    theatre.plan().actions.push_back(Action::Listen(ListenerId(0), Listen::from(addr(0))));
    assert!(theatre.poll().is_pending());
    assert_eq!(received(&theatre), [Received::Listening(ListenerId(0), Ok(addr(0)))]);
    theatre
}

fn ring(waker: Option<Waker>) {
    waker.expect("a registered waker").wake();
}

/// Bytes arrive, and the reader is woken.
fn arrive(theatre: &Theatre, tcp: u32, incoming: impl IntoIterator<Item = Incoming>) {
    theatre.line(tcp).incoming.extend(incoming);
    let reader = theatre.line(tcp).reader.take();
    if let Some(reader) = reader {
        reader.wake();
    }
}

fn touch(theatre: &Theatre, tcp: u32) {
    theatre.plan().touched.push_back(TcpId(tcp));
}

fn act(theatre: &mut Theatre, actions: impl IntoIterator<Item = Action>) {
    theatre.plan().actions.extend(actions);
    assert!(theatre.poll().is_pending());
}

#[test]
fn dialled_connection_is_polled_only_when_woken() {
    let mut theatre = Theatre::new(&[]);
    theatre.driver.node.tube(1).out.push_back(b"first words".to_vec());
    dial(&mut theatre, 1);
    assert_eq!(theatre.line(1).dial_calls, 1);
    // The node touches the connection and other events occur, but dialling is not complete.
    touch(&theatre, 1);
    assert!(theatre.poll().is_pending());
    assert_eq!(theatre.line(1).dial_calls, 1);
    assert_eq!(theatre.line(1).write_calls, 0);
    // A spurious wake-up.
    ring(theatre.line(1).writer.take());
    assert!(theatre.poll().is_pending());
    assert_eq!(received(&theatre), []);
    assert_eq!(theatre.line(1).dial_calls, 2);
    theatre.line(1).dialled = Some(Ok(()));
    ring(theatre.line(1).writer.take());
    assert!(theatre.poll().is_pending());
    assert_eq!(received(&theatre), [told(1, TcpEvent::Up), told(1, TcpEvent::Wrote(11))]);
    assert_eq!(theatre.line(1).written, b"first words");
}

#[test]
fn failed_dial_is_reported_and_forgotten() {
    let mut theatre = Theatre::new(&[]);
    dial(&mut theatre, 1);
    theatre.line(1).dialled = Some(Err(io::ErrorKind::ConnectionRefused));
    ring(theatre.line(1).writer.take());
    assert!(theatre.poll().is_pending());
    assert_eq!(received(&theatre), [told(1, TcpEvent::Failed(io::ErrorKind::ConnectionRefused))]);
    assert_eq!(theatre.stage().ended, [(TcpId(1), Ended::Reset)]);
    // Further requests of the node for this connection have no effect.
    touch(&theatre, 1);
    act(&mut theatre, [Action::Finish(TcpId(1)), Action::Abort(TcpId(1))]);
    assert_eq!(received(&theatre), []);
}

#[test]
fn immediate_dial_failure_is_reported() {
    let mut theatre = Theatre::new(&[]);
    theatre.stage_mut().refuse_to_dial = true;
    dial(&mut theatre, 1);
    assert_eq!(received(&theatre), [told(1, TcpEvent::Failed(io::ErrorKind::NetworkUnreachable))]);
    assert_eq!(theatre.stage().ended, [], "the runtime has no such connection");
    // Requests that the node made before it was notified have no effect.
    let asked = [Action::Dial(TcpId(2), Dial::from(addr(2))), Action::Finish(TcpId(2)), Action::Abort(TcpId(2))];
    act(&mut theatre, asked);
    assert_eq!(received(&theatre), []);
    theatre.advance(LINGER);
    assert!(theatre.poll().is_pending());
    assert_eq!((received(&theatre), theatre.driver.tcp_connections.len()), (vec![], 0));
}

#[test]
fn connection_can_be_finished_or_aborted_before_connect() {
    let mut theatre = Theatre::new(&[]);
    theatre.driver.node.tube(1).out.push_back(b"all".to_vec());
    dial(&mut theatre, 1);
    dial(&mut theatre, 2);
    act(&mut theatre, [1, 2].map(|tcp| Action::Finish(TcpId(tcp))));
    assert!(!theatre.line(1).finished);
    act(&mut theatre, [Action::Abort(TcpId(2))]);
    assert_eq!(theatre.stage().ended, [(TcpId(2), Ended::Reset)]);
    theatre.line(1).dialled = Some(Ok(()));
    ring(theatre.line(1).writer.take());
    assert!(theatre.poll().is_pending());
    assert_eq!(received(&theatre), [told(1, TcpEvent::Up), told(1, TcpEvent::Wrote(3))]);
    assert!(theatre.line(1).finished);
}

#[test]
fn partial_writes_resume_at_their_offset() {
    let mut theatre = with_tcp([1]);
    theatre.line(1).at_once = 2;
    theatre.line(1).room = 5;
    theatre.driver.node.tube(1).out.extend([b"abc".to_vec(), b"defg".to_vec()]);
    touch(&theatre, 1);
    assert!(theatre.poll().is_pending());
    assert_eq!(received(&theatre), [2, 2, 1].map(|count| told(1, TcpEvent::Wrote(count))));
    // The connection is full: a touch of the node does not try again, the waker does.
    let calls = theatre.line(1).write_calls;
    touch(&theatre, 1);
    assert!(theatre.poll().is_pending());
    assert_eq!(theatre.line(1).write_calls, calls);
    theatre.line(1).room = 100;
    ring(theatre.line(1).writer.take());
    assert!(theatre.poll().is_pending());
    assert_eq!(theatre.line(1).written, b"abcdefg");
    assert_eq!(received(&theatre), [2].map(|count| told(1, TcpEvent::Wrote(count))));
}

#[test]
fn blocked_write_delays_no_reads_or_other_connections() {
    let mut theatre = with_tcp([1, 2]);
    theatre.line(1).room = 0;
    for tcp in [1, 2] {
        let tube = theatre.driver.node.tube(tcp);
        (tube.room, tube.out) = (10, [b"out".to_vec()].into());
        touch(&theatre, tcp);
        arrive(&theatre, tcp, [Incoming::Bytes(b"in".to_vec())]);
    }
    assert!(theatre.poll().is_pending());
    assert_eq!(theatre.line(2).written, b"out");
    assert_eq!(theatre.driver.node.tube(1).got, b"in");
    assert_eq!(theatre.driver.node.tube(2).got, b"in");
    assert_eq!(theatre.line(1).written, b"");
}

#[test]
fn connection_without_buffer_is_not_read_until_touched() {
    let mut theatre = with_tcp([1]);
    arrive(&theatre, 1, [Incoming::Bytes(vec![7; 2500])]);
    touch(&theatre, 1);
    assert!(theatre.poll().is_pending());
    assert_eq!(theatre.line(1).read_calls, 0);
    assert!(theatre.line(1).reader.is_none());
    theatre.driver.node.tube(1).room = 2100;
    assert!(theatre.poll().is_pending());
    assert_eq!(theatre.line(1).read_calls, 0, "the node has no buffer");
    touch(&theatre, 1);
    assert!(theatre.poll().is_pending());
    assert_eq!(received(&theatre), [1000, 1000, 100].map(|count| told(1, TcpEvent::Filled(count))));
    assert!(theatre.line(1).reader.is_none(), "full, and nothing registered");
    // A registered reader is not polled again because the node has something to write.
    theatre.driver.node.tube(1).room = 2100;
    touch(&theatre, 1);
    assert!(theatre.poll().is_pending());
    let calls = theatre.line(1).read_calls;
    touch(&theatre, 1);
    assert!(theatre.poll().is_pending());
    assert_eq!(theatre.line(1).read_calls, calls);
    assert_eq!(theatre.driver.node.tube(1).got, [7; 2500]);
}

#[test]
fn idle_connections_are_not_polled_when_another_wakes() {
    let mut theatre = Theatre::new(&[]);
    for tcp in 0..1000 {
        theatre.driver.node.tube(tcp).room = 10;
        theatre.plan().actions.push_back(Action::Dial(TcpId(tcp), Dial::from(addr(1))));
    }
    assert!(theatre.poll().is_pending());
    for tcp in 0..1000 {
        theatre.line(tcp).dialled = Some(Ok(()));
        ring(theatre.line(tcp).writer.take());
    }
    assert!(theatre.poll().is_pending());
    let calls = |theatre: &Theatre| {
        let stage = theatre.stage();
        stage.lines.values().map(|line| line.dial_calls + line.read_calls + line.write_calls).sum::<usize>()
    };
    received(&theatre);
    let (before, wakes) = (calls(&theatre), theatre.wakes.count());
    arrive(&theatre, 500, [Incoming::Bytes(b"x".to_vec())]);
    assert_eq!(theatre.wakes.count(), wakes + 1);
    assert!(theatre.poll().is_pending());
    assert_eq!(received(&theatre), [told(500, TcpEvent::Filled(1))]);
    assert_eq!(calls(&theatre) - before, 2, "until it was empty");
}

#[test]
fn repeated_wakes_of_connections_wake_task_once() {
    let mut theatre = with_tcp([1, 2]);
    for tcp in [1, 2] {
        theatre.driver.node.tube(tcp).room = 10;
        touch(&theatre, tcp);
    }
    assert!(theatre.poll().is_pending());
    let wakes = theatre.wakes.count();
    let [one, two] = [1, 2].map(|tcp| theatre.line(tcp).reader.take().unwrap());
    for _ in 0..3 {
        one.wake_by_ref();
        two.wake_by_ref();
    }
    assert_eq!(theatre.wakes.count(), wakes + 1);
    let calls = theatre.line(1).read_calls;
    assert!(theatre.poll().is_pending());
    assert_eq!(theatre.line(1).read_calls, calls + 1, "a spurious wake costs one call");
    one.wake();
    assert_eq!(theatre.wakes.count(), wakes + 2, "and it can ring again");
    // A wake-up of a connection that ended has no effect.
    act(&mut theatre, [Action::Abort(TcpId(2))]);
    two.wake();
    assert!(theatre.poll().is_pending());
}

#[test]
fn flooded_connection_yields_to_others_and_other_tasks() {
    let mut theatre = with_tcp([1, 2]);
    for tcp in [1, 2] {
        theatre.driver.node.tube(tcp).room = usize::MAX;
    }
    arrive(&theatre, 1, (0..1000).map(|_| Incoming::Bytes(vec![1])));
    arrive(&theatre, 2, [Incoming::Bytes(vec![2])]);
    touch(&theatre, 1);
    touch(&theatre, 2);
    let wakes = theatre.wakes.count();
    assert!(theatre.poll().is_pending());
    assert_eq!(theatre.wakes.count(), wakes + 1, "the task wakes itself");
    let received = received(&theatre);
    let second = received.iter().position(|received| *received == told(2, TcpEvent::Filled(1))).unwrap();
    assert!(second <= CALLS, "{second}");
    // The first round learned of the TCP connections after it had read.
    assert_eq!(theatre.driver.node.tube(1).got.len(), (ROUNDS - 1) * CALLS);
    while theatre.driver.node.tube(1).got.len() < 1000 {
        assert!(theatre.poll().is_pending());
    }
}

#[test]
fn eof_is_read_once_and_write_direction_stays_open() {
    let mut theatre = with_tcp([1]);
    theatre.driver.node.tube(1).room = 10;
    theatre.driver.node.tube(1).out.push_back(b"before".to_vec());
    arrive(&theatre, 1, [Incoming::Bytes(b"last".to_vec()), Incoming::End]);
    touch(&theatre, 1);
    assert!(theatre.poll().is_pending());
    // Written in the round that processes the request, read in the next.
    let expected = [TcpEvent::Wrote(6), TcpEvent::Filled(4), TcpEvent::Eof].map(|event| told(1, event));
    assert_eq!(received(&theatre), expected);
    let calls = theatre.line(1).read_calls;
    theatre.driver.node.tube(1).out.push_back(b" after".to_vec());
    touch(&theatre, 1);
    assert!(theatre.poll().is_pending());
    assert_eq!(received(&theatre), [told(1, TcpEvent::Wrote(6))]);
    assert_eq!(theatre.line(1).read_calls, calls);
    act(&mut theatre, [Action::Finish(TcpId(1))]);
    assert_eq!(theatre.stage().ended, [(TcpId(1), Ended::Closed)], "over");
    assert_eq!(received(&theatre), []);
}

#[test]
fn finished_connection_writes_rest_and_reads_to_eof() {
    let mut theatre = with_tcp([1]);
    theatre.line(1).room = 4;
    theatre.driver.node.tube(1).out.push_back(b"goodbye".to_vec());
    act(&mut theatre, [Action::Finish(TcpId(1))]);
    assert!(!theatre.line(1).finished);
    theatre.line(1).room = 100;
    ring(theatre.line(1).writer.take());
    assert!(theatre.poll().is_pending());
    assert!(theatre.line(1).finished);
    assert_eq!(theatre.line(1).written, b"goodbye");
    received(&theatre);
    theatre.driver.node.tube(1).room = 10;
    arrive(&theatre, 1, [Incoming::Bytes(b"and you".to_vec()), Incoming::End]);
    touch(&theatre, 1);
    assert!(theatre.poll().is_pending());
    assert_eq!(received(&theatre), [told(1, TcpEvent::Filled(7)), told(1, TcpEvent::Eof)]);
    assert_eq!(theatre.stage().ended, [(TcpId(1), Ended::Closed)]);
}

#[test]
fn connection_failure_in_any_direction_is_reported_once() {
    let mut theatre = with_tcp([1, 2]);
    theatre.driver.node.tube(1).room = 10;
    theatre.driver.node.tube(1).out.push_back(b"never".to_vec());
    arrive(&theatre, 1, [Incoming::Bytes(b"last".to_vec()), Incoming::Failure(io::ErrorKind::ConnectionReset)]);
    touch(&theatre, 1);
    assert!(theatre.poll().is_pending());
    let expected = [TcpEvent::Wrote(5), TcpEvent::Filled(4), TcpEvent::Failed(io::ErrorKind::ConnectionReset)];
    assert_eq!(received(&theatre), expected.map(|event| told(1, event)));
    assert_eq!(theatre.stage().ended, [(TcpId(1), Ended::Reset)]);
    touch(&theatre, 1);
    assert!(theatre.poll().is_pending());
    assert_eq!(received(&theatre), []);
}

#[test]
fn aborted_connection_is_reset_and_drops_its_data() {
    let mut theatre = with_tcp([1]);
    theatre.line(1).room = 0;
    theatre.driver.node.tube(1).room = 10;
    theatre.driver.node.tube(1).out.push_back(b"never".to_vec());
    touch(&theatre, 1);
    assert!(theatre.poll().is_pending());
    arrive(&theatre, 1, [Incoming::Bytes(b"late".to_vec())]);
    // The bytes arrived first, and are read first.
    act(&mut theatre, [Action::Abort(TcpId(1))]);
    assert_eq!(received(&theatre), [told(1, TcpEvent::Filled(4))]);
    assert_eq!(theatre.stage().ended, [(TcpId(1), Ended::Reset)]);
    assert_eq!(theatre.stage().timer, None);
}

#[test]
fn finished_then_aborted_connection_lingers_until_peer_eof() {
    let mut theatre = with_tcp([1]);
    theatre.line(1).room = 0;
    theatre.driver.node.tube(1).out.push_back(b"goodbye".to_vec());
    act(&mut theatre, [Action::Finish(TcpId(1)), Action::Abort(TcpId(1))]);
    assert_eq!(theatre.stage().timer, Some(theatre.start + LINGER));
    arrive(&theatre, 1, [Incoming::Bytes(vec![0; 10_000])]);
    theatre.line(1).room = 100;
    ring(theatre.line(1).writer.take());
    assert!(theatre.poll().is_pending());
    assert_eq!(received(&theatre), [told(1, TcpEvent::Wrote(7))], "received bytes are dropped");
    assert!(theatre.line(1).finished && theatre.stage().ended.is_empty());
    arrive(&theatre, 1, [Incoming::End]);
    assert!(theatre.poll().is_pending());
    assert_eq!(theatre.stage().ended, [(TcpId(1), Ended::Closed)]);
    assert_eq!(received(&theatre), []);
}

#[test]
fn linger_ends_at_deadline_and_hides_failures() {
    let mut theatre = with_tcp([1, 2, 3]);
    for tcp in 1..=3 {
        theatre.line(tcp).room = if tcp == 1 { 0 } else { 100 };
        theatre.driver.node.tube(tcp).out.push_back(b"goodbye".to_vec());
    }
    act(&mut theatre, (1..=3).map(|tcp| Action::Finish(TcpId(tcp))));
    act(&mut theatre, (1..=3).map(|tcp| Action::Abort(TcpId(tcp))));
    received(&theatre);
    arrive(&theatre, 3, [Incoming::Failure(io::ErrorKind::ConnectionReset)]);
    assert!(theatre.poll().is_pending());
    assert_eq!(theatre.stage().ended, [(TcpId(3), Ended::Closed)]);
    theatre.advance(LINGER - MS);
    assert!(theatre.poll().is_pending());
    assert_eq!(theatre.stage().lines.len(), 2);
    theatre.advance(MS);
    assert!(theatre.poll().is_pending());
    assert_eq!(theatre.stage().ended, [(TcpId(3), Ended::Closed), (TcpId(1), Ended::Reset), (TcpId(2), Ended::Closed)]);
    assert_eq!(received(&theatre), []);
}

#[test]
fn second_abort_ends_linger() {
    let mut theatre = with_tcp([1]);
    act(&mut theatre, [Action::Finish(TcpId(1)), Action::Abort(TcpId(1))]);
    assert!(theatre.stage().ended.is_empty());
    act(&mut theatre, [Action::Abort(TcpId(1))]);
    assert_eq!(theatre.stage().ended, [(TcpId(1), Ended::Closed)]);
}

#[test]
fn accepted_connections_get_id_or_are_refused() {
    let mut theatre = listening();
    theatre.plan().names.push_back(TcpId(7));
    theatre.driver.node.tube(7).room = 10;
    theatre.driver.node.tube(7).out.push_back(b"welcome".to_vec());
    theatre.listener(0).queue.extend([Ok(1), Err(io::ErrorKind::ConnectionAborted), Ok(2)]);
    ring(theatre.listener(0).waker.take());
    assert!(theatre.poll().is_pending());
    let accept = |port| Received::Accept(ListenerId(0), addr(port));
    assert_eq!(received(&theatre), [accept(1), accept(2), told(7, TcpEvent::Wrote(7))]);
    assert_eq!(theatre.stage().lines.len(), 1);
    arrive(&theatre, 7, [Incoming::Bytes(b"thanks".to_vec())]);
    assert!(theatre.poll().is_pending());
    assert_eq!(received(&theatre), [told(7, TcpEvent::Filled(6))]);
    // An id in use is not given again.
    theatre.plan().names.push_back(TcpId(7));
    theatre.listener(0).queue.push_back(Ok(3));
    ring(theatre.listener(0).waker.take());
    assert!(theatre.poll().is_pending());
    assert_eq!(theatre.stage().lines.len(), 1);
}

#[test]
fn listener_is_polled_when_woken_with_bounded_accepts() {
    let mut theatre = listening();
    let calls = theatre.listener(0).calls;
    for _ in 0..10 {
        assert!(theatre.poll().is_pending());
    }
    assert_eq!(theatre.listener(0).calls, calls);
    theatre.listener(0).queue.extend((0..1000).map(Ok));
    ring(theatre.listener(0).waker.take());
    let wakes = theatre.wakes.count();
    assert!(theatre.poll().is_pending());
    assert_eq!(theatre.listener(0).calls - calls, ROUNDS * ACCEPTS);
    assert_eq!(theatre.wakes.count(), wakes + 1, "the task wakes itself");
}

#[test]
fn failing_listener_pauses_and_retries() {
    let mut theatre = listening();
    let calls = theatre.listener(0).calls;
    theatre.listener(0).broken = true;
    ring(theatre.listener(0).waker.take());
    for _ in 0..10 {
        assert!(theatre.poll().is_pending());
    }
    assert_eq!(theatre.listener(0).calls - calls, 1, "one failure is enough");
    assert_eq!(theatre.stage().timer, Some(theatre.start + REST));
    theatre.listener(0).broken = false;
    theatre.listener(0).queue.push_back(Ok(5));
    theatre.advance(REST);
    assert!(theatre.poll().is_pending());
    assert_eq!(received(&theatre), [Received::Accept(ListenerId(0), addr(5))]);
}

#[test]
fn listen_result_is_reported_and_closed_listener_not_polled() {
    let mut theatre = listening();
    theatre.stage_mut().refuse_to_bind = true;
    let listen = |id| Action::Listen(ListenerId(id), Listen::from(addr(0)));
    act(&mut theatre, [listen(0), listen(1)]);
    let answers = [
        Received::Listening(ListenerId(0), Err(io::ErrorKind::AlreadyExists)),
        Received::Listening(ListenerId(1), Err(io::ErrorKind::AddrInUse)),
    ];
    assert_eq!(received(&theatre), answers);
    let waker = theatre.listener(0).waker.take();
    act(&mut theatre, [Action::Unlisten(ListenerId(0))]);
    ring(waker);
    assert!(theatre.poll().is_pending());
    assert!(theatre.stage().listeners.is_empty());
}

#[test]
fn closed_node_flushes_finished_connections_only() {
    let mut theatre = with_tcp([1, 2]);
    theatre.line(1).room = 0;
    theatre.driver.node.tube(1).out.push_back(b"goodbye".to_vec());
    theatre.plan().actions.push_back(Action::Finish(TcpId(1)));
    theatre.plan().closed = true;
    assert!(theatre.poll().is_pending());
    assert_eq!(theatre.stage().timer, Some(theatre.start + FLUSH));
    theatre.line(1).room = 100;
    ring(theatre.line(1).writer.take());
    assert!(theatre.poll().is_pending());
    assert!(theatre.line(1).finished);
    assert_eq!(theatre.line(1).written, b"goodbye");
    // Unread bytes would turn the close into a reset: nothing needs them, so they are dropped.
    arrive(&theatre, 1, [Incoming::Bytes(vec![0; 10_000]), Incoming::End]);
    assert!(theatre.poll().is_ready());
    assert_eq!(theatre.stage().ended, [(TcpId(1), Ended::Closed), (TcpId(2), Ended::Reset)]);
}

#[test]
fn closed_node_stops_flushing_at_deadline() {
    let mut theatre = with_tcp([1]);
    theatre.line(1).room = 0;
    theatre.driver.node.tube(1).out.push_back(b"goodbye".to_vec());
    theatre.plan().actions.push_back(Action::Finish(TcpId(1)));
    theatre.plan().closed = true;
    assert!(theatre.poll().is_pending());
    theatre.advance(FLUSH);
    assert!(theatre.poll().is_ready());
    assert_eq!(theatre.stage().ended, [(TcpId(1), Ended::Reset)]);
}

#[test]
fn news_is_delivered_and_polled_once_per_wake() {
    let mut theatre = Theatre::new(&[]);
    let interface = Interface { name: "eth0".into(), addr: addr(0).ip(), prefix: 24 };
    theatre.stage_mut().news.extend([Input::Interfaces(vec![interface]), Input::Slept(60_000 * MS)]);
    let polls = theatre.stage().news_polls;
    assert!(theatre.poll().is_pending());
    assert_eq!(received(&theatre), [Received::Interfaces(1), Received::Slept(60_000 * MS)]);
    assert_eq!(theatre.stage().news_polls - polls, 3, "until there was none");
    theatre.plan().deadline = Some(theatre.start);
    assert!(theatre.poll().is_pending());
    assert_eq!(theatre.stage().news_polls - polls, 4);
}

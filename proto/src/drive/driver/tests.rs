use std::sync::atomic::AtomicUsize;

use super::sockets::{DATAGRAMS_IN, DATAGRAMS_OUT};
use super::*;
use crate::drive::fake::{Arrives, Event, Received, Theatre, bind, job};
use crate::drive::inbox::EVENTS;
use crate::net::{QueryId, SocketId};
use crate::transfer::storage::FaultKind;

const MS: Duration = Duration::from_millis(1);

#[test]
fn round_runs_inbox_arrivals_settle_and_timer_in_order() {
    let mut theatre = Theatre::new(&[0]);
    theatre.plan().deadline = Some(theatre.start);
    theatre.arrive(0, vec![(vec![1], 1)]);
    theatre.handle().command(2).unwrap();
    theatre.plan().jobs.push_back(job(7, || Ok(true)));
    theatre.plan().events.push_back(Event::Other(1));
    theatre.send(0, b"out");
    assert!(theatre.poll().is_pending());
    let received =
        [Received::Command(2), Received::Datagram(SocketId(0), vec![1]), Received::Settled, Received::Timeout];
    assert_eq!(theatre.plan().received[..4], received);
    assert_eq!(theatre.wire(0).sent, [b"out"]);
    assert_eq!(theatre.events(), [Event::Other(1)]);
    theatre.advance(MS);
    assert_eq!(theatre.wakes.count(), 2, "by the command, and by the job");
    theatre.plan().received.clear();
    theatre.arrive(0, vec![(vec![2], 1)]);
    assert!(theatre.poll().is_pending());
    let received = [Received::Done(7, true), Received::Datagram(SocketId(0), vec![2]), Received::Settled];
    assert_eq!(theatre.plan().received[..3], received);
}

#[test]
fn deadline_waits_for_datagrams_received_during_work() {
    for by in [2 * MS, 500 * MS] {
        let mut theatre = Theatre::new(&[0]);
        theatre.plan().deadline = Some(theatre.start + MS);
        theatre.works_long(by, 0, vec![7]);
        assert!(theatre.poll().is_pending());
        let plan = theatre.plan();
        let place = |wanted: &Received| plan.received.iter().position(|received| received == wanted);
        let (arrived, timeout) = (place(&Received::Datagram(SocketId(0), vec![7])), place(&Received::Timeout));
        assert!(arrived.is_some() && timeout.is_some() && arrived < timeout, "{:?}", plan.received);
    }
}

#[test]
fn coalesced_datagrams_are_split() {
    let mut theatre = Theatre::new(&[0]);
    let joined = (b"aaabbbcc".to_vec(), 3);
    theatre.arrive(0, vec![joined, (b"d".to_vec(), 1), (Vec::new(), 0), (vec![9; SLOT], SLOT)]);
    assert!(theatre.poll().is_pending());
    let plan = theatre.plan();
    let datagrams: Vec<&[u8]> = plan
        .received
        .iter()
        .filter_map(|received| if let Received::Datagram(_, data) = received { Some(&data[..]) } else { None })
        .collect();
    assert_eq!(datagrams, [&b"aaa"[..], b"bbb", b"cc", b"d", b"", &vec![9; SLOT]]);
}

#[test]
fn blocked_transmit_blocks_only_its_own_socket() {
    let mut theatre = Theatre::new(&[0, 1]);
    theatre.wire(0).blocked = true;
    for contents in [b"a", b"b"] {
        theatre.send(0, contents);
        theatre.send(1, contents);
    }
    assert!(theatre.poll().is_pending());
    assert_eq!(theatre.wire(0).sent, [[0; 0]; 0]);
    assert_eq!(theatre.wire(1).sent, [b"a", b"b"]);
    theatre.wire(0).blocked = false;
    theatre.send(0, b"c");
    assert!(theatre.poll().is_pending());
    assert_eq!(theatre.wire(0).sent, [b"a", b"b", b"c"]);
}

#[test]
fn failed_send_counts_as_packet_loss() {
    let mut theatre = Theatre::new(&[0]);
    theatre.wire(0).failing = true;
    theatre.send(0, b"a");
    assert!(theatre.poll().is_pending());
    theatre.wire(0).failing = false;
    theatre.send(0, b"b");
    assert!(theatre.poll().is_pending());
    assert_eq!(theatre.wire(0).sent, [b"b"]);
}

#[test]
fn flooded_socket_starves_no_other_socket_or_task() {
    let mut theatre = Theatre::new(&[0, 1, 2]);
    for flooded in 0..3 {
        for socket in 0..3 {
            theatre.wire(socket).flooded = socket == flooded;
            theatre.arrive(socket, vec![(vec![socket], 1)]);
        }
        theatre.plan().received.clear();
        let wakes = theatre.wakes.count();
        assert!(theatre.poll().is_pending(), "yields");
        assert_eq!(theatre.wakes.count(), wakes + 1, "the task wakes itself");
        for socket in 0..3 {
            let received = theatre.plan().datagrams(socket);
            let bound = ROUNDS * (DATAGRAMS_IN + SLOTS);
            assert!(
                if socket == flooded { (1..=bound).contains(&received) } else { received == 1 },
                "{socket}: {received}"
            );
        }
    }
}

#[test]
fn the_first_socket_rotates() {
    let mut theatre = Theatre::new(&[0, 1]);
    let first = |theatre: &mut Theatre| {
        theatre.plan().received.clear();
        theatre.arrive(0, vec![(vec![0], 1)]);
        theatre.arrive(1, vec![(vec![1], 1)]);
        assert!(theatre.poll().is_pending());
        matches!(theatre.plan().received[0], Received::Datagram(SocketId(0), _))
    };
    assert_ne!(first(&mut theatre), first(&mut theatre));
}

#[test]
fn a_flood_of_output_yields() {
    let mut theatre = Theatre::new(&[0]);
    for _ in 0..ROUNDS * DATAGRAMS_OUT + 1 {
        theatre.send(0, b"x");
    }
    assert!(theatre.poll().is_pending());
    assert_eq!((theatre.wire(0).sent.len(), theatre.wakes.count()), (ROUNDS * DATAGRAMS_OUT, 1));
}

#[test]
fn idle_driver_runs_one_round_per_spurious_wake() {
    let mut theatre = Theatre::new(&[0, 1]);
    theatre.plan().deadline = Some(theatre.start + 50 * MS);
    assert!(theatre.poll().is_pending());
    theatre.plan().received.clear();
    let calls = theatre.wire(0).recv_calls;
    for _ in 0..10 {
        assert!(theatre.poll().is_pending());
    }
    assert_eq!(theatre.plan().received, [(); 10].map(|()| Received::Settled));
    assert_eq!(theatre.wire(0).recv_calls - calls, 10);
    assert_eq!(theatre.wire(0).send_calls, 0);
    assert_eq!(theatre.wakes.count(), 0, "never wakes itself");
}

#[test]
fn empty_socket_is_polled_once_per_wake() {
    let mut theatre = Theatre::new(&[0, 1]);
    theatre.wire(1).blocked = true;
    theatre.send(1, b"x");
    let calls = theatre.wire(0).recv_calls;
    // There is progress in each round except the last.
    theatre.arrive(0, vec![(vec![1], 1)]);
    theatre.plan().jobs.push_back(job(1, || Ok(true)));
    theatre.plan().deadline = Some(theatre.start);
    assert!(theatre.poll().is_pending());
    assert!(theatre.plan().count(|received| *received == Received::Settled) > 1);
    assert_eq!(theatre.wire(0).recv_calls - calls, 2, "until it was empty");
    assert_eq!(theatre.wire(1).send_calls, 1);
}

#[test]
fn a_failing_receive_is_not_fatal_and_does_not_spin() {
    let mut theatre = Theatre::new(&[0, 1]);
    theatre.wire(0).arrivals.push_back(Arrives::Failure);
    theatre.arrive(0, vec![(vec![5], 1)]);
    assert!(theatre.poll().is_pending());
    assert_eq!(theatre.plan().datagrams(0), 1, "a datagram after an ICMP error is received at once");

    theatre.wire(0).broken = true;
    let calls = theatre.wire(0).recv_calls;
    for _ in 0..10 {
        assert!(theatre.poll().is_pending());
    }
    assert_eq!(theatre.wire(0).recv_calls - calls, FAILURES as usize);
    assert_eq!(theatre.stage().timer, Some(theatre.start + REST), "it will be tried again");
    theatre.arrive(1, vec![(vec![5], 1)]);
    assert!(theatre.poll().is_pending());
    assert_eq!(theatre.plan().datagrams(1), 1, "the other socket continues");

    theatre.wire(0).broken = false;
    theatre.arrive(0, vec![(vec![6], 1)]);
    theatre.advance(REST);
    assert!(theatre.poll().is_pending());
    assert_eq!(theatre.plan().datagrams(0), 2);
    assert_eq!(theatre.plan().count(|received| *received == Received::Timeout), 0, "the node is not involved");
}

#[test]
fn waiting_packets_are_handled_before_deadline() {
    let mut theatre = Theatre::new(&[0]);
    theatre.plan().deadline = Some(theatre.start + MS);
    for _ in 0..20 * DATAGRAMS_IN {
        theatre.arrive(0, vec![(vec![1], 1)]);
    }
    theatre.advance(2 * MS);
    while theatre.plan().count(|received| *received == Received::Timeout) == 0 {
        assert!(theatre.poll().is_pending());
    }
    assert_eq!(theatre.plan().datagrams(0), 20 * DATAGRAMS_IN);
}

#[test]
fn flood_delays_deadline_by_bounded_rounds() {
    let mut theatre = Theatre::new(&[0]);
    theatre.plan().deadline = Some(theatre.start);
    theatre.wire(0).flooded = true;
    for _ in 0..PUT_OFF {
        assert!(theatre.poll().is_pending());
    }
    assert!(theatre.plan().count(|received| *received == Received::Timeout) > 0);
}

#[test]
fn later_deadline_keeps_timer_and_ignores_early_ring() {
    let mut theatre = Theatre::new(&[]);
    theatre.plan().deadline = Some(theatre.start + 10 * MS);
    assert!(theatre.poll().is_pending());
    theatre.plan().deadline = Some(theatre.start + 30 * MS);
    assert!(theatre.poll().is_pending());
    assert_eq!(theatre.stage().timer, Some(theatre.start + 10 * MS));
    theatre.plan().deadline = Some(theatre.start + 5 * MS);
    assert!(theatre.poll().is_pending());
    assert_eq!(theatre.stage().timer, Some(theatre.start + 5 * MS));
    theatre.plan().deadline = Some(theatre.start + 30 * MS);
    theatre.advance(5 * MS);
    assert!(theatre.poll().is_pending());
    assert_eq!(theatre.stage().timer, Some(theatre.start + 30 * MS));
    assert_eq!(theatre.plan().count(|received| *received == Received::Timeout), 0);
    theatre.advance(25 * MS);
    assert!(theatre.poll().is_pending());
    assert_eq!(theatre.plan().count(|received| *received == Received::Timeout), 1);
}

#[test]
fn panicking_job_reports_failure() {
    let mut theatre = Theatre::new(&[]);
    theatre.plan().jobs.push_back(job(3, || panic!("on purpose")));
    theatre.plan().jobs.push_back(job(4, || Err(FaultKind::Cancelled.into())));
    assert!(theatre.poll().is_pending());
    theatre.advance(MS);
    assert!(theatre.poll().is_pending());
    assert_eq!(theatre.plan().received[2..4], [Received::Done(3, false), Received::Done(4, false)]);
}

#[test]
fn jobs_are_cancelled_once_driver_is_dropped() {
    static RAN: AtomicUsize = AtomicUsize::new(0);
    let mut theatre = Theatre::new(&[]);
    theatre.plan().jobs.push_back(job(1, || {
        RAN.fetch_add(1, Ordering::Relaxed);
        Ok(true)
    }));
    assert!(theatre.poll().is_pending());
    let work = std::mem::take(&mut theatre.stage_mut().blocking);
    drop(theatre);
    for work in work {
        work();
    }
    assert_eq!(RAN.load(Ordering::Relaxed), 0);
}

#[test]
fn bind_result_is_reported_before_next_poll() {
    let mut theatre = Theatre::new(&[0]);
    theatre.stage_mut().refuse_to_bind = true;
    theatre.plan().actions.extend([bind(1), bind(0)]);
    assert!(theatre.poll().is_pending());
    let answers = [
        Received::Settled,
        Received::Bound(SocketId(1), Err(std::io::ErrorKind::AddrInUse)),
        Received::Bound(SocketId(0), Err(std::io::ErrorKind::AlreadyExists)),
        Received::Settled,
    ];
    assert_eq!(theatre.plan().received[..4], answers);
}

#[test]
fn a_released_socket_is_not_polled() {
    let mut theatre = Theatre::new(&[0, 1]);
    theatre.plan().actions.push_back(Action::Release(SocketId(0)));
    theatre.arrive(1, vec![(vec![1], 1)]);
    assert!(theatre.poll().is_pending());
    assert_eq!(theatre.plan().datagrams(1), 1);
}

#[test]
fn answers_of_the_name_service_reach_the_node_once_each() {
    let mut theatre = Theatre::new(&[]);
    assert_eq!(theatre.stage().resolved_polls, 0, "no answer is missing");
    let resolve = |id| Action::Resolve(QueryId(id), "relay.example".into(), 4433);
    theatre.plan().actions.extend([resolve(1), resolve(2)]);
    assert!(theatre.poll().is_pending());
    assert_eq!(theatre.stage().queries, [(QueryId(1), 4433), (QueryId(2), 4433)]);
    assert!(theatre.stage().resolved_polls > 0, "the waker is registered");
    assert!(theatre.stage().blocking.is_empty());
    theatre.advance(MS);
    assert!(theatre.poll().is_pending());
    let resolved = Received::Resolved(vec![crate::drive::fake::addr(4433)]);
    assert_eq!(theatre.plan().count(|received| *received == resolved), 2);
    let polls = theatre.stage().resolved_polls;
    assert!(theatre.poll().is_pending());
    assert_eq!(theatre.stage().resolved_polls, polls, "no answer is missing any more");
}

#[test]
fn jobs_run_inline_without_threads() {
    let mut theatre = Theatre::new(&[]);
    theatre.stage_mut().has_no_threads = true;
    theatre.plan().jobs.push_back(job(7, || Ok(true)));
    assert!(theatre.poll().is_pending());
    assert!(theatre.plan().received.contains(&Received::Done(7, true)));
}

#[test]
fn events_have_a_bound_and_wait_in_the_node() {
    let mut theatre = Theatre::new(&[]);
    let total = EVENTS as u64 + 10;
    theatre.plan().events.extend((0..total).map(Event::Other));
    assert!(theatre.poll().is_pending());
    assert_eq!(theatre.plan().events.len(), 9, "one is held");
    let first = theatre.next_event(std::task::Waker::noop());
    assert_eq!(first, Poll::Ready(Some(Event::Other(0))));
    assert_eq!(theatre.wakes.count(), 1, "there is room again");
    assert!(theatre.poll().is_pending());
    let mut found = theatre.events();
    assert!(theatre.poll().is_pending());
    found.extend(theatre.events());
    assert_eq!(found, (1..total).map(Event::Other).collect::<Vec<_>>());
}

#[test]
fn latest_progress_replaces_earlier_one_in_full_queue() {
    let mut theatre = Theatre::new(&[]);
    theatre.plan().events.push_back(Event::Progress(0));
    theatre.plan().events.extend((1..EVENTS as u64).map(Event::Other));
    theatre.plan().events.extend((1..=1000).map(Event::Progress));
    assert!(theatre.poll().is_pending());
    assert_eq!(theatre.plan().events.len(), 0);
    let found = theatre.events();
    assert_eq!(found.len(), EVENTS);
    assert_eq!(found.last(), Some(&Event::Progress(1000)));
}

#[test]
fn closing_node_delivers_its_last_events() {
    let mut theatre = Theatre::new(&[]);
    let total = EVENTS as u64 + 10;
    theatre.plan().events.extend((0..total).map(Event::Other));
    theatre.plan().closed = true;
    assert!(theatre.poll().is_ready());
    assert!(theatre.poll().is_ready(), "polled once more, it does nothing");
    assert_eq!(theatre.events(), (0..total).map(Event::Other).collect::<Vec<_>>());
    assert_eq!(theatre.next_event(std::task::Waker::noop()), Poll::Ready(None));
}

#[test]
fn closed_node_flushes_last_transmit_until_deadline() {
    for room_in_time in [true, false] {
        let mut theatre = Theatre::new(&[0]);
        theatre.wire(0).blocked = true;
        theatre.send(0, b"goodbye");
        theatre.plan().closed = true;
        assert!(theatre.poll().is_pending());
        assert_eq!(theatre.stage().timer, Some(theatre.start + FLUSH));
        theatre.wire(0).blocked = !room_in_time;
        theatre.advance(if room_in_time { MS } else { FLUSH });
        assert!(theatre.poll().is_ready());
        assert_eq!(theatre.wire(0).sent.len(), usize::from(room_in_time));
    }
}

#[test]
fn dropped_handle_lets_node_send_its_goodbye() {
    let mut theatre = Theatre::new(&[0]);
    theatre.plan().close_when_dropped = true;
    theatre.plan().events.extend((0..200).map(Event::Other));
    assert!(theatre.poll().is_pending());
    theatre.handle = None;
    assert_eq!(theatre.wakes.count(), 1);
    theatre.send(0, b"goodbye");
    assert!(theatre.poll().is_ready());
    assert_eq!(theatre.plan().count(|received| *received == Received::HandleDropped), 1);
    assert_eq!(theatre.wire(0).sent, [b"goodbye"]);
    assert_eq!(theatre.plan().events.len(), 0, "events that the application does not take block nothing");
}

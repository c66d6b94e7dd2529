//! How a transfer ends when it is interrupted at its end: while the entries are moved to their final names only the
//! disk decides, and a stalled sender is not waited for without limit.

use std::time::Duration;

use super::memory::{At, MemorySink, MemorySource, Stage};
use super::reading::PAGES;
use super::receiver::{CHUNKS, FAREWELL, INTERRUPTED, finishing};
use super::tests::{K64, World, accept, one_file, path};
use super::*;
use crate::transfer::job::Work;
use crate::transfer::storage::FaultKind;
use crate::wire::peer::{CancelReason, Control, Reason};

/// So many files that three slices are needed; the first slice is done.
fn half_placed(sink: MemorySink) -> World {
    let source = (0..receiver::SLICE * 2 + 1).fold(MemorySource::new(), |source, number| {
        source.with_file(path(&format!("f{number}")), number.to_string().into_bytes())
    });
    let mut world = World::new(source, sink, Compression::Off);
    world.until(|world| !world.sink.finished().is_empty());
    assert!(world.sink.stage() == Stage::Staged && world.receiver.is_finishing());
    world
}

/// A sink that never finishes, one step before it is overdue; all its entries have their final names.
fn endless() -> World {
    let mut world = World::new(one_file(10), MemorySink::new().with_endless_finish(), Compression::Off);
    world.until(|world| world.receiver.is_finishing());
    for _ in 1..2 + finishing::MORE {
        assert!(world.receiver_jobs.len() == 1 && world.receiver.is_finishing());
        assert_eq!(world.receiver.poll_timeout(), None, "asked again at once");
        world.step(&mut |_| 0);
        world.drain();
    }
    world
}

#[test]
fn unfinished_sink_is_called_at_bounded_rate() {
    let mut world = endless();
    world.step(&mut |_| 0);
    let end = world.now + finishing::LIMIT;
    let mut calls = 0;
    loop {
        world.drain();
        assert!(world.received.is_some() || world.receiver_jobs.is_empty(), "not before the pause is over");
        let Some(due) = world.receiver.poll_timeout().filter(|_| world.received.is_none()) else { break };
        assert!(due > world.now && due <= end + finishing::PAUSE);
        world.now = due;
        world.receiver.handle_timeout(due);
        world.drain();
        if world.received.is_none() {
            calls += 1;
            world.step(&mut |_| 0);
        }
    }
    assert_eq!(calls, finishing::LIMIT.as_millis() / finishing::PAUSE.as_millis() - 1);
    assert_eq!(world.received, Some(Outcome::Failed(FaultKind::Unfinished.into())));
    world.settle();
    assert!(matches!(world.sent, Some(Outcome::PeerCancelled { reason: CancelReason::Io, .. })), "{:?}", world.sent);
    assert_eq!((world.sink.stage(), world.sink.misuse()), (Stage::Suspended, None));
    assert!(world.receiver.is_closed());
}

#[test]
fn a_sink_that_does_not_finish_can_be_cancelled() {
    for is_late in [false, true] {
        let mut world = endless();
        world.step(&mut |_| 0);
        if is_late {
            // While a job runs.
            world.now += finishing::PAUSE;
            world.receiver.handle_timeout(world.now);
        }
        world.drain();
        assert_eq!((world.receiver_jobs.len(), world.receiver.is_finishing()), (usize::from(is_late), false));
        world.receiver.cancel(world.now, CancelReason::Interrupted, "");
        world.settle();
        assert_eq!(world.received, Some(Outcome::Cancelled(CancelReason::Interrupted)));
        assert!(matches!(world.sent, Some(Outcome::PeerCancelled { reason: CancelReason::Interrupted, .. })));
        assert_eq!((world.sink.stage(), world.sink.misuse()), (Stage::Suspended, None));
        assert!(world.receiver.is_closed());
    }
}

#[test]
fn sink_is_abandoned_only_after_begin() {
    for fault in [None, Some(FaultKind::Exists)] {
        let sink = fault.map_or_else(MemorySink::new, |kind| MemorySink::new().with_fault(At::Begin, kind));
        let mut world = World::new(one_file(10), sink, Compression::Off);
        world.until(|world| world.receiver_jobs.iter().any(|job| matches!(job.work, Work::Begin { .. })));
        world.receiver.cancel(world.now, CancelReason::NotVerified, "");
        world.settle();
        let expected = if fault.is_none() { Stage::Abandoned } else { Stage::New };
        assert_eq!((world.sink.stage(), world.sink.misuse()), (expected, None), "{fault:?}");
        assert!(world.receiver.is_closed());
    }
    let mut world =
        World::new(one_file(10), MemorySink::new().with_fault(At::Begin, FaultKind::Exists), Compression::Off);
    world.settle();
    assert_eq!((world.sink.stage(), world.sink.misuse()), (Stage::New, None));
}

/// Every event that could end the transfer otherwise.
fn disturb(world: &mut World, how: u32) {
    let now = world.now;
    match how {
        0 => world.receiver.cancel(now, CancelReason::Interrupted, ""),
        1 => world.receiver.abandon(now),
        2 => {
            let reason = CancelReason::Interrupted;
            world.receiver.handle_control(now, Control::Cancel { transfer: 1, reason, text: Reason::default() });
        }
        3 => world.receiver.handle_control(now, accept(vec![])),
        _ => world.receiver.handle_control(now, Control::Bye),
    }
}

#[test]
fn x08_only_disk_faults_stop_finalization() {
    for how in 0..5 {
        let mut world = half_placed(MemorySink::new());
        disturb(&mut world, how);
        world.drain();
        assert!(world.received.is_none() && !world.receiver.is_idle(), "{how}");
        while !world.receiver_jobs.is_empty() {
            let job = world.receiver_jobs.remove(0);
            world.receiver.handle_job(world.now, super::tests::run(job));
            world.drain();
        }
        assert!(matches!(world.received, Some(Outcome::Complete { .. })), "{how}: {:?}", world.received);
        assert_eq!((world.sink.stage(), world.sink.misuse()), (Stage::Finished, None));
        assert_eq!(world.sink.finished().len(), receiver::SLICE * 2 + 1);
        // The confirmation is sent if the other side can still receive it, which is so only when the user on this
        // side cancelled.
        let told = world.to_sender.iter().any(|message| matches!(message, Control::Verified { .. }));
        assert_eq!(told, how == 0, "{how}");
        if how == 0 {
            assert_eq!(world.receiver.poll_timeout(), Some(world.now + INTERRUPTED));
            world.receiver.handle_timeout(world.now + INTERRUPTED);
        }
        assert!(world.receiver.is_closed(), "{how}");
    }
}

/// The link is lost before the confirmation could be sent: it is not waited for that it can.
#[test]
fn unsendable_confirmation_is_given_up() {
    let mut world = half_placed(MemorySink::new());
    world.receiver.handle_link_lost(world.now, world.link);
    while !world.receiver_jobs.is_empty() {
        let job = world.receiver_jobs.remove(0);
        world.receiver.handle_job(world.now, super::tests::run(job));
        while let Some(job) = world.receiver.poll_job() {
            world.receiver_jobs.push(job);
        }
    }
    let done = world.receiver.poll_event();
    assert!(matches!(done, Some(TransferEvent::Over(Outcome::Complete { .. }))), "{done:?}");
    assert_eq!(world.receiver.poll_timeout(), Some(world.now + FAREWELL));
    world.receiver.handle_timeout(world.now + FAREWELL);
    assert!(world.receiver.is_closed() && world.receiver.poll_control().is_none());
}

#[test]
fn finalization_fault_is_reported_after_any_other_event() {
    for how in 0..5 {
        let mut world = half_placed(MemorySink::new().with_fault(At::Finish(1), FaultKind::System(5)));
        disturb(&mut world, how);
        world.drain();
        while !world.receiver_jobs.is_empty() {
            let job = world.receiver_jobs.remove(0);
            world.receiver.handle_job(world.now, super::tests::run(job));
            world.drain();
        }
        assert_eq!(world.received, Some(Outcome::Failed(FaultKind::System(5).into())), "{how}");
        assert_eq!((world.sink.stage(), world.sink.misuse()), (Stage::Suspended, None));
        assert!(world.receiver.is_closed(), "{how}");
    }
}

#[test]
fn missing_pages_stall_after_timeout() {
    let source = (0..5).fold(MemorySource::new(), |source, number| source.with_dir(path(&format!("d{number}"))));
    let mut world = World::new(source.with_page_after(1), MemorySink::new(), Compression::Off);
    world.until(|world| world.to_receiver.len() == 6);
    let mut now = world.now;
    // Each page extends the deadline by a minute.
    for _ in 0..4 {
        world.receiver.handle_control(now, world.to_receiver.pop_front().unwrap());
        assert_eq!(world.receiver.poll_timeout(), Some(now + PAGES));
        now += PAGES - Duration::from_millis(1);
        world.receiver.handle_timeout(now);
        world.drain();
        assert_eq!(world.received, None);
    }
    // Keep-alives are not pages.
    let alive = Control::KeepAlive { lanes: crate::wire::BoundedVec::default(), reading: true };
    world.receiver.handle_control(now, alive);
    world.receiver.handle_timeout(now + Duration::from_millis(1));
    world.drain();
    assert_eq!(world.received, Some(Outcome::Stalled));
    assert!(matches!(world.to_sender.back(), Some(Control::Cancel { .. })));
}

#[test]
fn missing_chunks_stall_only_while_sender_is_silent() {
    let mut world = World::new(one_file(40 * K64), MemorySink::new(), Compression::Off);
    world.until(|world| !world.chunks.is_empty());
    let chunk = world.chunks.remove(0);
    world.receiver.handle_chunk(world.now, chunk);
    world.drain();
    // While this side has work to do, the sender does not count as stalled.
    assert!(!world.receiver_jobs.is_empty());
    while !world.receiver_jobs.is_empty() {
        world.receiver.handle_timeout(world.now + CHUNKS * 2);
        let job = world.receiver_jobs.remove(0);
        world.receiver.handle_job(world.now, super::tests::run(job));
        world.drain();
    }
    assert_eq!(world.received, None);
    let at = world.now + CHUNKS;
    world.receiver.handle_timeout(at - Duration::from_millis(1));
    world.drain();
    assert_eq!(world.received, None);
    // Without a link no deadline runs; with a new link the time begins again.
    world.receiver.handle_link_lost(world.now, world.link);
    world.receiver.handle_timeout(at);
    world.receiver.handle_link_up(at);
    world.drain();
    assert_eq!(world.received, None);
    let end = at + CHUNKS;
    assert!(world.receiver.poll_timeout().is_some_and(|due| due <= end));
    world.receiver.handle_timeout(end);
    world.settle();
    assert_eq!(world.received, Some(Outcome::Stalled));
    assert_eq!(world.sink.stage(), Stage::Suspended);
}

/// `End` was sent, and a chunk is missing.
#[test]
fn missing_chunk_after_end_stalls_after_timeout() {
    let mut world = World::new(one_file(2 * K64), MemorySink::new(), Compression::Off);
    world.until(|world| world.to_receiver.iter().any(|message| matches!(message, Control::End { .. })));
    world.chunks.clear();
    while let Some(message) = world.to_receiver.pop_front() {
        world.receiver.handle_control(world.now, message);
    }
    world.drain();
    let due = world.receiver.poll_timeout().unwrap();
    assert_eq!(due, world.now + CHUNKS);
    world.receiver.handle_timeout(due);
    world.drain();
    assert_eq!(world.received, Some(Outcome::Stalled));
}

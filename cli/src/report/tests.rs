use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use tallow_proto::peer::{Class, Failure, WaitingFor};

use super::*;

/// A transfer that reports the given events, and then either ends or stays silent.
#[derive(Default)]
struct Scripted {
    events: RefCell<VecDeque<Event>>,
    closed: bool,
    cancelled: Cell<bool>,
}

impl End for Scripted {
    async fn next_event(&mut self) -> Option<Event> {
        let next = self.events.borrow_mut().pop_front();
        match next {
            None if !self.closed && !self.cancelled.get() => std::future::pending().await,
            event => event,
        }
    }

    fn cancel(&self) {
        self.cancelled.set(true);
    }
}

fn report(role: Role, has_relays: bool) -> Report {
    let dir = tempfile::tempdir().unwrap();
    let memory = Memory::load(Some(dir.path().to_owned()));
    Report::new(Output::plain(false), Runtime::Tokio, role, Signals::watch().unwrap(), memory, has_relays)
}

fn text(report: &Report) -> Option<&str> {
    report.waiting.as_ref().map(|(_, text)| text.as_str())
}

fn early(report: &Report) -> bool {
    report.waiting.as_ref().is_some_and(|(at, _)| *at > Instant::now())
}

#[test]
fn waits_are_delayed_until_code_is_shown() {
    let mut sender = report(Role::Sender, true);
    assert_eq!(text(&sender), None);
    sender.show(&Event::Waiting(WaitingFor::Source));
    assert!(text(&sender) == Some("Looking through the files to send") && early(&sender));
    sender.show(&Event::Waiting(WaitingFor::Receiver));
    assert!(early(&sender), "the code is not shown yet");
    sender.code_shown = true;
    sender.show(&Event::Waiting(WaitingFor::Receiver));
    assert!(text(&sender) == Some("Waiting for the receiver") && !early(&sender));
    sender.show(&Event::Paired);
    assert_eq!(text(&sender), Some("Waiting for the receiver to accept"));
    sender.show(&Event::Accepted);
    assert!(text(&sender).is_none() && sender.running);

    let mut receiver = report(Role::Receiver, false);
    assert!(text(&receiver).unwrap().starts_with("Looking for the sender") && early(&receiver));
    assert!(text(&report(Role::Receiver, true)).unwrap().starts_with("Waiting for a relay"));
    receiver.show(&Event::Waiting(WaitingFor::Sender));
    assert!(early(&receiver), "the next attempt follows in a moment");
    receiver.show(&Event::Paired);
    assert_eq!(text(&receiver), None);
}

#[test]
fn the_end_stops_wait_lines_and_progress() {
    let mut sender = report(Role::Sender, true);
    sender.show(&Event::Accepted);
    sender.show(&Event::Waiting(WaitingFor::Receiver));
    sender.show(&Event::Failed(Failure::Interrupted));
    assert!(!sender.running && text(&sender).is_none());
}

#[test]
fn a_failure_after_a_signal_is_an_interruption() {
    let mut sender = report(Role::Sender, true);
    assert_eq!(sender.problem(&Failure::WrongCode).code, Class::Auth.exit_code());
    sender.signal = Some(Signal::Terminate);
    let problem = sender.problem(&Failure::WrongCode);
    assert_eq!((problem.code, problem.message.as_str()), (143, "interrupted"));
    assert_eq!(sender.unexplained(Some(Ending::Panicked)).code, 143);
}

#[test]
fn a_bug_differs_from_an_interruption() {
    let sender = report(Role::Sender, true);
    let problem = sender.unexplained(Some(Ending::Panicked));
    assert_eq!((problem.code, problem.kind), (101, "bug"));
    assert_eq!(sender.unexplained(Some(Ending::Dropped)).code, 130);
}

#[test]
fn report_returns_queued_events_before_the_end() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut sender = report(Role::Sender, true);
        let events = RefCell::new(VecDeque::from([Event::Paired, Event::Accepted]));
        let mut end = Scripted { events, closed: true, ..Scripted::default() };
        assert!(matches!(sender.next(&mut end).await, Step::Event(Event::Paired)));
        assert!(matches!(sender.next(&mut end).await, Step::Event(Event::Accepted)));
        assert!(matches!(sender.next(&mut end).await, Step::Closed));
    });
}

#[test]
fn a_rate_is_shown_only_for_longer_transfers() {
    assert_eq!(took(0.04, 1 << 30), "0.0 s");
    assert_eq!(took(2.0, 2 << 20), "2.0 s (1.0 MiB/s)");
    assert_eq!(took(75.0, 150 << 10), "1 min 15 s (2.0 KiB/s)");
}

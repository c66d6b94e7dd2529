use std::num::NonZeroUsize;
use std::time::Instant;

use tallow_proto::drive::Driver;
use tallow_proto::misuse::Misuse;
use tallow_proto::net::{Action, Arrival, SocketId, Transmit};
use tallow_proto::node::Input;
use tallow_proto::transfer::Job;

use tallow_proto::room::Config;

use super::*;

/// A relay that panics at its third input, like a bug that foreign bytes can reach.
struct Broken {
    relay: Relay,
    inputs: usize,
}

impl Broken {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let identity = tallow_store::identity::load_or_create(dir.path()).unwrap();
        let options = <Arguments as clap::Parser>::parse_from(["relay", "--listen", "127.0.0.1:0"]).options;
        let config = Config { identity, ..options.with_state(dir.path()).into_config().unwrap() };
        Self { relay: Relay::new(config).unwrap(), inputs: 0 }
    }

    fn count(&mut self) {
        self.inputs += 1;
        assert!(self.inputs < 3, "on purpose");
    }
}

#[derive(clap::Parser)]
struct Arguments {
    #[command(flatten)]
    options: Options,
}

impl Options {
    fn with_state(mut self, dir: &std::path::Path) -> Self {
        self.state_dir = Some(dir.to_owned());
        self
    }
}

impl Node for Broken {
    type Command = Command;
    type Event = Event;

    fn handle_datagram(&mut self, now: Instant, arrival: Arrival, data: bytes::BytesMut) {
        self.count();
        self.relay.handle_datagram(now, arrival, data);
    }
    fn handle_input(&mut self, now: Instant, input: Input) {
        self.count();
        self.relay.handle_input(now, input);
    }
    fn handle_command(&mut self, now: Instant, command: Command) -> Result<(), Misuse> {
        self.relay.handle_command(now, command)
    }
    fn handle_timeout(&mut self, now: Instant) {
        self.relay.handle_timeout(now);
    }
    fn settle(&mut self, now: Instant) {
        self.relay.settle(now);
    }
    fn poll_action(&mut self) -> Option<Action> {
        self.relay.poll_action()
    }
    fn poll_transmit(&mut self, now: Instant, id: SocketId, max: NonZeroUsize, buf: &mut Vec<u8>) -> Option<Transmit> {
        self.relay.poll_transmit(now, id, max, buf)
    }
    fn poll_job(&mut self) -> Option<Job> {
        self.relay.poll_job()
    }
    fn poll_event(&mut self) -> Option<Event> {
        self.relay.poll_event()
    }
    fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        self.relay.poll_timeout()
    }
    fn is_closed(&self) -> bool {
        self.relay.is_closed()
    }
}

const LINES: Lines = Lines { quiet: true };

fn on_a_runtime<F: Future>(test: F) -> F::Output {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap().block_on(test)
}

#[test]
fn a_panic_at_an_input_is_a_failure() {
    let outcome = on_a_runtime(async {
        let handle = tallow_tokio::spawn(Broken::new());
        // Its listeners are two inputs; datagrams are more.
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut handle = handle;
        let addr = loop {
            match handle.next_event().await {
                Some(Event::Listening { addr }) => break Some(addr),
                Some(_) => {}
                None => break None,
            }
        };
        if let Some(addr) = addr {
            for _ in 0..3 {
                socket.send_to(b"nothing", addr).unwrap();
            }
        }
        serve(handle, Duration::ZERO, LINES).await
    });
    let problem = outcome.unwrap_err();
    assert!(matches!(problem, Problem::Ended(Some(Ending::Panicked))), "{problem:?}");
    assert_eq!(problem.exit_code(), process::INTERNAL_ERROR);
    assert!(problem.to_string().contains("bug"), "{problem}");
}

#[test]
fn a_runtime_that_drops_the_relay_is_a_failure() {
    let outcome = on_a_runtime(async {
        let (handle, driver): (Handle<Broken>, _) = Driver::new(Broken::new(), tallow_tokio::TokioIo::new());
        drop(driver);
        serve(handle, Duration::ZERO, LINES).await
    });
    assert!(matches!(outcome, Err(Problem::Ended(Some(Ending::Dropped)))), "{outcome:?}");
}

#[test]
fn only_a_requested_end_is_success() {
    assert!(outcome(None, Some(Ending::Closed), true).is_ok());
    assert!(outcome(None, Some(Ending::Closed), false).is_err());
    assert!(outcome(None, Some(Ending::Panicked), true).is_err());
    assert!(outcome(None, None, true).is_err());
    assert!(matches!(outcome(Some(Problem::NoHome), Some(Ending::Closed), true), Err(Problem::NoHome)));
}

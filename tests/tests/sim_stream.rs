//! Streams on virtual time: lossy links, cuts, a relay that restarts, a reader that stops; no byte is written twice,
//! none is missing.

use std::sync::Arc;
use std::time::Duration;

use tallow_proto::peer::{Class, Command, Event, Failure, Payload};
use tallow_proto::transfer::storage::FaultKind;
use tallow_proto::transfer::stream::memory::{MemoryPipe, MemoryStream, Piece};
use tallow_tests::sim::{Conditions, Place, Policy, Rig, Scenario, honest, noise};

const LIMIT: Duration = Duration::from_secs(1200);

/// Pieces of any size with silence between them, and their concatenation.
fn pieces(bytes: usize, salt: u64) -> (Vec<Piece>, Vec<u8>) {
    let all = noise(bytes, salt);
    let (mut pieces, mut rest, mut size) = (Vec::new(), all.as_slice(), 1);
    while !rest.is_empty() {
        let (piece, tail) = rest.split_at(size.min(rest.len()));
        pieces.extend([Piece::Bytes(piece.to_vec()), Piece::Silence]);
        (rest, size) = (tail, size * 7 % 90_001);
    }
    (pieces, all)
}

struct Stream {
    rig: Rig,
    pipe: Arc<MemoryPipe>,
    all: Vec<u8>,
}

impl Stream {
    /// A stream that was accepted.
    fn begin(scenario: &Scenario, bytes: usize, pipe: MemoryPipe) -> Self {
        let (pieces, all) = pieces(bytes, u64::from(scenario.seed[0]));
        let source = Arc::new(MemoryStream::new(pieces));
        let mut rig = Rig::with(scenario, Policy::Proper, honest(), |send, _| send.source = Payload::Stream(source));
        let pipe = Arc::new(pipe);
        let receiver = rig.receiver;
        let offered = rig
            .world
            .run_until(LIMIT, |world| world.said(receiver).any(|event| matches!(event, Event::StreamOffer(_))));
        assert!(offered, "{}", rig.told());
        rig.world.command(receiver, Command::AcceptStream(pipe.clone()));
        Self { rig, pipe, all }
    }

    fn until(&mut self, bytes: usize) {
        let pipe = self.pipe.clone();
        let moved = self.rig.world.run_until(LIMIT, |_| pipe.bytes().len() >= bytes);
        assert!(moved, "{} of {bytes}: {}", self.pipe.bytes().len(), self.rig.told());
    }

    fn end(&mut self) {
        let (sender, receiver) = (self.rig.sender, self.rig.receiver);
        let ended = self.rig.world.run_until(LIMIT, |world| world.is_closed(sender) && world.is_closed(receiver));
        assert!(ended, "{}", self.rig.told());
    }

    /// Checks the receiver's end. The sender may have no confirmation.
    fn check_received(&mut self) {
        self.end();
        assert!(matches!(self.rig.report().received, Some(Event::Done(_))), "{}", self.rig.told());
        assert!(self.pipe.bytes() == self.all, "{} bytes of {}", self.pipe.bytes().len(), self.all.len());
    }

    fn check_whole(&mut self) {
        self.end();
        assert!(self.rig.report().is_done(), "{}", self.rig.told());
        assert!(self.pipe.bytes() == self.all, "{} bytes of {}", self.pipe.bytes().len(), self.all.len());
        let Some(Event::Done(summary)) = self.rig.report().sent else { panic!() };
        assert_eq!(summary.totals.bytes, self.all.len() as u64);
    }
}

fn scenario(seed: u64, place: Place) -> Scenario {
    let network = Conditions { rate: 200_000, latency: Duration::from_millis(20), ..Conditions::default() };
    Scenario { network, place, give_up_after: None, ..Scenario::plain(seed, 0) }
}

#[test]
fn stream_arrives_over_lossy_network() {
    for seed in 0..4 {
        for place in [Place::Inside, Place::Relay] {
            let mut scenario = scenario(seed, place);
            scenario.network =
                Conditions { loss: 20_000, duplicate: 5_000, jitter: Duration::from_millis(15), ..scenario.network };
            Stream::begin(&scenario, 600_000, MemoryPipe::new()).check_whole();
        }
    }
    Stream::begin(&scenario(9, Place::Inside), 0, MemoryPipe::new()).check_whole();
}

#[test]
fn f07_stream_survives_outage_and_relay_restart() {
    for (seed, at) in [1, 100_000, 599_999].into_iter().enumerate() {
        for time in [5, 90, 600] {
            let mut stream =
                Stream::begin(&scenario(seed as u64, Place::Relay), 600_000, MemoryPipe::new().with_at_once(10_000));
            stream.until(at);
            let before = stream.rig.world.network.default_conditions();
            stream.rig.world.network.set_default(Conditions { cut: true, ..before });
            stream.rig.world.run_until(Duration::from_secs(time), |_| false);
            stream.rig.world.network.set_default(before);
            // A receiver that has everything stays for 20 s: a longer outage at the end costs the confirmation only.
            if at == 599_999 && time > 20 {
                stream.check_received();
            } else {
                stream.check_whole();
            }
        }
        let mut stream = Stream::begin(&scenario(seed as u64, Place::Relay), 600_000, MemoryPipe::new());
        stream.until(at);
        stream.rig.crash_relay();
        stream.rig.world.run_until(Duration::from_secs(3), |_| false);
        stream.rig.restart_relay();
        stream.check_whole();
    }
}

#[test]
fn stream_survives_outage_while_reader_pauses() {
    let mut stream = Stream::begin(&scenario(3, Place::Relay), 600_000, MemoryPipe::new());
    stream.until(50_000);
    stream.pipe.set_shut(true);
    stream.rig.world.run_until(Duration::from_secs(60), |_| false);
    let before = stream.rig.world.network.default_conditions();
    stream.rig.world.network.set_default(Conditions { cut: true, ..before });
    stream.rig.world.run_until(Duration::from_secs(60), |_| false);
    let out = stream.pipe.bytes().len();
    stream.rig.world.network.set_default(before);
    stream.rig.world.run_until(Duration::from_secs(900), |_| false);
    assert_eq!(stream.pipe.bytes().len(), out);
    assert!(
        stream.rig.world.end(stream.rig.receiver).is_none(),
        "it is there, and reads nothing: {}",
        stream.rig.told()
    );
    stream.pipe.set_shut(false);
    stream.check_whole();
}

#[test]
fn broken_stream_sink_ends_both_peers() {
    let gone = FaultKind::Io(std::io::ErrorKind::BrokenPipe);
    let mut stream = Stream::begin(&scenario(4, Place::Relay), 600_000, MemoryPipe::new().with_fault(70_000, gone));
    stream.end();
    let report = stream.rig.report();
    assert_eq!((report.received_class(), report.sent_class()), (Some(Class::Io), Some(Class::Peer)));
    assert!(matches!(report.received, Some(Event::Failed(Failure::Local(fault))) if fault.kind == gone));
}

#[test]
fn file_is_written_in_order_over_lossy_network() {
    for seed in 0..3 {
        let mut scenario = scenario(seed, Place::Relay);
        scenario.files = vec![700_000];
        scenario.network = Conditions { loss: 20_000, jitter: Duration::from_millis(15), ..scenario.network };
        let mut rig = Rig::new(&scenario, Policy::Proper, honest());
        let (sender, receiver) = (rig.sender, rig.receiver);
        assert!(rig.world.run_until(LIMIT, |world| world.said(receiver).any(|event| matches!(event, Event::Offer(_)))));
        let pipe = Arc::new(MemoryPipe::new().with_at_once(9_999));
        rig.world.command(receiver, Command::AcceptStream(pipe.clone()));
        let ended = rig.world.run_until(LIMIT, |world| world.is_closed(sender) && world.is_closed(receiver));
        assert!(ended && rig.report().is_done(), "{}", rig.told());
        assert!(pipe.bytes() == scenario.source().entries()[0].1);
    }
}

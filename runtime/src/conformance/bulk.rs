//! Two nodes with a QUIC endpoint each: one sends bytes over several streams, the other checks them.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tallow_proto::link::quic::{ConnId, Event as QuicEvent, Limits, Profile, Quic, Read, Stream, Write};
use tallow_proto::link::{Identity, Trust};
use tallow_proto::misuse::Misuse;
use tallow_proto::net::{Action, Arrival, Bind, SocketId, Transmit};
use tallow_proto::node::{Input, Node};
use tallow_proto::transfer::Job;

const STREAMS: u64 = 4;
/// The sent bytes repeat after this many; a prime, so that no packet or buffer size hides a shift.
const PERIOD: usize = 65_521;

pub fn identity() -> Identity {
    let made = rcgen::generate_simple_self_signed(["relay.test".to_owned()]).unwrap();
    Identity { cert_chain: vec![made.cert.der().to_vec()], key: made.signing_key.serialize_der().into() }
}

/// The pattern twice, so that any piece of up to one period is one slice of it.
fn pattern() -> Bytes {
    let mut state = 1_u32;
    let once: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    })
    .take(PERIOD)
    .collect();
    [&once[..], &once].concat().into()
}

#[derive(Debug)]
pub enum Event {
    Bound(Result<SocketAddr, io::ErrorKind>),
    /// This many bytes arrived and were correct, or were acknowledged.
    Done(u64),
}

impl From<Misuse> for Event {
    fn from(misuse: Misuse) -> Self {
        panic!("{misuse}");
    }
}

pub struct Bulk {
    quic: Quic,
    /// The sender's destination; `None` for the receiver.
    to: Option<(SocketAddr, Trust)>,
    conn: Option<ConnId>,
    total: u64,
    /// Bytes that were sent or received on each stream.
    streams: BTreeMap<Stream, u64>,
    ended: usize,
    over: bool,
    pattern: Bytes,
    actions: VecDeque<Action>,
    events: VecDeque<Event>,
}

impl Bulk {
    pub fn sender(to: SocketAddr, identity: &Identity, total: u64, unix_time: Duration) -> Self {
        let quic = Quic::client(&Profile::peer(), unix_time, &crate::seed());
        let trust = Trust::Pin(identity.fingerprint());
        Self::new(quic, total, SocketAddr::new(to.ip(), 0), Some((to, trust)))
    }

    pub fn receiver(addr: SocketAddr, identity: &Identity, total: u64, unix_time: Duration) -> Self {
        let seed = crate::seed();
        let quic = Quic::server(&Profile::peer(), identity, Limits::default(), unix_time, &seed).unwrap();
        Self::new(quic, total, addr, None)
    }

    fn new(quic: Quic, total: u64, addr: SocketAddr, to: Option<(SocketAddr, Trust)>) -> Self {
        let bind =
            Action::Bind(SocketId(0), Bind { addr, dual_stack: true, share_port: false, group: None, slot: None });
        Self {
            quic,
            to,
            conn: None,
            total,
            streams: BTreeMap::new(),
            ended: 0,
            over: false,
            pattern: pattern(),
            actions: [bind].into(),
            events: VecDeque::new(),
        }
    }

    fn handle_quic(&mut self, now: Instant, conn: ConnId, event: QuicEvent) {
        match event {
            QuicEvent::Connected { .. } if self.to.is_some() => {
                for _ in 0..STREAMS {
                    let stream = self.quic.open_uni(conn).unwrap();
                    self.streams.insert(stream, 0);
                    self.write(conn, stream);
                }
            }
            QuicEvent::Connected { .. } | QuicEvent::Restarted { .. } | QuicEvent::Available(_) => {}
            QuicEvent::Opened(stream, _) => drop(self.streams.insert(stream, 0)),
            QuicEvent::Readable(stream) => self.read(conn, stream),
            QuicEvent::Writable(stream) => self.write(conn, stream),
            QuicEvent::Finished(_) => {
                self.ended += 1;
                if self.ended == self.streams.len() {
                    self.quic.close(now, conn, 0, "done");
                    self.finish();
                }
            }
            QuicEvent::Stopped(..) => panic!("stopped"),
            QuicEvent::Closed(closed) => {
                assert_eq!(self.ended as u64, STREAMS, "{closed}");
                self.finish();
            }
        }
    }

    fn finish(&mut self) {
        self.over = true;
        self.events.push_back(Event::Done(self.streams.values().sum()));
    }

    fn write(&mut self, conn: ConnId, stream: Stream) {
        let at = self.streams.get_mut(&stream).unwrap();
        let each = self.total / STREAMS;
        while *at < each {
            let start = (*at % PERIOD as u64) as usize;
            let len = (each - *at).min(PERIOD as u64) as usize;
            let mut piece = self.pattern.slice(start..start + len);
            let result = self.quic.write(conn, stream, &mut piece);
            *at += (len - piece.len()) as u64;
            match result {
                Write::Done => {}
                Write::Blocked => return,
                Write::Stopped(_) | Write::Gone => panic!("{result:?}"),
            }
        }
        self.quic.finish(conn, stream);
    }

    fn read(&mut self, conn: ConnId, stream: Stream) {
        let at = self.streams.get_mut(&stream).unwrap();
        let mut pieces = Vec::new();
        let (_, end) = self.quic.read_chunks(conn, stream, usize::MAX, &mut pieces);
        for piece in pieces {
            let start = (*at % PERIOD as u64) as usize;
            assert!(piece == self.pattern.slice(start..start + piece.len()), "byte for byte");
            *at += piece.len() as u64;
        }
        match end {
            Some(Read::End) => self.ended += 1,
            Some(Read::Blocked) => {}
            other => panic!("{other:?}"),
        }
    }
}

impl Node for Bulk {
    type Command = ();
    type Event = Event;

    fn handle_datagram(&mut self, now: Instant, arrival: Arrival, data: BytesMut) {
        self.quic.handle_datagram(now, &arrival, data);
    }

    fn handle_input(&mut self, now: Instant, input: Input) {
        match input {
            Input::Bound(_, result) => {
                if let Some((to, trust)) = self.to {
                    self.conn = Some(self.quic.connect(now, to, "relay.test", &trust).unwrap());
                }
                self.events.push_back(Event::Bound(result));
            }
            Input::HandleDropped => self.over = true,
            Input::Interfaces(_) | Input::Gateways(_) | Input::Slept(_) => {}
            other => panic!("nobody asked for {other:?}"),
        }
    }

    fn handle_command(&mut self, _: Instant, (): ()) -> Result<(), Misuse> {
        Err(Misuse::NoSuchCommand)
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.quic.handle_timeout(now);
    }

    fn settle(&mut self, now: Instant) {
        self.quic.settle(now);
        while let Some(incoming) = self.quic.poll_incoming() {
            self.conn = self.quic.accept(now, incoming);
        }
        while let Some((conn, event)) = self.quic.poll_event() {
            self.handle_quic(now, conn, event);
        }
    }

    fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    fn poll_transmit(
        &mut self,
        now: Instant,
        _: SocketId,
        max_segments: NonZeroUsize,
        buf: &mut Vec<u8>,
    ) -> Option<Transmit> {
        self.quic.poll_transmit(now, max_segments, buf)
    }

    fn poll_job(&mut self) -> Option<Job> {
        None
    }

    fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        self.quic.poll_timeout().map(|at| (at, "QUIC"))
    }

    fn is_closed(&self) -> bool {
        self.over && self.quic.is_flushed()
    }
}

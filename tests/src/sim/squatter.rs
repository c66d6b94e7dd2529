//! An attacker that connects to a port on which a peer expects another peer, as often as possible, and keeps its
//! connections.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tallow_proto::link::quic::{ConnId, Direction, Event, Profile, Quic, Stream};
use tallow_proto::link::trust::Trust;
use tallow_proto::misuse::Misuse;
use tallow_proto::net::{Action, Arrival, Bind, Dial, SocketId, TcpEvent, TcpId, Transmit};
use tallow_proto::node::{Input, Node};
use tallow_proto::seed::Seed;
use tallow_proto::transfer::job::Job;

use super::host::Observed;

const SOCKET: SocketId = SocketId(0);
/// The interval at which it tries to open another connection.
const EVERY: Duration = Duration::from_millis(5);
/// The bytes that it writes to each stream.
const FILL: usize = 4 << 20;

/// The use of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Squat {
    /// It opens the first stream, sends one byte, and is silent.
    Silent,
    /// It opens no first stream, and fills all others, which the peer does not read.
    Fills,
    /// A TCP connection on which nothing is sent.
    Tcp,
}

/// An attacker that keeps connections open.
pub struct Squatter {
    target: SocketAddr,
    squat: Squat,
    most: usize,
    seed: Seed,
    actions: VecDeque<Action>,
    quic: Option<Quic>,
    conns: Vec<(ConnId, Vec<(Stream, Bytes)>)>,
    tcp_connections: Vec<TcpId>,
    dialled: u32,
    next: Option<Instant>,
    said: VecDeque<String>,
    junk: [u8; 64],
}

impl Squatter {
    /// Tries to hold this many connections at a time.
    #[must_use]
    pub fn new(target: SocketAddr, squat: Squat, most: usize, seed: Seed) -> Box<Self> {
        let bind =
            Bind { addr: ([0, 0, 0, 0], 0).into(), dual_stack: true, share_port: false, group: None, slot: None };
        Box::new(Self {
            target,
            squat,
            most,
            seed,
            actions: VecDeque::from([Action::Bind(SOCKET, bind)]),
            quic: None,
            conns: Vec::new(),
            tcp_connections: Vec::new(),
            dialled: 0,
            next: None,
            said: VecDeque::new(),
            junk: [0; 64],
        })
    }

    fn dial(&mut self, now: Instant) {
        self.next = Some(now + EVERY);
        if self.squat == Squat::Tcp {
            while self.tcp_connections.len() < self.most {
                self.dialled += 1;
                self.tcp_connections.push(TcpId(self.dialled));
                self.actions.push_back(Action::Dial(TcpId(self.dialled), Dial::from(self.target)));
            }
            return;
        }
        let Some(quic) = &mut self.quic else { return };
        // A connection that is not answered at once is replaced, because its own timer would be too late.
        while self.conns.len() >= self.most && self.conns.first().is_some_and(|(_, streams)| streams.is_empty()) {
            let (conn, _) = self.conns.remove(0);
            quic.close(now, conn, 0, "again");
        }
        if self.conns.len() < self.most {
            let conn = quic.connect(now, self.target, "tallow", &Trust::Any).expect("an address");
            self.conns.push((conn, Vec::new()));
        }
    }

    fn take(&mut self, conn: ConnId) {
        let (Some(quic), Some((_, streams))) = (&mut self.quic, self.conns.iter_mut().find(|(it, _)| *it == conn))
        else {
            return;
        };
        match self.squat {
            Squat::Silent => streams.extend(quic.open_bi(conn).map(|stream| (stream, Bytes::from_static(&[0])))),
            Squat::Fills => {
                while let Some(stream) = quic.open_uni(conn) {
                    streams.push((stream, vec![0x55; FILL].into()));
                }
            }
            Squat::Tcp => {}
        }
        self.said.push_back("connected".to_owned());
    }
}

impl Node for Squatter {
    type Command = Infallible;
    type Event = Observed;

    fn handle_datagram(&mut self, now: Instant, arrival: Arrival, data: BytesMut) {
        if let Some(quic) = &mut self.quic {
            quic.handle_datagram(now, &arrival, data);
        }
    }

    fn handle_tcp(&mut self, _now: Instant, tcp: TcpId, event: TcpEvent) {
        match event {
            TcpEvent::Up => self.said.push_back("connected".to_owned()),
            TcpEvent::Eof | TcpEvent::Failed(_) => self.tcp_connections.retain(|it| *it != tcp),
            _ => {}
        }
    }

    fn pipe_buffer(&mut self, _pipe: TcpId) -> &mut [u8] {
        &mut self.junk
    }

    fn handle_input(&mut self, now: Instant, input: Input) {
        if let Input::Bound(_, result) = input {
            result.expect("a port");
            let unix_time = Duration::from_secs(1_800_000_000);
            self.quic = Some(Quic::client(&Profile::peer(), unix_time, &self.seed.split()));
            self.dial(now);
        }
    }

    fn handle_command(&mut self, _now: Instant, command: Infallible) -> Result<(), Misuse> {
        match command {}
    }

    fn handle_timeout(&mut self, now: Instant) {
        if let Some(quic) = &mut self.quic {
            quic.handle_timeout(now);
        }
        if self.next.is_some_and(|at| at <= now) {
            self.dial(now);
        }
    }

    fn settle(&mut self, now: Instant) {
        if let Some(quic) = &mut self.quic {
            quic.settle(now);
        }
        while let Some((conn, event)) = self.quic.as_mut().and_then(Quic::poll_event) {
            match event {
                Event::Connected { .. } => self.take(conn),
                Event::Closed(_) => self.conns.retain(|(it, _)| *it != conn),
                Event::Opened(_, Direction::Bi | Direction::Uni)
                | Event::Restarted { .. }
                | Event::Readable(_)
                | Event::Available(_)
                | Event::Writable(_)
                | Event::Finished(_)
                | Event::Stopped(..) => {}
            }
        }
        let Some(quic) = &mut self.quic else { return };
        for (conn, streams) in &mut self.conns {
            for (stream, rest) in streams.iter_mut().filter(|(_, rest)| !rest.is_empty()) {
                let _ = quic.write(*conn, *stream, rest);
            }
        }
        quic.settle(now);
    }

    fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    fn poll_transmit(
        &mut self,
        now: Instant,
        _socket: SocketId,
        max_segments: NonZeroUsize,
        buf: &mut Vec<u8>,
    ) -> Option<Transmit> {
        self.quic.as_mut()?.poll_transmit(now, max_segments, buf)
    }

    fn poll_job(&mut self) -> Option<Job> {
        None
    }

    fn poll_event(&mut self) -> Option<Observed> {
        self.said.pop_front().map(Observed::Text)
    }

    fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let quic = self.quic.as_ref().and_then(Quic::poll_timeout).map(|at| (at, "quic"));
        quic.into_iter().chain(self.next.map(|at| (at, "dial"))).min()
    }

    fn is_closed(&self) -> bool {
        false
    }
}

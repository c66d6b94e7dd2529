//! A node with TCP connections: a server that echoes bytes, and a client that sends bytes and expects them back.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::time::Instant;

use bytes::BytesMut;
use tallow_proto::misuse::Misuse;
use tallow_proto::net::{Action, Arrival, Dial, Interface, Listen, ListenerId, SocketId, TcpEvent, TcpId, Transmit};
use tallow_proto::node::{Input, Node};
use tallow_proto::transfer::Job;

/// The largest number of bytes that a connection of the server buffers.
const HELD: usize = 64 << 10;
/// The pattern has no short period, so that lost, repeated or swapped pieces are detected.
const PERIOD: u64 = 65_521;

fn pattern(at: u64) -> u8 {
    let at = at % PERIOD;
    (at ^ (at >> 8)) as u8
}

#[derive(Debug)]
pub enum Command {
    /// Sends this many bytes, finishes, and reads to the end.
    Echo { to: SocketAddr, total: u64 },
    /// Connects and does nothing else.
    Hold { to: SocketAddr },
    /// Aborts all TCP connections.
    AbortAll,
    /// Closes the listener.
    Unlisten,
}

#[derive(Debug, PartialEq)]
pub enum Event {
    Listening(Result<SocketAddr, io::ErrorKind>),
    /// The client is connected. [`Event::Echoed`]: the server has ended the connection after this many bytes.
    /// [`Event::Failed`]: the connection failed.
    Up(TcpId),
    Echoed {
        bytes: u64,
        calls: u64,
    },
    Failed(TcpId, io::ErrorKind),
    /// The number of connections that the server accepted.
    Accepted(usize),
    ServerLost(io::ErrorKind),
    Interfaces(Vec<Interface>),
}

impl From<Misuse> for Event {
    fn from(misuse: Misuse) -> Self {
        panic!("{misuse}");
    }
}

enum TcpConnection {
    Client {
        total: u64,
        sent: u64,
        got: u64,
        calls: u64,
        buffer: Vec<u8>,
        finish: bool,
    },
    /// `held` is a ring buffer, filled up to `filled` and written up to `written`; both are counted from the start.
    Server {
        held: Vec<u8>,
        filled: usize,
        written: usize,
        ended: bool,
    },
}

pub struct TcpConnections {
    actions: VecDeque<Action>,
    events: VecDeque<Event>,
    tcp_connections: BTreeMap<TcpId, TcpConnection>,
    touched: VecDeque<TcpId>,
    next: u32,
    reports_interfaces: bool,
    closed: bool,
    pattern: Vec<u8>,
}

impl TcpConnections {
    pub fn client() -> Self {
        Self {
            actions: VecDeque::new(),
            events: VecDeque::new(),
            tcp_connections: BTreeMap::new(),
            touched: VecDeque::new(),
            next: 0,
            reports_interfaces: false,
            closed: false,
            pattern: (0..PERIOD + (256 << 10)).map(pattern).collect(),
        }
    }

    pub fn server(addr: SocketAddr) -> Self {
        let mut server = Self::client();
        server.actions.push_back(Action::Listen(ListenerId(0), Listen::from(addr)));
        server
    }

    pub fn curious() -> Self {
        Self { reports_interfaces: true, ..Self::client() }
    }

    fn add(&mut self, tcp: TcpConnection) -> TcpId {
        let id = TcpId(self.next);
        self.next += 1;
        self.tcp_connections.insert(id, tcp);
        id
    }

    fn dial(&mut self, to: SocketAddr, total: u64, finish: bool) {
        let id = self.add(TcpConnection::Client { total, sent: 0, got: 0, calls: 0, buffer: vec![0; HELD], finish });
        self.actions.push_back(Action::Dial(id, Dial::from(to)));
    }
}

impl Node for TcpConnections {
    type Command = Command;
    type Event = Event;

    fn handle_datagram(&mut self, _: Instant, _: Arrival, _: BytesMut) {}

    fn handle_input(&mut self, _: Instant, input: Input) {
        match input {
            Input::Listening(_, result) => self.events.push_back(Event::Listening(result)),
            Input::Interfaces(interfaces) if self.reports_interfaces => {
                self.events.push_back(Event::Interfaces(interfaces));
            }
            Input::HandleDropped => self.closed = true,
            Input::Interfaces(_) | Input::Gateways(_) | Input::Slept(_) => {}
            other => panic!("nobody asked for {other:?}"),
        }
    }

    fn handle_command(&mut self, _: Instant, command: Command) -> Result<(), Misuse> {
        match command {
            Command::Echo { to, total } => self.dial(to, total, true),
            Command::Hold { to } => self.dial(to, 0, false),
            Command::AbortAll => {
                self.actions.extend(std::mem::take(&mut self.tcp_connections).into_keys().map(Action::Abort));
            }
            Command::Unlisten => self.actions.push_back(Action::Unlisten(ListenerId(0))),
        }
        Ok(())
    }

    fn handle_tcp(&mut self, _: Instant, id: TcpId, event: TcpEvent) {
        let Some(tcp) = self.tcp_connections.get_mut(&id) else { return };
        match (tcp, event) {
            (TcpConnection::Client { finish, total, .. }, TcpEvent::Up) => {
                self.events.push_back(Event::Up(id));
                if *finish && *total == 0 {
                    self.actions.push_back(Action::Finish(id));
                }
            }
            (TcpConnection::Client { got, calls, buffer, .. }, TcpEvent::Filled(count)) => {
                let from = (*got % PERIOD) as usize;
                assert!(buffer[..count] == self.pattern[from..from + count], "damaged at {got}");
                *got += count as u64;
                *calls += 1;
            }
            (TcpConnection::Client { total, sent, calls, finish, .. }, TcpEvent::Wrote(count)) => {
                *sent += count as u64;
                *calls += 1;
                if sent == total && *finish {
                    self.actions.push_back(Action::Finish(id));
                }
            }
            (TcpConnection::Client { got, calls, .. }, TcpEvent::Eof) => {
                self.events.push_back(Event::Echoed { bytes: *got, calls: *calls });
                self.tcp_connections.remove(&id);
            }
            (TcpConnection::Client { .. }, TcpEvent::Failed(kind)) => {
                self.events.push_back(Event::Failed(id, kind));
                self.tcp_connections.remove(&id);
            }
            (TcpConnection::Server { filled, .. }, TcpEvent::Filled(count)) => {
                *filled += count;
                self.touched.push_back(id);
            }
            (TcpConnection::Server { filled, written, ended, .. }, TcpEvent::Wrote(count)) => {
                // The ring buffer, which was full, has room again.
                self.touched.push_back(id);
                *written += count;
                if *ended && filled == written {
                    self.actions.push_back(Action::Finish(id));
                    self.tcp_connections.remove(&id);
                }
            }
            (TcpConnection::Server { filled, written, ended, .. }, TcpEvent::Eof) => {
                *ended = true;
                if filled == written {
                    self.actions.push_back(Action::Finish(id));
                    self.tcp_connections.remove(&id);
                }
            }
            (TcpConnection::Server { .. }, TcpEvent::Failed(kind)) => {
                self.events.push_back(Event::ServerLost(kind));
                self.tcp_connections.remove(&id);
            }
            (TcpConnection::Server { .. }, TcpEvent::Up) => panic!("up from the start"),
            (_, other) => unreachable!("{other:?}"),
        }
    }

    fn handle_accept(&mut self, _: Instant, _: ListenerId, from: SocketAddr) -> Option<TcpId> {
        assert!(from.ip().is_loopback());
        let id = self.add(TcpConnection::Server { held: vec![0; HELD], filled: 0, written: 0, ended: false });
        self.events.push_back(Event::Accepted(self.tcp_connections.len()));
        Some(id)
    }

    fn handle_timeout(&mut self, _: Instant) {}

    fn settle(&mut self, _: Instant) {}

    fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    fn poll_transmit(&mut self, _: Instant, _: SocketId, _: NonZeroUsize, _: &mut Vec<u8>) -> Option<Transmit> {
        None
    }

    fn poll_tcp(&mut self) -> Option<TcpId> {
        self.touched.pop_front()
    }

    fn pipe_buffer(&mut self, tcp: TcpId) -> &mut [u8] {
        match self.tcp_connections.get_mut(&tcp) {
            Some(TcpConnection::Client { buffer, .. }) => buffer,
            Some(TcpConnection::Server { held, filled, written, .. }) => {
                let from = *filled % HELD;
                let room = (HELD - (*filled - *written)).min(HELD - from);
                &mut held[from..from + room]
            }
            None => &mut [],
        }
    }

    fn pipe_output<'a>(&'a self, tcp: TcpId, slices: &mut [IoSlice<'a>]) -> usize {
        match self.tcp_connections.get(&tcp) {
            Some(TcpConnection::Client { total, sent, .. }) => {
                let from = (sent % PERIOD) as usize;
                let len = (total - sent).min(256 << 10) as usize;
                slices[0] = IoSlice::new(&self.pattern[from..from + len]);
                usize::from(len > 0)
            }
            Some(TcpConnection::Server { held, filled, written, .. }) => {
                let (from, len) = (written % HELD, filled - written);
                let first = len.min(HELD - from);
                slices[0] = IoSlice::new(&held[from..from + first]);
                slices[1] = IoSlice::new(&held[..len - first]);
                usize::from(first > 0) + usize::from(len > first)
            }
            None => 0,
        }
    }

    fn poll_job(&mut self) -> Option<Job> {
        None
    }

    fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        None
    }

    fn is_closed(&self) -> bool {
        self.closed
    }
}

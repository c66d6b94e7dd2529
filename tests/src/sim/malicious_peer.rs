//! A malicious peer that knows the code: the real handshake and the real session, with a script in the place of the
//! transfer.
//!
//! Its messages are sealed correctly, so that they reach the transfer machine of the peer, which no relay can do.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tallow_proto::code::Code;
use tallow_proto::handshake::{self, Handshake, Secret};
use tallow_proto::link::quic::{ConnId, Event, Profile, Quic, Read, Stream, Write};
use tallow_proto::link::trust::Trust;
use tallow_proto::misuse::Misuse;
use tallow_proto::net::{Action, Arrival, Bind, SocketId, Transmit};
use tallow_proto::node::{Input, Node};
use tallow_proto::seed::Seed;
use tallow_proto::session::{self, LinkId, Origin, Prepared, Session, StreamNo};
use tallow_proto::transfer::job::Job;
use tallow_proto::wire::frame::enclose;
use tallow_proto::wire::peer::Control;
use tallow_proto::wire::relay::{ClientMessage, Owner, RelayMessage, Role};
use tallow_proto::wire::{Caps, Decoder, Features, Hello, decode, encode};

use super::host::Observed;

const SOCKET: SocketId = SocketId(0);
const LINK: LinkId = LinkId(0);

/// The input of a script.
#[derive(Debug)]
pub enum Received {
    /// The relay paired it with the peer, which has proven nothing yet.
    Paired,
    /// The session has keys.
    Keyed,
    /// A control message of the peer.
    Control(Control),
    /// The length of a chunk of the peer.
    Chunk(usize),
}

/// The output of a script.
#[derive(Debug, Default)]
pub struct ScriptOutput {
    out: VecDeque<OutgoingItem>,
}

#[derive(Debug)]
enum OutgoingItem {
    Control(Control),
    Chunk(Prepared),
    Raw(Bytes),
    Pause(Duration),
}

impl ScriptOutput {
    /// A control message, in order.
    pub fn say(&mut self, control: Control) {
        self.out.push_back(OutgoingItem::Control(control));
    }

    /// The plaintext of a chunk record.
    pub fn chunk(&mut self, header: &[u8], contents: &[u8]) {
        let mut chunk = Prepared::with_capacity(header.len() + contents.len());
        chunk.extend_from_slice(header);
        chunk.extend_from_slice(contents);
        self.out.push_back(OutgoingItem::Chunk(chunk));
    }

    /// Sends these bytes unsealed on the first stream.
    pub fn raw(&mut self, bytes: Bytes) {
        self.out.push_back(OutgoingItem::Raw(bytes));
    }

    /// Sends nothing for this time.
    pub fn pause(&mut self, time: Duration) {
        self.out.push_back(OutgoingItem::Pause(time));
    }
}

/// A script.
pub type Script = Box<dyn FnMut(Received, &mut ScriptOutput) + Send>;

enum Stage {
    Dialing,
    Asking,
    Shaking(Box<Handshake>),
    Live(Box<Session>),
    Over,
}

/// A peer that runs a script.
pub struct MaliciousPeer {
    role: Role,
    code: Code,
    relay: SocketAddr,
    seed: Seed,
    actions: VecDeque<Action>,
    quic: Option<Quic>,
    conn: Option<ConnId>,
    main: Option<Stream>,
    decoder: Decoder,
    stage: Stage,
    script: Script,
    output: ScriptOutput,
    out: VecDeque<Bytes>,
    retry: Option<Instant>,
    silent: Option<Instant>,
    said: VecDeque<String>,
}

impl MaliciousPeer {
    /// Creates a peer that joins the room of the code at this relay.
    #[must_use]
    pub fn new(role: Role, code: Code, relay: SocketAddr, script: Script, seed: Seed) -> Box<Self> {
        let bind =
            Bind { addr: ([0, 0, 0, 0], 0).into(), dual_stack: true, share_port: false, group: None, slot: None };
        Box::new(Self {
            role,
            code,
            relay,
            seed,
            actions: VecDeque::from([Action::Bind(SOCKET, bind)]),
            quic: None,
            conn: None,
            main: None,
            decoder: Decoder::new(Caps::Greeting),
            stage: Stage::Dialing,
            script,
            output: ScriptOutput::default(),
            out: VecDeque::new(),
            retry: None,
            silent: None,
            said: VecDeque::new(),
        })
    }

    fn join(&self) -> ClientMessage {
        let room = self.code.nameplate().room_id();
        ClientMessage::Join { room, role: self.role, owner: Owner([self.role as u8 + 1; 16]), again: false }
    }

    fn tell(&mut self, message: &ClientMessage) {
        self.out.push_back(enclose(&encode(message)));
    }

    fn step(&mut self, now: Instant) -> bool {
        let (Some(quic), Some(conn), Some(main)) = (&mut self.quic, self.conn, self.main) else { return false };
        while let Read::Data(bytes) = quic.read(conn, main, 1 << 20) {
            self.decoder.push(bytes);
        }
        match &mut self.stage {
            Stage::Dialing | Stage::Over => false,
            Stage::Asking => {
                let Ok(Some(frame)) = self.decoder.next_frame() else { return false };
                match decode(&frame.into_bytes()).expect("a message of a relay") {
                    RelayMessage::Paired { .. } => {
                        let config = handshake::Config {
                            role: self.role,
                            features: Features::default(),
                            room: self.code.nameplate().room_id(),
                            secret: Secret::Code(self.code.password().clone()),
                        };
                        self.stage = Stage::Shaking(Box::new(Handshake::new(config, now, self.seed.split())));
                        (self.script)(Received::Paired, &mut self.output);
                        while let Some(OutgoingItem::Raw(bytes)) =
                            self.output.out.pop_front_if(|said| matches!(said, OutgoingItem::Raw(_)))
                        {
                            self.out.push_back(bytes);
                        }
                    }
                    RelayMessage::Refused { .. } => self.retry = Some(now + Duration::from_millis(300)),
                    RelayMessage::Hello { .. }
                    | RelayMessage::Allocated { .. }
                    | RelayMessage::Waiting
                    | RelayMessage::Pong
                    | RelayMessage::Redirect { .. } => {}
                }
                true
            }
            Stage::Shaking(handshake) => {
                match handshake.poll_output() {
                    Some(handshake::Output::Send(body)) => self.out.push_back(enclose(&body)),
                    Some(handshake::Output::Keyed(keys)) => {
                        self.decoder.set_caps(Caps::Records);
                        let mut session = Session::new(session::Config::new(self.role), &keys, self.seed.split());
                        session.handle_link_up(now, LINK, 0, Origin::Handshake);
                        self.stage = Stage::Live(Box::new(session));
                        (self.script)(Received::Keyed, &mut self.output);
                    }
                    Some(handshake::Output::Failed(failure)) => {
                        self.said.push_back(failure.to_string());
                        self.stage = Stage::Over;
                    }
                    None => match self.decoder.next_frame() {
                        Ok(Some(frame)) => handshake.handle_frame(now, frame.into_bytes()),
                        Ok(None) | Err(_) => return false,
                    },
                }
                true
            }
            Stage::Live(session) => {
                let mut moved = false;
                while let Ok(Some(frame)) = self.decoder.next_frame() {
                    session.handle_record(now, LINK, StreamNo(0), frame);
                    moved = true;
                }
                while let Some(event) = session.poll_event() {
                    moved = true;
                    match event {
                        session::Event::Control(control) => (self.script)(Received::Control(control), &mut self.output),
                        session::Event::Chunk(chunk) => (self.script)(Received::Chunk(chunk.len()), &mut self.output),
                        session::Event::LinkUsable(_) | session::Event::ControlMoved(_) => {}
                        session::Event::LinkDead { .. } | session::Event::Failed(_) => {
                            self.stage = Stage::Over;
                            return true;
                        }
                    }
                }
                while self.out.len() < 8 {
                    if let Some(frame) = session.poll_control_record(now, LINK) {
                        self.out.push_back(frame);
                        moved = true;
                        continue;
                    }
                    if self.silent.is_some() {
                        break;
                    }
                    match self.output.out.pop_front() {
                        Some(OutgoingItem::Control(control)) => {
                            if session.can_send_control() {
                                session.send_control(control).expect("there is room");
                            } else {
                                self.output.out.push_front(OutgoingItem::Control(control));
                                break;
                            }
                        }
                        Some(OutgoingItem::Chunk(chunk)) => {
                            let frame = session.seal_chunk(now, LINK, StreamNo(0), chunk).expect("it fits");
                            self.out.push_back(frame);
                        }
                        Some(OutgoingItem::Raw(bytes)) => self.out.push_back(bytes),
                        Some(OutgoingItem::Pause(time)) => self.silent = Some(now + time),
                        None => break,
                    }
                    moved = true;
                }
                moved
            }
        }
    }

    fn flush(&mut self) -> bool {
        let (Some(quic), Some(conn), Some(main)) = (&mut self.quic, self.conn, self.main) else { return false };
        let mut moved = false;
        while let Some(front) = self.out.front_mut() {
            match quic.write(conn, main, front) {
                Write::Done => drop(self.out.pop_front()),
                Write::Blocked => return moved,
                Write::Stopped(_) | Write::Gone => self.out.clear(),
            }
            moved = true;
        }
        moved
    }
}

impl Node for MaliciousPeer {
    type Command = Infallible;
    type Event = Observed;

    fn handle_datagram(&mut self, now: Instant, arrival: Arrival, data: BytesMut) {
        if let Some(quic) = &mut self.quic {
            quic.handle_datagram(now, &arrival, data);
        }
    }

    fn handle_input(&mut self, now: Instant, input: Input) {
        if let Input::Bound(_, result) = input {
            result.expect("a port");
            let unix_time = Duration::from_secs(1_800_000_000);
            let mut quic = Quic::client(&Profile::peer(), unix_time, &self.seed.split());
            self.conn = Some(quic.connect(now, self.relay, "tallow", &Trust::Any).expect("an address"));
            self.quic = Some(quic);
        }
    }

    fn handle_command(&mut self, _now: Instant, command: Infallible) -> Result<(), Misuse> {
        match command {}
    }

    fn handle_timeout(&mut self, now: Instant) {
        if let Some(quic) = &mut self.quic {
            quic.handle_timeout(now);
        }
        match &mut self.stage {
            Stage::Shaking(handshake) if handshake.poll_timeout().is_some_and(|at| at <= now) => {
                self.stage = Stage::Over;
            }
            Stage::Live(session) => session.handle_timeout(now),
            Stage::Dialing | Stage::Asking | Stage::Shaking(_) | Stage::Over => {}
        }
        if self.retry.is_some_and(|at| at <= now) {
            self.retry = None;
            let join = self.join();
            self.tell(&join);
        }
        self.silent = self.silent.filter(|until| *until > now);
    }

    fn settle(&mut self, now: Instant) {
        loop {
            let Some(quic) = &mut self.quic else { return };
            quic.settle(now);
            let mut moved = false;
            while let Some((conn, event)) = self.quic.as_mut().and_then(Quic::poll_event) {
                match event {
                    Event::Connected { .. } => {
                        self.main = self.quic.as_mut().and_then(|quic| quic.open_bi(conn));
                        self.stage = Stage::Asking;
                        self.tell(&ClientMessage::Hello(Hello::new(Features::default())));
                        let join = self.join();
                        self.tell(&join);
                    }
                    Event::Closed(_) => {
                        self.stage = Stage::Over;
                        self.said.push_back("closed".to_owned());
                    }
                    Event::Restarted { .. }
                    | Event::Opened(..)
                    | Event::Readable(_)
                    | Event::Available(_)
                    | Event::Writable(_)
                    | Event::Finished(_)
                    | Event::Stopped(..) => {}
                }
                moved = true;
            }
            moved |= self.step(now);
            moved |= self.flush();
            if !moved {
                return;
            }
        }
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
        let stage = match &self.stage {
            Stage::Shaking(handshake) => handshake.poll_timeout().map(|at| (at, "handshake")),
            Stage::Live(session) => session.poll_timeout(),
            Stage::Dialing | Stage::Asking | Stage::Over => None,
        };
        let quic = self.quic.as_ref().and_then(Quic::poll_timeout).map(|at| (at, "quic"));
        let own = [self.retry.map(|at| (at, "retry")), self.silent.map(|at| (at, "silence"))];
        [stage, quic].into_iter().chain(own).flatten().min()
    }

    fn is_closed(&self) -> bool {
        false
    }
}

//! The relay inside a sender: it serves the sender's own room and nobody else's, and hands the link that reaches it straight to
//! the session.
//!
//! ```text
//! Binding ──► Listening ──(a guest joins our room)──► the guest's link is handed over
//! ```
//! It decides who gets in: at most [`MAX_GUESTS`] connections at once, each with the greeting's deadline, and only a receiver that
//! names our room while nobody else is being talked to. Everybody else hears that nobody waits.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use rand_core::Rng;

use super::config::Embedded;
use super::event::{Event, Failure, Lost, WaitingFor};
use super::meeting::{Found, Met};
use super::net::{Conn, LISTENER, Net};
use super::peer_link::PeerLink;
use crate::Instant;
use crate::link::quic::{self, Direction, Limits, Profile, Quic, Read, Stream, Write};
use crate::room::greeting::{Greeting, Output, Request};
use crate::seed::Seed;
use crate::wire::frame::enclose;
use crate::wire::relay::{RefusalReason, RelayMessage, RoomId, Side};
use crate::wire::{self, Caps, Decoder};

/// Connections at once.
const MAX_GUESTS: usize = 16;
/// Streams beside the first that each side may open.
const STREAMS: u8 = 16;

/// See the module's text.
pub struct Host {
    embedded: Embedded,
    unix_time: Duration,
    seed: Seed,
    interfaces: Vec<IpAddr>,
    /// Index of the address that is being bound.
    trying: usize,
    bound: Option<SocketAddr>,
    room: Option<RoomId>,
    guests: BTreeMap<Conn, Guest>,
    out: VecDeque<Met>,
}

struct Guest {
    stream: Option<Stream>,
    decoder: Decoder,
    greeting: Greeting,
    waiting: VecDeque<Bytes>,
}

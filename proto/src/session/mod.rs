//! The keyed conversation of two peers: sealed records over links that come and go.
//!
//! [`Session`] owns the links, the lanes and the control sequence; it does not know what it carries. Chunk records pass
//! through it with only their header judged ([`SealedChunk`]), because opening them is a job. That job's answer comes to the session
//! first ([`Session::handle_verdict`]), and then goes on to the owner of its content.

mod aead;
mod lanes;
mod link;
mod machine;
mod record;
mod reliable;

pub use lanes::{HEARD_BYTES, LANE_STALL, Limits};
pub use link::{
    BIND_BYTES, BIND_RECORDS, BIND_TIME, DIRECT_KEEP_ALIVE, DIRECT_SILENCE, KEEP_ALIVE, MAX_STREAMS, Origin, Pace,
    SILENCE,
};
pub use machine::{Config, Event, LinkEnd, MAX_LINKS, Session};
pub use record::{BadRecord, HEADER, OpenedRecord, Prepared, SealedChunk, TAG, Verdict};
pub use reliable::{LOOSE, WAITING};

use crate::wire::peer::Control;

/// One reliable way to the peer, as the session knows it. The owner makes the ids and never uses one again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LinkId(pub u32);

/// A stream of a link. 0 is the first one, bidirectional: control, and chunks too when there are no others. From 1 on they
/// are unidirectional; what this side opens and what the peer opens are numbered separately.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct StreamNo(pub u8);

impl StreamNo {
    /// The first stream.
    pub const CONTROL: Self = Self(0);
}

/// A control message that was not taken. It comes back unchanged.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsent {
    /// As many as allowed wait: see [`Session::can_send_control`].
    #[error("too many messages wait")]
    Full(Control),
    /// `Sync`, `KeepAlive` and `Bind` are sent by the session itself.
    #[error("the session sends this message itself")]
    SessionOwned(Control),
}

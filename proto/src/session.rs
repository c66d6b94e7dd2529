//! The encrypted session of two peers: it exchanges sealed records over a changing set of links.
//!
//! [`Session`] owns the links, the lanes and the control sequence; it does not interpret the transfer's messages. It
//! checks only the header of a chunk record ([`SealedChunk`]), because a job decrypts the record later. The session
//! gets the job's verdict first ([`Session::handle_verdict`]); then the owner of the contents gets the result.

mod aead;
mod lanes;
mod link;
mod machine;
mod record;
mod reliable;

pub use lanes::Limits;
pub use link::{Origin, Pace, SILENCE};
pub use machine::{Config, Event, LinkEnd, Session};
pub use record::{OpenedRecord, Prepared, SealedChunk, Verdict};
#[cfg(feature = "internals")]
pub use reliable::WAITING;

use crate::wire::peer::Control;

/// The id of a link, which is one reliable connection to the peer. The owner of the session assigns ids and never
/// reuses one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LinkId(pub u32);

/// The number of a stream within a link. Stream 0 is bidirectional and transports control records, and also chunk
/// records if the link has no other stream. The streams from 1 on are unidirectional; each peer numbers those that it
/// opens.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct StreamNo(pub u8);

impl StreamNo {
    /// The bidirectional stream.
    pub const CONTROL: Self = Self(0);
}

/// A control message that the session did not accept. The caller gets it back unchanged.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsent {
    /// The send queue is full: see [`Session::can_send_control`].
    #[error("too many messages wait")]
    Full(Control),
    /// Only the session itself sends `Sync`, `KeepAlive` and `Bind`.
    #[error("the session sends this message itself")]
    SessionOwned(Control),
}

//! Application codes with which a link between client and relay is closed: by QUIC as they are, by a WebSocket as 4000 plus the code
//! (0 as 1000). TLS has no word for them: its end means [`DONE`] to the relay.

/// Client: all is done. A sender's seat and its nameplate are free for others, as after `Leave`.
pub const DONE: u32 = 0;
/// Client: this link is over, the seat may be taken again by its owner.
pub const ENDED: u32 = 1;
/// The other peer closed its link.
pub const PEER_LEFT: u32 = 2;
/// The other peer's link was lost.
pub const PEER_LOST: u32 = 3;
/// Nothing moved for too long.
pub const IDLE: u32 = 4;
/// The owner of this seat, or of the other one, took it on another link.
pub const REPLACED: u32 = 5;
/// The client broke a rule.
pub const VIOLATION: u32 = 6;
/// The client was refused, and told why before, where there was a way.
pub const REFUSED: u32 = 7;
/// The relay is going down.
pub const SHUTTING_DOWN: u32 = 8;
/// The client took too long to say what it wants.
pub const TOO_SLOW: u32 = 9;

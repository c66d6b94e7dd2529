//! Application close codes of a link between client and relay. QUIC carries them unchanged; a WebSocket carries 4000
//! plus the code (1000 for code 0). TLS cannot carry a code: the relay treats the end of TLS as [`DONE`].
//! Two peers use [`DONE`] and [`ENDED`] on the links between them, too.

/// The client is done. The relay frees a sender's seat and its nameplate, as after `Leave`.
pub const DONE: u32 = 0;
/// The client ended this link; the owner of the seat may take it again.
pub const ENDED: u32 = 1;
/// The other peer closed its link.
pub const PEER_LEFT: u32 = 2;
/// The other peer's link was lost.
pub const PEER_LOST: u32 = 3;
/// The link was idle for too long.
pub const IDLE: u32 = 4;
/// The owner of this seat, or of the other one, has taken it on another link.
pub const REPLACED: u32 = 5;
/// The client broke a rule of the protocol.
pub const VIOLATION: u32 = 6;
/// The relay refused the client; if possible, it has sent the reason before.
pub const REFUSED: u32 = 7;
/// The relay is shutting down.
pub const SHUTTING_DOWN: u32 = 8;
/// The client did not send its request in time.
pub const TOO_SLOW: u32 = 9;

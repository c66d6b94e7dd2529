//! The items of `tallow-proto` and of this crate that an application needs. Each adapter re-exports all of them, so
//! that an application depends on one crate only, and the names are the same on every runtime.

#[cfg(feature = "files")]
pub use crate::{directory, files};
pub use crate::{machine, receiving, sending, this_machine};
pub use tallow_proto::code::{Code, Link};
pub use tallow_proto::drive::Handle;
pub use tallow_proto::memory;
pub use tallow_proto::misuse::Misuse;
pub use tallow_proto::peer::{
    CancelReason, Class, CodeChoice, Common, Comparison, ConfigError, DeclineReason, DirectPath, Embedded, Event,
    Failure, Fallback, Invitation, Lost, Machine, Offer, Path, PathKind, PathTransport, Payload, Progress,
    ReceiveConfig, Receiver, RefusalReason, RelayAddress, RelayChoice, RelayFailure, SendConfig, Sender, StreamOffer,
    Summary, WaitingFor,
};
pub use tallow_proto::transfer::Compression;
pub use tallow_proto::transfer::storage::{Fault, FaultKind, Sink, Source, StreamSink, StreamSource};

//! What tallow keeps and reads on disk: the only code that opens files of a transfer.
//!
//! - [`source`]: what is sent. [`SourceTree`] implements [`tallow_proto::transfer::storage::Source`] on files and
//!   directories.
//! - [`destination`]: where it goes. [`Destination`] makes a [`Receiving`], which implements
//!   [`tallow_proto::transfer::storage::Sink`]: everything is staged beside its final place and renamed once it is
//!   whole.
//! - [`partial`]: what transfers left that ended unfinished.
//! - [`stream`]: standard input and output, as streams.
//! - [`beneath`]: directories by their handles, so that no name and no race leads out of them.
//! - [`state`], [`known_relays`], [`relay_transports`], [`identity`]: what a program keeps between runs.
//!
//! Nothing here reads the environment, but for [`state::default_dir`].

mod back;
pub mod beneath;
mod descriptors;
pub mod destination;
mod fault;
pub mod identity;
pub mod known_relays;
mod named_lines;
pub mod partial;
mod place;
mod plan;
pub mod relay_transports;
mod sink;
pub mod source;
mod staging;
pub mod state;
pub mod stream;
mod sweep;
mod walk;

pub use destination::{Destination, OnExists, Policy};
pub use identity::{ephemeral, from_pem, load_or_create};
pub use known_relays::KnownRelays;
pub use plan::Renamed;
pub use relay_transports::RelayTransports;
pub use sink::Receiving;
pub use source::{SkipReason, Skipped, SourceError, SourceOptions, SourceTree};
pub use state::StoreError;
pub use stream::{StreamIn, StreamOut};

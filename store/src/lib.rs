//! Files of tallow on disk. This crate is the only code that opens the files of a transfer.
//!
//! - [`source`]: the files to send. [`SourceTree`] implements [`tallow_proto::transfer::storage::Source`] on files and
//!   directories.
//! - [`destination`]: the directory for received files. [`Destination`] creates a [`Receiving`], which implements
//!   [`tallow_proto::transfer::storage::Sink`]: everything is staged beside its final place and renamed once it is
//!   whole.
//! - [`partial`]: the data of unfinished transfers.
//! - [`stream`]: standard input and output, as streams.
//! - [`state`], [`known_relays`], [`relay_transports`], [`identity`]: the state that programs keep between runs.
//!
//! Below these, the private module `contained_dir` opens directories by their handles, so that no name and no race
//! leads out of them.
//!
//! Only [`state::default_dir`] reads the environment.

mod clean;
mod contained_dir;
mod descriptors;
pub mod destination;
mod fault;
mod finalize;
mod holes;
pub mod identity;
pub mod known_relays;
mod named_lines;
pub mod partial;
mod plan;
pub mod relay_transports;
mod rollback;
mod sink;
pub mod source;
mod staging;
pub mod state;
pub mod stream;
mod walk;

pub use destination::{Destination, OnExists, Policy};
pub use fault::words as fault_words;
pub use identity::{ephemeral, from_pem, load_or_create};
pub use known_relays::KnownRelays;
pub use plan::Renamed;
pub use relay_transports::RelayTransports;
pub use sink::Receiving;
pub use source::{SkipReason, Skipped, SourceError, SourceOptions, SourceTree};
pub use state::StoreError;
pub use stream::{StreamIn, StreamOut};

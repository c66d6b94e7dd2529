//! Files of tallow on disk. This crate is the only code that opens the files of a transfer.
//!
//! - [`SourceTree`]: the files to send. It implements [`tallow_proto::transfer::storage::Source`] on files and
//!   directories.
//! - [`Destination`]: the directory for received files. It creates a [`Receiving`], which implements
//!   [`tallow_proto::transfer::storage::Sink`]: everything is staged beside its final place and renamed once it is
//!   whole.
//! - [`partial`]: the data of unfinished transfers.
//! - [`StreamIn`], [`StreamOut`]: standard input and output, as streams.
//! - [`default_dir`], [`KnownRelays`], [`RelayTransports`], [`identity`]: the state that programs keep between runs.
//!
//! Below these, the private module `contained_dir` opens directories by their handles, so that no name and no race
//! leads out of them.
//!
//! Only [`default_dir`] reads the environment.

mod abilities;
mod clean;
mod contained_dir;
mod descriptors;
mod destination;
mod fault;
mod finalize;
pub mod identity;
mod known_relays;
mod named_lines;
pub mod partial;
mod plan;
mod relay_transports;
mod rollback;
mod sink;
mod source;
mod staging;
mod state;
mod stream;
mod walk;

pub use destination::{Destination, Naming, OnExists, OutsideLinks, Policy};
pub use known_relays::KnownRelays;
pub use plan::{LeftOut, LinkReason};
pub use relay_transports::RelayTransports;
pub use sink::{Lost, Receiving};
pub use source::{Links, NameProblem, RefusedName, SkipReason, Skipped, SourceError, SourceOptions, SourceTree};
pub use state::{StoreError, default_dir};
pub use stream::{StreamIn, StreamOut};
pub use tallow_proto::transfer::local_names::{Renamed, Reported};

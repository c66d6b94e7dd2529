//! The system's errors as faults: which number means what to a person, and how a path is shown.

use std::io;
use std::path::Path;

use tallow_proto::transfer::storage::{Fault, FaultKind};
use tallow_proto::wire::Untrusted;

/// Characters that are shown of a path.
const SHOWN: usize = 300;

/// A system's error on a path.
pub fn fault(error: impl Into<io::Error>, path: impl Into<Box<str>>) -> Fault {
    Fault::at(kind(&error.into()), path)
}

/// What an error of the system is to a transfer.
pub fn kind(error: &io::Error) -> FaultKind {
    let Some(number) = error.raw_os_error() else { return FaultKind::Io(error.kind()) };
    match (error.kind(), rustix::io::Errno::from_raw_os_error(number)) {
        (_, rustix::io::Errno::LOOP) => FaultKind::Link,
        (io::ErrorKind::AlreadyExists, _) => FaultKind::Exists,
        (
            kind @ (io::ErrorKind::NotFound
            | io::ErrorKind::PermissionDenied
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::IsADirectory
            | io::ErrorKind::ReadOnlyFilesystem
            | io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge),
            _,
        ) => FaultKind::Io(kind),
        _ => FaultKind::System(number),
    }
}

/// A local path for people: what a terminal could obey is made visible.
pub fn shown(path: &Path) -> String {
    Untrusted::new(path.to_string_lossy().into_owned()).escaped(SHOWN)
}

//! Converts errors of the operating system to faults, and formats paths for messages.

use std::io;
use std::path::Path;

use tallow_proto::transfer::storage::{Fault, FaultKind};
use tallow_proto::wire::Untrusted;

/// The maximum number of characters of a shown path.
const SHOWN: usize = 300;

/// The fault for an error on a path.
pub fn fault(error: impl Into<io::Error>, path: impl Into<Box<str>>) -> Fault {
    Fault::at(kind(&error.into()), path)
}

/// The kind of fault for an error of the operating system.
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

/// A local path for messages; control characters are escaped.
pub fn shown(path: &Path) -> String {
    Untrusted::new(path.to_string_lossy().into_owned()).escaped(SHOWN)
}

/// The kind of a fault in a few words, without the number of the operating system's error.
#[must_use]
pub fn words(kind: FaultKind) -> String {
    let text = kind.to_string();
    text.split_once(" (os error").map_or(text.as_str(), |(text, _)| text).to_lowercase()
}

//! How a complete transfer differs from what was named or offered: files that could not be read or sent, that grew, or
//! that were skipped. Decides how they are listed, as lines and in JSON, and when the program fails for them. The
//! module `placement` does the same for names and links.
//!
//! Bounds: those of the lists that the library makes, 1,000 entries each.

use tallow_proto::peer::EntryStatus;
use tallow_proto::transfer::differences::{Differences, ListedEntry};
use tallow_proto::transfer::path::RelPath;
use tallow_proto::wire::Role;
use tallow_store::fault_words;

use crate::failure::Problem;
use crate::output::{Event, Output, counted, shown};
use crate::placement::{list, list_all};

/// What only this side knows of a complete transfer.
#[derive(Debug, Clone, Copy, Default)]
pub struct Here {
    /// Receiver: the number of entries whose names exist.
    pub skipped: u64,
    /// Sender: the number of files and directories that were left out because they can't be read.
    pub unreadable: Option<u64>,
}

/// The whole name of an entry for lines: text of the other side, escaped.
fn name(path: &RelPath) -> String {
    path.shown().escaped(usize::MAX)
}

/// The reason for which a file was not sent, as a word for scripts.
const fn word(status: EntryStatus) -> &'static str {
    match status {
        EntryStatus::Changed => "changed",
        EntryStatus::Vanished => "vanished",
        EntryStatus::Unreadable => "unreadable",
        EntryStatus::Grown => "grown",
    }
}

/// The same for people. The sender knows the error of the operating system.
fn reason(entry: &ListedEntry) -> String {
    let cause = entry.fault.as_ref().map(|fault| match &fault.detail {
        Some(detail) => shown(detail),
        None => fault_words(fault.kind),
    });
    match (entry.status, cause) {
        (Some(EntryStatus::Changed), _) => "changed while it was being sent".to_owned(),
        (Some(EntryStatus::Vanished), _) => "removed before it was sent".to_owned(),
        (Some(EntryStatus::Unreadable), Some(cause)) => format!("can't be read: {cause}"),
        (Some(EntryStatus::Unreadable), None) => "the sender could not read it".to_owned(),
        (Some(EntryStatus::Grown) | None, _) => String::new(),
    }
}

/// Reports what the sender could not send, what grew, and at the sender what the receiver skipped. Files that failed
/// are all named, as far as they are known: who sent or received a tree needs the names.
pub fn report(output: &Output, differences: &Differences, role: Role) {
    let Differences { failed, skipped, grown, .. } = differences;
    for entry in &failed.entries {
        let why = entry.status.map_or("unreadable", word);
        output.event(&Event::Failed { path: entry.path.as_str(), why });
    }
    let heading = match role {
        Role::Sender => "Not sent",
        Role::Receiver => "Not received, because the sender could not send it",
    };
    let line = |entry: &ListedEntry| format!("{}: {}", name(&entry.path), reason(entry));
    list_all(output, heading, failed.entries.iter().map(line), failed.count.into());
    // The receiver has its own list of them.
    if role == Role::Sender {
        for entry in &skipped.entries {
            output.event(&Event::Skipped { path: entry.path.as_str() });
        }
        let names = skipped.entries.iter().map(|entry| name(&entry.path));
        list(output, "Skipped by the receiver, because they already exist there", names, skipped.count.into());
    }
    for entry in &grown.entries {
        output.event(&Event::Grown { path: entry.path.as_str() });
    }
    let heading = match role {
        Role::Sender => "Grew while it was being sent; sent is what was offered, without what was added",
        Role::Receiver => "Grew at the sender while it was being sent; received is what was offered",
    };
    list_all(output, heading, grown.entries.iter().map(|entry| name(&entry.path)), grown.count.into());
}

/// Returns the error with which the program ends if not everything could be read or sent. `unreadable` is the number of
/// files and directories that were left out of the offer.
///
/// # Errors
/// Something is missing at the receiver.
pub fn check(differences: &Differences, unreadable: u64, role: Role) -> Result<(), Problem> {
    let failed = u64::from(differences.failed.count);
    if failed + unreadable == 0 {
        return Ok(());
    }
    let message = match role {
        Role::Sender => {
            let count = counted(failed + unreadable, "file or directory", "files and directories");
            format!("{count} could not be sent; everything else was sent")
        }
        Role::Receiver => {
            let count = counted(failed, "file", "files");
            format!("{count} could not be sent by the sender; everything else is in place")
        }
    };
    Err(Problem::incomplete(&message))
}

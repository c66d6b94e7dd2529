//! How a complete transfer differs from what was named or offered: files that could not be read or sent, that grew, that
//! were skipped or renamed. Decides how they are listed, as lines and in JSON, and when the program fails for them.
//!
//! Bounds: those of the lists that the library makes, 1,000 entries each; lines as the callers say.

use tallow_proto::transfer::differences::{Differences, EntryList, ListedEntry};
use tallow_proto::transfer::path::RelPath;
use tallow_proto::wire::peer::EntryStatus;
use tallow_proto::wire::relay::Role;
use tallow_store::{Renamed, Skipped, fault_words};

use crate::failure::Problem;
use crate::output::{Named, Names, Output, counted, shown};

/// What a receiver skipped and renamed, with the names that the entries have here.
#[derive(Debug, Default)]
pub struct Here {
    /// Entries whose names exist.
    pub skipped: Names,
    /// Entries that got another name.
    pub renamed: Names,
}

impl Here {
    /// Of these lists and their total numbers.
    #[must_use]
    pub fn new((skipped, skipped_count): (&[String], u64), (renamed, renamed_count): (&[Renamed], u64)) -> Self {
        let escaped = |text: &str| tallow_proto::wire::Untrusted::new(text.to_owned()).escaped(usize::MAX);
        let skipped = skipped.iter().map(|path| Named { name: escaped(path), reason: None, here: None });
        let renamed = renamed.iter().map(|renamed| Named {
            name: escaped(&renamed.offered),
            reason: None,
            here: Some(escaped(&renamed.here)),
        });
        Self {
            skipped: Names { count: skipped_count, entries: skipped.collect() },
            renamed: Names { count: renamed_count, entries: renamed.collect() },
        }
    }
}

/// The maximum number of skipped entries that are listed.
const SKIPPED: usize = 5;

/// The name of an entry for lines and JSON: text of the other side, escaped.
pub fn name(path: &RelPath) -> String {
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

/// A list for the event at the end.
#[must_use]
pub fn names(list: &EntryList) -> Names {
    let named = |entry: &ListedEntry| Named {
        name: name(&entry.path),
        reason: entry.status.filter(|status| status.is_failure()).map(|status| word(status).to_owned()),
        here: None,
    };
    Names { count: list.count.into(), entries: list.entries.iter().map(named).collect() }
}

/// Paths of this machine that were left out of the offer, for the event that names them.
#[must_use]
pub fn left_out(skipped: &[Skipped], count: u64) -> Names {
    let named =
        |entry: &Skipped| Named { name: shown_path(&entry.path), reason: Some(entry.why.to_string()), here: None };
    Names { count, entries: skipped.iter().map(named).collect() }
}

/// A path of this machine, for lines and JSON.
pub fn shown_path(path: &std::path::Path) -> String {
    tallow_proto::wire::Untrusted::new(path.to_string_lossy().into_owned()).escaped(usize::MAX)
}

/// Writes a heading and the names, at most `most` of them; nothing where there are none.
pub fn list(output: &Output, heading: &str, lines: impl IntoIterator<Item = String>, count: u64, most: usize) {
    if count == 0 {
        return;
    }
    output.line(&format!("{heading}:"));
    let mut written = 0;
    for line in lines.into_iter().take(most) {
        output.line(&format!("  {line}"));
        written += 1;
    }
    let more = count.saturating_sub(written);
    if more > 0 {
        output.line(&format!("  and {}", counted(more, "more", "more")));
    }
}

/// Writes what the sender could not send, and what grew. All of it is named, as far as it is known: who sent or received
/// a tree needs the names.
pub fn report(output: &Output, differences: &Differences, role: Role) {
    let failed = &differences.failed;
    let heading = match role {
        Role::Sender => "Not sent",
        Role::Receiver => "Not received, because the sender could not send it",
    };
    let line = |entry: &ListedEntry| format!("{}: {}", name(&entry.path), reason(entry));
    list(output, heading, failed.entries.iter().map(line), failed.count.into(), usize::MAX);
    if role == Role::Sender {
        let skipped = &differences.skipped;
        let names = skipped.entries.iter().map(|entry| name(&entry.path));
        list(output, "Skipped by the receiver, because they already exist there", names, skipped.count.into(), SKIPPED);
    }
    let grown = &differences.grown;
    let heading = match role {
        Role::Sender => "Grew while it was being sent; sent is what was offered, without what was added",
        Role::Receiver => "Grew at the sender while it was being sent; received is what was offered",
    };
    list(output, heading, grown.entries.iter().map(|entry| name(&entry.path)), grown.count.into(), usize::MAX);
}

/// The problem with which the program ends if not everything could be read or sent. `unreadable` is the number of files
/// and directories that were left out of the offer.
#[must_use]
pub fn problem(differences: &Differences, unreadable: u64, role: Role) -> Option<Problem> {
    let failed = u64::from(differences.failed.count);
    if failed + unreadable == 0 {
        return None;
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
    Some(Problem::incomplete(&message))
}

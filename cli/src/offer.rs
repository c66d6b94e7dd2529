//! Shows an offer to the user before the answer: names, sizes, and marks for hidden and executable files.
//!
//! Bounds: [`LISTED`] entries are shown on the terminal, [`NAMED`] names are in the JSON event; the rest is counted.

use console::measure_text_width;
use tallow_proto::transfer::{Entry, EntryKind, Manifest};
use tallow_proto::wire::Untrusted;
use tallow_store::{Destination, OnExists};

use crate::output::{Event, Output, amount, counted, shown, size};

/// The maximum number of entries shown on the terminal.
const LISTED: usize = 10;
/// The maximum number of names in the JSON event.
const NAMED: usize = 1000;
/// The maximum length of a shown name. A longer name is cut in the middle, because its end shows the file type.
const LONGEST: usize = 72;
/// The maximum number of existing names in a question.
const EXISTING: usize = 3;

/// Shows the offer; if a question follows, even with `--quiet`.
pub fn show(output: &Output, manifest: &Manifest, out: &str, asked: bool) {
    let totals = manifest.totals();
    let mut names = Vec::new();
    let (mut listed, mut dirs) = (Vec::new(), Vec::new());
    let mut unlisted = Tally::default();
    for (_, entry) in manifest.entries() {
        if names.len() < NAMED {
            // JSON escapes what a terminal could obey.
            names.push(entry.path.as_str().to_owned());
        }
        // The path of a file names its directory; directories are listed only if the offer contains nothing else.
        let list = if matches!(entry.kind, EntryKind::Dir) { &mut dirs } else { &mut listed };
        if list.len() < LISTED {
            list.push(Row::of(&entry));
        } else {
            unlisted.add(&entry);
        }
    }
    if listed.is_empty() {
        listed = dirs;
    }
    let (files, bytes) = (u64::from(totals.files), totals.bytes);
    let more = u64::from(totals.entries).saturating_sub(names.len() as u64);
    output.event(&Event::Offer { files, bytes, text: None, names: &names, more });
    let say = |text: &str| if asked { output.say(text) } else { output.line(text) };
    say(&format!("Offered: {}", amount(files, bytes)));
    let width = listed.iter().map(|row| measure_text_width(&row.name)).max().unwrap_or(0);
    for row in &listed {
        let gap = " ".repeat(width - measure_text_width(&row.name));
        say(format!("  {}{gap}  {:>10}  {}", row.name, row.size, row.marks).trim_end());
    }
    if let Some(text) = unlisted.text() {
        say(&format!("  {text}"));
    }
    say(&format!("Into: {}", shown(out)));
}

/// Shows the offer of a stream.
pub fn show_stream(output: &Output, asked: bool) {
    let say = |text: &str| if asked { output.say(text) } else { output.line(text) };
    say("Offered: a stream of unknown length");
    say("Into: standard output");
}

/// A row of the list.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    name: String,
    size: String,
    marks: String,
}

impl Row {
    fn of(entry: &Entry) -> Self {
        let mut name = shortened(entry.path.as_str());
        let size = match &entry.kind {
            EntryKind::File { size: bytes } => size(*bytes),
            EntryKind::Dir => {
                name.push('/');
                String::new()
            }
            EntryKind::Symlink { target } => {
                name = format!("{name} -> {}", shortened(target.as_str()));
                "link".to_owned()
            }
        };
        let marks = [(is_hidden(entry), "hidden"), (is_executable(entry), "executable")];
        let marks: Vec<&str> = marks.into_iter().filter_map(|(is, mark)| is.then_some(mark)).collect();
        Self { name, size, marks: marks.join(", ") }
    }
}

/// Counts the entries that are not listed.
#[derive(Debug, Default)]
struct Tally {
    entries: u64,
    hidden: u64,
    executable: u64,
}

impl Tally {
    fn add(&mut self, entry: &Entry) {
        if matches!(entry.kind, EntryKind::Dir) {
            return;
        }
        self.entries += 1;
        self.hidden += u64::from(is_hidden(entry));
        self.executable += u64::from(is_executable(entry));
    }

    fn text(&self) -> Option<String> {
        if self.entries == 0 {
            return None;
        }
        let mut text = format!("and {}", counted(self.entries, "more", "more"));
        let among = [(self.hidden, "hidden"), (self.executable, "executable")];
        let among: Vec<String> =
            among.into_iter().filter(|(count, _)| *count > 0).map(|(count, what)| counted(count, what, what)).collect();
        if !among.is_empty() {
            text.push_str(&format!(", {} among them", among.join(" and ")));
        }
        Some(text)
    }
}

fn is_hidden(entry: &Entry) -> bool {
    entry.path.components().any(|component| component.starts_with('.'))
}

fn is_executable(entry: &Entry) -> bool {
    matches!(entry.kind, EntryKind::File { .. }) && entry.mode & 0o111 != 0
}

/// Shortens a name so that it fits on a line.
fn shortened(name: &str) -> String {
    let escaped = Untrusted::new(name.to_owned()).escaped(usize::MAX);
    let count = escaped.chars().count();
    if count <= LONGEST {
        return escaped;
    }
    let head: String = escaped.chars().take(LONGEST / 2).collect();
    let tail: String = escaped.chars().skip(count - LONGEST / 2 + 1).collect();
    format!("{head}…{tail}")
}

/// The offered names that already exist at the destination.
#[derive(Debug, Default)]
pub struct Existing {
    first: Vec<String>,
    count: u64,
}

impl Existing {
    /// Whether no offered name exists.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The question what to do about the existing names.
    #[must_use]
    pub fn question(&self) -> String {
        let names = self.first.join(", ");
        let more = self.count - self.first.len() as u64;
        let more = if more > 0 { format!(" and {}", counted(more, "more", "more")) } else { String::new() };
        let exist = if self.count == 1 { "exists" } else { "exist" };
        format!("{names}{more} already {exist}. Overwrite, rename the received files, skip, or no? [o/r/s/N]")
    }
}

/// The top-level names that the offer would get and that exist at this moment. The sink checks again, and only its
/// check decides. Where the directory can't be read, it reports that.
#[must_use]
pub fn existing(manifest: &Manifest, destination: &Destination) -> Existing {
    let (first, count) = destination.existing(manifest, EXISTING).unwrap_or_default();
    Existing { first: first.iter().map(|name| shortened(name)).collect(), count }
}

/// Parses the answer to [`Existing::question`]; every unclear answer is a no.
#[must_use]
pub fn on_exists(answer: Option<&str>) -> Option<OnExists> {
    match answer?.trim().to_ascii_lowercase().as_str() {
        "o" | "overwrite" => Some(OnExists::Overwrite),
        "r" | "rename" => Some(OnExists::Rename),
        "s" | "skip" => Some(OnExists::Skip),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use tallow_proto::transfer::Mtime;
    use tallow_proto::transfer::path::RelPath;
    use tallow_proto::wire::is_harmless;

    use super::*;

    fn entry(path: &str, mode: u16) -> Entry {
        Entry {
            path: RelPath::parse(path).unwrap(),
            kind: EntryKind::File { size: 1500 },
            mode,
            mtime: Mtime { seconds: 0, nanos: 0 },
        }
    }

    #[test]
    fn hidden_files_and_executables_are_marked() {
        assert_eq!(Row::of(&entry("a/b.txt", 0o644)).marks, "");
        assert_eq!(Row::of(&entry("a/.b", 0o644)).marks, "hidden");
        assert_eq!(Row::of(&entry(".a/b", 0o755)).marks, "hidden, executable");
        assert_eq!(Row::of(&entry("a.sh", 0o100)).marks, "executable");
        let dir = Entry { kind: EntryKind::Dir, ..entry("bin", 0o755) };
        assert_eq!(Row::of(&dir), Row { name: "bin/".into(), size: String::new(), marks: String::new() });
    }

    #[test]
    fn unlisted_entries_are_counted() {
        let mut tally = Tally::default();
        assert_eq!(tally.text(), None);
        tally.add(&entry("a", 0o644));
        assert_eq!(tally.text().unwrap(), "and 1 more");
        tally.add(&entry(".a", 0o755));
        tally.add(&entry(".b", 0o644));
        assert_eq!(tally.text().unwrap(), "and 3 more, 2 hidden and 1 executable among them");
    }

    #[test]
    fn d01_names_are_shown_without_control_characters() {
        let name = "invoice\u{202e}gpj.exe";
        let row = Row::of(&entry(name, 0o644));
        assert!(row.name.chars().all(is_harmless) && row.name.contains("\\u{202e}"), "{}", row.name);
        for text in ["\x1b[2J\x1b[1A\rharmless", "\x1b]52;c;ZXZpbA==\x07", "\u{9b}31m"] {
            assert!(shortened(text).chars().all(is_harmless));
        }
    }

    #[test]
    fn long_name_is_shortened_but_keeps_its_ending() {
        let name = format!("{}.jpg.exe", "x".repeat(200));
        let short = shortened(&name);
        assert!(short.ends_with(".jpg.exe") && short.chars().count() == LONGEST, "{short}");
    }

    #[test]
    fn unclear_answer_selects_no_conflict_policy() {
        assert!(matches!(on_exists(Some(" O ")), Some(OnExists::Overwrite)));
        assert!(matches!(on_exists(Some("rename")), Some(OnExists::Rename)));
        assert!(matches!(on_exists(Some("s")), Some(OnExists::Skip)));
        for unclear in [Some(""), Some("n"), Some("y"), Some("oo"), None] {
            assert!(on_exists(unclear).is_none());
        }
    }

    #[test]
    fn conflict_question_lists_existing_names() {
        let existing = Existing { first: vec!["a".into(), "b".into()], count: 12 };
        assert!(existing.question().starts_with("a, b and 10 more already exist."));
    }
}

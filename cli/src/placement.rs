//! Reports how what arrived differs from what was sent: entries that were left out, and names that are others.
//!
//! Bounds: [`LISTED`] lines of a list on the terminal, all that are known with `--verbose`; in JSON an event for each.

use std::path::Path;

use tallow_proto::peer::Placement;
use tallow_store::{RefusedName, Reported, SourceTree};

use crate::output::{Event, Output, counted, shown};

/// The maximum number of lines of a list.
const LISTED: usize = 5;
/// The maximum number of names in an error, all of which the user has to change.
const REFUSED: usize = 100;

/// Why the receiver left out links, in the words of the sender.
const OUTSIDE: &str = "a link out of what was sent, which the receiver keeps only with --links keep";
const UNSUPPORTED: &str = "the receiver's disk can't hold links";

/// Writes a list with a headline, unless there is nothing in it.
pub fn list(output: &Output, headline: &str, lines: impl ExactSizeIterator<Item = String>, total: u64) {
    if total == 0 {
        return;
    }
    output.line(&format!("{headline}:"));
    let count = if output.is_verbose() { lines.len() } else { lines.len().min(LISTED) };
    for line in lines.take(count) {
        output.line(&format!("  {line}"));
    }
    let more = total.saturating_sub(count as u64);
    if more > 0 {
        output.line(&format!("  and {}", counted(more, "more", "more")));
    }
}

/// Sender, after the scan: reports the entries that are not sent.
pub fn report_unsent(output: &Output, source: &SourceTree) {
    let left_out = source.skipped();
    for entry in left_out.list() {
        output.event(&Event::LeftOut { path: &readable(&entry.path), why: &entry.why.to_string() });
    }
    let lines = left_out.list().iter().map(|entry| format!("{}: {}", shown(&readable(&entry.path)), entry.why));
    list(output, &format!("Left out {}", counted(left_out.total(), "entry", "entries")), lines, left_out.total());
}

/// Sender: names all names that can't be sent, because the user has to change each of them.
pub fn report_refused(output: &Output, names: &[RefusedName], total: u64) {
    for name in names {
        output.event(&Event::Refused { path: &readable(&name.path), why: &name.why.to_string() });
    }
    if total < 2 {
        return;
    }
    output.say(&format!("{} can't be sent:", counted(total, "name", "names")));
    for name in names.iter().take(REFUSED) {
        output.say(&format!("  {}: {}", shown(&readable(&name.path)), name.why));
    }
    let more = total.saturating_sub(names.len().min(REFUSED) as u64);
    if more > 0 {
        output.say(&format!("  and {}", counted(more, "more", "more")));
    }
}

/// Sender, at the end: reports what the receiver put in place in another way.
pub fn report_received(output: &Output, placement: Placement, source: Option<&SourceTree>) {
    let Placement { renamed, links_outside, links_unsupported } = placement;
    if renamed > 0 {
        let names = counted(renamed.into(), "name", "names");
        output.line(&format!("The receiver saved {names} otherwise"));
    }
    let (outside, links) = source.map(|source| (source.outside_links(), source.links())).unwrap_or_default();
    // The receiver only counts. It leaves out all links of a kind.
    let is_outside = |path: &Path| links_outside > 0 && outside.list().iter().any(|outside| outside == path);
    let others: Vec<_> = links.list().iter().filter(|path| !is_outside(path)).collect();
    let outside: Vec<_> = outside.list().iter().collect();
    for (count, paths, why) in [(links_outside, outside, OUTSIDE), (links_unsupported, others, UNSUPPORTED)] {
        if count == 0 {
            continue;
        }
        for path in &paths {
            output.event(&Event::LeftOut { path: &readable(path), why });
        }
        let links = counted(count.into(), "link", "links");
        let lines = paths.iter().map(|path| shown(&readable(path)));
        list(output, &format!("The receiver left out {links} ({why})"), lines, count.into());
    }
}

/// Receiver, at the end: reports the links that were left out, the names that are others here, and what the disk lost.
pub fn report_here(output: &Output, sink: &tallow_store::Receiving) {
    let left_out = sink.left_out();
    for link in left_out.list() {
        output.event(&Event::LeftOut { path: &link.path, why: &link.why.to_string() });
    }
    let lines = left_out.list().iter().map(|link| format!("{}: {}", shown(&link.path), link.why));
    list(output, &format!("Left out {}", counted(left_out.total(), "link", "links")), lines, left_out.total());
    let renamed: Reported<_> = sink.renamed();
    for name in renamed.list() {
        output.event(&Event::Renamed { from: &name.offered, to: &name.here });
    }
    let lines = renamed.list().iter().map(|name| format!("{} is {}", shown(&name.offered), shown(&name.here)));
    list(output, "Saved under another name", lines, renamed.total());
    let lost = sink.lost();
    let what = match (lost.permissions, lost.times) {
        (false, false) => return,
        (true, false) => "permissions",
        (false, true) => "modification times",
        (true, true) => "permissions or modification times",
    };
    output.line(&format!("This disk keeps no {what}"));
}

/// A path as text, which may be shown escaped: bytes that are no UTF-8 are written as `\xff`.
#[must_use]
pub fn readable(path: &Path) -> String {
    let mut text = String::new();
    for chunk in path.as_os_str().as_encoded_bytes().utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn bytes_that_are_no_text_are_shown_by_number() {
        let path = Path::new(std::ffi::OsStr::from_bytes(b"d/a\xffb\xc3/\xe6\x97\xa5"));
        assert_eq!(readable(path), "d/a\\xffb\\xc3/日");
    }
}

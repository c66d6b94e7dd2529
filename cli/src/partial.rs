//! `tallow partial`: lists and removes the data of unfinished transfers.

use std::path::Path;
use std::time::SystemTime;

use tallow_proto::transfer::Manifest;
use tallow_proto::transfer::journal::Header;
use tallow_proto::transfer::storage::Fault;
use tallow_proto::wire::Role;
use tallow_store::partial::{self, Partial};

use crate::args::PartialCommand;
use crate::failure::{Context, Problem};
use crate::output::{Event, Output, counted, shown, size, time};

/// Runs the command.
///
/// # Errors
/// The directory can't be read, or an unfinished transfer can't be removed.
pub fn run(command: PartialCommand, output: &Output) -> Result<(), Problem> {
    match command {
        PartialCommand::List { out, .. } => show(&out, output),
        PartialCommand::Clear { ids, out, .. } => clear(&ids, &out, output),
    }
}

/// After a transfer: writes one line if the directory contains other unfinished transfers.
pub fn mention(dir: &Path, output: &Output) {
    let left = partial::list(dir).unwrap_or_default().iter().filter(|partial| !partial.is_live).count();
    if left > 0 {
        let what = counted(left as u64, "unfinished transfer is", "unfinished transfers are");
        output.line(&format!("{what} also kept there; `tallow partial list` shows them"));
    }
}

/// The name of the offer, if an unfinished transfer of the same name is in the directory.
pub fn like(dir: &Path, manifest: &Manifest) -> Option<String> {
    let name = Header::of(manifest).label;
    let is_like = |partial: &Partial| {
        !partial.is_live && partial.about.as_ref().is_some_and(|about| !name.is_empty() && *about.name == *name)
    };
    partial::list(dir).unwrap_or_default().iter().any(is_like).then(|| shown(&name))
}

fn show(dir: &Path, output: &Output) -> Result<(), Problem> {
    let found = partial::list(dir).map_err(|fault| local(&fault))?;
    if found.is_empty() {
        output.line(&format!("No unfinished transfers in {}", shown(&dir.to_string_lossy())));
    }
    for partial in &found {
        emit(partial, false, output);
        output.line(&describe(partial));
    }
    Ok(())
}

fn clear(ids: &[String], dir: &Path, output: &Output) -> Result<(), Problem> {
    let found = partial::list(dir).map_err(|fault| local(&fault))?;
    let mut chosen = Vec::new();
    for id in ids {
        let mut named = found.iter().filter(|partial| partial.id.starts_with(id.as_str()));
        match (named.next(), named.next()) {
            (Some(partial), None) => chosen.push(partial),
            (None, _) => {
                let here = shown(&dir.to_string_lossy());
                let message = format!("no unfinished transfer {} in {here}", shown(id));
                return Err(Problem::usage(&message, "`tallow partial list` shows them"));
            }
            (Some(_), Some(_)) => {
                // An exact id is not ambiguous, even if it is a prefix of another one.
                match found.iter().find(|partial| partial.id == *id) {
                    Some(partial) => chosen.push(partial),
                    None => {
                        let message = format!("several ids of unfinished transfers begin with {}", shown(id));
                        return Err(Problem::usage(&message, "`tallow partial list` shows them"));
                    }
                }
            }
        }
    }
    if ids.is_empty() {
        chosen.extend(&found);
    }
    let (mut removed, mut live) = (0, 0);
    for partial in chosen {
        if partial::clear_one(dir, &partial.id).map_err(|fault| local(&fault))? {
            removed += 1;
            emit(partial, true, output);
        } else {
            live += 1;
            emit(partial, false, output);
        }
    }
    output.line(&format!("Removed {}", counted(removed, "unfinished transfer", "unfinished transfers")));
    if live > 0 {
        output.line(&format!("{} in use", counted(live, "is", "are")));
    }
    Ok(())
}

fn emit(partial: &Partial, removed: bool, output: &Output) {
    let about = partial.about.as_ref();
    output.event(&Event::Partial {
        id: &partial.id,
        name: about.map_or("", |about| &about.name),
        bytes: about.map_or(0, |about| about.bytes),
        stored: about.map_or(0, |about| about.stored),
        live: partial.is_live,
        removed,
    });
}

fn describe(partial: &Partial) -> String {
    let age = SystemTime::now().duration_since(partial.modified).unwrap_or_default();
    let state = if partial.is_live { "in use".to_owned() } else { format!("left {} ago", time(age.as_secs())) };
    match &partial.about {
        Some(about) => {
            let more = match about.entries {
                0 | 1 => String::new(),
                entries => format!(" ({})", counted(entries.into(), "entry", "entries")),
            };
            let (stored, bytes) = (size(about.stored), size(about.bytes));
            format!("{}  {}{more}  {stored} of {bytes}  {state}", partial.id, shown(&about.name))
        }
        None => format!("{}  unreadable (damaged, or of another version)  {state}", partial.id),
    }
}

fn local(fault: &Fault) -> Problem {
    Problem::local(fault, &Context { role: Role::Receiver, known_relays: "", relays: false })
}

//! `tallow send`: sends files, directories or standard input.

use std::path::Path;
use std::sync::Arc;

use tallow_proto::code::DEFAULT_WORDS;
use tallow_proto::peer::{CodeChoice, Comparison, Embedded, Event, Failure, Payload, SendConfig};
use tallow_proto::transfer::Compression;
use tallow_proto::wire::Role;
use tallow_store::{Links, SourceError, SourceOptions, SourceTree, StreamIn, identity};

use crate::args::{LinkChoice, SendArgs};
use crate::failure::Problem;
use crate::output::Output;
use crate::placement;
use crate::report::{Report, Step};
use crate::signal::Signals;
use crate::{code_input, prompt, setup};

/// Runs the command.
///
/// # Errors
/// The transfer failed, or could not start.
pub fn run(args: SendArgs, output: Output) -> Result<(), Problem> {
    let signals = Signals::watch().map_err(|error| Problem::system("could not listen for signals", &error))?;
    let is_stream = is_stream(&args)?;
    let code = match code_input::for_sending(args.code.as_deref(), args.code_file.as_deref())? {
        Some(code) => CodeChoice::Custom(code),
        None => CodeChoice::Generate { words: args.words.unwrap_or(DEFAULT_WORDS) },
    };
    let in_arguments = args.code.is_some().then_some("prefer --code-file or $TALLOW_CODE");
    code_input::warn_of_arguments(&output, in_arguments, &args.peer);
    let (common, memory) = setup::common(&args.peer, None)?;
    let has_relays = !common.relays.is_empty();
    let links = match (args.follow_links, args.links) {
        (true, _) => Links::Follow,
        (false, LinkChoice::Keep) => Links::Keep,
        (false, LinkChoice::Inside) => Links::Inside,
    };
    let options = SourceOptions { excludes: args.exclude, git: args.git, links };
    let (payload, source) = if is_stream {
        (Payload::Stream(Arc::new(StreamIn::stdin())), None)
    } else {
        let source = SourceTree::new(args.paths, options).map_err(|error| {
            if let SourceError::Names(names) = &error {
                placement::report_refused(&output, names, names.len() as u64);
            }
            Problem::source(&error)
        })?;
        let source = Arc::new(source);
        (Payload::from(Arc::clone(&source)), Some(source))
    };
    let embedded = match common.relays.first() {
        Some(_) => None,
        None => {
            let identity = identity::ephemeral().map_err(|error| Problem::keys(&error.to_string()))?;
            Some(match args.peer.port {
                Some(_) => Embedded::new(identity).listening_at(setup::listen(args.peer.port)),
                None => Embedded::new(identity),
            })
        }
    };
    let compression = match (args.no_compress, args.compress_level) {
        (true, _) => Compression::Off,
        (false, None) => Compression::default(),
        (false, Some(level)) => Compression::Level(level.into()),
    };
    let mut config = SendConfig::new(common, payload).with_compression(compression);
    (config.code, config.embedded) = (code, embedded);
    config.check().map_err(|error| Problem::config(&error))?;
    let runtime = args.peer.runtime;
    let mut report = Report::new(output, runtime, Role::Sender, signals, memory, has_relays);
    if is_stream {
        report.begin_stream();
    }
    let transfer = async move {
        let mut sender = runtime.send(config).map_err(|error| Problem::config(&error))?;
        let mut comparison = None;
        let outcome = loop {
            match report.next(&mut sender).await {
                Step::Event(Event::Scanned(_)) => {
                    if let Some(source) = &source {
                        placement::report_unsent(&report.output, source);
                    }
                }
                Step::Event(Event::Code { code, link, listening }) => {
                    let here = setup::reachable(&listening, &setup::routed());
                    let relay = link.as_ref().filter(|_| has_relays).map(|link| relay_of(link.host(), link.port()));
                    // A link names one address only, so for the relay inside this process all addresses are shown
                    // instead.
                    let link = link.filter(|_| has_relays).map(|link| link.reveal());
                    report.show_code(&code, link.as_ref().map(|link| link.as_str()), relay.as_deref(), &here);
                }
                Step::Event(Event::Verifier { comparison: Some(asked), .. }) => {
                    comparison = Some(asked);
                    report.ask_to_compare();
                }
                Step::Event(Event::Done(summary)) => {
                    placement::report_received(&report.output, summary.placement, source.as_deref());
                    report.show_done(&summary, None);
                    break Ok(summary);
                }
                Step::Event(Event::Failed(Failure::Stopped | Failure::Panicked)) | Step::Closed => {
                    return Err(report.unexplained(sender.ending()));
                }
                Step::Event(Event::Failed(failure)) => {
                    if let Some(source) = &source {
                        let refused = source.refused_names();
                        placement::report_refused(&report.output, refused.list(), refused.total());
                    }
                    break Err(report.problem(&failure));
                }
                Step::Event(_) => {}
                Step::Answer(line) => agree(comparison.take(), prompt::is_yes(line.as_deref())),
            }
        };
        report.finish(sender, outcome).await
    };
    let outcome = runtime.block_on(transfer).map_err(|error| Problem::system("could not start the runtime", &error))?;
    outcome.map(drop)
}

/// Passes on whether the user confirmed the verifier words.
pub(crate) fn agree(comparison: Option<Comparison>, agreed: bool) {
    let Some(comparison) = comparison else { return };
    // An error means that the transfer is over; its outcome gives the reason.
    let _ = if agreed { comparison.confirm() } else { comparison.reject() };
}

/// Whether standard input is sent.
fn is_stream(args: &SendArgs) -> Result<bool, Problem> {
    let stdin = Path::new("-");
    if !args.paths.iter().any(|path| path == stdin) {
        return Ok(false);
    }
    if args.paths.len() > 1 {
        let hint = "send them one after the other; use ./- for a file of that name";
        return Err(Problem::usage("`-` is standard input, which is sent alone", hint));
    }
    if args.code_file.as_deref() == Some(stdin) {
        let hint = "put the code into $TALLOW_CODE or a file";
        return Err(Problem::usage("standard input can't be the code and the data at once", hint));
    }
    Ok(true)
}

fn relay_of(host: &str, port: Option<u16>) -> String {
    let port = port.unwrap_or(tallow_proto::peer::DEFAULT_PORT);
    tallow_proto::peer::RelayAddress { host: host.to_owned(), port }.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relay_is_shown_with_port_and_bracketed_ipv6() {
        assert_eq!(relay_of("relay.example", Some(99)), "relay.example:99");
        assert_eq!(
            relay_of("relay.example", None).parse(),
            relay_of("relay.example", Some(4433)).parse::<tallow_proto::peer::RelayAddress>()
        );
        let parsed = relay_of("2001:db8::1", Some(7)).parse::<tallow_proto::peer::RelayAddress>().unwrap();
        assert_eq!((parsed.host.as_str(), parsed.port), ("2001:db8::1", 7));
    }
}

//! `tallow receive`.

use std::path::PathBuf;
use std::sync::Arc;

use tallow_proto::peer::{Event, ReceiveConfig, Receiver};
use tallow_proto::transfer::manifest::Manifest;
use tallow_proto::wire::peer::DeclineReason;
use tallow_proto::wire::relay::Side;
use tallow_store::{Destination, OnExists, Policy};

use crate::args::ReceiveArgs;
use crate::failure::{Context, Problem};
use crate::offer;
use crate::output::Output;
use crate::report::{End, Report, Step};
use crate::signal::Signals;
use crate::{code_input, prompt, setup};

/// What the next answer is about.
enum Question {
    /// The verifier words.
    Agree,
    /// The offer.
    Accept(Arc<Manifest>),
    /// What to do about names that exist.
    Exists,
}

/// Receives.
///
/// # Errors
/// Why it did not.
pub fn run(args: ReceiveArgs, output: Output) -> Result<(), Problem> {
    prompt::remember_terminal();
    let signals = Signals::watch().map_err(|error| Problem::system("could not listen for signals", &error))?;
    let given = code_input::for_receiving(&args.code, args.code_file.as_deref())?;
    let (common, known) = setup::common(&args.peer, given.relay)?;
    let known_relays = known.path().to_string_lossy().into_owned();
    let has_relays = !common.relays.is_empty();
    let at = Context { side: Side::Receiver, known_relays: &known_relays, relays: has_relays };
    let mut place = Place {
        dir: args.out,
        on_exists: match (args.overwrite, args.rename, args.skip) {
            (true, _, _) => Some(OnExists::Overwrite),
            (_, true, _) => Some(OnExists::Rename),
            (_, _, true) => Some(OnExists::Skip),
            _ => None,
        },
        allow_unportable: args.allow_unportable_names,
    };
    // Opened now, so that a directory that can't be written is told before the code is used.
    place.open().map_err(|fault| Problem::local(&fault, &at))?;
    let config = ReceiveConfig {
        common,
        code: given.code,
        local: setup::local(args.peer.port),
        discover: args.peer.port.is_none(),
    };
    let runtime = args.peer.runtime;
    let out = std::path::absolute(&place.dir).unwrap_or_else(|_| place.dir.clone()).to_string_lossy().into_owned();
    let mut report = Report::new(output, runtime, Side::Receiver, signals, known, has_relays);
    let transfer = async move {
        let mut receiver = runtime.receive(config);
        let mut question = Question::Agree;
        // A directory that vanished since it was opened explains more than the refusal that follows.
        let mut vanished = None;
        let outcome = loop {
            match report.next(&mut receiver).await {
                Step::Event(Event::Verifier { words, must_agree: true }) => {
                    question = Question::Agree;
                    report.ask_to_compare(&words);
                }
                Step::Event(Event::Offer(manifest)) => {
                    offer::show(&report.output, &manifest, &out);
                    if args.yes {
                        question = accept(&mut report, &receiver, &place, &manifest, &mut vanished);
                    } else if prompt::is_interactive() {
                        question = Question::Accept(manifest);
                        report.ask("Accept? [y/N]");
                    } else {
                        report.output.line("Nobody can be asked here, since standard input is no terminal");
                        decline(&receiver, "nobody was there to answer");
                    }
                }
                Step::Answer(line) => match &question {
                    Question::Agree => End::agree(&receiver, prompt::is_yes(line.as_deref())),
                    Question::Accept(manifest) if prompt::is_yes(line.as_deref()) => {
                        let manifest = manifest.clone();
                        question = accept(&mut report, &receiver, &place, &manifest, &mut vanished);
                    }
                    Question::Accept(_) => decline(&receiver, ""),
                    Question::Exists => match offer::on_exists(line.as_deref()) {
                        Some(choice) => {
                            place.on_exists = Some(choice);
                            open_and_accept(&receiver, &place, &mut vanished);
                        }
                        None => decline(&receiver, "the names exist there already"),
                    },
                },
                Step::Event(Event::Done(summary)) => {
                    report.show_done(&summary, Some(&out));
                    break Ok(summary);
                }
                Step::Event(Event::Failed(failure)) => {
                    let failure = vanished.take().map_or(failure, tallow_proto::peer::Failure::Local);
                    break Err(report.problem(&failure));
                }
                Step::Event(_) => {}
                Step::Closed => return Err(report.unexplained()),
            }
        };
        report.finish(receiver, outcome).await
    };
    let outcome = runtime.block_on(transfer).map_err(|error| Problem::system("could not start the runtime", &error))?;
    outcome.map(drop)
}

/// Where things go, and by which rules.
#[derive(Debug, Clone)]
struct Place {
    dir: PathBuf,
    /// `None`: refused, or asked about.
    on_exists: Option<OnExists>,
    allow_unportable: bool,
}

impl Place {
    fn open(&self) -> Result<Arc<Destination>, tallow_proto::job::Fault> {
        let on_exists = self.on_exists.unwrap_or(OnExists::Refuse);
        let policy = Policy { on_exists, allow_unportable: self.allow_unportable };
        Destination::open(&self.dir, policy).map(Arc::new)
    }
}

/// The person, or `--yes`, accepted: asks about names that exist where somebody can answer.
fn accept(
    report: &mut Report,
    receiver: &Receiver,
    place: &Place,
    manifest: &Manifest,
    vanished: &mut Option<tallow_proto::job::Fault>,
) -> Question {
    let existing = if place.on_exists.is_none() && prompt::is_interactive() {
        offer::existing(manifest, &place.dir)
    } else {
        offer::Existing::default()
    };
    if existing.is_empty() {
        open_and_accept(receiver, place, vanished);
    } else {
        report.ask(&existing.question());
    }
    Question::Exists
}

fn open_and_accept(receiver: &Receiver, place: &Place, vanished: &mut Option<tallow_proto::job::Fault>) {
    match place.open() {
        // It is over, and the outcome tells why.
        Ok(sink) => {
            let _ = receiver.accept(sink);
        }
        Err(fault) => {
            *vanished = Some(fault);
            let _ = receiver.decline(DeclineReason::Io, "");
        }
    }
}

fn decline(receiver: &Receiver, text: &str) {
    let _ = receiver.decline(DeclineReason::Person, text);
}

//! `tallow receive`: receives an offer into a directory or to standard output.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;

use tallow_proto::peer::{Comparison, DeclineReason, Event, Failure, Offer, ReceiveConfig, StreamOffer};
use tallow_proto::transfer::storage::Fault;
use tallow_proto::wire::Role;
use tallow_store::{Destination, Naming, OnExists, OutsideLinks, Policy, Receiving, StreamOut};

use crate::args::{LinkChoice, NameChoice, ReceiveArgs};
use crate::failure::{Context, Problem};
use crate::offer;
use crate::output::{Output, shown};
use crate::placement;
use crate::report::{Report, Step};
use crate::signal::Signals;
use crate::{code_input, partial, prompt, send, setup};

/// The line for a user whose offer is declined without a question.
const NO_TERMINAL: &str = "Declined: standard input is not a terminal, so no question can be asked";

/// The question that the next answer belongs to.
#[derive(Debug)]
enum Question {
    /// No question was asked, or it was answered.
    Nothing,
    /// The verifier words.
    Agree(Comparison),
    /// The offer.
    Accept(Offer),
    /// The offer, to be written to standard output.
    Pipe(StreamOffer),
    /// The handling of names that already exist.
    Exists(Offer),
}

/// Runs the command.
///
/// # Errors
/// The transfer failed, or could not start.
pub fn run(args: ReceiveArgs, output: Output) -> Result<(), Problem> {
    prompt::remember_terminal();
    if args.stdout && std::io::stdout().is_terminal() {
        let hint = "redirect it to a file or a program: tallow receive --stdout CODE > FILE";
        return Err(Problem::usage(
            "received data can't be written to a terminal, because it may contain control sequences",
            hint,
        ));
    }
    let signals = Signals::watch().map_err(|error| Problem::system("could not listen for signals", &error))?;
    let given = code_input::for_receiving(&args.code, args.code_file.as_deref())?;
    let in_arguments = (!args.code.is_empty()).then_some("`tallow receive` without a code asks for it");
    code_input::warn_of_arguments(&output, in_arguments, &args.peer);
    let (common, memory) = setup::common(&args.peer, given.relay)?;
    let known_relays = memory.file();
    let has_relays = !common.relays.is_empty();
    let at = Context { role: Role::Receiver, known_relays: &known_relays, relays: has_relays };
    let place = Place::new(policy(&args), on_exists(&args), args.out);
    // Opened now, so that a directory that can't be written is reported before the code is used.
    if !args.stdout {
        place.open().map_err(|fault| Problem::local(&fault, &at))?;
    }
    let mut config = ReceiveConfig::new(common, given.code);
    (config.local, config.discover) = (setup::local(args.peer.port), args.peer.port.is_none());
    config.check().map_err(|error| Problem::config(&error))?;
    let runtime = args.peer.runtime;
    let out = std::path::absolute(&place.dir).unwrap_or_else(|_| place.dir.clone()).to_string_lossy().into_owned();
    let mut report = Report::new(output, runtime, Role::Receiver, signals, memory, has_relays);
    let transfer = async move {
        let mut receiver = runtime.receive(config).map_err(|error| Problem::config(&error))?;
        let mut place = place;
        let mut question = Question::Nothing;
        let outcome = loop {
            match report.next(&mut receiver).await {
                Step::Event(Event::Verifier { comparison: Some(comparison), .. }) => {
                    question = Question::Agree(comparison);
                    report.ask_to_compare();
                }
                Step::Event(Event::Offer(offer)) if args.stdout => {
                    question = place.show_for_stdout(offer, args.yes, &mut report);
                }
                Step::Event(Event::StreamOffer(offer)) if args.stdout => {
                    report.set_in_order(true);
                    offer::show_stream(&report.output, !args.yes);
                    question = pipe(&mut report, offer, args.yes);
                }
                Step::Event(Event::StreamOffer(offer)) => place.refuse_stream(offer),
                Step::Event(Event::Offer(offer)) => question = place.show(offer, &out, args.yes, &mut report),
                Step::Answer(line) => question = place.answered(question, line.as_deref(), &mut report),
                Step::Event(Event::Done(summary)) => {
                    place.report_placement(&report.output);
                    report.show_done(&summary, (!args.stdout).then_some(&out));
                    if !args.stdout {
                        partial::mention(&place.dir, &report.output);
                    }
                    break Ok(summary);
                }
                Step::Event(Event::Failed(Failure::Stopped | Failure::Panicked)) | Step::Closed => {
                    return Err(report.unexplained(receiver.ending()));
                }
                Step::Event(Event::Failed(failure)) => {
                    // An error of the directory is the cause of the refusal that followed, so it is reported instead.
                    let failure = place.broken.take().map_or(failure, Failure::Local);
                    break Err(place.unfit.take().unwrap_or_else(|| report.problem(&failure)));
                }
                Step::Event(Event::Resuming) => place.differs = None,
                Step::Event(Event::Accepted) => {
                    if let Some(name) = place.differs.take() {
                        let what = "is kept from an earlier transfer, but the offer differs; starting again";
                        report.output.line(&format!("Part of {name} {what}"));
                    }
                }
                Step::Event(_) => {}
            }
        };
        report.finish(receiver, outcome).await
    };
    let outcome = runtime.block_on(transfer).map_err(|error| Problem::system("could not start the runtime", &error))?;
    outcome.map(drop)
}

/// The destination of the received files, and its rules.
#[derive(Debug)]
struct Place {
    dir: PathBuf,
    /// What to do about existing names. `None`: the user is asked, or the sink refuses them.
    on_exists: Option<OnExists>,
    /// The other rules.
    policy: Policy,
    /// The sink, once the offer was accepted.
    sink: Option<Arc<Receiving>>,
    /// The error that prevented the sink from being opened.
    broken: Option<Fault>,
    /// The reason for which the offer was declined without a question.
    unfit: Option<Problem>,
    /// The name of an unfinished transfer here, until it is known whether the offer resumes it.
    differs: Option<String>,
}

impl Place {
    const fn new(policy: Policy, on_exists: Option<OnExists>, dir: PathBuf) -> Self {
        Self { dir, on_exists, policy, sink: None, broken: None, unfit: None, differs: None }
    }

    fn open(&self) -> Result<Destination, Fault> {
        let on_exists = self.on_exists.unwrap_or(OnExists::Refuse);
        let policy = Policy { on_exists, ..self.policy };
        Destination::open(&self.dir, policy)
    }

    /// Shows an offer of files, and answers it or returns the question for the user.
    fn show(&mut self, offer: Offer, out: &str, yes: bool, report: &mut Report) -> Question {
        offer::show(&report.output, offer.manifest(), out, !yes);
        self.differs = partial::like(&self.dir, offer.manifest());
        if yes {
            return self.accept(report, offer);
        }
        if prompt::is_interactive() {
            report.ask("Accept? [y/N]");
            return Question::Accept(offer);
        }
        report.output.say(NO_TERMINAL);
        decline(offer, "the receiver has no terminal to ask the user");
        Question::Nothing
    }

    /// Shows an offer of files whose content is to be written to standard output, which one file can be.
    fn show_for_stdout(&mut self, offer: Offer, yes: bool, report: &mut Report) -> Question {
        match offer.into_stream() {
            Ok(offer) => {
                report.set_in_order(false);
                if let Some(manifest) = offer.file() {
                    offer::show(&report.output, manifest, "standard output", !yes);
                }
                pipe(report, offer, yes)
            }
            Err(offer) => {
                self.unfit = Some(Problem::unfit(
                    "only one file or a stream can be written to standard output, and the offer contains more",
                    "leave out --stdout, and ask for a new code",
                ));
                decline(offer, "more than one file can't be written to standard output");
                Question::Nothing
            }
        }
    }

    /// Declines a stream, because there is no standard output for it.
    fn refuse_stream(&mut self, offer: StreamOffer) {
        self.unfit = Some(Problem::unfit(
            "the offer is a stream, which can only be written to standard output",
            "ask for a new code, then: tallow receive --stdout CODE > FILE",
        ));
        decline_stream(offer, "the receiver needs --stdout for a stream");
    }

    /// Handles the answer of the user, and returns the next question.
    fn answered(&mut self, question: Question, line: Option<&str>, report: &mut Report) -> Question {
        match question {
            Question::Nothing => {}
            Question::Agree(comparison) => send::agree(Some(comparison), prompt::is_yes(line)),
            Question::Accept(offer) if prompt::is_yes(line) => return self.accept(report, offer),
            Question::Pipe(offer) if prompt::is_yes(line) => accept_stream(offer),
            Question::Accept(offer) => decline(offer, ""),
            Question::Pipe(offer) => decline_stream(offer, ""),
            Question::Exists(offer) => match offer::on_exists(line) {
                Some(choice) => {
                    self.on_exists = Some(choice);
                    self.take(offer);
                }
                None => decline(offer, "the names already exist at the receiver"),
            },
        }
        Question::Nothing
    }

    /// The user, or `--yes`, accepted the offer: asks about existing names on a terminal, and otherwise lets the sink
    /// refuse them.
    fn accept(&mut self, report: &mut Report, offer: Offer) -> Question {
        let existing = match self.open() {
            Ok(destination) if self.on_exists.is_none() && prompt::is_interactive() => {
                offer::existing(offer.manifest(), &destination)
            }
            Ok(_) | Err(_) => offer::Existing::default(),
        };
        if existing.is_empty() {
            self.take(offer);
            return Question::Nothing;
        }
        report.ask(&existing.question());
        Question::Exists(offer)
    }

    fn take(&mut self, offer: Offer) {
        // An error means that the transfer is over; the event that ended it reports this.
        match self.open() {
            Ok(destination) => {
                let sink = destination.sink();
                self.sink = Some(sink.clone());
                let _ = offer.accept(sink);
            }
            Err(fault) => {
                self.broken = Some(fault);
                let _ = offer.decline(DeclineReason::Io, "");
            }
        }
    }

    /// Reports the skipped and the renamed files.
    fn report_placement(&self, output: &Output) {
        let Some(sink) = &self.sink else { return };
        let (skipped, count) = sink.skipped();
        let skipped = skipped.iter().map(|path| shown(path));
        placement::list(output, "Skipped, because they already exist", skipped, count);
        placement::report_here(output, sink);
    }
}

/// The rules for what is received, but for names that exist.
const fn policy(args: &ReceiveArgs) -> Policy {
    Policy {
        on_exists: OnExists::Refuse,
        naming: match args.names {
            NameChoice::Plain => Naming::Plain,
            NameChoice::Exact => Naming::Exact,
            NameChoice::Portable => Naming::Portable,
        },
        outside_links: match args.links {
            LinkChoice::Inside => OutsideLinks::LeaveOut,
            LinkChoice::Keep => OutsideLinks::Keep,
        },
    }
}

/// The option for names that already exist.
const fn on_exists(args: &ReceiveArgs) -> Option<OnExists> {
    match (args.overwrite, args.rename, args.skip) {
        (true, _, _) => Some(OnExists::Overwrite),
        (_, true, _) => Some(OnExists::Rename),
        (_, _, true) => Some(OnExists::Skip),
        (false, false, false) => None,
    }
}

/// Writes the offer to standard output if the user agrees.
fn pipe(report: &mut Report, offer: StreamOffer, yes: bool) -> Question {
    if yes {
        accept_stream(offer);
    } else if prompt::is_interactive() {
        report.ask("Accept? [y/N]");
        return Question::Pipe(offer);
    } else {
        report.output.say(NO_TERMINAL);
        decline_stream(offer, "the receiver has no terminal to ask the user");
    }
    Question::Nothing
}

fn accept_stream(offer: StreamOffer) {
    // An error means that the transfer has ended; see `Place::take`.
    let _ = offer.accept(Arc::new(StreamOut::stdout()));
}

fn decline(offer: Offer, text: &str) {
    // An error means that the transfer has ended; see `Place::take`.
    let _ = offer.decline(DeclineReason::Person, text);
}

fn decline_stream(offer: StreamOffer, text: &str) {
    // An error means that the transfer has ended; see `Place::take`.
    let _ = offer.decline(DeclineReason::Person, text);
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    fn args(words: &[&str]) -> ReceiveArgs {
        let words = ["tallow", "receive"].iter().chain(words);
        match Cli::try_parse_from(words).unwrap().command {
            Command::Receive(args) => *args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn without_an_option_existing_names_are_asked_about() {
        assert_eq!(on_exists(&args(&[])), None);
        assert_eq!(on_exists(&args(&["--overwrite"])), Some(OnExists::Overwrite));
        assert_eq!(on_exists(&args(&["--rename"])), Some(OnExists::Rename));
        assert_eq!(on_exists(&args(&["--skip"])), Some(OnExists::Skip));
        assert!(Cli::try_parse_from(["tallow", "receive", "--skip", "--rename"]).is_err());
    }

    #[test]
    fn an_invalid_directory_fails_before_the_code_is_used() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "x").unwrap();
        let place = |dir| Place {
            dir,
            on_exists: None,
            policy: Policy::default(),
            sink: None,
            broken: None,
            unfit: None,
            differs: None,
        };
        assert!(place(dir.path().to_owned()).open().is_ok());
        assert!(place(file.join("below")).open().is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "the check creates nothing");
    }
}

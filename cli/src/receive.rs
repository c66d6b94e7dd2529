//! `tallow receive`.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;

use tallow_proto::peer::{Comparison, DeclineReason, Event, Failure, Offer, ReceiveConfig, StreamOffer};
use tallow_proto::transfer::storage::Fault;
use tallow_proto::wire::relay::Side;
use tallow_store::{Destination, OnExists, Policy, Receiving, StreamOut};

use crate::args::ReceiveArgs;
use crate::failure::{Context, Problem};
use crate::offer;
use crate::output::{Output, counted, shown};
use crate::report::{Report, Step};
use crate::signal::Signals;
use crate::{code_input, partial, prompt, send, setup};

/// Why an offer is declined without a question.
const NOBODY: &str = "Nobody can be asked, since standard input is no terminal";
/// How many names are told of each kind that is not as it was offered.
const TOLD: usize = 5;

/// What the next answer is about.
#[derive(Debug)]
enum Question {
    /// None was asked, or it was answered.
    Nothing,
    /// The verifier words.
    Agree(Comparison),
    /// The offer.
    Accept(Offer),
    /// The offer, whose bytes go to standard output.
    Pipe(StreamOffer),
    /// What to do about names that exist.
    Exists(Offer),
}

/// Receives.
///
/// # Errors
/// Why it did not.
pub fn run(args: ReceiveArgs, output: Output) -> Result<(), Problem> {
    prompt::remember_terminal();
    if args.stdout && std::io::stdout().is_terminal() {
        let hint = "name a file or a program: tallow receive --stdout CODE > FILE";
        return Err(Problem::usage("what arrives can't go to a terminal, which would obey it", hint));
    }
    let signals = Signals::watch().map_err(|error| Problem::system("could not listen for signals", &error))?;
    let given = code_input::for_receiving(&args.code, args.code_file.as_deref())?;
    let in_arguments = (!args.code.is_empty()).then_some("`tallow receive` alone asks for it");
    code_input::warn_of_arguments(&output, in_arguments, &args.peer);
    let (common, memory) = setup::common(&args.peer, given.relay)?;
    let known_relays = memory.file();
    let has_relays = !common.relays.is_empty();
    let at = Context { side: Side::Receiver, known_relays: &known_relays, relays: has_relays };
    let place = Place {
        on_exists: on_exists(&args),
        dir: args.out,
        allow_unportable: args.allow_unportable_names,
        sink: None,
        broken: None,
        unfit: None,
        differs: None,
    };
    // Opened now, so that a directory that can't be written is told before the code is used.
    if !args.stdout {
        place.open().map_err(|fault| Problem::local(&fault, &at))?;
    }
    let mut config = ReceiveConfig::new(common, given.code);
    (config.local, config.discover) = (setup::local(args.peer.port), args.peer.port.is_none());
    config.check().map_err(|error| Problem::config(&error))?;
    let runtime = args.peer.runtime;
    let out = std::path::absolute(&place.dir).unwrap_or_else(|_| place.dir.clone()).to_string_lossy().into_owned();
    let mut report = Report::new(output, runtime, Side::Receiver, signals, memory, has_relays);
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
                Step::Event(Event::Offer(offer)) if args.stdout => match offer.into_stream() {
                    Ok(offer) => {
                        report.set_in_order(false);
                        if let Some(manifest) = offer.file() {
                            offer::show(&report.output, manifest, "standard output", !args.yes);
                        }
                        question = pipe(&mut report, offer, args.yes);
                    }
                    Err(offer) => {
                        place.unfit = Some(Problem::unfit(
                            "only one file or a stream can go to standard output, and more is offered",
                            "leave out --stdout, and ask for a new code",
                        ));
                        decline(offer, "more than one file can't be written to standard output");
                    }
                },
                Step::Event(Event::StreamOffer(offer)) if args.stdout => {
                    report.set_in_order(true);
                    offer::show_stream(&report.output, !args.yes);
                    question = pipe(&mut report, offer, args.yes);
                }
                Step::Event(Event::StreamOffer(offer)) => {
                    place.unfit = Some(Problem::unfit(
                        "a stream is offered, which goes to standard output",
                        "ask for a new code, then: tallow receive --stdout CODE > FILE",
                    ));
                    decline_stream(offer, "a stream needs --stdout here");
                }
                Step::Event(Event::Offer(offer)) => {
                    offer::show(&report.output, offer.manifest(), &out, !args.yes);
                    place.differs = partial::like(&place.dir, offer.manifest());
                    if args.yes {
                        question = place.accept(&mut report, offer);
                    } else if prompt::is_interactive() {
                        question = Question::Accept(offer);
                        report.ask("Accept? [y/N]");
                    } else {
                        report.output.say(NOBODY);
                        decline(offer, "nobody was there to answer");
                    }
                }
                Step::Answer(line) => question = place.answered(question, line.as_deref(), &mut report),
                Step::Event(Event::Done(summary)) => {
                    report.show_done(&summary, (!args.stdout).then_some(&out));
                    place.tell_differences(&report.output);
                    if !args.stdout {
                        partial::mention(&place.dir, &report.output);
                    }
                    break Ok(summary);
                }
                Step::Event(Event::Failed(Failure::Stopped | Failure::Panicked)) | Step::Closed => {
                    return Err(report.unexplained(receiver.ending()));
                }
                Step::Event(Event::Failed(failure)) => {
                    // A directory that broke since it was looked at explains more than the refusal that followed from it.
                    let failure = place.broken.take().map_or(failure, Failure::Local);
                    break Err(place.unfit.take().unwrap_or_else(|| report.problem(&failure)));
                }
                Step::Event(Event::Resuming) => place.differs = None,
                Step::Event(Event::Accepted) => {
                    if let Some(name) = place.differs.take() {
                        let what = "is kept there from before, but what is offered now differs; it begins afresh";
                        report.output.line(&format!("A part of {name} {what}"));
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

/// Where things go, and by which rules.
#[derive(Debug)]
struct Place {
    dir: PathBuf,
    /// `None`: refused, or asked about.
    on_exists: Option<OnExists>,
    allow_unportable: bool,
    /// Once it was accepted.
    sink: Option<Arc<Receiving>>,
    /// Why it could not be.
    broken: Option<Fault>,
    /// Why it was declined without a question.
    unfit: Option<Problem>,
    /// Something of this name is there from before, as long as it may be another.
    differs: Option<String>,
}

impl Place {
    fn open(&self) -> Result<Destination, Fault> {
        let on_exists = self.on_exists.unwrap_or(OnExists::Refuse);
        let policy = Policy { on_exists, allow_unportable: self.allow_unportable };
        Destination::open(&self.dir, policy)
    }

    /// What follows from the person's answer.
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
                None => decline(offer, "the names exist there already"),
            },
        }
        Question::Nothing
    }

    /// The person, or `--yes`, accepted: asks about names that exist where somebody can answer, and else lets the sink refuse.
    fn accept(&mut self, report: &mut Report, offer: Offer) -> Question {
        let existing = if self.on_exists.is_none() && prompt::is_interactive() {
            offer::existing(offer.manifest(), &self.dir, self.allow_unportable)
        } else {
            offer::Existing::default()
        };
        if existing.is_empty() {
            self.take(offer);
            return Question::Nothing;
        }
        report.ask(&existing.question());
        Question::Exists(offer)
    }

    fn take(&mut self, offer: Offer) {
        // That it is over already is told by the event that ended it.
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

    /// Says what is not as it was offered.
    fn tell_differences(&self, output: &Output) {
        let Some(sink) = &self.sink else { return };
        let (skipped, count) = sink.skipped();
        let skipped = skipped.iter().map(|path| shown(path)).collect();
        tell(output, "Skipped, since they exist", skipped, count);
        let (mut renamed, mut count) = sink.renamed();
        let elsewhere = sink.placed().into_iter().filter(|placed| placed.offered != placed.here);
        for placed in elsewhere.filter(|placed| !renamed.contains(placed)).collect::<Vec<_>>() {
            renamed.push(placed);
            count += 1;
        }
        let renamed = renamed.iter().map(|name| format!("{} is {}", shown(&name.offered), shown(&name.here))).collect();
        tell(output, "Under another name", renamed, count);
    }
}

/// What was said beforehand about names that exist.
const fn on_exists(args: &ReceiveArgs) -> Option<OnExists> {
    match (args.overwrite, args.rename, args.skip) {
        (true, _, _) => Some(OnExists::Overwrite),
        (_, true, _) => Some(OnExists::Rename),
        (_, _, true) => Some(OnExists::Skip),
        (false, false, false) => None,
    }
}

fn tell(output: &Output, what: &str, mut lines: Vec<String>, count: u64) {
    if count == 0 {
        return;
    }
    output.line(&format!("{what}:"));
    lines.truncate(TOLD);
    for line in &lines {
        output.line(&format!("  {line}"));
    }
    let more = count.saturating_sub(lines.len() as u64);
    if more > 0 {
        output.line(&format!("  and {}", counted(more, "more", "more")));
    }
}

/// The offer goes to standard output, if the person agrees.
fn pipe(report: &mut Report, offer: StreamOffer, yes: bool) -> Question {
    if yes {
        accept_stream(offer);
    } else if prompt::is_interactive() {
        report.ask("Accept? [y/N]");
        return Question::Pipe(offer);
    } else {
        report.output.say(NOBODY);
        decline_stream(offer, "nobody was there to answer");
    }
    Question::Nothing
}

fn accept_stream(offer: StreamOffer) {
    // As in `Place::take`.
    let _ = offer.accept(Arc::new(StreamOut::stdout()));
}

fn decline(offer: Offer, text: &str) {
    // As in `Place::take`.
    let _ = offer.decline(DeclineReason::Person, text);
}

fn decline_stream(offer: StreamOffer, text: &str) {
    // As in `Place::take`.
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
    fn nothing_said_about_names_that_exist_is_a_question_and_not_a_choice() {
        assert_eq!(on_exists(&args(&[])), None);
        assert_eq!(on_exists(&args(&["--overwrite"])), Some(OnExists::Overwrite));
        assert_eq!(on_exists(&args(&["--rename"])), Some(OnExists::Rename));
        assert_eq!(on_exists(&args(&["--skip"])), Some(OnExists::Skip));
        assert!(Cli::try_parse_from(["tallow", "receive", "--skip", "--rename"]).is_err());
    }

    #[test]
    fn a_place_that_cannot_be_is_known_before_the_code_is_used() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "x").unwrap();
        let place = |dir| Place {
            dir,
            on_exists: None,
            allow_unportable: false,
            sink: None,
            broken: None,
            unfit: None,
            differs: None,
        };
        assert!(place(dir.path().to_owned()).open().is_ok());
        assert!(place(file.join("below")).open().is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "to look makes nothing");
    }
}

//! What two sides know of their floors, with every word late and every link dying at any time, at one end first.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

/// One side. A link that waits is known by its number.
struct End {
    floor: Floor<u32>,
    /// Links that are gone here.
    gone: Vec<u32>,
    /// What was said to it and has not arrived: about which link.
    inbox: VecDeque<u32>,
    /// Those that have proven themselves here.
    proven: Vec<u32>,
}

impl End {
    fn new() -> Self {
        let floor = Floor { kind: PathKind::Relay, state: State::There, lost: None, offered: true, direct: true };
        Self { floor, gone: Vec::new(), inbox: VecDeque::new(), proven: vec![0] }
    }

    /// The link that it has beside its direct one.
    fn has(&self) -> Option<u32> {
        match &self.floor.state {
            State::There => self.proven.last().copied(),
            State::Met(number) | State::Said(Some(number)) => Some(*number),
            State::Joining { id: LinkId(number), .. } => Some(*number),
            State::Said(None) | State::Looking { .. } => None,
        }
    }
}

struct Model {
    ends: [End; 2],
    links: u32,
}

const SENDER: usize = 0;
const RECEIVER: usize = 1;

impl Model {
    fn new() -> Self {
        Self { ends: [End::new(), End::new()], links: 0 }
    }

    fn say(&mut self, from: usize, about: u32) {
        self.ends[1 - from].inbox.push_back(about);
    }

    /// Its link is gone at this end.
    fn lose(&mut self, which: usize) {
        let end = &mut self.ends[which];
        let Some(number) = end.has() else { return };
        end.gone.push(number);
        if end.floor.take().is_some() {
            return;
        }
        match end.floor.lose(LinkId(number)) {
            Loss::Floor => self.say(which, number),
            Loss::Attempt => {}
            Loss::Other => panic!("{number} was none"),
        }
    }

    fn hear(&mut self, which: usize) {
        let Some(about) = self.ends[which].inbox.pop_front() else { return };
        self.hear_of(which, about);
    }

    fn hear_of(&mut self, which: usize, about: u32) {
        let newest = self.ends[which].has();
        match self.ends[which].floor.hear() {
            Heard::Nothing => panic!("it was said of a link"),
            Heard::Lose => {
                assert_eq!(newest, Some(about), "another floor than was meant");
                self.lose(which);
                self.hear_of(which, about);
            }
            Heard::Settled => {
                assert_eq!(self.ends[which].floor.lost.take(), Some(LinkId(about)), "another floor than was meant");
            }
            Heard::Answer(waiting) => {
                assert!(waiting.is_none_or(|number| number == about), "another link than was meant");
                self.ends[which].gone.extend(waiting);
                self.say(which, about);
            }
            Heard::AnswerFor(LinkId(number)) => {
                assert_eq!(number, about, "another link than was meant");
                self.say(which, about);
                self.lose(which);
                self.ends[which].floor.settle();
            }
        }
    }

    /// Where both look, they meet; the sender speaks at once.
    fn meet(&mut self) {
        if self.ends.iter().all(|end| matches!(end.floor.state, State::Looking { .. })) {
            self.links += 1;
            self.ends[SENDER].floor.state = State::Joining { id: LinkId(self.links), found: Found::Near, until: None };
            self.ends[RECEIVER].floor.state = State::Met(self.links);
        }
    }

    /// The proof goes on by one message, which may have been on its way when the link died at its other end.
    fn prove(&mut self, which: usize) {
        let others = self.ends[1 - which].proven.clone();
        let end = &mut self.ends[which];
        match end.floor.state {
            State::Met(number) if which == RECEIVER => {
                end.floor.state = State::Joining { id: LinkId(number), found: Found::Near, until: None };
            }
            // Who answered is convinced first.
            State::Joining { id: LinkId(number), .. } if which == RECEIVER || others.contains(&number) => {
                assert!(end.floor.prove(LinkId(number)));
                end.proven.push(number);
            }
            State::There | State::Said(_) | State::Looking { .. } | State::Met(_) | State::Joining { .. } => {}
        }
    }

    fn act(&mut self, action: u8) {
        let which = usize::from(action & 1);
        match action >> 1 {
            0 => self.lose(which),
            1 => self.hear(which),
            2 => self.meet(),
            _ => self.prove(which),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    /// "The floor" is one floor for both, whatever is under way; and both look again once everything is lost and said.
    #[test]
    fn what_is_said_of_the_floor_is_said_of_one(actions in prop::collection::vec(0_u8..8, 0..200)) {
        let mut model = Model::new();
        for action in actions {
            model.act(action);
        }
        for which in [SENDER, RECEIVER] {
            model.lose(which);
        }
        for _ in 0..3 {
            model.hear(SENDER);
            model.hear(RECEIVER);
        }
        for end in &model.ends {
            prop_assert!(end.inbox.is_empty() && matches!(end.floor.state, State::Looking { .. }), "{:?}", end.floor.state);
        }
    }
}

/// What was not yet heard when the session lost its last link comes in the next generation, before anything that is said in it.
#[test]
fn a_word_of_an_earlier_generation_means_nothing() {
    let mut floor = Floor::<u32>::new_for_test();
    assert_eq!(floor.hear(), Heard::Nothing);
    // An offer may be from then, too; but then it has led to nothing here.
    floor.handle_offer();
    assert_eq!(floor.hear(), Heard::Nothing);
    assert!(!floor.is_wanted());
    floor.handle_direct();
    assert_eq!(floor.hear(), Heard::Lose);
}

impl Floor<u32> {
    fn new_for_test() -> Self {
        Self { kind: PathKind::Relay, state: State::There, lost: None, offered: false, direct: false }
    }
}

//! A model of what two sides know about their relay paths. Every message may be late, and every link may be lost at
//! any time, at one end before the other.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

/// One side. A pending link is identified by its number.
struct End {
    relay: RelayPath<u32>,
    /// Links that are lost at this end.
    gone: Vec<u32>,
    /// Notices that were sent to this side and have not arrived: the number of the lost link.
    inbox: VecDeque<u32>,
    /// Links that are authenticated at this end.
    proven: Vec<u32>,
}

impl End {
    fn new() -> Self {
        let relay = RelayPath { kind: PathKind::Relay, state: State::Up, lost: None, offered: true, direct: true };
        Self { relay, gone: Vec::new(), inbox: VecDeque::new(), proven: vec![0] }
    }

    /// The link that it has besides its direct one.
    fn has(&self) -> Option<u32> {
        match &self.relay.state {
            State::Up => self.proven.last().copied(),
            State::Pending(number) | State::LossSent(Some(number)) => Some(*number),
            State::Validating { id: LinkId(number), .. } => Some(*number),
            State::LossSent(None) | State::Reconnecting { .. } => None,
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

    /// The link of this end is lost.
    fn lose(&mut self, which: usize) {
        let end = &mut self.ends[which];
        let Some(number) = end.has() else { return };
        end.gone.push(number);
        if end.relay.take().is_some() {
            return;
        }
        match end.relay.lose(LinkId(number)) {
            Loss::RelayPath => self.say(which, number),
            Loss::Attempt => {}
            Loss::Other => panic!("{number} was none"),
        }
    }

    fn hear(&mut self, which: usize) {
        let Some(about) = self.ends[which].inbox.pop_front() else { return };
        self.handle_notice_of(which, about);
    }

    fn handle_notice_of(&mut self, which: usize, about: u32) {
        let newest = self.ends[which].has();
        match self.ends[which].relay.handle_loss() {
            Received::Nothing => panic!("it was said of a link"),
            Received::Lose => {
                assert_eq!(newest, Some(about), "another relay path than was meant");
                self.lose(which);
                self.handle_notice_of(which, about);
            }
            Received::Settled => {
                assert_eq!(
                    self.ends[which].relay.lost.take(),
                    Some(LinkId(about)),
                    "another relay path than was meant"
                );
            }
            Received::Answer(waiting) => {
                assert!(waiting.is_none_or(|number| number == about), "another link than was meant");
                self.ends[which].gone.extend(waiting);
                self.say(which, about);
            }
            Received::AnswerFor(LinkId(number)) => {
                assert_eq!(number, about, "another link than was meant");
                self.say(which, about);
                self.lose(which);
                self.ends[which].relay.settle();
            }
        }
    }

    /// If both sides search, they are connected; the sender sends at once.
    fn meet(&mut self) {
        if self.ends.iter().all(|end| matches!(end.relay.state, State::Reconnecting { .. })) {
            self.links += 1;
            self.ends[SENDER].relay.state = State::Validating { id: LinkId(self.links), via: Via::Near, until: None };
            self.ends[RECEIVER].relay.state = State::Pending(self.links);
        }
    }

    /// The authentication advances by one message, which may have been sent before the link was lost at its other
    /// end.
    fn prove(&mut self, which: usize) {
        let others = self.ends[1 - which].proven.clone();
        let end = &mut self.ends[which];
        match end.relay.state {
            State::Pending(number) if which == RECEIVER => {
                end.relay.state = State::Validating { id: LinkId(number), via: Via::Near, until: None };
            }
            // The side that answers is authenticated first.
            State::Validating { id: LinkId(number), .. } if which == RECEIVER || others.contains(&number) => {
                assert!(end.relay.prove(LinkId(number)));
                end.proven.push(number);
            }
            State::Up
            | State::LossSent(_)
            | State::Reconnecting { .. }
            | State::Pending(_)
            | State::Validating { .. } => {}
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

    /// `DirectFailed(0)` refers to the same link on both sides, whatever is in flight; both search again once
    /// everything is lost and reported.
    #[test]
    fn both_peers_reconnect_after_relay_path_loss(actions in prop::collection::vec(0_u8..8, 0..200)) {
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
            let reconnects = matches!(end.relay.state, State::Reconnecting { .. });
            prop_assert!(end.inbox.is_empty() && reconnects, "{:?}", end.relay.state);
        }
    }
}

/// A notice that had not arrived when the session lost its last link arrives in the next generation, before any
/// message of that generation.
#[test]
fn message_of_earlier_generation_is_ignored() {
    let mut relay = RelayPath::<u32>::new_for_test();
    assert_eq!(relay.handle_loss(), Received::Nothing);
    // An offer may be from that generation, too; but then it had no effect here.
    relay.handle_offer();
    assert_eq!(relay.handle_loss(), Received::Nothing);
    assert!(!relay.is_wanted());
    relay.handle_direct();
    assert_eq!(relay.handle_loss(), Received::Lose);
}

impl RelayPath<u32> {
    fn new_for_test() -> Self {
        Self { kind: PathKind::Relay, state: State::Up, lost: None, offered: false, direct: false }
    }
}

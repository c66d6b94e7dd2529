//! A node that panics at its third input, like a bug that foreign bytes trigger.

use std::num::NonZeroUsize;
use std::time::Instant;

use bytes::BytesMut;
use tallow_proto::misuse::Misuse;
use tallow_proto::net::{Action, Arrival, SocketId, Transmit};
use tallow_proto::node::{Input, Node};
use tallow_proto::transfer::Job;

#[derive(Default)]
pub struct Fragile {
    inputs: usize,
    told: usize,
    closed: bool,
}

/// Counts as an input, or closes the node.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    Count,
    Close,
}

/// The number of inputs so far.
#[derive(Debug, PartialEq, Eq)]
pub struct Counted(pub usize);

impl From<Misuse> for Counted {
    fn from(misuse: Misuse) -> Self {
        panic!("{misuse}");
    }
}

impl Node for Fragile {
    type Command = Command;
    type Event = Counted;

    fn handle_datagram(&mut self, _: Instant, _: Arrival, _: BytesMut) {}
    fn handle_input(&mut self, _: Instant, _: Input) {}
    fn handle_command(&mut self, _: Instant, command: Command) -> Result<(), Misuse> {
        match command {
            Command::Count => self.inputs += 1,
            Command::Close => self.closed = true,
        }
        assert!(self.inputs < 3, "on purpose");
        Ok(())
    }
    fn handle_timeout(&mut self, _: Instant) {}
    fn settle(&mut self, _: Instant) {}
    fn poll_action(&mut self) -> Option<Action> {
        None
    }
    fn poll_transmit(&mut self, _: Instant, _: SocketId, _: NonZeroUsize, _: &mut Vec<u8>) -> Option<Transmit> {
        None
    }
    fn poll_job(&mut self) -> Option<Job> {
        None
    }
    fn poll_event(&mut self) -> Option<Counted> {
        (self.told < self.inputs).then(|| {
            self.told += 1;
            Counted(self.told)
        })
    }
    fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        None
    }
    fn is_closed(&self) -> bool {
        self.closed
    }
}

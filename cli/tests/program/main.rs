//! The real program as users and scripts use it: on a terminal and with pipes, with signals, through a relay, and
//! with secrets that it must never reveal.

mod changing;
mod codes;
mod direct;
mod ending;
mod existing;
mod faults;
mod malicious_peer;
mod output;
mod relay;
mod secrets;
mod sparse;
mod stage;
mod stream;
mod terminal;
mod unread;

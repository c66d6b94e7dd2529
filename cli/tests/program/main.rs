//! The real program as users and scripts use it: on a terminal and with pipes, with signals, through a relay, and
//! with secrets that it must never reveal.

mod codes;
mod direct;
mod ending;
mod faults;
mod malicious_peer;
mod output;
mod relay;
mod secrets;
mod stage;
mod stream;
mod terminal;
mod unread;

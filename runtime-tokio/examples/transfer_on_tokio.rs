//! Sends files, or receives them, with nothing else set up: both on one machine, or on one local network.
//!
//! ```text
//! cargo run -p tallow-tokio --example transfer_on_tokio -- send <path>…
//! cargo run -p tallow-tokio --example transfer_on_tokio -- receive <code> <directory>
//! ```

use std::error::Error;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tallow_proto::code::Code;
use tallow_proto::peer::config::DEFAULT_PORT;
use tallow_proto::peer::{CodeChoice, Embedded, Event};
use tallow_proto::transfer::Compression;
use tallow_store::{Destination, Policy, SourceOptions, SourceTree};
use tallow_tokio::{ReceiveConfig, SendConfig, this_machine};

async fn send(paths: Vec<PathBuf>) -> Result<(), Box<dyn Error>> {
    let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, DEFAULT_PORT));
    let mut sender = tallow_tokio::send(SendConfig {
        common: this_machine(),
        source: Arc::new(SourceTree::new(paths, SourceOptions::default())?).into(),
        code: CodeChoice::Generate { words: 3 },
        compression: Compression::default(),
        // No relay is named, so there is one in here.
        embedded: Some(Embedded { identity: tallow_store::ephemeral()?, listen: vec![any], announce: true }),
    });
    while let Some(event) = sender.next_event().await {
        match event {
            Event::Code { code, .. } => {
                println!("on the other machine: receive {} <directory>", code.reveal().as_str())
            }
            Event::Done(summary) => println!("sent {} bytes", summary.totals.bytes),
            Event::Failed(failure) => return Err(failure.into()),
            _ => {}
        }
    }
    Ok(())
}

async fn receive(code: &str, directory: &Path) -> Result<(), Box<dyn Error>> {
    let mut receiver = tallow_tokio::receive(ReceiveConfig {
        common: this_machine(),
        code: Code::parse(code)?,
        local: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, DEFAULT_PORT))],
        discover: true,
    });
    while let Some(event) = receiver.next_event().await {
        match event {
            // The place to ask a person; names of the other side are shown through `Untrusted::escaped` only.
            Event::Offer(manifest) => {
                println!("{} bytes in {} files", manifest.totals().bytes, manifest.totals().files);
                let destination = Destination::open(directory, Policy::default()).map_err(|fault| fault.kind)?;
                receiver.accept(destination.sink())?;
            }
            Event::Done(summary) => println!("received {} bytes", summary.totals.bytes),
            Event::Failed(failure) => return Err(failure.into()),
            _ => {}
        }
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["send", ref paths @ ..] if !paths.is_empty() => send(paths.iter().map(PathBuf::from).collect()).await,
        ["receive", code, directory] => receive(code, Path::new(directory)).await,
        _ => Err("expected: send <path>… | receive <code> <directory>".into()),
    }
}

//! Sends or receives files without any further setup: both on one machine or in one local network; or anywhere, with
//! the link.
//!
//! ```text
//! cargo run -p tallow-smol --example transfer_on_smol -- send <path>…
//! cargo run -p tallow-smol --example transfer_on_smol -- receive <code or link> <directory>
//! ```

use std::error::Error;

use tallow_smol::{Event, Invitation, directory, files, receive, receiving, send, sending};

async fn send_files(paths: &[&str]) -> Result<(), Box<dyn Error>> {
    let mut sender = send(sending(files(paths.iter().copied())?))?;
    println!("on the other machine: receive {} <directory>", sender.code().await?.reveal().as_str());
    if let Some(link) = sender.link().await? {
        println!("or, if it finds nothing: receive {} <directory>", link.reveal().as_str());
    }
    while let Some(event) = sender.next_event().await {
        if let Event::Progress(progress) = event {
            println!("{} of {} bytes, {} bytes/s", progress.bytes, progress.total, progress.rate.unwrap_or_default());
        }
    }
    println!("sent {} bytes", sender.closed().await?.totals.bytes);
    Ok(())
}

async fn receive_files(invitation: &str, path: &str) -> Result<(), Box<dyn Error>> {
    let mut receiver = receive(receiving(invitation.parse::<Invitation>()?))?;
    let offer = receiver.offer().await?;
    // Ask the user here; display names from the other side only through `Untrusted::escaped`.
    let totals = offer.manifest().totals();
    println!("{} bytes in {} files", totals.bytes, totals.files);
    offer.accept(directory(path)?)?;
    println!("received {} bytes", receiver.closed().await?.totals.bytes);
    Ok(())
}

async fn run() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["send", ref paths @ ..] if !paths.is_empty() => send_files(paths).await,
        ["receive", invitation, path] => receive_files(invitation, path).await,
        _ => Err("expected: send <path>… | receive <code or link> <directory>".into()),
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    smol::block_on(run())
}

//! The baselines of the comparison: the least that the same work can cost, each as two processes of this program.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use super::process::Process;
use super::{Run, Settings};

const CHUNK: usize = 1 << 20;

/// A plain QUIC stream from memory to memory: no files, no hashes, no second encryption.
pub fn quinn(settings: &Settings) -> Run {
    pair(settings, "quinn", &[])
}

/// Read, hash, seal, TCP, open, hash, write: the minimum cost of a verified and encrypted copy.
pub fn pipeline(settings: &Settings) -> Run {
    let (source, out) = (settings.work.join("big.bin"), settings.work.join("bare.out"));
    if !source.exists() {
        std::fs::write(&source, vec![7; (settings.mebibytes << 20) as usize]).expect("a file to send");
    }
    let run = pair(settings, "pipeline", &[source.to_string_lossy().as_ref(), out.to_string_lossy().as_ref()]);
    std::fs::remove_file(out).expect("the copy can be removed");
    run
}

fn pair(settings: &Settings, kind: &str, files: &[&str]) -> Run {
    let own = std::env::current_exe().expect("this program has a path");
    let size = settings.mebibytes.to_string();
    let mut receiver = Process::start(Command::new(&own).args(["bare", kind, "receive", &size]).args(files));
    let at = receiver.wait_for("listening on ");
    let started = Instant::now();
    let sender = Process::start(Command::new(&own).args(["bare", kind, "send", &size]).args(files).arg(at));
    let receiver = std::thread::spawn(move || receiver.finish());
    let sender = sender.finish();
    let receiver = receiver.join().expect("the receiver ends well");
    Run { wall: started.elapsed(), bytes: settings.mebibytes << 20, usage: vec![sender, receiver] }
}

/// One of the two processes.
pub fn child(args: impl Iterator<Item = String>) {
    let args: Vec<String> = args.collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let bytes = |mebibytes: &str| mebibytes.parse::<u64>().expect("a size") << 20;
    match args.as_slice() {
        ["pipeline", "send", _, source, _, at] => pipeline_send(source, at.parse().expect("an address")),
        ["pipeline", "receive", size, _, out] => pipeline_receive(bytes(size), out),
        ["quinn", "send", size, at] => runtime().block_on(quinn_send(bytes(size), at.parse().expect("an address"))),
        ["quinn", "receive", size] => runtime().block_on(quinn_receive(bytes(size))),
        _ => panic!("unknown bare program {args:?}"),
    }
}

fn key() -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[7; 32]).expect("32 bytes"))
}

fn nonce(number: u64) -> Nonce {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&number.to_be_bytes());
    Nonce::assume_unique_for_key(nonce)
}

fn pipeline_send(source: &str, at: SocketAddr) {
    let mut file = std::fs::File::open(source).expect("the file");
    let mut socket = TcpStream::connect(at).expect("a connection");
    let (key, mut hasher, mut chunk) = (key(), blake3::Hasher::new(), Vec::with_capacity(CHUNK + 16));
    for number in 0.. {
        chunk.clear();
        Read::take(&mut file, CHUNK as u64).read_to_end(&mut chunk).expect("readable");
        if chunk.is_empty() {
            break;
        }
        hasher.update(blake3::hash(&chunk).as_bytes());
        key.seal_in_place_append_tag(nonce(number), Aad::empty(), &mut chunk).expect("sealed");
        socket.write_all(&chunk).expect("sent");
    }
    socket.shutdown(std::net::Shutdown::Write).expect("an end");
    let mut root = [0; 32];
    socket.read_exact(&mut root).expect("the receiver's root");
    assert_eq!(hasher.finalize().as_bytes(), &root, "the copy is right");
}

fn pipeline_receive(size: u64, out: &str) {
    let mut file = std::fs::File::create(out).expect("a file");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    eprintln!("listening on {}", listener.local_addr().expect("an address"));
    let (mut socket, _) = listener.accept().expect("a sender");
    let (key, mut hasher, mut chunk) = (key(), blake3::Hasher::new(), Vec::with_capacity(CHUNK + 16));
    let mut left = size;
    for number in 0.. {
        if left == 0 {
            break;
        }
        let plain = left.min(CHUNK as u64);
        chunk.resize(plain as usize + 16, 0);
        socket.read_exact(&mut chunk).expect("a chunk");
        let opened = key.open_in_place(nonce(number), Aad::empty(), &mut chunk).expect("a true chunk");
        hasher.update(blake3::hash(opened).as_bytes());
        file.write_all(opened).expect("room");
        left -= plain;
    }
    socket.write_all(hasher.finalize().as_bytes()).expect("the root is sent");
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

fn transport() -> Arc<quinn::TransportConfig> {
    let mut transport = quinn::TransportConfig::default();
    transport.stream_receive_window((16u32 << 20).into()).receive_window((16u32 << 20).into()).send_window(16 << 20);
    Arc::new(transport)
}

async fn quinn_receive(size: u64) {
    let certificate = rcgen::generate_simple_self_signed(vec!["localhost".into()]).expect("a certificate");
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(certificate.signing_key.serialize_der());
    let mut config =
        quinn::ServerConfig::with_single_cert(vec![certificate.cert.der().clone()], key.into()).expect("a server");
    config.transport_config(transport());
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
    let hex: String = certificate.cert.der().iter().map(|byte| format!("{byte:02x}")).collect();
    let at = socket.local_addr().expect("an address");
    let endpoint =
        quinn::Endpoint::new(quinn::EndpointConfig::default(), Some(config), socket, Arc::new(quinn::TokioRuntime))
            .expect("an endpoint");
    std::fs::write(certificate_path(at), hex).expect("room for a certificate");
    eprintln!("listening on {at}");
    let connection = endpoint.accept().await.expect("a client").await.expect("a connection");
    let mut stream = connection.accept_uni().await.expect("a stream");
    let mut left = size;
    while let Some(chunk) = stream.read_chunk(usize::MAX, true).await.expect("readable") {
        left -= chunk.bytes.len() as u64;
    }
    assert_eq!(left, 0, "all arrived");
    connection.closed().await;
    std::fs::remove_file(certificate_path(at)).expect("the certificate can be removed");
}

async fn quinn_send(size: u64, at: SocketAddr) {
    let hex = std::fs::read_to_string(certificate_path(at)).expect("the server's certificate");
    let der: Vec<u8> =
        (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).expect("hex")).collect();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(der.into()).expect("a certificate");
    let mut config = quinn::ClientConfig::with_root_certificates(Arc::new(roots)).expect("a client");
    config.transport_config(transport());
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
    let endpoint = quinn::Endpoint::new(quinn::EndpointConfig::default(), None, socket, Arc::new(quinn::TokioRuntime))
        .expect("an endpoint");
    let connection = endpoint.connect_with(config, at, "localhost").expect("an address").await.expect("a connection");
    let mut stream = connection.open_uni().await.expect("a stream");
    let chunk = bytes::Bytes::from(vec![7; CHUNK]);
    let mut left = size;
    while left > 0 {
        let count = left.min(CHUNK as u64);
        stream.write_chunk(chunk.slice(..count as usize)).await.expect("sent");
        left -= count;
    }
    stream.finish().expect("an end");
    stream.stopped().await.expect("all was read");
    connection.close(0u32.into(), b"");
    endpoint.wait_idle().await;
}

fn certificate_path(at: SocketAddr) -> std::path::PathBuf {
    std::env::temp_dir().join(format!("tallow-bench-{}.hex", at.port()))
}

//! The other process of the network measurement: it counts what arrives and says so.
//!
//! Per stream: a u32 (little-endian) with the size of the messages, then messages; for each one
//! that is complete, [`ANSWER`] bytes go back. No framing and no checks: this is QUIC and TLS alone.
//! Invariant: it ends when its standard input does, so it never outlives who started it.

use std::{net::SocketAddr, path::PathBuf};

use clap::Args;
use quorate_certs::Credentials;
use quorate_client::{Env, config::TransportConfig};
use serde_json::json;

use crate::{
    cli::{connect::unix_time, fail::Fail, node::stop_signal, output::Output},
    endpoint,
};

/// Bytes of an answer: about those of an acknowledgement.
pub(super) const ANSWER: usize = 32;
/// Bytes of a message at most.
const MAX_MESSAGE: u32 = 4 << 20;

/// The other process of 'quorate bench limits'
#[derive(Args, Debug)]
pub(crate) struct Peer {
    /// Folder with ca.crt, tls.crt and tls.key of a node
    #[arg(long, value_name = "DIR")]
    certs: PathBuf,
}

pub(super) async fn run(args: &Peer, env: &Env) -> Result<(), Fail> {
    let stop = stop_signal(true)?;
    let credentials = Credentials::load(&args.certs, unix_time(env)).map_err(Fail::failed)?;
    let addr = SocketAddr::from(([127, 0, 0, 1], 0));
    let bound = endpoint::bind(env, addr, &credentials, &TransportConfig::default());
    let (endpoint, _) = bound.map_err(Fail::failed)?;
    let addr = endpoint.local_addr().map_err(Fail::failed)?;
    let mut out = Output::new();
    out.json(&json!({ "ready": true, "addr": addr.to_string() }))?;
    out.flush()?;
    let serve = async {
        while let Some(incoming) = endpoint.accept().await {
            if let Ok(connection) = incoming.await {
                while let Ok((send, recv)) = connection.accept_bi().await {
                    tokio::spawn(echo(send, recv));
                }
            }
        }
    };
    tokio::select! {
        () = serve => Ok(()),
        () = stop => Ok(()),
    }
}

/// Answers one stream to its end; a stream that fails is the other side's to report.
async fn echo(mut send: quinn::SendStream, mut recv: quinn::RecvStream) -> Option<()> {
    let mut size = [0; 4];
    recv.read_exact(&mut size).await.ok()?;
    let size = u32::from_le_bytes(size);
    if size == 0 || size > MAX_MESSAGE {
        return None;
    }
    let (size, mut held) = (size as usize, 0);
    let answers = vec![7; ANSWER * 256];
    while let Some(chunk) = recv.read_chunk(usize::MAX, true).await.ok()? {
        held += chunk.bytes.len();
        let mut complete = held / size;
        held %= size;
        while complete > 0 {
            let some = complete.min(256);
            send.write_all(answers.get(..some * ANSWER)?).await.ok()?;
            complete -= some;
        }
    }
    send.finish().ok()
}

//! Becoming a member of a cluster that exists: asking its members to be let in.
//!
//! Invariant: a reason that passes is waited out until the deadline; one that does not ends the attempt
//! with what to do. Asking again is harmless: the same name and disk get the same id. Used by
//! [`super`].

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use quorate_client::connection::{ConnectError, Dialer, RequestError};
use quorate_protocol::{
    code::{Class, Code},
    id::NodeId,
    message::{Join, Joined},
};
use tokio::time::{Instant, sleep};

use super::StartError;
use crate::{config::NodeConfig, core::Core, data::Identity};

/// Pause between attempts to join.
const JOIN_PAUSE: Duration = Duration::from_millis(300);

/// Asks the members in turn until one lets this node in.
pub(super) async fn join(
    config: &NodeConfig,
    dialer: &Dialer,
    identity: &Identity,
    advertise: &str,
    addresses: &[String],
) -> Result<Joined, StartError> {
    let deadline = Instant::now() + config.join_timeout();
    let failed = |reason: String| StartError::Join { addresses: addresses.join(","), reason };
    loop {
        let mut reason = "no address given".to_owned();
        for address in addresses {
            match join_through(dialer, identity, advertise, address, config, deadline).await {
                Ok(joined) => return Ok(joined),
                Err(Attempt::Final(why)) => return Err(failed(why)),
                Err(Attempt::Again(why)) => reason = why,
            }
        }
        if Instant::now() + JOIN_PAUSE >= deadline {
            return Err(failed(reason));
        }
        tracing::info!(%reason, "waiting to join");
        sleep(JOIN_PAUSE).await;
    }
}

/// Says where this node is: one that was killed before it had the map, and has another address since,
/// knows nobody, and nobody finds it.
pub(super) async fn join_again(
    core: Arc<Core>,
    identity: Identity,
    addr: String,
    through: Vec<String>,
) {
    let joined = join(&core.config, core.pool.dialer(), &identity, &addr, &through);
    tokio::select! {
        biased;
        () = core.cancel.cancelled() => {}
        joined = joined => if let Err(error) = joined {
            tracing::warn!(%error, "waiting for the others to find this node");
        }
    }
}

enum Attempt {
    Again(String),
    Final(String),
}

impl From<ConnectError> for Attempt {
    fn from(error: ConnectError) -> Self {
        if error.retryable() {
            Self::Again(error.to_string())
        } else {
            Self::Final(error.to_string())
        }
    }
}

async fn join_through(
    dialer: &Dialer,
    identity: &Identity,
    advertise: &str,
    address: &str,
    config: &NodeConfig,
    deadline: Instant,
) -> Result<Joined, Attempt> {
    let connection = dialer.dial(address, NodeId(0)).await?;
    let left = deadline.saturating_duration_since(Instant::now());
    let request = Join {
        addr: advertise.to_owned(),
        zone: config.zone.clone(),
        instance: identity.instance(),
        forwarded_for: None,
        deadline_ms: u32::try_from(left.as_millis()).unwrap_or(u32::MAX),
    };
    let joined = connection.request(&request, Bytes::new(), deadline).await;
    connection.close(quorate_protocol::code::Close::Done, "");
    match joined {
        Ok((joined, _)) => Ok(joined),
        Err(RequestError::Failure(failure)) if failure.code.class() == Class::Never => {
            let code: Code = failure.code;
            Err(Attempt::Final(format!("{code}: {}", failure.detail)))
        }
        Err(error) => Err(Attempt::Again(error.to_string())),
    }
}

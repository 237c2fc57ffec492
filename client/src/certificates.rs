//! Follows a folder of certificates: what is renewed there counts from the next handshake on.
//!
//! Invariants: what is found unusable twice in a row changes nothing and is told once; nothing here ends
//! because of what is in the folder. Run by [`crate::Client`] for a folder given to its builder, and by a
//! node for its own.

use std::{sync::Arc, time::Duration};

use quorate_certs::{Credentials, Folder};
use tokio::{
    sync::Notify,
    task::spawn_blocking,
    time::{Instant, timeout},
};

use crate::{Client, config::CertificatesConfig, core::Core, env::Env};

/// The least time between two looks.
const MIN_POLL: Duration = Duration::from_millis(100);
/// When to look again at what may be a renewal under way, whose files change within milliseconds.
const SETTLE: Duration = Duration::from_millis(500);
/// How often it is said that a certificate will end soon.
const WARN_EVERY: Duration = Duration::from_secs(24 * 3600);

impl Client {
    /// Uses these credentials from now on, in place of those it was made with: for applications whose
    /// certificates do not come in files. Connections with the old ones are replaced within
    /// [`renew_spread`](crate::config::TransportConfig::renew_spread) while writes go on; those to nodes that
    /// the new ones refuse are closed at once.
    ///
    /// # Errors
    /// If the TLS library cannot use them; the old ones stay.
    pub fn set_credentials(&self, credentials: Credentials) -> Result<(), rustls::Error> {
        self.core.pool.dialer().set_credentials(credentials)
    }

    /// Looks at the directory given to [`certificates`](crate::ClientBuilder::certificates) now instead of at
    /// the end of [`poll`](CertificatesConfig::poll).
    pub fn look_at_certificates(&self) {
        self.core.certificates.notify_one();
    }
}

/// Follows the folder for as long as the client lives.
pub(crate) fn start(core: &Arc<Core>, folder: Folder) {
    let task = Arc::clone(core);
    core.tasks.spawn(async move {
        let core = task;
        let take = |new| core.pool.dialer().set_credentials(new);
        tokio::select! {
            biased;
            () = core.cancel.cancelled() => {}
            () = follow(folder, &core.config.certificates, &core.env, &core.certificates, take) => {}
        }
    });
}

/// Looks at the folder now and then, and whenever `look` is notified, and gives what is new to `take`.
/// Runs until it is dropped.
pub async fn follow(
    folder: Folder,
    config: &CertificatesConfig,
    env: &Env,
    look: &Notify,
    take: impl Fn(Credentials) -> Result<(), rustls::Error>,
) {
    let mut folder = Some(folder);
    let mut warned = None;
    loop {
        if let Some(folder) = &folder {
            warn(folder.credentials(), config, env, &mut warned);
        }
        let Some(mut held) = folder.take() else { return };
        let pause = if held.in_doubt() { SETTLE } else { config.poll.max(MIN_POLL) };
        // Until the time is up; or somebody says that there is something new.
        let _ = timeout(pause, look.notified()).await;
        let now = env.unix_time();
        let looked = spawn_blocking(move || {
            let found = held.changed(now);
            let unusable = found.is_err() || held.in_doubt();
            let revoked = unusable.then(|| held.revoked()).flatten();
            (held, found, revoked)
        });
        // Only a panic in there ends it; the certificates in use stay so.
        let Ok((held, found, revoked)) = looked.await else { return };
        match found {
            Ok(None) => {}
            Ok(Some(new)) => taken(&held, new, &take, &mut warned),
            Err(error) => {
                count("refused");
                tracing::warn!("certificates not taken, the ones in use stay: {error}");
            }
        }
        if let Some(new) = revoked {
            taken(&held, new, &take, &mut warned);
        }
        folder = Some(held);
    }
}

fn taken(
    folder: &Folder,
    new: Credentials,
    take: &impl Fn(Credentials) -> Result<(), rustls::Error>,
    warned: &mut Option<Instant>,
) {
    let (identity, not_after) = (new.identity().clone(), new.not_after());
    let revoked = new.revocations().len();
    match take(new) {
        Ok(()) => {
            count("taken");
            *warned = None;
            tracing::info!(
                %identity, expires = %not_after, revoked,
                "certificates taken from {}", folder.dir().display()
            );
        }
        Err(error) => {
            count("refused");
            tracing::warn!("certificates not taken, the ones in use stay: {error}");
        }
    }
}

/// Says once a day that the certificate will end soon.
fn warn(
    credentials: &Credentials,
    config: &CertificatesConfig,
    env: &Env,
    warned: &mut Option<Instant>,
) {
    if warned.is_some_and(|at| at.elapsed() < WARN_EVERY) {
        return;
    }
    if let Some(soon) = credentials.expires_soon(env.unix_time(), config.warn_before) {
        tracing::warn!("{soon}");
        *warned = Some(Instant::now());
    }
}

fn count(outcome: &'static str) {
    metrics::counter!("quorate_tls_reloads_total", "outcome" => outcome).increment(1);
}

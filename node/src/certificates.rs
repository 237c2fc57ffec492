//! A node's own certificates while it runs.
//!
//! Invariant: listening and dialling change together; a node that cannot use the new ones goes on with the
//! old. The folder is followed by the client crate's follower; this is where it takes what it finds.

use std::sync::Arc;

use quorate_certs::{Credentials, Folder};
use quorate_client::certificates::follow;

use crate::{Node, background, core::Core, server::Server};

impl Node {
    /// Uses these credentials from now on, for whoever comes and for whomever it dials. Connections with the
    /// old ones are replaced within `transport.renew_spread` while requests go on; those of peers that the new
    /// ones refuse are closed at once, and told why.
    ///
    /// # Errors
    /// If the TLS library cannot use them; the old ones stay.
    pub fn set_credentials(&self, credentials: Credentials) -> Result<(), rustls::Error> {
        take(&self.core, &self.server, credentials)
    }

    /// Follows the folder that the credentials came from, until the node is shut down. Call it once.
    pub fn follow_certificates(&self, folder: Folder) {
        let (core, server) = (Arc::clone(&self.core), Arc::clone(&self.server));
        background::spawn(&self.core, async move {
            let (config, env) = (&core.config.certificates, &core.env);
            let new = |credentials| take(&core, &server, credentials);
            follow(folder, config, env, &core.look_at_certificates, new).await;
        });
    }

    /// Looks at that folder now.
    pub fn look_at_certificates(&self) {
        self.core.look_at_certificates.notify_one();
    }
}

fn take(core: &Core, server: &Server, credentials: Credentials) -> Result<(), rustls::Error> {
    server.set_credentials(credentials.clone())?;
    core.pool.dialer().set_credentials(credentials)
}

//! What goes wrong while the load goes on, and how it is put right.
//!
//! Invariant: at the end all nodes run, and nothing is on its way, so that everything can be read back.

use std::time::Duration;

use clap::ValueEnum;
use quorate_client::Client;
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};

use super::{
    PATIENCE,
    drive::{Driven, Driving},
    scene::{Hints, Scene},
    watch::Watch,
};
use crate::cli::fail::Fail;

/// Between two looks at the hint queues.
const LOOK: Duration = Duration::from_millis(100);

/// A fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Fault {
    /// Nothing
    None,
    /// A node is down all the time
    NodeDown,
    /// A node stops in the middle
    NodeStopped,
    /// A node comes back and gets its hints while the load goes on
    Drain,
}

impl Fault {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::NodeDown => "node-down",
            Self::NodeStopped => "node-stopped",
            Self::Drain => "drain",
        }
    }
}

/// What became of the hints.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Drained {
    pub(super) hints: Hints,
    /// Rows per second, from the return of the node until nothing was pending.
    pub(super) rows_per_s: Option<f64>,
}

/// When a node came back, and a look at its hints that goes on.
pub(super) struct Back {
    at: Instant,
    empty: JoinHandle<Result<Empty, Fail>>,
}

/// All queues are empty.
struct Empty {
    at: Instant,
    hints: Hints,
    /// They were not at the first look.
    waited: bool,
}

/// Before the load.
pub(super) async fn before(fault: Fault, scene: &mut Scene) -> Result<(), Fail> {
    if matches!(fault, Fault::NodeDown | Fault::Drain) {
        let (cluster, victim) = scene.victim()?;
        cluster.kill(victim).await?;
    }
    Ok(())
}

/// While it goes on.
pub(super) async fn amid(
    fault: Fault,
    scene: &mut Scene,
    driving: &Driving,
    watch: &Watch,
) -> Result<Option<Back>, Fail> {
    match fault {
        Fault::None | Fault::NodeDown => Ok(None),
        Fault::NodeStopped => {
            driving.reached(0.25).await;
            let (cluster, victim) = scene.victim()?;
            cluster.freeze(victim, true)?;
            Ok(None)
        }
        Fault::Drain => {
            driving.reached(1.0 / 3.0).await;
            back(scene, watch).await.map(Some)
        }
    }
}

/// After it: all nodes run again, and nothing is left to deliver.
pub(super) async fn after(
    fault: Fault,
    scene: &mut Scene,
    driven: &Driven,
    watch: &Watch,
    mut came: Option<Back>,
) -> Result<Drained, Fail> {
    match fault {
        Fault::None | Fault::Drain => {}
        Fault::NodeDown => came = Some(back(scene, watch).await?),
        Fault::NodeStopped => {
            let (cluster, victim) = scene.victim()?;
            cluster.freeze(victim, false)?;
            came = Some(follow(scene));
        }
    }
    if !scene.client.settle(PATIENCE).await {
        return Err(Fail::failed("copies are still under way after the load"));
    }
    let mut took = None;
    let mut first = None;
    if let Some(Back { at, empty }) = came {
        first = Some((at, empty.await.map_err(Fail::failed)??));
    }
    // Hints may have come after the queues were seen empty: the last ones of the load.
    let last = empty_queues(&scene.client).await?;
    let hints = last.hints;
    if let Some((at, first)) = first {
        let end = if last.waited { last.at } else { first.at };
        took = Some(end.duration_since(at));
    }
    let rows = hints.delivered as f64 * driven.rows as f64 / driven.parts.max(1) as f64;
    let rows_per_s = took.map(|took| rows / took.as_secs_f64().max(0.001));
    Ok(Drained { hints, rows_per_s: rows_per_s.filter(|_| hints.delivered > 0) })
}

/// Starts the node again.
async fn back(scene: &mut Scene, watch: &Watch) -> Result<Back, Fail> {
    let (cluster, victim) = scene.victim()?;
    cluster.restart(victim).await?;
    watch.follow(scene);
    Ok(follow(scene))
}

fn follow(scene: &Scene) -> Back {
    let client = scene.client.clone();
    let empty = async move { empty_queues(&client).await };
    Back { at: Instant::now(), empty: tokio::spawn(empty) }
}

/// Looks at the hints until there are none.
async fn empty_queues(client: &Client) -> Result<Empty, Fail> {
    let end = Instant::now() + PATIENCE;
    let mut waited = false;
    loop {
        // A node that just came back may not answer yet.
        match Scene::hints(client).await {
            Ok(hints @ Hints { pending: 0, .. }) => {
                return Ok(Empty { at: Instant::now(), hints, waited });
            }
            Ok(_) => waited = true,
            Err(error) if Instant::now() > end => return Err(error),
            Err(_) => {}
        }
        if Instant::now() > end {
            return Err(Fail::failed("hints are still pending after the load"));
        }
        sleep(LOOK).await;
    }
}

//! The client's examples do what they say: their own code, against a simulated cluster.

#![allow(dead_code, reason = "the examples' `main` connects by the environment")]

use std::io::Cursor;

use quorate_tests::harness::{
    cluster::Cluster,
    limit::simulated,
    load::EPOCH,
    observe::{create_database, export},
};

#[path = "../client/examples/bulk_load.rs"]
mod bulk_load;
#[path = "../client/examples/follow.rs"]
mod follow;
#[path = "../client/examples/host_metrics.rs"]
mod host_metrics;
#[path = "../client/examples/query.rs"]
mod query;
#[path = "../client/examples/quickstart.rs"]
mod quickstart;
#[path = "../client/examples/shared_writer.rs"]
mod shared_writer;

#[test]
fn examples_do_what_they_say() {
    simulated(async {
        let mut cluster = Cluster::simulated(3, 721).await;
        let client = cluster.client().await;
        create_database(&client, "metrics", 3).await;
        let mut followed = client.subscribe("metrics", None).await.unwrap();
        quickstart::run(&client, EPOCH).await.unwrap();
        assert_eq!(follow::run(&mut followed, 1).await.unwrap(), 1);
        drop(followed);
        quickstart::run(&client, EPOCH + 60_000_000_000).await.unwrap();
        assert_eq!(query::run(&client, "a").await.unwrap(), (2, 2));
        assert_eq!(query::run(&client, "nobody").await.unwrap(), (0, 0));

        let tick = std::cell::Cell::new(EPOCH);
        let clock = || {
            tick.set(tick.get() + 1_000_000_000);
            tick.get()
        };
        assert_eq!(host_metrics::run(&client, "h", 5, clock).await.unwrap(), 5);

        let good = (0..500).map(|n| format!("disk,host=a used={n}i {}\n", EPOCH + n));
        let text = good.collect::<String>() + "disk,host=a used= 5\n";
        let loaded = bulk_load::run(&client, Cursor::new(&text), 4 << 10).await.unwrap();
        assert_eq!(loaded, (500, 1));

        let stats = shared_writer::run(&client, 20, 10, EPOCH).await.unwrap();
        assert_eq!((stats.written, stats.failed), (200, 0));
        let lines = export(&client, "metrics", None).await.unwrap().lines().count();
        assert_eq!(lines, 2 + 5 + 500 + 200);
        cluster.finish().await;
    });
}

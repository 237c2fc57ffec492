//! Reading back: any number of shards, pages, and an owner that fails on the way.

use quorate_client::{Query, WriteOptions};
use quorate_protocol::{code::Code, consistency::Level, id::NodeId, point::Point};
use quorate_tests::harness::{
    cluster::Cluster,
    history::Ledger,
    limit::simulated,
    load::{EPOCH, write},
    observe::create_database,
};

const WEEK: i64 = 7 * 24 * 3600 * 1_000_000_000;

#[test]
fn a_query_spans_more_shards_than_a_connection_has_streams() {
    simulated(async {
        let mut cluster = Cluster::simulated(3, 77).await;
        let client = cluster.client().await;
        let ledger = Ledger::new();
        create_database(&client, "db", 3).await;
        // 60 weekly groups, of which one write may make 32.
        for half in 0..2 {
            let points: Vec<Point> = (half * 30..half * 30 + 30)
                .flat_map(|week| (0..3).map(move |host| (week, host)))
                .map(|(week, host)| {
                    Point::builder("cpu")
                        .tag("host", format!("h{host}"))
                        .field("week", week)
                        .at(EPOCH - week * WEEK)
                        .unwrap()
                })
                .collect();
            write(&client, "db", &points, &WriteOptions::default(), &ledger).await.unwrap();
        }
        // A node that is down must not cost the answer, only be replaced.
        cluster.stop(NodeId(3)).await;

        let mut stream = client.query(Query::all("db")).await.unwrap();
        let (mut keys, mut rows) = (Vec::new(), 0);
        let mut last = None;
        while let Some(series) = stream.next().await {
            let (key, series) = series.unwrap();
            let time = series.times[0];
            assert!(last.as_ref().is_none_or(|last| *last < (key.clone(), time)), "out of order");
            last = Some((key.clone(), time));
            keys.push(key);
            rows += series.len();
        }
        keys.dedup();
        assert_eq!((keys.len(), rows), (3, 180));
        cluster.finish().await;
    });
}

#[test]
fn a_query_that_fails_says_why_the_last_owner_did_not_answer() {
    simulated(async {
        let mut cluster = Cluster::simulated(3, 78).await;
        let client = cluster.client().await;
        create_database(&client, "db", 3).await;
        let point = Point::builder("cpu").tag("host", "a").field("n", 1_i64).at(EPOCH).unwrap();
        let (options, ledger) = (WriteOptions::default(), Ledger::new());
        write(&client, "db", &[point], &options, &ledger).await.unwrap();
        let fails = async |query: &Query| {
            let rows = client.query(query.clone()).await.unwrap().next().await.unwrap();
            let windows = client.aggregate(query.clone(), 0).await.unwrap().next().await.unwrap();
            [rows.map(drop).unwrap_err(), windows.map(drop).unwrap_err()]
        };
        let one = Query { level: Level::One, ..Query::all("db") };
        for node in cluster.ids() {
            cluster.stop(node).await;
        }
        for error in fails(&one).await {
            assert_eq!((error.code(), error.retryable()), (Code::Unavailable, true), "{error}");
        }
        cluster.finish().await;
    });
}

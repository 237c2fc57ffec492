//! What failed is sent again, and nothing else: batches, and texts with lines that are none.

use std::collections::BTreeSet;

use quorate_client::{
    Batch, Client, LineOptions, WriteOptions,
    error::{RowId, WriteErrorKind},
    line::{Precision, Reason},
};
use quorate_protocol::{
    code::Code,
    consistency::Level,
    hash::series_hash,
    id::{NodeId, ShardId},
    point::Point,
};
use quorate_tests::harness::{
    cluster::Cluster,
    limit::simulated,
    load::EPOCH,
    observe::{create_database, export},
};

const THREE: NodeId = NodeId(3);
const WEEK: i64 = 7 * 24 * 3_600_000_000_000;

/// The shard of a point, and its only owner.
fn place(client: &Client, point: &Point) -> (ShardId, NodeId) {
    let map = client.map();
    let policy = map.database_named("db").unwrap().policy_named(None).unwrap();
    let group = policy.group_at(point.time()).unwrap();
    let shard = group.shard_for(series_hash(point.key())).unwrap();
    (shard.id, shard.owners[0])
}

fn batch(points: &[Point]) -> Batch {
    let mut batch = Batch::new();
    points.iter().for_each(|point| batch.push(point));
    batch
}

#[test]
fn three_of_eight_shards_fail_and_only_their_rows_are_sent_again() {
    simulated(async {
        let mut cluster = Cluster::simulated(3, 711).await;
        let client = cluster.client().await;
        create_database(&client, "db", 1).await;
        let point = |(host, week): (i64, i64), value: i64| {
            let point = Point::builder("m").tag("host", format!("h{host}")).field("v", value);
            point.at(EPOCH - week * WEEK).unwrap()
        };
        let mut places: Vec<(i64, i64)> =
            (0..3).flat_map(|week| (0..30).map(move |host| (host, week))).collect();
        let old: Vec<Point> = places.iter().map(|place| point(*place, 1)).collect();
        let options = WriteOptions::at(Level::All);
        client.write("db", &batch(&old), &options).await.unwrap();
        // Three groups of three shards, one of each on each node; without one of node one's, eight.
        let shard = |at: (i64, i64)| place(&client, &point(at, 1));
        let first = places.iter().map(|at| shard(*at)).find(|(_, owner)| *owner == NodeId(1));
        places.retain(|at| shard(*at).0 != first.unwrap().0);
        let shards: BTreeSet<ShardId> = places.iter().map(|at| shard(*at).0).collect();
        assert_eq!(shards.len(), 8);
        let before = export(&client, "db", None).await.unwrap();

        // New values for the same places.
        let points: Vec<Point> = places.iter().map(|place| point(*place, -1)).collect();
        cluster.stop(THREE).await;
        cluster.wait_up(&client, &[NodeId(1), NodeId(2)]).await;
        let batch = batch(&points);
        let error = client.write("db", &batch, &options).await.unwrap_err();
        assert_eq!((error.kind(), error.retryable()), (WriteErrorKind::Partial, true));
        let expected: BTreeSet<RowId> = (0..)
            .zip(&points)
            .filter(|(_, point)| place(&client, point).1 == THREE)
            .map(|(row, _)| RowId { measurement: 0, row })
            .collect();
        let named: Vec<RowId> = error.rows().collect();
        assert_eq!(named.len(), expected.len(), "a row is named twice");
        assert_eq!(named.into_iter().collect::<BTreeSet<_>>(), expected);
        let failed: BTreeSet<_> = error.failed.iter().filter_map(|failed| failed.shard).collect();
        assert_eq!(failed.len(), 3, "{error}");
        assert_eq!(error.receipt.rows() + expected.len(), points.len());

        cluster.restart(THREE).await;
        cluster.wait_up(&client, &cluster.ids()).await;
        let receipt = client.resend("db", &batch, &error, &options).await.unwrap();
        assert_eq!(receipt.version, error.receipt.version);
        let resent: BTreeSet<_> = receipt.parts.iter().map(|part| part.shard).collect();
        assert_eq!((receipt.rows(), resent), (expected.len(), failed));
        // Each place once, with its new value; and the shard that was left out as it was.
        let after = export(&client, "db", None).await.unwrap();
        let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        let (before, after) = (lines(&before), lines(&after));
        assert_eq!(before.len(), after.len());
        let new = after.iter().filter(|line| line.contains("v=-1i")).count();
        assert_eq!(new, points.len());
        let old = after.iter().filter(|line| !line.contains("v=-1i"));
        assert!(old.clone().all(|line| before.contains(line)), "{after:?}");

        // Of another batch nothing is taken for what failed.
        let strange = client.resend("db", &Batch::new(), &error, &options).await.unwrap_err();
        assert_eq!((strange.code(), strange.kind()), (Code::Malformed, WriteErrorKind::Definite));
        assert_eq!(strange.failed[0].rows.len(), expected.len());
        cluster.finish().await;
    });
}

#[test]
fn lines_that_are_none_cost_nothing_but_themselves() {
    simulated(async {
        let mut cluster = Cluster::simulated(1, 712).await;
        let client = cluster.client().await;
        create_database(&client, "db", 1).await;
        let seconds = EPOCH / 1_000_000_000;
        let text = format!(
            "cpu,host=a usage=1 {seconds}\n\
             cpu,host=a usage {seconds}\n\
             \n\
             # a comment\n\
             cpu,host=b usage=2i {seconds}x\n\
             cpu,host=c usage=3\n"
        );
        let options = LineOptions {
            precision: Precision::Seconds,
            default_time: Some(EPOCH + 1_999_999_999),
            write: client.options().clone(),
        };
        let loaded = client.write_lines("db", &text, &options).await.unwrap();
        assert_eq!((loaded.lines, loaded.receipt.rows()), (4, 2));
        let bad: Vec<_> = loaded.rejected.iter().map(|bad| (bad.line, bad.reason)).collect();
        assert_eq!(bad, [(2, Reason::InvalidFieldFormat), (5, Reason::BadTimestamp)]);
        assert!(loaded.rejected.iter().all(|bad| bad.column > 10));
        let later = EPOCH + 1_000_000_000;
        let expected = format!("cpu,host=a usage=1 {EPOCH}\ncpu,host=c usage=3 {later}\n");
        assert_eq!(export(&client, "db", None).await.unwrap(), expected);

        // A text of bytes, without times, which does not get through: all of it is there to be sent again.
        cluster.stop(NodeId(1)).await;
        cluster.wait_up(&client, &[]).await;
        let text = bytes::Bytes::from_static(b"cpu,host=d usage=4\ncpu,=d usage=5\n");
        let options = LineOptions::from(client.options());
        let error = client.write_lines("db", &text, &options).await.unwrap_err();
        assert_eq!((error.lines, error.rejected.len(), error.write.rows().count()), (2, 1, 1));
        assert!(error.to_string().contains("1 lines rejected, first line 2"), "{error}");
        cluster.restart(NodeId(1)).await;
        cluster.wait_up(&client, &[NodeId(1)]).await;
        let receipt =
            client.resend("db", &error.batch, &error.write, client.options()).await.unwrap();
        assert_eq!((receipt.rows(), receipt.version), (1, error.write.receipt.version));
        let all = export(&client, "db", None).await.unwrap();
        assert!(all.starts_with(&expected) && all.contains("cpu,host=d usage=4 17"), "{all}");
        // Nothing to write is no error.
        let none = client.write_lines("db", "# nothing\n", &options).await.unwrap();
        assert_eq!((none.lines, none.receipt.parts.len()), (0, 0));
        cluster.finish().await;
    });
}

//! Grants: what a client may do in which databases, on every node, whatever else it tries.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use quorate_certs::{Authority, Config, Existing, Role, Roles, UnixTime};
use quorate_client::{
    Client, ClientConfig, WriteOptions,
    connection::{Connection, ReplyStream},
};
use quorate_protocol::{
    batch::PartHeader,
    change::{Change, NewField},
    code::Code,
    frame::Message,
    grant::{Access, GrantScope, OTHERS},
    id::{MetaIndex, NodeId, ShardId, Version},
    map::{ClusterMap, apply_updates},
    message::{
        Aggregate, Bodies, Digest, Follow, FollowShard, Grants, Hints, Mark, MetaGet, Propose,
        Request, Scan, Write,
    },
    schema::FieldType,
};
use quorate_tests::harness::{
    cluster::Cluster,
    history::Ledger,
    limit::{real, simulated},
    load::{sample, write},
    observe::{create_database, exports, wait_for},
    process::Processes,
    raw::{self, Raw},
};
use tokio::time::{Instant, timeout};

const BINARY: &str = env!("CARGO_BIN_EXE_quorate-under-test");
const ALL: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];
const PATIENCE: Duration = Duration::from_secs(10);

fn grant(client: &str, database: &str, access: Access) -> Change {
    Change::Grant { client: client.to_owned(), database: Some(database.to_owned()), access }
}

fn revoke(client: &str, scope: GrantScope) -> Change {
    Change::Revoke { client: client.to_owned(), scope, access: Access::ALL }
}

/// Waits until every node has the map that this client has.
async fn everywhere(cluster: &mut Cluster, admin: &Client) {
    let raw = Raw::new(cluster.client_env(), cluster.client_credentials("looker"));
    raw.same_map(&admin.map(), &ALL, admin.map().index).await;
}

/// Connections past the client library, by which somebody tries everything.
struct Somebody {
    raw: Raw,
    map: Arc<ClusterMap>,
}

impl Somebody {
    fn new(cluster: &mut Cluster, admin: &Client, name: &str, roles: &[Role]) -> Self {
        let roles = roles.iter().copied().collect();
        let made = cluster.authority().issue_client_in_memory(name, roles, UnixTime::now());
        Self { raw: Raw::new(cluster.client_env(), made.unwrap()), map: admin.map() }
    }

    /// Everything that touches a database, in `database`, at one node: what comes of each.
    async fn tries(&self, node: NodeId, database: &str) -> Vec<(&'static str, Option<Code>)> {
        let connection = self.raw.connect(&self.map, node).await;
        let map = &self.map;
        let place = map.database_named(database).unwrap();
        let policy = place.policy_named(None).unwrap();
        let (shard, meta_index) = (shard(map, database), map.index);
        let (write, batch) = raw::encode(map, database, &[sample(0, 1)], Version(1 << 60));
        let hint = Write { store: false, hint_for: vec![other(node)], ..write.clone() };
        let mark = Mark { shard, owner: node, from: 0, to: 1 };
        let scan = Scan {
            shard,
            meta_index,
            measurement: None,
            tags: vec![],
            fields: vec![],
            from: i64::MIN,
            to: i64::MAX,
            after: None,
            limit: 10,
            rows: 10,
        };
        let aggregate = Aggregate {
            shard,
            meta_index,
            measurement: None,
            tags: vec![],
            fields: vec![],
            from: 0,
            to: 1,
            every: 1,
            after: None,
            limit: 10,
        };
        let up_to = Version(u64::MAX);
        let digest = Digest { shard, meta_index, from: 0, to: 1, bucket: 0, up_to };
        let field =
            NewField { measurement: "m".into(), field: "f".into(), kind: FieldType::Boolean };
        let fields = Change::RegisterFields { database: place.id, fields: vec![field] };
        let groups = Change::CreateGroups { policy: policy.id, times: vec![0] };
        let propose = Propose { deadline_ms: 5_000, forwarded: false, after: meta_index };
        let forwarded = Propose { forwarded: true, ..propose };
        // Who does not lead passes nothing on that was passed on to it.
        let passed_on = ask(&connection, &forwarded, groups.encode().unwrap()).await;
        let passed_on = passed_on.filter(|code| *code != Code::NoLeader);
        vec![
            ("write", ask(&connection, &write, batch.clone()).await),
            ("hint", ask(&connection, &hint, batch).await),
            ("mark", ask(&connection, &mark, Bytes::new()).await),
            ("scan", ask(&connection, &scan, Bytes::new()).await),
            ("aggregate", ask(&connection, &aggregate, Bytes::new()).await),
            ("digest", ask(&connection, &digest, Bytes::new()).await),
            ("groups", ask(&connection, &propose, groups.encode().unwrap()).await),
            ("fields", ask(&connection, &propose, fields.encode().unwrap()).await),
            ("forwarded", passed_on),
            ("follow", follow(&connection, meta_index, &[shard]).await),
        ]
    }
}

fn other(node: NodeId) -> NodeId {
    NodeId(node.0 % 3 + 1)
}

/// The code of the failure; none if it was answered.
async fn ask<R: Request>(
    connection: &Arc<Connection>,
    request: &R,
    payload: Bytes,
) -> Option<Code> {
    let deadline = Instant::now() + PATIENCE;
    // By a lane or by a stream of its own, as the specification says.
    let answer = if [Write::OP, Mark::OP].contains(&R::OP) {
        connection.request(request, payload, deadline).await
    } else {
        connection.exchange(request, payload, deadline, 1 << 20).await
    };
    answer.err().map(|error| error.code())
}

/// As [`ask`], for the beginning of an answer that has no end.
async fn follow(
    connection: &Arc<Connection>,
    meta_index: MetaIndex,
    shards: &[ShardId],
) -> Option<Code> {
    let mut told = followed(connection, meta_index, shards).await;
    told.next().await.err().map(|error| error.code())
}

async fn followed(
    connection: &Arc<Connection>,
    meta_index: MetaIndex,
    shards: &[ShardId],
) -> ReplyStream<Follow> {
    let follow = |shard: &ShardId| FollowShard { shard: *shard, after: None, bodies: Bodies::All };
    let request = Follow { meta_index, shards: shards.iter().map(follow).collect() };
    let deadline = Instant::now() + PATIENCE;
    connection.open_stream(&request, Bytes::new(), deadline).await.unwrap()
}

/// The only shard of a database.
fn shard(map: &ClusterMap, database: &str) -> ShardId {
    let policy = map.database_named(database).unwrap().policy_named(None).unwrap();
    policy.groups[0].shards[0].id
}

/// The map as a node tells it to whoever has none.
async fn asked_for(connection: &Arc<Connection>) -> ClusterMap {
    let request = MetaGet { after: MetaIndex(0) };
    let deadline = Instant::now() + PATIENCE;
    let answer = connection.exchange(&request, Bytes::new(), deadline, 1 << 20).await;
    Arc::unwrap_or_clone(apply_updates(&Arc::default(), &answer.unwrap().1).unwrap().unwrap())
}

/// The map in the answer to a change of `mine`.
async fn proposed(connection: &Arc<Connection>, map: &ClusterMap) -> ClusterMap {
    let policy = map.database_named("mine").unwrap().default_policy;
    let change = Change::CreateGroups { policy, times: vec![0] };
    let request = Propose { deadline_ms: 5_000, forwarded: false, after: MetaIndex(0) };
    let deadline = Instant::now() + PATIENCE;
    let answer = connection.exchange(&request, change.encode().unwrap(), deadline, 1 << 20).await;
    Arc::unwrap_or_clone(apply_updates(&Arc::default(), &answer.unwrap().1).unwrap().unwrap())
}

/// A simulated cluster with the databases `mine` and `theirs`, each with a point, and its admin.
async fn two_databases(seed: u64) -> (Cluster, Client, Ledger) {
    let mut cluster = Cluster::simulated(3, seed).await;
    let admin = cluster.client().await;
    let ledger = Ledger::new();
    for name in ["mine", "theirs"] {
        create_database(&admin, name, 3).await;
        let options = WriteOptions::default();
        let receipt = write(&admin, name, &[sample(0, 0)], &options, &ledger).await.unwrap();
        admin.converged(&receipt, PATIENCE).await.unwrap();
    }
    (cluster, admin, ledger)
}

#[test]
fn nothing_that_is_not_granted_is_done_on_any_node_whatever_the_certificate_says() {
    simulated(async {
        let (mut cluster, admin, _ledger) = two_databases(301).await;
        let before = exports(&admin, "theirs", &ALL).await;
        admin.change(grant("app", "mine", Access::ALL)).await.unwrap();
        admin.change(grant("half", "mine", Access::READ)).await.unwrap();
        everywhere(&mut cluster, &admin).await;

        let both = [Role::Write, Role::Read];
        let app = Somebody::new(&mut cluster, &admin, "app", &both);
        let half = Somebody::new(&mut cluster, &admin, "half", &both);
        let free = Somebody::new(&mut cluster, &admin, "free", &both);
        // Grants for its name do not limit an admin, and give nothing that the certificate lacks.
        let boss = Somebody::new(&mut cluster, &admin, "app", &[Role::Admin]);
        let reader = Somebody::new(&mut cluster, &admin, "app", &[Role::Read]);
        let reads = ["scan", "aggregate", "digest", "follow"];
        for node in ALL {
            for (what, refused) in app.tries(node, "theirs").await {
                assert_eq!(refused, Some(Code::Unauthorised), "{what} at {node}");
            }
            for who in [&app, &boss, &free] {
                for (what, refused) in who.tries(node, "mine").await {
                    assert_eq!(refused, None, "{what} at {node}");
                }
            }
            for who in [&half, &reader] {
                for (what, refused) in who.tries(node, "mine").await {
                    let expected = (!reads.contains(&what)).then_some(Code::Unauthorised);
                    assert_eq!(refused, expected, "{what} at {node}");
                }
            }
            // No answer tells of the other database, whoever leads and whatever is asked for.
            let connection = app.raw.connect(&app.map, node).await;
            for told in [asked_for(&connection).await, proposed(&connection, &app.map).await] {
                let names: Vec<_> = told.databases.iter().map(|it| &it.name[..]).collect();
                assert_eq!(names, ["mine"], "at {node}");
                assert!(told.index >= app.map.index && told.grants.is_empty(), "at {node}");
            }
            // Hints are of any database.
            let hints = Hints { target: other(node), quarantined: false, content: true, limit: 1 };
            let connection = app.raw.connect(&app.map, node).await;
            assert_eq!(
                ask(&connection, &hints, Bytes::new()).await,
                Some(Code::Unauthorised),
                "hints at {node}"
            );
            // One that is not granted is enough.
            let both = [shard(&app.map, "mine"), shard(&app.map, "theirs")];
            let refused = follow(&connection, app.map.index, &both).await;
            assert_eq!(refused, Some(Code::Unauthorised), "follow both at {node}");
            // A batch says itself where it belongs: in its head and in the request.
            let (mine, _) = raw::encode(&app.map, "mine", &[sample(0, 1)], Version(1 << 60));
            let (_, theirs) = raw::encode(&app.map, "theirs", &[sample(0, 1)], Version(1 << 60));
            assert_eq!(ask(&connection, &mine, theirs).await, Some(Code::Corrupt));
            let claims = |head: &mut PartHeader| head.shard = mine.shard;
            let disguised =
                raw::encode_as(&app.map, "theirs", &[sample(0, 1)], Version(1 << 60), claims).1;
            let hint = Write { hint_for: vec![other(node)], ..mine };
            let (written, _) =
                connection.request(&hint, disguised, Instant::now() + PATIENCE).await.unwrap();
            assert_eq!(written.copy.unwrap().error, Some(Code::Corrupt));
            assert_eq!(written.hints[0].answer.error, Some(Code::Corrupt));
        }
        let after = exports(&admin, "theirs", &ALL).await;
        assert_eq!(after, before, "something was written");
        cluster.finish().await;
    });
}

#[test]
fn a_client_sees_the_databases_it_may_use_and_hears_of_grants_at_once() {
    simulated(async {
        let (mut cluster, admin, _ledger) = two_databases(302).await;
        let roles = Roles::default();
        let made = cluster.authority().issue_client_in_memory("app", roles, UnixTime::now());
        let app = cluster.client_as(made.unwrap(), ClientConfig::default()).await.unwrap();
        let names = |client: &Client| -> Vec<String> {
            client.map().databases.iter().map(|it| it.name.clone()).collect()
        };
        let sees = async |wanted: &[&str]| {
            wait_for("the databases", PATIENCE, async || {
                let names = names(&app);
                (names == wanted).then_some(()).ok_or_else(|| format!("{names:?}"))
            })
            .await;
        };
        sees(&["mine", "theirs"]).await;
        let mut theirs = app.subscribe("theirs", None).await.unwrap();
        let past = Somebody::new(&mut cluster, &admin, "app", &[Role::Read]);
        let connection = past.raw.connect(&past.map, NodeId(2)).await;
        let shards = [shard(&past.map, "theirs")];
        let mut told = followed(&connection, past.map.index, &shards).await;
        assert_eq!(told.next().await.unwrap().unwrap().0.ended, None);

        admin.change(grant("app", "mine", Access::ALL)).await.unwrap();
        sees(&["mine"]).await;
        assert_eq!(names(&admin), ["mine", "theirs"]);
        // What was followed is not told any more.
        let end = async { while theirs.next().await.is_some_and(|event| event.is_ok()) {} };
        timeout(PATIENCE, end).await.unwrap();
        let (end, _) = timeout(PATIENCE, told.next()).await.unwrap().unwrap().unwrap();
        assert_eq!(end.ended, Some(Code::Unauthorised));
        // Neither are databases that are made, changed and dropped.
        create_database(&admin, "new", 1).await;
        admin.change(Change::DropDatabase { name: "theirs".to_owned() }).await.unwrap();
        create_database(&admin, "theirs", 1).await;
        let ledger = Ledger::new();
        let options = WriteOptions::default();
        write(&admin, "new", &[sample(0, 1)], &options, &ledger).await.unwrap();
        // Its own goes on meanwhile: fields and groups that it needs are made.
        write(&app, "mine", &[sample(0, 1)], &options, &ledger).await.unwrap();
        let far = sample(0, 1_000_000_000);
        write(&app, "mine", &[far], &options, &ledger).await.unwrap();
        let error = write(&app, "theirs", &[sample(0, 1)], &options, &ledger).await.unwrap_err();
        assert_eq!(error.code(), Code::DatabaseNotFound, "{error}");
        sees(&["mine"]).await;
        // Only what holds for it is told.
        admin.change(grant("eve", "theirs", Access::ALL)).await.unwrap();
        let told = app.grants(PATIENCE).await.unwrap();
        assert_eq!(told.iter().map(|it| &it.client[..]).collect::<Vec<_>>(), ["app"]);
        assert_eq!(admin.grants(PATIENCE).await.unwrap().len(), 2);
        assert!(app.map().grants.is_empty() && admin.map().grants.is_empty());

        admin.change(grant("app", "theirs", Access::READ)).await.unwrap();
        sees(&["mine", "theirs"]).await;
        let error = write(&app, "theirs", &[sample(0, 1)], &options, &ledger).await.unwrap_err();
        assert_eq!(error.code(), Code::Unauthorised, "{error}");
        assert!(error.to_string().contains("`quorate grant app DATABASE --role write`"), "{error}");
        admin.change(revoke("app", GrantScope::Everything)).await.unwrap();
        sees(&[]).await;
        admin.change(Change::ForgetGrants { client: "app".to_owned() }).await.unwrap();
        sees(&["mine", "new", "theirs"]).await;
        // Whoever is in no entry is held against the common one.
        admin.change(revoke(OTHERS, GrantScope::Everything)).await.unwrap();
        sees(&[]).await;
        app.close().await;
        cluster.finish().await;
    });
}

#[test]
fn a_client_that_goes_on_as_somebody_else_sees_what_that_one_may() {
    simulated(async {
        let (mut cluster, admin, ledger) = two_databases(304).await;
        admin.change(grant("app", "mine", Access::ALL)).await.unwrap();
        admin.change(grant("guest", "theirs", Access::ALL)).await.unwrap();
        let made = |cluster: &Cluster, name: &str| {
            let ca = cluster.authority();
            ca.issue_client_in_memory(name, Roles::default(), UnixTime::now()).unwrap()
        };
        let app = made(&cluster, "app");
        let client = cluster.client_as(app, ClientConfig::default()).await.unwrap();
        let options = WriteOptions::default();
        // Nothing of the map changes meanwhile.
        for (name, wanted) in
            [("app", &["mine"][..]), ("guest", &["theirs"]), ("free", &["mine", "theirs"])]
        {
            client.set_credentials(made(&cluster, name)).unwrap();
            wait_for("its databases", PATIENCE, async || {
                let map = client.map();
                let names: Vec<_> = map.databases.iter().map(|it| &it.name[..]).collect();
                (names == wanted).then_some(()).ok_or_else(|| format!("{name}: {names:?}"))
            })
            .await;
            for database in wanted {
                write(&client, database, &[sample(0, 1)], &options, &ledger).await.unwrap();
            }
        }
        client.close().await;
        cluster.finish().await;
    });
}

#[test]
fn grants_outlive_restarts_and_come_to_new_nodes() {
    simulated(async {
        let (mut cluster, admin, _ledger) = two_databases(303).await;
        admin.change(grant("app", "mine", Access::ALL)).await.unwrap();
        everywhere(&mut cluster, &admin).await;
        let app = Somebody::new(&mut cluster, &admin, "app", &[Role::Write, Role::Read]);
        for node in ALL {
            cluster.stop(node).await;
            cluster.restart(node).await;
            cluster.wait_up(&admin, &ALL).await;
        }
        // A node that joins gets the state from another one.
        let new = cluster.join().await;
        let looker = Raw::new(cluster.client_env(), cluster.client_credentials("looker"));
        looker.same_map(&admin.map(), &[NodeId(1), new], admin.map().index).await;
        for node in ALL {
            for (what, refused) in app.tries(node, "theirs").await {
                assert_eq!(refused, Some(Code::Unauthorised), "{what} at {node}");
            }
        }
        let connection = app.raw.connect(&admin.map(), new).await;
        let map = asked_for(&connection).await;
        assert_eq!(map.databases.len(), 1, "{:?}", map.databases);
        let deadline = Instant::now() + PATIENCE;
        let grants = Grants { meta_index: MetaIndex(0) };
        let (_, list) =
            connection.exchange(&grants, Bytes::new(), deadline, 1 << 20).await.unwrap();
        let list: Vec<quorate_protocol::grant::ClientGrants> = postcard::from_bytes(&list).unwrap();
        assert_eq!(list.len(), 1);
        cluster.finish().await;
    });
}

#[test]
fn the_commands_say_what_holds_afterwards() {
    real(async {
        let mut cluster = Processes::start(BINARY, 1).await;
        let certs = cluster.pki();
        let node = NodeId(1);
        let addr = cluster.addr(node).to_owned();
        let authority = Authority::open(&certs, Config::default()).unwrap();
        let (roles, now) = (Roles::default(), UnixTime::now());
        let app = authority.issue_client(&certs, "app", roles, now, Existing::Refuse).unwrap();
        // As the admin, which the harness is, and with the client's certificate.
        let admin = async |args: &[&str], code: i32| {
            let ended = cluster.quorate(args).await;
            assert_eq!(ended.code, Some(code), "{args:?}: {}", ended.stderr);
            (ended.stdout, ended.stderr)
        };
        let app = async |args: &[&str], code: i32| {
            let certs = app.to_str().unwrap();
            let args = [args, &["--connect", &addr, "--certs", certs][..]].concat();
            let args: Vec<std::ffi::OsString> = args.iter().map(Into::into).collect();
            let ended = cluster.run(&args).await;
            assert_eq!(ended.code, Some(code), "{args:?}: {}", ended.stderr);
            (ended.stdout, ended.stderr)
        };
        for name in ["mine", "theirs"] {
            admin(&["db", "create", name], 0).await;
        }
        let (said, _) = admin(&["grant", "app", "mine", "--role", "read"], 0).await;
        assert_eq!(said, "client 'app' may read 'mine', and nothing else\n");
        let (said, _) = admin(&["grant", "*", "--all-databases", "--json"], 0).await;
        let said: serde_json::Value = serde_json::from_str(&said).unwrap();
        assert_eq!(said["all_databases"], serde_json::json!(["read", "write"]));
        let (table, _) = admin(&["grants"], 0).await;
        let rows: Vec<Vec<&str>> =
            table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[1], ["*", "(all)", "read,", "write"]);
        assert_eq!(rows[2], ["app", "mine", "read"]);
        // The client learns what holds for it, and nothing of others.
        let (list, _) = app(&["grants", "--json"], 0).await;
        assert_eq!(list.lines().count(), 1, "{list}");
        let list: serde_json::Value = serde_json::from_str(&list).unwrap();
        assert_eq!(list["databases"][0]["database"], "mine");
        assert_eq!(list["databases"][0]["roles"], serde_json::json!(["read"]));
        let (list, _) = app(&["db", "ls"], 0).await;
        assert!(list.contains("mine") && !list.contains("theirs"), "{list}");
        app(&["export", "mine"], 0).await;
        let (_, error) = app(&["export", "theirs"], 1).await;
        assert!(error.contains("\"theirs\" not found"), "{error}");
        // Only admins change them.
        let (_, error) = app(&["grant", "app", "theirs"], 1).await;
        assert!(error.contains("role admin"), "{error}");
        // What makes no sense is said in one line.
        let (_, error) = admin(&["grant", "app", "none"], 1).await;
        assert!(error.contains("no database has this name"), "{error}");
        let (_, error) = admin(&["revoke", "eve", "mine"], 1).await;
        assert!(error.contains("has no grants of its own"), "{error}");
        admin(&["grant", "a b", "mine"], 2).await;
        admin(&["grant", "app"], 2).await;
        admin(&["revoke", "app", "mine", "--everything"], 2).await;
        let (said, _) = admin(&["revoke", "app", "--everything"], 0).await;
        assert_eq!(said, "client 'app' may neither read nor write any database\n");
        let (said, _) = admin(&["grant", "app", "--by-certificate"], 0).await;
        assert!(said.contains("granted to '*'"), "{said}");
        cluster.terminate(node).await;
    });
}

//! What the CA writes and signs, and what it refuses.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use super::*;
use crate::Role;
use crate::identity::{parse_der, peer_identity};

fn at(seconds: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(seconds))
}

const NOW_S: u64 = 1_800_000_000;

fn now() -> UnixTime {
    at(NOW_S)
}

fn create(dir: &Path, cluster: &str) -> Result<Authority, IssueError> {
    Authority::create(dir, cluster, Config::default(), now(), Existing::Refuse)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn tree(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(tree(&path));
        } else {
            files.push((path.display().to_string(), fs::read(&path).unwrap()));
        }
    }
    files.sort();
    files
}

#[test]
fn made_opened_and_loaded() {
    let dir = tempfile::tempdir().unwrap();
    create(dir.path(), "prod").unwrap();
    let ca = Authority::open(dir.path(), Config::default()).unwrap();
    assert_eq!(ca.cluster(), "prod");

    let path = ca.issue_node(dir.path(), "n1", &[], now(), Existing::Refuse).unwrap();
    assert_eq!(path, dir.path().join("n1"));
    let node = Credentials::load(&path, now()).unwrap();
    assert_eq!(node.identity(), &Identity::node("prod", "n1").unwrap());

    let roles = [Role::Read, Role::Admin].into_iter().collect();
    let path = ca.issue_client(dir.path(), "app", roles, now(), Existing::Refuse).unwrap();
    let client = Credentials::load(&path, now()).unwrap();
    assert_eq!(client.identity().to_string(), "spiffe://prod/client/app?role=admin&role=read");
    assert_eq!(peer_identity(client.chain()), Ok(client.identity().clone()));
}

#[test]
fn keys_are_private_and_certificates_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let ca = create(dir.path(), "c").unwrap();
    for existing in [Existing::Refuse, Existing::Replace] {
        ca.issue_node(dir.path(), "n", &[], now(), existing).unwrap();
        assert_eq!(mode(&dir.path().join("ca.key")), 0o600);
        assert_eq!(mode(&dir.path().join("n/tls.key")), 0o600);
        // Group and others may read these, as far as the umask of the test run lets them.
        assert_eq!(mode(&dir.path().join("n/tls.crt")) & 0o733, 0o600);
    }
    assert_eq!(tree(dir.path()).len(), 5, "no temporary file stays");
    for (name, content) in tree(dir.path()) {
        let key = String::from_utf8(content).unwrap().contains("PRIVATE KEY");
        assert_eq!(key, name.ends_with(".key"), "{name}");
    }
}

#[test]
fn nothing_is_overwritten_unless_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let ca = create(dir.path(), "c").unwrap();
    ca.issue_node(dir.path(), "n", &[], now(), Existing::Refuse).unwrap();
    let before = tree(dir.path());

    let exists = |result: Result<(), IssueError>| {
        let error = result.unwrap_err();
        assert!(matches!(error, IssueError::Publish(PublishError::Exists(_))), "{error}");
        assert!(error.to_string().contains("--force"), "{error}");
        assert_eq!(tree(dir.path()), before);
    };
    exists(create(dir.path(), "c").map(drop));
    exists(ca.issue_node(dir.path(), "n", &[], now(), Existing::Refuse).map(drop));
    exists(ca.issue_client(dir.path(), "n", Roles::default(), now(), Existing::Refuse).map(drop));

    ca.issue_node(dir.path(), "n", &[], now(), Existing::Replace).unwrap();
    assert_ne!(tree(dir.path()), before);
    Credentials::load(&dir.path().join("n"), now()).unwrap();
}

#[test]
fn one_file_that_is_there_keeps_all_others_away() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("ca.crt"), "mine").unwrap();
    create(dir.path(), "c").unwrap_err();
    assert_eq!(tree(dir.path()).len(), 1);
}

#[test]
fn names_cannot_leave_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    let ca = create(dir.path(), "c").unwrap();
    let before = tree(dir.path());
    for name in ["", "..", "../x", "/etc", "a/b", "a b", "a\0b", "a?role=admin"] {
        for result in [
            ca.issue_node(dir.path(), name, &[], now(), Existing::Refuse),
            ca.issue_client(dir.path(), name, Roles::default(), now(), Existing::Refuse),
        ] {
            assert!(result.is_err(), "{name:?}");
        }
        assert!(Authority::ephemeral(name, Config::default(), now()).is_err());
    }
    assert_eq!(tree(dir.path()), before);
}

#[test]
fn additional_names_are_checked_and_bounded() {
    let ca = Authority::ephemeral("c", Config::default(), now()).unwrap();
    let node = |sans: &[&str]| {
        let sans: Vec<String> = sans.iter().map(|&s| s.to_owned()).collect();
        ca.issue_node_in_memory("n", &sans, now())
    };
    node(&["db.example", "db.example", "quorate-node", "192.0.2.1", "2001:db8::1"]).unwrap();
    for bad in ["", "a b", "*.example", "192.0.2.1:80", "http://x", "\u{e4}.example"] {
        assert!(matches!(node(&[bad]), Err(IssueError::San(_))), "{bad:?}");
    }
    let many: Vec<String> = (0..65).map(|i| format!("n{i}")).collect();
    assert!(matches!(
        ca.issue_node_in_memory("n", &many, now()),
        Err(IssueError::TooManyNames { max: 64 })
    ));
}

#[test]
fn a_leaf_never_outlives_its_ca_and_an_expired_ca_signs_nothing() {
    let config = Config { ca_validity_days: 10, ..Config::default() };
    let ca = Authority::ephemeral("c", config, now()).unwrap();
    let end = NOW_S + 10 * DAY_S;
    let leaf = ca.issue_node_in_memory("n", &[], at(end - 5)).unwrap();
    assert_eq!(leaf.not_after(), Moment(i64::try_from(end).unwrap()));
    for when in [end + 1, NOW_S - 3601] {
        let refused = ca.issue_node_in_memory("n", &[], at(when));
        assert!(matches!(refused, Err(IssueError::OutOfTime { .. })));
    }
}

#[test]
fn impossible_dates_are_an_error() {
    for (days, when) in [(0, 0), (u32::MAX, NOW_S), (1, u64::MAX)] {
        let config = Config { ca_validity_days: days, ..Config::default() };
        let refused = Authority::ephemeral("c", config, at(when));
        assert!(matches!(refused, Err(IssueError::Validity(_))), "{days}");
    }
}

#[test]
fn usages_and_constraints_are_as_specified() {
    let ca = Authority::ephemeral("c", Config::default(), now()).unwrap();
    let root = parse_der(&ca.roots()[0]).unwrap();
    let basic = root.basic_constraints().unwrap().unwrap();
    assert!(basic.critical && basic.value.ca);
    assert_eq!(basic.value.path_len_constraint, Some(0));
    assert!(root.key_usage().unwrap().unwrap().value.key_cert_sign());

    let node = ca.issue_node_in_memory("n", &[], now()).unwrap();
    let client = ca.issue_client_in_memory("a", Roles::default(), now()).unwrap();
    for (credentials, server) in [(&node, true), (&client, false)] {
        let leaf = parse_der(&credentials.chain()[0]).unwrap();
        let usage = leaf.extended_key_usage().unwrap().unwrap().value;
        assert!(usage.client_auth);
        assert_eq!(usage.server_auth, server);
        assert!(!leaf.is_ca());
        assert!(!leaf.key_usage().unwrap().unwrap().value.key_cert_sign());
    }
}

#[test]
fn an_authority_with_damaged_files_does_not_open() {
    let open = |dir: &Path| match Authority::open(dir, Config::default()) {
        Err(IssueError::Load(e)) => e,
        other => panic!("{other:?}"),
    };
    let dir = tempfile::tempdir().unwrap();
    let missing = open(dir.path());
    assert!(matches!(missing, LoadError::Missing { .. }), "{missing}");
    assert!(missing.to_string().contains("quorate certs ca --dir"));

    let other = tempfile::tempdir().unwrap();
    create(dir.path(), "c").unwrap();
    create(other.path(), "c").unwrap();
    let key = dir.path().join("ca.key");
    fs::copy(other.path().join("ca.key"), &key).unwrap();
    assert!(matches!(open(dir.path()), LoadError::KeyMismatch { .. }));
    fs::write(&key, "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n").unwrap();
    assert!(matches!(open(dir.path()), LoadError::Damaged { file, .. } if file == key));
    fs::remove_file(&key).unwrap();
    assert!(matches!(open(dir.path()), LoadError::Missing { file, .. } if file == key));
}

#[test]
fn after_a_rollover_the_key_tells_which_root_signs_and_all_are_passed_on() {
    let dir = tempfile::tempdir().unwrap();
    let old = Authority::ephemeral("c", Config::default(), now()).unwrap();
    create(dir.path(), "c").unwrap();
    let file = dir.path().join("ca.crt");
    let both = old.pem.clone() + &fs::read_to_string(&file).unwrap();
    fs::write(&file, both).unwrap();

    let ca = Authority::open(dir.path(), Config::default()).unwrap();
    let path = ca.issue_node(dir.path(), "n", &[], now(), Existing::Refuse).unwrap();
    Credentials::load(&path, now()).unwrap();
    assert_eq!(fs::read(path.join("ca.crt")).unwrap(), fs::read(file).unwrap());
}

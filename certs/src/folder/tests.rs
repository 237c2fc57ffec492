//! What is taken from a folder that changes, and what is not.

use std::fs;
use std::time::Duration;

use super::*;
use crate::{Authority, Config, Existing, Role, Roles};

fn now() -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000))
}

struct Place {
    dir: tempfile::TempDir,
    ca: Authority,
    folder: Folder,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ca = Authority::create(dir.path(), "prod", Config::default(), now(), Existing::Refuse)
            .unwrap();
        for name in ["n1", "n2"] {
            ca.issue_node(dir.path(), name, &[], now(), Existing::Refuse).unwrap();
        }
        let folder = Folder::open(&dir.path().join("n1"), now(), None).unwrap();
        Self { dir, ca, folder }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join("n1").join(name)
    }

    /// What the second of two looks finds wrong.
    fn wrong(&mut self) -> LoadError {
        assert!(self.folder.changed(now()).unwrap().is_none());
        assert!(self.folder.in_doubt());
        let error = self.folder.changed(now()).unwrap_err();
        assert!(!self.folder.in_doubt());
        error
    }
}

#[test]
fn what_is_renewed_is_taken_once() {
    let mut place = Place::new();
    assert!(place.folder.changed(now()).unwrap().is_none());
    let old = place.folder.credentials().chain().to_vec();
    place.ca.renew(place.dir.path(), "n1", now()).unwrap();
    let new = place.folder.changed(now()).unwrap().expect("a new certificate");
    assert_ne!(new.chain(), &old[..]);
    assert_eq!(new.chain(), place.folder.credentials().chain());
    assert!(place.folder.changed(now()).unwrap().is_none());
}

/// Every prefix of every file, as a look in the middle of a copy would find it.
#[test]
fn half_of_a_renewal_changes_nothing_and_is_told_once() {
    let mut place = Place::new();
    let old = place.folder.credentials().chain().to_vec();
    let serial = place.ca.serial(place.dir.path(), "n2").unwrap();
    place.ca.revoke(place.dir.path(), &[serial], now()).unwrap();
    place.folder.changed(now()).unwrap().expect("a list");
    place.ca.renew(place.dir.path(), "n1", now()).unwrap();
    let names = [LEAF_KEY, LEAF_CERT, CA_CERT, CRL];
    let new = names.map(|name| fs::read(place.file(name)).unwrap());
    place.ca.issue_node(place.dir.path(), "n1", &[], now(), Existing::Replace).unwrap();
    place.folder.changed(now()).unwrap().expect("it is whole");
    let last = place.folder.credentials().chain().to_vec();
    assert_ne!(last, old);
    let mut told = 0;
    for (name, content) in names.iter().zip(&new) {
        for end in (0..content.len()).step_by(61) {
            fs::write(place.file(name), &content[..end]).unwrap();
            assert!(place.folder.changed(now()).unwrap().is_none(), "{name} to {end}");
            told += usize::from(place.folder.changed(now()).is_err());
            assert!(place.folder.changed(now()).unwrap().is_none(), "{name} to {end}");
            assert_eq!(place.folder.credentials().chain(), &last[..], "{name} to {end}");
        }
        fs::write(place.file(name), content).unwrap();
    }
    assert!(told > 20, "{told}");
    let taken = place.folder.changed(now()).unwrap().expect("it is whole again");
    assert_eq!(taken.chain(), place.folder.credentials().chain());
    assert_ne!(taken.chain(), &last[..]);
}

/// Each rename of a renewal, with a look after it.
#[test]
fn a_look_between_the_files_of_a_renewal_tells_nothing() {
    let mut place = Place::new();
    let names = [LEAF_KEY, LEAF_CERT];
    let old = names.map(|name| fs::read(place.file(name)).unwrap());
    place.ca.renew(place.dir.path(), "n1", now()).unwrap();
    let new = names.map(|name| fs::read(place.file(name)).unwrap());
    for (name, content) in names.iter().zip(&old) {
        fs::write(place.file(name), content).unwrap();
    }
    place.folder.changed(now()).unwrap().expect("the old ones again");
    fs::write(place.file(LEAF_KEY), &new[0]).unwrap();
    assert!(place.folder.changed(now()).unwrap().is_none());
    assert!(place.folder.in_doubt(), "worth another look soon");
    fs::write(place.file(LEAF_CERT), &new[1]).unwrap();
    assert!(place.folder.changed(now()).unwrap().is_some());
    assert!(!place.folder.in_doubt());
}

#[test]
fn a_list_that_disappears_forgets_nobody() {
    let mut place = Place::new();
    let serial = place.ca.serial(place.dir.path(), "n2").unwrap();
    place.ca.revoke(place.dir.path(), std::slice::from_ref(&serial), now()).unwrap();
    place.folder.changed(now()).unwrap().expect("a list");
    fs::remove_file(place.file(CRL)).unwrap();
    let still = place.folder.changed(now()).unwrap().expect("another state of the files");
    assert!(still.revocations().contains(&serial));
}

#[test]
fn whoever_is_revoked_is_out_even_if_the_rest_cannot_be_taken() {
    let mut place = Place::new();
    let serials = ["n1", "n2"].map(|name| place.ca.serial(place.dir.path(), name).unwrap());
    // A list of somebody else's is no list.
    let other = Place::new();
    other.ca.revoke(other.dir.path(), &serials, now()).unwrap();
    fs::copy(other.dir.path().join(CRL), place.file(CRL)).unwrap();
    place.wrong();
    assert!(place.folder.revoked().is_none());

    // Its own certificate is on it, so the state as a whole is not taken.
    place.ca.revoke(place.dir.path(), &serials, now()).unwrap();
    assert!(place.folder.changed(now()).unwrap().is_none());
    let still = place.folder.revoked().expect("n2 is on it too, which counts at the first look");
    let error = place.folder.changed(now()).unwrap_err();
    assert!(matches!(error, LoadError::Revoked { .. }), "{error}");
    assert_eq!(still.identity().name(), "n1");
    assert!(serials.iter().all(|serial| still.revocations().contains(serial)));
    assert!(place.folder.revoked().is_none(), "nothing new");
}

#[test]
fn somebody_else_s_certificate_is_not_taken_but_other_roles_are() {
    let mut place = Place::new();
    for name in [LEAF_CERT, LEAF_KEY] {
        fs::copy(place.dir.path().join("n2").join(name), place.file(name)).unwrap();
    }
    let error = place.wrong();
    assert!(matches!(error, LoadError::OtherHolder { .. }), "{error}");
    assert_eq!(place.folder.credentials().identity().name(), "n1");

    let (ca, dir) = (&place.ca, place.dir.path());
    ca.issue_client(dir, "app", Roles::default(), now(), Existing::Refuse).unwrap();
    let mut app = Folder::open(&dir.join("app"), now(), None).unwrap();
    let admin = [Role::Admin].into_iter().collect();
    ca.issue_client(dir, "app", admin, now(), Existing::Replace).unwrap();
    let taken = app.changed(now()).unwrap().expect("other roles");
    assert!(taken.identity().permits(Role::Admin));
}

#[test]
fn what_is_not_valid_yet_is_taken_when_its_time_has_come() {
    let mut place = Place::new();
    let tomorrow = UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000 + 86_400));
    place.ca.renew(place.dir.path(), "n1", tomorrow).unwrap();
    place.wrong();
    assert!(place.folder.changed(now()).unwrap().is_none());
    assert!(place.folder.changed(tomorrow).unwrap().is_some());
}

//! Throwing somebody out: `quorate certs revoke`.
//!
//! Invariant: a list only grows; what was revoked once, also by a CA before this one, stands in every
//! later list. The list is good for as long as the CA is, because whoever did not get a newer one must go
//! on refusing whom it names.

use std::collections::BTreeMap;
use std::path::Path;

use rcgen::{CertificateRevocationListParams, KeyIdMethod, RevokedCertParams, SerialNumber};
use rustls_pki_types::UnixTime;

use super::{Authority, IssueError, LEAF_CERT};
use crate::load::{damaged, read_certificates};
use crate::publish::{Existing, NewFile, publish};
use crate::revocation::{CRL, Serial, parse_list, read_lists};
use crate::validity::{Moment, Standing};

/// Who is thrown out, and since when.
pub(super) type Entries = BTreeMap<Serial, Moment>;

impl Authority {
    /// Puts certificates on the list `dir/ca.crl`, and the list beside every certificate in `dir`. Nodes and
    /// clients that follow their folders refuse them when the list has reached them. Returns how many are
    /// on it.
    ///
    /// # Errors
    /// An expired CA, a damaged list, or whatever the disk says.
    pub fn revoke(
        &self,
        dir: &Path,
        serials: &[Serial],
        now: UnixTime,
    ) -> Result<usize, IssueError> {
        let (mut entries, number) = read(dir)?;
        for serial in serials {
            entries.entry(serial.clone()).or_insert_with(|| now.into());
        }
        let list = self.sign_list(&entries, number + 1, now)?;
        self.distribute(dir, &[NewFile::public(CRL, &list)])?;
        Ok(entries.len())
    }

    /// The serial number of `dir/name/tls.crt`.
    ///
    /// # Errors
    /// No certificate there, or one of another cluster.
    pub fn serial(&self, dir: &Path, name: &str) -> Result<Serial, IssueError> {
        self.holder(dir, name)?;
        let file = dir.join(name).join(LEAF_CERT);
        let (chain, _) = read_certificates(&file, &String::new)?;
        let serial = chain.first().and_then(Serial::of);
        Ok(serial.ok_or_else(|| damaged(&file, "it has no serial number"))?)
    }

    /// Signs the list that is there as its own, under the next number; nothing where there is none.
    pub(super) fn take_over_list(
        &self,
        dir: &Path,
        now: UnixTime,
    ) -> Result<Option<String>, IssueError> {
        let (entries, number) = read(dir)?;
        if number == 0 {
            return Ok(None);
        }
        self.sign_list(&entries, number + 1, now).map(Some)
    }

    /// Writes files into `dir` and beside every certificate in it.
    pub(super) fn distribute(&self, dir: &Path, files: &[NewFile<'_>]) -> Result<(), IssueError> {
        publish(dir, files, Existing::Replace)?;
        for name in Self::names(dir)? {
            publish(&dir.join(name), files, Existing::Replace)?;
        }
        Ok(())
    }

    fn sign_list(
        &self,
        entries: &Entries,
        number: u64,
        now: UnixTime,
    ) -> Result<String, IssueError> {
        let out_of_time =
            || IssueError::OutOfTime { cluster: self.cluster.clone(), validity: self.validity };
        if self.validity.at(now) != Standing::Valid {
            return Err(out_of_time());
        }
        let date = |moment: Moment| {
            moment.to_asn1().map(|time| time.to_datetime()).ok_or_else(out_of_time)
        };
        let revoked = entries.iter().map(|(serial, since)| {
            Ok(RevokedCertParams {
                serial_number: SerialNumber::from_slice(serial.bytes()),
                revocation_time: date(*since)?,
                reason_code: None,
                invalidity_date: None,
            })
        });
        let list = CertificateRevocationListParams {
            this_update: date(Moment::from(now).minus(self.config.backdate_s.into()))?,
            next_update: date(self.validity.not_after)?,
            crl_number: SerialNumber::from_slice(&number.to_be_bytes()),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect::<Result<_, IssueError>>()?,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Ok(list.signed_by(&self.issuer)?.pem()?)
    }
}

/// Who is on the lists in `dir`, and the highest of their numbers; 0 without a list.
fn read(dir: &Path) -> Result<(Entries, u64), IssueError> {
    let file = dir.join(CRL);
    let (mut entries, mut highest) = (Entries::new(), 0);
    for der in read_lists(&file)? {
        let list = parse_list(&file, &der)?;
        let number =
            list.crl_number().map_or(1, |number| number.iter_u64_digits().next().unwrap_or(0));
        highest = highest.max(number);
        for entry in list.iter_revoked_certificates() {
            let since = Moment(entry.revocation_date.timestamp());
            entries.entry(Serial::new(entry.raw_serial())).or_insert(since);
        }
    }
    Ok((entries, highest))
}

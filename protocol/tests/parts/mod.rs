//! A second writer of the format, by the letter of `SPEC.md` and without any rule of its own: for
//! parts that the real one would never write.

/// One part with one measurement.
#[derive(Clone)]
pub(crate) struct Part {
    pub(crate) format: u16,
    pub(crate) flags: u16,
    pub(crate) min_time: i64,
    pub(crate) max_time: i64,
    pub(crate) rows: u32,
    pub(crate) measurements: u32,
    pub(crate) name: &'static [u8],
    pub(crate) tag: &'static [u8],
    pub(crate) dictionary: Vec<&'static [u8]>,
    pub(crate) indices: Vec<i64>,
    pub(crate) counts: Vec<i64>,
    /// As they are kept: distances from the expected.
    pub(crate) times: Vec<i64>,
    pub(crate) fields: Vec<Fields>,
    /// After the last measurement.
    pub(crate) tail: Vec<u8>,
    /// Instead of the measurement.
    pub(crate) raw_block: Option<Vec<u8>>,
}

#[derive(Clone)]
pub(crate) struct Fields {
    pub(crate) name: &'static [u8],
    pub(crate) kind: u8,
    pub(crate) present: Vec<u8>,
    /// Encoding and values.
    pub(crate) values: Vec<u8>,
}

impl Fields {
    pub(crate) fn floats(values: &[f64]) -> Vec<u8> {
        let mut out = vec![0];
        values.iter().for_each(|value| out.extend(value.to_le_bytes()));
        out
    }
}

pub(crate) struct Packed;

impl Packed {
    /// At most 64 numbers in one plain chunk of full width.
    pub(crate) fn of(numbers: &[i64]) -> Vec<u8> {
        let mut out = vec![64, 0];
        numbers.iter().for_each(|number| out.extend(number.to_le_bytes()));
        out
    }

    pub(crate) fn zeros(count: usize) -> Vec<u8> {
        vec![0; count.div_ceil(64) * 2]
    }
}

impl Part {
    /// `m,t=a` at 10 and 20, `m,t=b` at 10; one float field.
    pub(crate) fn valid() -> Self {
        Self {
            format: 1,
            flags: 0,
            min_time: 10,
            max_time: 20,
            rows: 3,
            measurements: 1,
            name: b"m",
            tag: b"t",
            dictionary: vec![b"a", b"b"],
            indices: vec![1, 2],
            counts: vec![2, 1],
            times: vec![10, 10, 0],
            fields: vec![Fields {
                name: b"f",
                kind: 0,
                present: vec![0],
                values: Fields::floats(&[1.5, 2.5, 3.5]),
            }],
            tail: Vec::new(),
            raw_block: None,
        }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = b"QBAT\0\0\0\0".to_vec();
        out.extend(self.format.to_le_bytes());
        out.extend(self.flags.to_le_bytes());
        // Batch, version, meta index, database, policy, shard, epoch.
        out.extend([0; 16 + 8 + 8 + 4 + 4 + 8 + 4]);
        out.extend(self.min_time.to_le_bytes());
        out.extend(self.max_time.to_le_bytes());
        out.extend(self.rows.to_le_bytes());
        out.extend(self.measurements.to_le_bytes());
        assert_eq!(out.len(), 88);
        out.extend(self.raw_block.clone().unwrap_or_else(|| block(|out| self.measurement(out))));
        out.extend(&self.tail);
        seal(&mut out);
        out
    }

    fn measurement(&self, out: &mut Vec<u8>) {
        bytes(out, self.name);
        varint(out, self.indices.len() as u64);
        varint(out, 1);
        bytes(out, self.tag);
        varint(out, self.dictionary.len() as u64);
        self.dictionary.iter().for_each(|value| bytes(out, value));
        out.extend(Packed::of(&self.indices));
        out.extend(Packed::of(&self.counts));
        out.extend(Packed::of(&self.times));
        varint(out, self.fields.len() as u64);
        for field in &self.fields {
            out.extend(7_u32.to_le_bytes());
            bytes(out, field.name);
            out.push(field.kind);
            out.extend(&field.present);
            out.extend(&field.values);
        }
    }
}

pub(crate) fn block(fill: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut inner = Vec::new();
    fill(&mut inner);
    let mut out = (inner.len() as u32).to_le_bytes().to_vec();
    out.extend(inner);
    out
}

pub(crate) fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(crate) fn bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    varint(out, bytes.len() as u64);
    out.extend(bytes);
}

/// Makes the checksum right.
pub(crate) fn seal(part: &mut [u8]) {
    let checksum = crc32fast::hash(&part[8..]);
    part[4..8].copy_from_slice(&checksum.to_le_bytes());
}

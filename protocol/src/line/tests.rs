use proptest::prelude::*;

use super::*;
use crate::point::{Point, ValueRef};

/// Everything a batch holds, row by row, as canonical lines.
fn lines(batch: &Batch) -> Vec<String> {
    let mut out = Vec::new();
    for measurement in batch.measurements() {
        for (row, series, time) in measurement.rows() {
            let mut fields: Vec<(&[u8], ValueRef<'_>)> = measurement
                .columns()
                .iter()
                .filter_map(|column| Some((&column.name()[..], column.get(row)?)))
                .collect();
            fields.sort_by_key(|(name, _)| *name);
            let mut line = Vec::new();
            crate::point::text::write_line(&mut line, measurement.series_key(series), fields, time);
            out.push(line.escape_ascii().to_string());
        }
    }
    out
}

fn parse(text: &[u8], fast: bool) -> (Batch, Outcome) {
    let mut batch = Batch::new();
    let outcome = Parser::new(&mut batch, text, Options::default()).run(fast);
    (batch, outcome)
}

fn same_both_ways(text: &[u8]) -> Outcome {
    let ((fast, a), (strict, b)) = (parse(text, true), parse(text, false));
    assert_eq!(lines(&fast), lines(&strict), "{}", text.escape_ascii());
    assert_eq!((a.lines, a.points, &a.errors), (b.lines, b.points, &b.errors));
    assert_eq!(a.points, fast.rows());
    check_series(&fast);
    a
}

/// Every series has the hash of its key, and its tags one by one.
fn check_series(batch: &Batch) {
    for measurement in batch.measurements() {
        for (_, series, _) in measurement.rows() {
            let key = measurement.series_key(series);
            assert_eq!(measurement.series_hash(series), crate::hash::series_hash(key));
        }
    }
    let ids = |_: &[u8], _: &[u8], _| Some(crate::id::FieldId(1));
    let header = crate::batch::PartHeader::default();
    let all = crate::batch::Selection::All;
    let Ok(part) = crate::batch::encode_part(batch, &header, all, &ids) else {
        assert!(batch.is_empty());
        return;
    };
    // Decoding makes the keys of the tags.
    let part = crate::batch::EncodedBatch::parse(part).unwrap().decode().unwrap();
    let mut decoded: Vec<Vec<u8>> = part.into_rows().map(|(key, _, _)| key.to_vec()).collect();
    decoded.sort();
    let mut keys = Vec::new();
    for measurement in batch.measurements() {
        // The one column that the part has.
        let Some(column) = measurement.columns().iter().find(|column| !column.is_empty()) else {
            continue;
        };
        let rows = measurement.rows().filter(|(row, _, _)| column.get(*row).is_some());
        keys.extend(rows.map(|(_, series, _)| measurement.series_key(series).to_vec()));
    }
    keys.sort();
    keys.dedup();
    assert_eq!(decoded, keys);
}

#[test]
fn errors_say_where() {
    let text = "a v=1\nb v=\"two\nlines\"\n\n# comment\nc,x v=1\nd v=1 12x\ne v=3";
    let outcome = same_both_ways(text.as_bytes());
    assert_eq!((outcome.lines, outcome.points), (5, 3));
    let [first, second] = &outcome.errors[..] else { panic!("{:?}", outcome.errors) };
    assert_eq!((first.line, first.column, first.reason), (6, 4, Reason::MissingTagValue));
    assert_eq!(&text[first.range.clone()], "c,x v=1");
    assert_eq!((second.line, second.column, second.reason), (7, 9, Reason::BadTimestamp));
    assert_eq!(second.to_string(), "line 7 column 9: bad timestamp");
}

#[test]
fn reasons_are_specific() {
    let reason = |line: &str| match &same_both_ways(line.as_bytes()).errors[..] {
        [error] => error.reason,
        other => panic!("{line}: {other:?}"),
    };
    let long = format!("m,t={} v=1", "x".repeat(65_530));
    for (line, expected) in [
        (",t=1 v=1", Reason::MissingMeasurement),
        ("m", Reason::MissingFields),
        ("m,=1 v=1", Reason::MissingTagKey),
        ("m,t= v=1", Reason::MissingTagValue),
        ("m,t=a=b v=1", Reason::InvalidTagFormat),
        ("m,t=1,t=2 v=1", Reason::DuplicateTags),
        ("m,t=1,s=1,t=2 v=1", Reason::DuplicateTags),
        ("m =1", Reason::MissingFieldKey),
        ("m v=", Reason::MissingFieldValue),
        ("m v", Reason::InvalidFieldFormat),
        ("m v=1,w", Reason::InvalidFieldFormat),
        ("m v=1x", Reason::InvalidNumber),
        ("m v=99999999999999999999i", Reason::IntegerOutOfRange),
        ("m v=1e999", Reason::InvalidFloat),
        ("m v=yes", Reason::InvalidBoolean),
        ("m v=\"x", Reason::UnbalancedQuotes),
        ("m v=1 x", Reason::BadTimestamp),
        ("m v=1 9223372036854775807", Reason::TimeOutOfRange),
        ("m v=1 1 1", Reason::TrailingCharacters),
        ("m \t=1", Reason::MissingFieldKey),
        (&long, Reason::KeyTooLong),
    ] {
        assert_eq!(reason(line), expected, "{line}");
    }
    let text = format!("m v=\"{}\"", "x".repeat(crate::point::MAX_STRING_LEN + 1));
    assert_eq!(reason(&text), Reason::StringTooLong);
}

#[test]
fn precision_scales_times_and_truncates_the_default() {
    for (name, unit) in [
        ("n", 1_i64),
        ("ns", 1),
        ("u", 1_000),
        ("us", 1_000),
        ("ms", 1_000_000),
        ("s", 1_000_000_000),
        ("m", 60_000_000_000),
        ("h", 3_600_000_000_000),
    ] {
        let precision: Precision = name.parse().unwrap();
        let default_time = -1_700_000_000_123_456_789;
        let mut batch = Batch::new();
        let outcome =
            parse_into(&mut batch, b"m v=1 -3\nm v=2", Options { precision, default_time });
        assert_eq!(outcome.points, 2);
        let times: Vec<i64> = batch.rows_iter().map(|(_, _, _, time)| time).collect();
        assert_eq!(times, [-3 * unit, default_time.div_euclid(unit) * unit], "{name}");
        if unit > 1 {
            let too_far = format!("m v=1 {}", i64::MAX / unit + 1);
            let outcome =
                parse_into(&mut batch, too_far.as_bytes(), Options { precision, default_time });
            assert_eq!(outcome.errors[0].reason, Reason::TimeOutOfRange);
        }
    }
    assert!("fortnight".parse::<Precision>().is_err());
}

#[test]
fn spellings_of_a_key_are_one_series() {
    let text = b"m,b=2,a=1 v=1 1\nm,a=1,b=2 v=2 2\nm,b=2,a=1 v=3 3\nm\\ x,a=1 v=1 1\nm,a=1 v=1 1";
    let (batch, outcome) = parse(text, true);
    assert_eq!(outcome.points, 5);
    let hashes: Vec<u64> = batch.rows_iter().map(|(_, _, hash, _)| hash).collect();
    assert!(hashes[..3].iter().all(|hash| *hash == crate::hash::series_hash(b"m,a=1,b=2")));
    assert_eq!(batch.measurements().len(), 2);
    same_both_ways(text);
}

#[test]
fn the_next_series_is_taken_for_granted_only_where_lines_end_where_they_seem_to() {
    // The quote counts, because a space stands before it that does not end the key.
    let odd = r#"m,t\\ s="c v=1"#;
    let text = format!("m,t=a v=1 1\nm,t=b v=1 1\n{odd}");
    let mut batch = Batch::new();
    assert_eq!(parse_into(&mut batch, text.as_bytes(), Options::default()).points, 3);
    let more = format!("{text} 1\nm,t=a v=2 2\nm,t=b v=2 2");
    let outcome = parse_into(&mut batch, more.as_bytes(), Options::default());
    assert_eq!((outcome.points, outcome.errors.len()), (2, 1));
    assert_eq!(parse(more.as_bytes(), false).1.errors, outcome.errors);
}

#[test]
fn the_last_field_of_a_name_counts_whatever_its_type() {
    let (batch, _) = parse(b"m v=1,w=1,v=2i 1\nm v=3 2\nm v=1i,v=2i,v=3 3", true);
    assert_eq!(lines(&batch), ["m v=2i,w=1 1", "m v=3 2", "m v=3 3"]);
}

#[test]
fn windows_line_ends_are_read_as_the_reference_reads_them() {
    let outcome = same_both_ways(b"m v=1 1\r\nm v=1\r\n");
    assert_eq!(outcome.points, 0);
}

fn name(first: &'static str) -> impl Strategy<Value = String> {
    // Backslashes only before letters, as the builder demands.
    (first, r#"([a-zA-Z0-9_.,= "'#µ]|\\[a-z]){0,6}"#).prop_map(|(first, rest)| first + &rest)
}

fn any_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        prop_oneof![
            prop::num::f64::NORMAL
                | prop::num::f64::ZERO
                | prop::num::f64::SUBNORMAL
                | prop::num::f64::NEGATIVE,
            (-1_000_000_i64..1_000_000).prop_map(|i| i as f64 / 100.0)
        ]
        .prop_map(Value::Float),
        any::<i64>().prop_map(Value::Integer),
        any::<u64>().prop_map(Value::Unsigned),
        any::<bool>().prop_map(Value::Boolean),
        prop::collection::vec(
            prop_oneof![any::<u8>(), Just(b'\\'), Just(b'"'), Just(b'\n')],
            0..12
        )
        .prop_map(|bytes| Value::String(bytes.into())),
    ]
}

fn point() -> impl Strategy<Value = Point> {
    let measurement = name("[a-z]");
    let tags = prop::collection::btree_map(name("[a-zA-Z, =]"), name("[a-z=,\" ]"), 0..4);
    let fields = prop::collection::btree_map(name("[a-zA-Z, =\"]"), any_value(), 1..5);
    let time = MIN_TIME..=MAX_TIME;
    (measurement, tags, fields, time).prop_filter_map("refused", |(name, tags, fields, time)| {
        let mut builder = Point::builder(name);
        for (key, value) in tags {
            builder = builder.tag(key, value);
        }
        for (name, value) in fields {
            builder = builder.field(name, value);
        }
        builder.at(time).ok()
    })
}

/// Texts that are nearly lines.
fn nearly() -> impl Strategy<Value = Vec<u8>> {
    const PIECES: &[&[u8]] = &[
        b"cpu",
        b",host=a",
        b",b=1,a=2",
        b" ",
        b"v=1",
        b",w=2i",
        b"s=\"x y\"",
        b"t=true",
        b"\\",
        b"\"",
        b"\n",
        b"=",
        b",",
        b"\\ ",
        b"\\=",
        b"\\\"",
        b" 12",
        b"-",
        b".",
        b"e",
        b"\t",
        b"\0",
        b"#",
        b"1",
        b"\xff",
        b"cpu,host=a v=1,w=2i 1\n",
        b"cpu,host=a v=1,w=2i,s=\"a\\\"b\"\n",
        b"u=7u",
        b"\r",
    ];
    let piece = prop::sample::select(PIECES);
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

/// Lines as agents write them: a few hosts again and again, in one order of tags or another.
fn usual() -> impl Strategy<Value = Vec<Vec<u8>>> {
    const KEYS: &[&str] = &[
        "cpu,host=a,az=eu",
        "cpu,host=b,az=eu",
        "cpu,host=c,az=us",
        "cpu,host=d,az=us",
        "cpu,host=eee,az=us-east-1",
        "cpu,az=eu,host=a",
        "cpu,az=eu,host=f",
        "cpu,az=eu",
        "cpu",
        "mem,host=a",
        "mem,host=b",
        "m\\ x,host=a\\,b",
        "cpu,host=a\\\\,az=eu",
        // Where a line ends, and where its key ends, is not the same here.
        "cpu,host=a\\\\ b,az=eu",
        "cpu,ho\\\\ st=\"a,az=eu",
        "cpu,host=g\\\nh,az=eu",
    ];
    const FIELDS: &[&str] = &[
        "usage=1,idle=2.25",
        "usage=3,idle=-4e3",
        "usage=1i",
        "idle=0.1234567890123456789",
        "idle=5,usage=6",
        "text=\"a b\",usage=1",
        "text=\"a\\\"b,c=\\\\\"",
        "up=t,n=18446744073709551615u,i=-9223372036854775808i",
        "up=false,usage=7,usage=8",
        "text=\"two\nlines\",usage=9",
    ];
    const TIMES: &[&str] = &["", " 1", " -1", " 1451606400000000000", " 1451606410000000000"];
    let select = prop::sample::select;
    let line = (select(KEYS), select(FIELDS), select(TIMES));
    let line = line.prop_map(|(key, fields, time)| format!("{key} {fields}{time}").into_bytes());
    // Several rounds over the same lines, so that what is remembered of a round is used.
    (prop::collection::vec(line, 1..8), 1_usize..4)
        .prop_map(|(lines, rounds)| vec![lines; rounds].concat())
}

/// Changes of a text: where (of 65,536), what, and with which byte.
fn changes() -> impl Strategy<Value = Vec<(u16, u8, u8)>> {
    let byte = prop_oneof![prop::sample::select(&b"\\\"\n ,=#\t\0\r-.0e1it"[..]), any::<u8>()];
    prop::collection::vec((any::<u16>(), 0_u8..4, byte), 0..5)
}

fn change(text: &mut Vec<u8>, changes: &[(u16, u8, u8)]) {
    for &(place, what, byte) in changes {
        let at = (usize::from(place) * text.len()) >> 16;
        match what {
            0 => text.insert(at, byte),
            _ if text.is_empty() => {}
            1 => text[at] = byte,
            2 => drop(text.remove(at)),
            // What is in front of it once more.
            _ => drop(text.splice(at..at, text[at.saturating_sub(9)..at].to_vec())),
        }
    }
}

/// Twenty times as many where somebody has the time.
fn cases() -> ProptestConfig {
    let soak = std::env::var_os("QUORATE_SOAK").is_some();
    ProptestConfig::with_cases(if soak { 40_000 } else { 2_000 })
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn both_ways_agree_about_changed_lines(lines in usual(), changes in changes()) {
        let mut text = lines.join(&b'\n');
        change(&mut text, &changes);
        same_both_ways(&text);
    }

    #[test]
    fn both_ways_agree_in_every_unit(
        lines_in in usual(),
        changes in changes(),
        unit in prop::sample::select(&["ns", "us", "ms", "s", "m", "h"][..]),
        default_time in prop_oneof![any::<i64>(), -9_000_000_000_000_i64..9_000_000_000_000, Just(i64::MIN)],
    ) {
        let mut text = lines_in.join(&b'\n');
        change(&mut text, &changes);
        let options = Options { precision: unit.parse().unwrap(), default_time };
        let (mut fast, mut strict) = (Batch::new(), Batch::new());
        let a = Parser::new(&mut fast, &text, options).run(true);
        let b = Parser::new(&mut strict, &text, options).run(false);
        prop_assert_eq!((a.points, a.errors), (b.points, b.errors));
        prop_assert_eq!(lines(&fast), lines(&strict));
        let unit = options.precision.nanoseconds();
        for (_, _, _, time) in fast.rows_iter() {
            prop_assert_eq!(time % unit, 0);
            prop_assert!((MIN_TIME..=MAX_TIME).contains(&time));
        }
    }

    /// What became of a line does not depend on the lines around it.
    #[test]
    fn lines_do_not_depend_on_their_neighbours(lines_in in usual(), changes in changes()) {
        let mut text = lines_in.join(&b'\n');
        change(&mut text, &changes);
        let (mut alone, mut errors, mut at) = (Batch::new(), Vec::new(), 0);
        let mut parsed = Vec::new();
        while at < text.len() {
            let end = strict::line_end(&text, at);
            let (batch, outcome) = parse(&text[at..end], false);
            prop_assert!(outcome.points + outcome.errors.len() <= 1);
            parsed.extend(lines(&batch));
            errors.extend(outcome.errors.into_iter().map(|error| (at, error.reason)));
            at = end + 1;
        }
        let outcome = parse_into(&mut alone, &text, Options::default());
        let mut found = lines(&alone);
        parsed.sort();
        found.sort();
        prop_assert_eq!(found, parsed, "{}", text.escape_ascii());
        let expected: Vec<(usize, Reason)> =
            outcome.errors.iter().map(|error| (error.range.start, error.reason)).collect();
        prop_assert_eq!(expected, errors);
    }

    /// Also not on what the batch was given before.
    #[test]
    fn a_batch_that_was_used_reads_the_same(
        (before, text) in (usual(), usual()),
        (changes_before, changes) in (changes(), changes()),
    ) {
        let (mut before, mut text) = (before.join(&b'\n'), text.join(&b'\n'));
        change(&mut before, &changes_before);
        change(&mut text, &changes);
        let mut used = Batch::new();
        parse_into(&mut used, &before, Options::default());
        used.push(&Point::builder("cpu").tag("host", "p").field("usage", 1.0).at(1).unwrap());
        used.clear_rows();
        let outcome = parse_into(&mut used, &text, Options::default());
        let (fresh, expected) = parse(&text, false);
        prop_assert_eq!((outcome.points, &outcome.errors), (expected.points, &expected.errors));
        check_series(&used);
        // Measurements are in the order in which they came first.
        let (mut used, mut fresh) = (lines(&used), lines(&fresh));
        used.sort();
        fresh.sort();
        prop_assert_eq!(used, fresh);
    }

    #[test]
    fn canonical_lines_read_back(points in prop::collection::vec(point(), 1..5)) {
        let mut text = Vec::new();
        let mut direct = Batch::new();
        for point in &points {
            text.extend_from_slice(&point.to_line());
            text.push(b'\n');
            direct.push(point);
        }
        let outcome = same_both_ways(&text);
        prop_assert_eq!(outcome.errors, vec![], "{}", text.escape_ascii());
        let (parsed, _) = parse(&text, true);
        prop_assert_eq!(lines(&parsed), lines(&direct));
        prop_assert_eq!(parsed.rows(), points.len());
    }

    #[test]
    fn any_bytes_are_safe(text in prop::collection::vec(any::<u8>(), 0..200)) {
        same_both_ways(&text);
    }

    #[test]
    fn both_ways_agree_about_near_lines(text in nearly()) {
        same_both_ways(&text);
    }

    #[test]
    fn canonical_lines_of_what_was_read_read_back(text in nearly()) {
        let (batch, _) = parse(&text, true);
        let mut again = Vec::new();
        for measurement in batch.measurements() {
            prop_assert!(crate::point::key::is_escaped_measurement(measurement.escaped_name()));
            for (row, series, time) in measurement.rows() {
                let mut fields: Vec<(&[u8], ValueRef<'_>)> = measurement.columns().iter()
                    .filter_map(|column| Some((&column.name()[..], column.get(row)?))).collect();
                fields.sort_by_key(|(name, _)| *name);
                // A blank at the front of the fields is skipped: such names cannot be said there.
                if fields[0].0.starts_with(b"\t") || fields[0].0.starts_with(b"\0") {
                    continue;
                }
                // Behind a blank at the front of the line a quote in the measurement counts, and so
                // a newline can get into a name: that cannot be said without the blank.
                if fields.iter().any(|(name, _)| name.contains(&b'\n')) {
                    continue;
                }
                let key = measurement.series_key(series);
                for (tag, value) in crate::point::key::tags_of(key) {
                    prop_assert!(crate::point::key::is_escaped_tag_key(tag));
                    prop_assert!(crate::point::key::is_escaped_tag_value(value));
                }
                again.clear();
                crate::point::text::write_line(&mut again, key, fields, time);
                let (back, outcome) = parse(&again, true);
                prop_assert_eq!(&outcome.errors, &vec![], "{}", again.escape_ascii());
                prop_assert_eq!(lines(&back), vec![again.escape_ascii().to_string()]);
            }
        }
    }
}

use super::*;

fn line(point: &Point) -> String {
    String::from_utf8(point.to_line()).unwrap()
}

#[test]
fn canonical_line_sorts_escapes_and_types() {
    let point = Point::builder("my, cpu=x")
        .tag("z", "a=b c")
        .tag("a b", "1,2")
        .field("s", "a\"b\\c")
        .field("i i", -3_i64)
        .field("f", 1.5)
        .field("u", 7_u64)
        .field("b", true)
        .at(-1)
        .unwrap();
    assert_eq!(
        line(&point),
        r#"my\,\ cpu=x,a\ b=1\,2,z=a\=b\ c b=true,f=1.5,i\ i=-3i,s="a\"b\\c",u=7u -1"#
    );
    let name = key::SeriesName::parse(point.key());
    assert_eq!(name.measurement, b"my, cpu=x");
    assert_eq!(name.tag(b"z"), Some(&b"a=b c"[..]));
    assert_eq!(name.tag(b"a b"), Some(&b"1,2"[..]));
    assert_eq!(name.tags.len(), 2);
}

#[test]
fn floats_take_the_short_form() {
    let text = |value: f64| {
        let mut out = Vec::new();
        text::write_value(&mut out, ValueRef::Float(value));
        String::from_utf8(out).unwrap()
    };
    assert_eq!(text(0.0), "0");
    assert_eq!(text(-0.0), "-0");
    assert_eq!(text(1.0), "1");
    assert_eq!(text(1e-5), "0.00001");
    assert_eq!(text(9.9e-6), "9.9e-6");
    assert_eq!(text(1e16), "10000000000000000");
    assert_eq!(text(1e17), "1e17");
    assert_eq!(text(f64::MAX), "1.7976931348623157e308");
    assert_eq!(text(5e-324), "5e-324");
}

#[test]
fn bad_points_have_their_own_errors() {
    let base = || Point::builder("m").field("f", 1.0);
    assert_eq!(Point::builder("m").at(0), Err(PointError::NoFields));
    assert_eq!(Point::builder("").field("f", 1.0).at(0), Err(PointError::Empty(Part::Measurement)));
    assert_eq!(base().tag("", "v").at(0), Err(PointError::Empty(Part::TagKey)));
    assert_eq!(base().tag("k", "").at(0), Err(PointError::Empty(Part::TagValue)));
    assert_eq!(base().field("", 1.0).at(0), Err(PointError::Empty(Part::Field)));
    assert_eq!(base().field("g", f64::NAN).at(0), Err(PointError::NotFinite));
    assert_eq!(base().field("g", f64::INFINITY).at(0), Err(PointError::NotFinite));
    assert_eq!(base().field("f", 1_i64).at(0), Err(PointError::DuplicateField("f".into())));
    assert_eq!(base().tag("k", "a").tag("k", "b").at(0), Err(PointError::DuplicateTag("k".into())));
    assert_eq!(base().tag("k", "a\\").at(0), Err(PointError::TrailingBackslash(Part::TagValue)));
    assert_eq!(base().tag("k\n", "a").at(0), Err(PointError::Newline(Part::TagKey)));
    assert_eq!(
        Point::builder("#m").field("f", 1.0).at(0),
        Err(PointError::Leading(Part::Measurement))
    );
    assert_eq!(base().field("a\\=b", 1.0).at(0), Err(PointError::AmbiguousBackslash(Part::Field)));
    assert_eq!(base().at(i64::MAX), Err(PointError::TimeOutOfRange(i64::MAX)));
    assert_eq!(base().at(i64::MIN + 1), Err(PointError::TimeOutOfRange(i64::MIN + 1)));
    assert!(base().at(MIN_TIME).is_ok() && base().at(MAX_TIME).is_ok());
    assert!(matches!(
        base().tag("k", "x".repeat(MAX_KEY_LEN)).at(0),
        Err(PointError::KeyTooLong { .. })
    ));
    assert!(matches!(
        base().field("s", "x".repeat(MAX_STRING_LEN + 1)).at(0),
        Err(PointError::StringTooLong { .. })
    ));
}

#[test]
fn canonical_order_is_bytewise() {
    let less = |a: Value, b: Value| assert!(a.canonical_cmp(&b).is_lt(), "{a:?} < {b:?}");
    less(Value::Integer(1), Value::Integer(-1));
    less(Value::Float(1.0), Value::Float(-1.0));
    less(Value::Float(0.0), Value::Float(-0.0));
    less(Value::Boolean(false), Value::Boolean(true));
    less(Value::Unsigned(255), Value::Unsigned(256));
    less(Value::from("a"), Value::from("ab"));
    less(Value::from("ab"), Value::from("b"));
    assert_ne!(Value::Float(0.0), Value::Float(-0.0));
}

#[test]
fn keys_in_lines_order_as_escaped() {
    // A line `m,a!=1,a\ b=2` is taken as sorted, so a built point must sort the same way.
    let point = Point::builder("m").tag("a b", "2").tag("a!", "1").field("f", 1.0).at(0).unwrap();
    assert_eq!(&point.key()[..], br"m,a!=1,a\ b=2");
}

#[test]
fn escaped_names_are_recognised() {
    assert!(key::is_escaped_tag_value(b"=x"));
    assert!(key::is_escaped_tag_value(br"a\,b"));
    assert!(key::is_escaped_tag_value(br"\ "));
    for bad in [&b"a,b"[..], b"a b", b"a=b", br"a\", b"", b",", b" a", b"a\nb"] {
        assert!(!key::is_escaped_tag_value(bad), "{}", bad.escape_ascii());
    }
    assert!(!key::is_escaped_tag_key(b"=x"));
    assert!(key::is_escaped_measurement(b"a=b"));
    assert!(!key::is_escaped_measurement(b"a,b"));
}

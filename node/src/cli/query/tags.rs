//! `--tag` conditions as people write them.

use bytes::Bytes;
use quorate_client::query::pattern::compile;
use quorate_protocol::message::TagMatch;

/// Reads `K=V`, `K=A|B` or `K=~RE`. A backslash before `|` makes it part of the value.
pub(crate) fn parse_tag(text: &str) -> Result<TagMatch, String> {
    let wrong = || format!("{text:?} is no condition: use KEY=VALUE, KEY=A|B or KEY=~REGEX");
    let (key, condition) = text.split_once('=').ok_or_else(wrong)?;
    if key.is_empty() || condition.is_empty() {
        return Err(wrong());
    }
    let key = Bytes::copy_from_slice(key.as_bytes());
    if let Some(pattern) = condition.strip_prefix('~') {
        compile(pattern).map_err(|error| error.to_string())?;
        return Ok(TagMatch { key, values: Vec::new(), pattern: Some(pattern.to_owned()) });
    }
    let values = alternatives(condition);
    if values.iter().any(Bytes::is_empty) {
        return Err(wrong());
    }
    Ok(TagMatch { key, values, pattern: None })
}

fn alternatives(text: &str) -> Vec<Bytes> {
    let mut values = Vec::new();
    let mut value = String::new();
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\\' if characters.peek() == Some(&'|') => {
                characters.next();
                value.push('|');
            }
            '|' => values.push(Bytes::from(std::mem::take(&mut value))),
            other => value.push(other),
        }
    }
    values.push(Bytes::from(value));
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_conditions() {
        let values = |text: &str| parse_tag(text).map(|tag| tag.values);
        assert_eq!(values("host=a"), Ok(vec![Bytes::from("a")]));
        assert_eq!(values("host=a|b"), Ok(vec![Bytes::from("a"), Bytes::from("b")]));
        assert_eq!(values(r"host=a\|b"), Ok(vec![Bytes::from("a|b")]));
        assert_eq!(values("host=a=b"), Ok(vec![Bytes::from("a=b")]));
        let pattern = parse_tag("host=~^web[0-9]+$");
        assert_eq!(pattern.map(|tag| tag.pattern), Ok(Some("^web[0-9]+$".to_owned())));
        for bad in ["", "host", "=a", "host=", "host=a|", "host=~("] {
            assert!(parse_tag(bad).is_err(), "{bad}");
        }
    }
}

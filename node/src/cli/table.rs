//! Tables that fit a terminal of 80 columns.
//!
//! Invariant: columns are aligned and two spaces apart; if a table is too wide its widest column
//! of text is cut, and the cut shows. Used by the `ls` commands, `status` and `query`.

/// Columns of a terminal that everybody has.
pub(crate) const WIDTH: usize = 80;
/// A column is never cut to less than this.
const MIN_WIDTH: usize = 8;

/// A table being filled.
#[derive(Debug, Default)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
    right: Vec<bool>,
}

impl Table {
    /// A table with this header. A leading `>` aligns a column to the right, as suits numbers.
    pub(crate) fn new<S: AsRef<str>>(header: &[S]) -> Self {
        let split = |name: &S| match name.as_ref().strip_prefix('>') {
            Some(name) => (name.to_owned(), true),
            None => (name.as_ref().to_owned(), false),
        };
        let (header, right) = header.iter().map(split).unzip();
        Self { rows: vec![header], right }
    }

    /// Adds a row with as many cells as the header has.
    pub(crate) fn row<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }

    /// The lines' width if nothing is cut.
    pub(crate) fn natural_width(&self) -> usize {
        let widths = self.widths();
        widths.iter().sum::<usize>() + 2 * widths.len().saturating_sub(1)
    }

    fn widths(&self) -> Vec<usize> {
        let width = |column: usize| {
            self.rows.iter().filter_map(|row| row.get(column)).map(|c| c.chars().count()).max()
        };
        (0..self.right.len()).map(|column| width(column).unwrap_or(0)).collect()
    }

    /// The table as text, header first, every line ended.
    pub(crate) fn render(&self) -> String {
        let mut widths = self.widths();
        let gaps = 2 * widths.len().saturating_sub(1);
        while widths.iter().sum::<usize>() + gaps > WIDTH {
            let text = (0..widths.len()).filter(|column| !self.right[*column]);
            match text.max_by_key(|column| widths[*column]) {
                Some(widest) if widths[widest] > MIN_WIDTH => widths[widest] -= 1,
                _ => break,
            }
        }
        let mut out = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for ((cell, width), right) in row.iter().zip(&widths).zip(&self.right) {
                if !line.is_empty() {
                    line.push_str("  ");
                }
                let cell = cut(cell, *width);
                let gap = " ".repeat(width - cell.chars().count());
                let (before, after) = if *right { (gap, cell) } else { (cell, gap) };
                line.push_str(&before);
                line.push_str(&after);
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }
}

/// The text in at most `width` characters.
pub(crate) fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(width.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

/// Words packed into lines of at most [`WIDTH`] characters, each behind `indent`.
pub(crate) fn pack(words: impl IntoIterator<Item = String>, indent: &str) -> String {
    let mut out = String::new();
    let mut line = String::new();
    for word in words {
        let longer = line.chars().count() + 2 + word.chars().count() > WIDTH;
        if line.is_empty() || longer {
            if !line.is_empty() {
                out.push_str(&line);
                out.push('\n');
            }
            line = format!("{indent}{word}");
        } else {
            line.push_str("  ");
            line.push_str(&word);
        }
    }
    if !line.is_empty() {
        out.push_str(&line);
        out.push('\n');
    }
    out
}

/// A number with its digits in groups of three.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A number of things, by their name.
pub(crate) fn count(number: usize, one: &str, many: &str) -> String {
    format!("{} {}", grouped(number as u64), if number == 1 { one } else { many })
}

/// Bytes in the largest unit that leaves a whole part.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    let mut value = count as f64;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aligns_and_keeps_to_the_width() {
        let mut table = Table::new(&["name", ">count", "what"]);
        table.row(["n1", "12", &"x".repeat(200)]);
        table.row(["a longer name", "1", ""]);
        let text = table.render();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "name           count  what");
        assert!(lines[1].starts_with("n1                12  xxx"));
        assert!(lines[1].ends_with('…'));
        assert_eq!(lines[1].chars().count(), WIDTH);
        assert_eq!(lines[2], "a longer name      1");
    }

    #[test]
    fn a_table_that_cannot_shrink_is_left_wide() {
        let mut table = Table::new(&[">a", ">b"]);
        table.row(["1".repeat(60), "2".repeat(60)]);
        assert_eq!(table.render().lines().last().map(str::len), Some(122));
    }

    #[test]
    fn packs_words_into_lines() {
        let words = (0..30).map(|at| format!("field{at:02}=1"));
        let text = pack(words, "  ");
        assert!(text.lines().all(|line| line.len() <= WIDTH && line.starts_with("  field")));
        assert_eq!(text.matches("=1").count(), 30);
    }

    #[test]
    fn numbers_for_people() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(count(1, "point", "points"), "1 point");
        assert_eq!(count(1000, "point", "points"), "1,000 points");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(10 << 20), "10.0 MiB");
    }
}

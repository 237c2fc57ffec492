//! `--watch`: looks again and again.
//!
//! Invariant: a terminal shows one picture, drawn over the last; anything else gets complete blocks,
//! one JSON line or one picture and an empty line per look, so that whatever reads them needs no
//! knowledge of terminals.

use std::{
    io::{IsTerminal, stdout},
    time::Duration,
};

use quorate_client::Client;
use tokio::time::{MissedTickBehavior, interval};

use super::{Look, Status, picture::picture, show};
use crate::cli::{fail::Fail, output::Output, time::format_duration};

/// Goes to the first line.
const HOME: &str = "\x1b[H";
/// Clears the rest of the line, or of the screen.
const CLEAR_LINE: &str = "\x1b[K";
const CLEAR_BELOW: &str = "\x1b[J";

/// Ends only with an error: with the process, or when nobody reads any more.
pub(super) async fn run(client: &Client, args: &Status) -> Result<(), Fail> {
    let in_place = stdout().is_terminal() && !args.connect.json;
    let mut timer = interval(Duration::from_nanos(args.every));
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut out = Output::new();
    loop {
        timer.tick().await;
        let look = Look::take(client).await;
        if in_place {
            let title = format!("every {}, Ctrl-C stops\n", format_duration(args.every));
            out.bytes(over(&(title + &picture(&look))).as_bytes())?;
            out.flush()?;
            continue;
        }
        show(&look, &args.connect, &mut out)?;
        if !args.connect.json {
            out.line("")?;
            out.flush()?;
        }
    }
}

/// The text as it is drawn over an older one, without clearing the screen first, which flickers.
fn over(text: &str) -> String {
    let lines: String = text.lines().map(|line| format!("{line}{CLEAR_LINE}\r\n")).collect();
    format!("{HOME}{lines}{CLEAR_BELOW}")
}

#[cfg(test)]
mod tests {
    use super::over;

    #[test]
    fn a_shorter_picture_leaves_nothing_of_a_longer_one() {
        assert_eq!(over("ab\nc\n"), "\x1b[Hab\x1b[K\r\nc\x1b[K\r\n\x1b[J");
    }
}

//! The `quorate` command under another name, because `cargo test` builds no other package's binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    quorate_node::cli::main()
}

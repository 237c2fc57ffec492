//! The `quorate` command. Everything is in the library, so that tests can run the same binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    quorate_node::cli::main()
}

//! The console service as a program of its own: for the tests and for development.

fn main() -> std::process::ExitCode {
    portcullis_cli::console()
}

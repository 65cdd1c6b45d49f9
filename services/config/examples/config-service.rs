//! The service as a program of its own, without a sandbox: for the tests and for development.
//! Folders: PORTCULLIS_RUN_DIR, PORTCULLIS_DATA_DIR.

fn main() -> std::process::ExitCode {
    portcullis_config::main()
}

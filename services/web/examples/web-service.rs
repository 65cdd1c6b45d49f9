//! The service as a program of its own, without a sandbox: for the tests and for development.
//! PORTCULLIS_RUN_DIR, PORTCULLIS_DATA_DIR, PORTCULLIS_WEB_LISTEN (default 127.0.0.1:8443).

fn main() -> std::process::ExitCode {
    portcullis_web::main()
}

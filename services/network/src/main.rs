//! The network service alone, for tests and development; the image has it in the multi-call
//! binary.

fn main() -> std::process::ExitCode {
    portcullis_network::main()
}

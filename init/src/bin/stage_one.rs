//! `/init` of the initrd; see `portcullis_init::stage_one`.

fn main() -> std::process::ExitCode {
    portcullis_init::stage_one::main()
}

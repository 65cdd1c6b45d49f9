//! The one program of the image: by the name it is called by, or its first argument, it is init,
//! a service or the command line.
//!
//! ```text
//! init, or process 1        supervisor (stage two)
//! pctl ...                  command line
//! portcullis launch NAME    a service in its sandbox: what init starts
//! portcullis NAME           a service without a sandbox: for development
//! ```

use std::{ffi::OsStr, io::Write, path::Path, process::ExitCode};

use portcullis_init::launch::{ServiceMain, launch};

/// The services, by the names of their manifests.
const SERVICES: &[(&str, ServiceMain)] = &[
    ("config", portcullis_config::main),
    ("console", portcullis_cli::console),
    ("dhcp", portcullis_dhcp::main),
    ("dns", portcullis_dns::main),
    ("firewall", portcullis_firewall::main),
    ("network", portcullis_network::main),
    ("web", portcullis_web::main),
];

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let program = arguments.next().unwrap_or_default();
    let called = Path::new(&program).file_name().and_then(OsStr::to_str);
    if std::process::id() == 1 || called == Some("init") {
        return portcullis_init::stage_two::main();
    }
    if called == Some("pctl") {
        return portcullis_cli::main(std::env::args_os());
    }
    match (arguments.next(), arguments.next()) {
        (Some(word), Some(name)) if word == "launch" => launch(&name, service),
        (Some(name), None) => match name.to_str().and_then(service) {
            Some(main) => main(),
            None => usage(),
        },
        _ => usage(),
    }
}

fn service(name: &str) -> Option<ServiceMain> {
    SERVICES.iter().find(|(known, _)| *known == name).map(|&(_, main)| main)
}

fn usage() -> ExitCode {
    let names: Vec<&str> = SERVICES.iter().map(|&(name, _)| name).collect();
    let text = format!(
        "usage: portcullis launch NAME | portcullis NAME | pctl ...\nNAME: {}\n",
        names.join(", ")
    );
    let _ = std::io::stderr().write_all(text.as_bytes());
    ExitCode::from(2)
}

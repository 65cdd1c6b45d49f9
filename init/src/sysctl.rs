//! Kernel settings that make the box harder to abuse; those of the network are the network
//! service's.

/// Path below /proc/sys and value. Missing ones are left out: kernels differ.
const SETTINGS: &[(&str, &str)] = &[
    // Addresses and messages of the kernel help only who attacks it.
    ("kernel/kptr_restrict", "2"),
    ("kernel/dmesg_restrict", "1"),
    ("kernel/perf_event_paranoid", "3"),
    ("kernel/unprivileged_bpf_disabled", "1"),
    ("net/core/bpf_jit_harden", "1"),
    ("kernel/kexec_load_disabled", "1"),
    // There is no modprobe: modules come from init alone, and the kernel need not try.
    ("kernel/modprobe", ""),
    ("kernel/yama/ptrace_scope", "3"),
    ("kernel/sysrq", "0"),
    ("vm/unprivileged_userfaultfd", "0"),
    ("kernel/io_uring_disabled", "2"),
    ("user/max_user_namespaces", "0"),
    // No core dumps: they hold secrets, and nobody reads them here.
    ("kernel/core_pattern", "|/bin/false"),
    // A watchdog only helps if what it guards restarts.
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/hung_task_timeout_secs", "0"),
    // Ctrl-Alt-Del reaches init as SIGINT for an orderly reboot.
    ("kernel/ctrl-alt-del", "0"),
    ("vm/overcommit_memory", "0"),
];

/// Sets them.
pub fn harden() {
    for (name, value) in SETTINGS {
        let path = std::path::Path::new("/proc/sys").join(name);
        if let Err(error) = std::fs::write(&path, value) {
            tracing::debug!(setting = name, %error, "not set");
        }
    }
}

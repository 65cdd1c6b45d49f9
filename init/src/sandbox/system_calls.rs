//! System calls, by seccomp: an allow-list made of named sets. A call outside it ends the service
//! with a line in the journal that names the call.

use std::collections::{BTreeMap, BTreeSet};

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};
use serde::Deserialize;

use super::SandboxError;

/// A set of system calls that belong together.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd)]
#[serde(rename_all = "kebab-case")]
pub enum SystemCallSet {
    /// Memory, threads, time, files below what landlock allows, Unix sockets.
    Base,
    /// Internet sockets (IPv4 and IPv6, UDP and TCP and ICMP echo).
    Network,
    /// Netlink sockets.
    Netlink,
    /// Packet sockets.
    Packet,
    /// bpf and perf_event_open, and lowering the own priority.
    Bpf,
    /// Setting the host name.
    Hostname,
    /// Setting and steering the clock.
    Clock,
}

/// (name, number) of calls that exist under these names.
macro_rules! calls {
    ($($name:ident)*) => { &[$((stringify!($name), libc::$name)),*] };
}

type Calls = &'static [(&'static str, libc::c_long)];

const BASE: Calls = calls! {
    // Memory.
    SYS_brk SYS_mmap SYS_mprotect SYS_mremap SYS_munmap SYS_madvise SYS_mlock SYS_mlock2
    SYS_munlock SYS_msync SYS_mincore SYS_memfd_create SYS_membarrier
    // Threads, signals and limits of the process itself.
    SYS_clone SYS_clone3 SYS_exit SYS_exit_group SYS_futex SYS_get_robust_list SYS_set_robust_list
    SYS_rseq SYS_set_tid_address SYS_gettid SYS_getpid SYS_getppid SYS_getuid SYS_geteuid
    SYS_getgid SYS_getegid SYS_getgroups SYS_getresuid SYS_getresgid SYS_getpgid SYS_getsid
    SYS_sched_yield SYS_sched_getaffinity SYS_sched_getparam SYS_sched_getscheduler
    SYS_sched_get_priority_max SYS_sched_get_priority_min SYS_getpriority SYS_getcpu
    SYS_rt_sigaction SYS_rt_sigprocmask SYS_rt_sigreturn SYS_rt_sigpending SYS_rt_sigtimedwait
    SYS_rt_sigsuspend SYS_sigaltstack SYS_tgkill SYS_tkill SYS_kill SYS_restart_syscall
    SYS_prctl SYS_prlimit64 SYS_getrlimit SYS_getrusage SYS_sysinfo SYS_uname SYS_capget
    SYS_wait4 SYS_waitid SYS_times
    // Time and randomness.
    SYS_clock_getres SYS_clock_gettime SYS_clock_nanosleep SYS_gettimeofday SYS_nanosleep
    SYS_timerfd_create SYS_timerfd_gettime SYS_timerfd_settime SYS_getrandom
    // Waiting.
    SYS_epoll_create1 SYS_epoll_ctl SYS_epoll_pwait SYS_epoll_pwait2 SYS_eventfd2 SYS_ppoll
    SYS_pselect6 SYS_signalfd4 SYS_inotify_init1 SYS_inotify_add_watch SYS_inotify_rm_watch
    // Descriptors and files.
    SYS_close SYS_close_range SYS_copy_file_range SYS_dup SYS_dup3 SYS_fadvise64 SYS_fallocate
    SYS_fchdir SYS_fchmod SYS_fchmodat SYS_fchown SYS_fchownat SYS_fcntl SYS_fdatasync
    SYS_fgetxattr SYS_flock SYS_fstat SYS_fstatfs SYS_fsync SYS_ftruncate SYS_getcwd
    SYS_getdents64 SYS_ioctl SYS_linkat SYS_lseek SYS_mkdirat SYS_newfstatat SYS_openat
    SYS_openat2 SYS_pipe2 SYS_pread64 SYS_preadv SYS_preadv2 SYS_pwrite64 SYS_pwritev
    SYS_pwritev2 SYS_read SYS_readahead SYS_readlinkat SYS_readv SYS_renameat SYS_renameat2
    SYS_sendfile SYS_splice SYS_statfs SYS_statx SYS_symlinkat SYS_sync_file_range SYS_truncate
    SYS_umask SYS_unlinkat SYS_utimensat SYS_write SYS_writev SYS_faccessat SYS_faccessat2
    // Sockets, once made.
    SYS_accept SYS_accept4 SYS_bind SYS_connect SYS_getpeername SYS_getsockname SYS_getsockopt
    SYS_listen SYS_recvfrom SYS_recvmmsg SYS_recvmsg SYS_sendmmsg SYS_sendmsg SYS_sendto
    SYS_setsockopt SYS_shutdown SYS_socketpair
};

/// Older calls of x86-64 that libc and SQLite still use; other machines never had them.
#[cfg(target_arch = "x86_64")]
const BASE_OF_MACHINE: Calls = calls! {
    SYS_access SYS_alarm SYS_arch_prctl SYS_chdir SYS_chmod SYS_dup2 SYS_epoll_wait SYS_getdents
    SYS_getpgrp SYS_link SYS_lstat SYS_mkdir SYS_open SYS_pipe SYS_poll SYS_readlink SYS_rename
    SYS_rmdir SYS_select SYS_stat SYS_symlink SYS_time SYS_unlink
};
#[cfg(not(target_arch = "x86_64"))]
const BASE_OF_MACHINE: Calls = &[];

// Without CAP_SYS_NICE a thread can lower its priority only, and programs are loaded behind other work.
const BPF: Calls = calls! { SYS_bpf SYS_perf_event_open SYS_setpriority };
const HOSTNAME: Calls = calls! { SYS_sethostname SYS_setdomainname };
const CLOCK: Calls = calls! { SYS_adjtimex SYS_clock_adjtime SYS_clock_settime SYS_settimeofday };

/// Calls that are answered by ENOSYS instead of ending the service: libraries try them
/// and go on without.
const TRIED: Calls = calls! { SYS_io_uring_setup SYS_setpriority SYS_sched_setaffinity };

impl SystemCallSet {
    fn calls(self) -> &'static [Calls] {
        match self {
            Self::Base => &[BASE, BASE_OF_MACHINE],
            Self::Bpf => &[BPF],
            Self::Hostname => &[HOSTNAME],
            Self::Clock => &[CLOCK],
            Self::Network | Self::Netlink | Self::Packet => &[],
        }
    }

    /// Address families of sockets that may be made.
    fn families(self) -> &'static [libc::c_int] {
        match self {
            Self::Base => &[libc::AF_UNIX],
            Self::Network => &[libc::AF_INET, libc::AF_INET6],
            Self::Netlink => &[libc::AF_NETLINK],
            Self::Packet => &[libc::AF_PACKET],
            Self::Bpf | Self::Hostname | Self::Clock => &[],
        }
    }
}

/// Confines this thread, and the process with it while it has no other, to the calls of `sets`.
///
/// # Errors
/// If the filter cannot be built or installed.
pub fn confine_system_calls(sets: &BTreeSet<SystemCallSet>) -> Result<(), SandboxError> {
    let failed = |e: &dyn std::fmt::Display| SandboxError::Seccomp(e.to_string());
    let allowed: Vec<_> = sets.iter().flat_map(|set| set.calls()).copied().flatten().collect();
    let refuse = filter(
        TRIED
            .iter()
            .filter(|call| !allowed.contains(call))
            .map(|&(_, number)| (number, Vec::new()))
            .collect(),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::ENOSYS.unsigned_abs()),
    )
    .map_err(|e| failed(&e))?;
    let allow =
        filter(rules(sets).map_err(|e| failed(&e))?, SeccompAction::Trap, SeccompAction::Allow)
            .map_err(|e| failed(&e))?;
    violation::report_on_standard_error().map_err(|e| failed(&e))?;
    // Of several filters the strictest answer counts, and an errno is less strict than a trap: the
    // calls of the first are allowed by the second. The second comes last because it would forbid
    // installing another.
    seccompiler::apply_filter(&refuse).map_err(|e| failed(&e))?;
    seccompiler::apply_filter(&allow).map_err(|e| failed(&e))
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn filter(
    rules: Rules,
    otherwise: SeccompAction,
    matched: SeccompAction,
) -> Result<BpfProgram, seccompiler::BackendError> {
    SeccompFilter::new(rules, otherwise, matched, machine()?)?.try_into()
}

fn machine() -> Result<TargetArch, seccompiler::BackendError> {
    TargetArch::try_from(std::env::consts::ARCH)
}

fn rules(sets: &BTreeSet<SystemCallSet>) -> Result<Rules, seccompiler::BackendError> {
    let mut rules = Rules::new();
    for (_, number) in sets.iter().flat_map(|set| set.calls()).copied().flatten().chain(TRIED) {
        rules.insert(*number, Vec::new());
    }
    let families = sets.iter().flat_map(|set| set.families());
    let sockets = families
        .map(|&family| {
            SeccompRule::new(vec![SeccompCondition::new(
                0,
                SeccompCmpArgLen::Dword,
                SeccompCmpOp::Eq,
                family.unsigned_abs().into(),
            )?])
        })
        .collect::<Result<Vec<_>, _>>()?;
    if !sockets.is_empty() {
        rules.insert(libc::SYS_socket, sockets);
    }
    Ok(rules)
}

/// Name of a call, of those that are in any set; for the report.
fn name(number: i32) -> Option<&'static str> {
    let number = libc::c_long::from(number);
    if number == libc::SYS_socket {
        return Some("socket (of this address family)");
    }
    [BASE, BASE_OF_MACHINE, BPF, HOSTNAME, CLOCK]
        .iter()
        .copied()
        .flatten()
        .find(|&&(_, known)| known == number)
        .map(|&(name, _)| name.trim_start_matches("SYS_"))
}

mod violation {
    //! The report of a forbidden call: SIGSYS arrives in the thread that made it.

    use std::{io, mem, ptr};

    /// Layout of siginfo_t for SIGSYS (asm-generic/siginfo.h), of which libc has no accessor.
    #[repr(C)]
    struct SigSys {
        signal: libc::c_int,
        errno: libc::c_int,
        code: libc::c_int,
        _padding: libc::c_int,
        address: *const libc::c_void,
        call: libc::c_int,
        architecture: libc::c_uint,
    }

    pub(super) fn report_on_standard_error() -> io::Result<()> {
        // SAFETY: an all-zero sigaction is a valid value; its fields are set below.
        let mut action: libc::sigaction = unsafe { mem::zeroed() };
        action.sa_sigaction = report as *const () as usize;
        // The handler raises the signal again, which waits until it returns and then, by the
        // default action, ends the process with SIGSYS.
        action.sa_flags = libc::SA_SIGINFO | libc::SA_RESETHAND;
        // SAFETY: `action` is valid for the call and `report` has the signature of SA_SIGINFO.
        let result = unsafe { libc::sigaction(libc::SIGSYS, &raw const action, ptr::null_mut()) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Runs inside the forbidden call: only async-signal-safe calls, no allocation.
    extern "C" fn report(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
        // SAFETY: the kernel passes a siginfo_t of SIGSYS, of which `SigSys` is a prefix.
        let call = unsafe { (*info.cast::<SigSys>()).call };
        let mut line = Line::default();
        line.push(b"system call ");
        line.push(super::name(call).unwrap_or("of number").as_bytes());
        line.push(b" ");
        line.push_number(call.unsigned_abs());
        line.push(b" is in none of the service's system_calls sets\n");
        // SAFETY: the buffer is valid for its length, and the call is async-signal-safe.
        unsafe {
            libc::write(libc::STDERR_FILENO, line.bytes.as_ptr().cast(), line.length);
            libc::signal(libc::SIGSYS, libc::SIG_DFL);
            libc::raise(libc::SIGSYS);
        }
    }

    /// A line on the stack.
    struct Line {
        bytes: [u8; 160],
        length: usize,
    }

    impl Default for Line {
        fn default() -> Self {
            Self { bytes: [0; 160], length: 0 }
        }
    }

    impl Line {
        fn push(&mut self, text: &[u8]) {
            for &byte in text {
                if let Some(place) = self.bytes.get_mut(self.length) {
                    *place = byte;
                    self.length += 1;
                }
            }
        }

        fn push_number(&mut self, number: u32) {
            if number >= 10 {
                self.push_number(number / 10);
            }
            self.push(&[b'0' + u8::try_from(number % 10).unwrap_or(0)]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_families_of_the_sets_may_be_made() {
        let rules = rules(&BTreeSet::from([SystemCallSet::Base, SystemCallSet::Netlink])).unwrap();
        assert_eq!(rules[&libc::SYS_socket].len(), 2);
        assert!(!rules.contains_key(&libc::SYS_bpf));
        assert!(!rules.contains_key(&libc::SYS_execve));
        assert!(!rules.contains_key(&libc::SYS_ptrace));
        assert!(!rules.contains_key(&libc::SYS_mount));
    }

    #[test]
    fn names_of_calls_are_those_of_the_manual() {
        let number = i32::try_from(libc::SYS_bpf).unwrap();
        assert_eq!(name(number), Some("bpf"));
        assert_eq!(name(100_000), None);
    }
}

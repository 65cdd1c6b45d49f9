//! User, groups and capabilities.

use rustix::{
    process::{Gid, Uid, getpid},
    thread::{
        CapabilitySet, CapabilitySets, clear_ambient_capability_set,
        remove_capability_from_bounding_set, set_capabilities, set_keep_capabilities,
        set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
    },
};

use super::SandboxError;

/// Who a process becomes.
#[derive(Clone, Debug)]
pub struct Identity {
    /// User and group id.
    pub user: u32,
    /// Supplementary groups: those of the bus sockets that it may open.
    pub groups: Vec<u32>,
    /// All that it keeps of root's privileges.
    pub capabilities: CapabilitySet,
}

/// Becomes `identity` for good: no way back to root, no capability beyond those named, nothing to
/// be gained by executing a file.
///
/// The identity calls of the kernel are per thread; the process must have one thread only.
///
/// # Errors
/// The step that failed; the process is then in between and must end.
pub fn drop_privileges(identity: &Identity) -> Result<(), SandboxError> {
    let step = |what| move |source| SandboxError::Identity { what, source };
    let uid = Uid::from_raw(identity.user);
    let gid = Gid::from_raw(identity.user);
    let groups: Vec<Gid> = identity.groups.iter().map(|&g| Gid::from_raw(g)).collect();

    // The bounding set first: taking from it needs CAP_SETPCAP, which goes with root. The kernel
    // refuses numbers that it does not know.
    for capability in CapabilitySet::all().iter() {
        match remove_capability_from_bounding_set(capability) {
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(source) => return Err(step("capability bounding set")(source)),
        }
    }
    clear_ambient_capability_set().map_err(step("ambient capabilities"))?;
    set_keep_capabilities(true).map_err(step("keep capabilities"))?;
    set_thread_groups(&groups).map_err(step("supplementary groups"))?;
    set_thread_res_gid(gid, gid, gid).map_err(step("group"))?;
    set_thread_res_uid(uid, uid, uid).map_err(step("user"))?;
    let sets = CapabilitySets {
        effective: identity.capabilities,
        permitted: identity.capabilities,
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(Some(getpid()), sets).map_err(step("capabilities"))?;
    set_keep_capabilities(false).map_err(step("keep capabilities"))?;
    set_no_new_privs(true).map_err(step("no_new_privs"))
}

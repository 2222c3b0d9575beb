//! Giving up privilege: capabilities, users, groups.

use std::io;

use rustix::process::{Gid, Uid};
use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set, remove_capability_from_bounding_set, set_capabilities,
    set_keep_capabilities, set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

/// What a process in a container may do: Docker's fourteen capabilities.
pub const CONTAINER: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::NET_RAW)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::AUDIT_WRITE);

/// What is left of that where it shall be little: enough to lay out and own files, and to become another user.
pub const STRICT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::KILL);

/// What a process may do that a chroot alone confines: of the container's what this process has, without what would lead
/// out of the root or to the devices.
#[must_use]
pub fn chrooted() -> CapabilitySet {
    let out = CapabilitySet::SYS_CHROOT | CapabilitySet::MKNOD | CapabilitySet::SYS_PTRACE;
    (CONTAINER & all()) - out
}

/// What a process may do that nothing confines: of the container's what this process has, without what would let it look into
/// other processes.
#[must_use]
pub fn in_place() -> CapabilitySet {
    (CONTAINER & all()) - CapabilitySet::SYS_PTRACE
}

/// Whether this process may lay out the files of any user where it is.
#[must_use]
pub fn may_own() -> bool {
    has(OWNING)
}

/// Whether this process may lay out the files of any user in a root of its own, and enter that.
#[must_use]
pub fn may_chroot() -> bool {
    has(OWNING | CapabilitySet::SYS_CHROOT | CapabilitySet::MKNOD)
}

/// To make files of any user, become one, and end what it has left.
const OWNING: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::KILL);

fn has(needed: CapabilitySet) -> bool {
    rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(needed))
}

/// Everything that this process may do.
#[must_use]
pub fn all() -> CapabilitySet {
    rustix::thread::capabilities(None).map_or(CONTAINER, |sets| sets.permitted)
}

/// Leaves only `allowed` to everything that this process executes from here on, whatever set-user-ID bits say.
///
/// # Errors
/// As prctl(2).
pub fn bound(allowed: CapabilitySet) -> io::Result<()> {
    for bit in 0..64 {
        let Some(capability) = CapabilitySet::from_bits(1 << bit) else {
            break;
        };
        if allowed.contains(capability) {
            continue;
        }
        match remove_capability_from_bounding_set(capability) {
            // A capability that this kernel does not know.
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Becomes a user: groups, group, user, then capabilities, of which only root keeps `allowed`.
///
/// # Errors
/// As setgroups(2), setresgid(2), setresuid(2) and capset(2).
pub fn become_user(uid: u32, gid: u32, groups: &[u32], allowed: CapabilitySet) -> io::Result<()> {
    let groups: Vec<Gid> = groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    match set_thread_groups(&groups) {
        // A user namespace with one mapping cannot set groups (user_namespaces(7)); there are none to set there.
        Err(rustix::io::Errno::PERM) if groups.is_empty() => {}
        result => result?,
    }
    let gid = Gid::from_raw(gid);
    set_thread_res_gid(gid, gid, gid)?;
    set_keep_capabilities(true)?;
    let (id, none) = (Uid::from_raw(uid), CapabilitySet::empty());
    set_thread_res_uid(id, id, id)?;
    clear_ambient_capability_set()?;
    let kept = if uid == 0 { allowed } else { none };
    set_capabilities(None, CapabilitySets { effective: kept, permitted: kept, inheritable: none })?;
    set_keep_capabilities(false)?;
    Ok(())
}

/// Becomes root of the user namespace that this process has just entered.
///
/// # Errors
/// As setresgid(2) and setresuid(2).
pub fn become_root() -> io::Result<()> {
    let (uid, gid) = (Uid::ROOT, Gid::ROOT);
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)?;
    match set_thread_groups(&[]) {
        Ok(()) | Err(rustix::io::Errno::PERM) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Has root, by number, get no capabilities of the programs that it executes (capabilities(7), SECBIT_NOROOT).
///
/// # Errors
/// As prctl(2).
pub fn root_is_nobody() -> io::Result<()> {
    use rustix::thread::{CapabilitiesSecureBits, set_capabilities_secure_bits};
    Ok(set_capabilities_secure_bits(CapabilitiesSecureBits::NO_ROOT | CapabilitiesSecureBits::NO_ROOT_LOCKED)?)
}

/// Makes set-user-ID bits mean nothing to this process and what it executes.
///
/// # Errors
/// As prctl(2).
pub fn no_new_privileges() -> io::Result<()> {
    Ok(set_no_new_privs(true)?)
}

/// Whether this process may give the users and groups of its namespace to another (user_namespaces(7)).
#[must_use]
pub fn may_map() -> bool {
    has(CapabilitySet::SETUID | CapabilitySet::SETGID | CapabilitySet::SETFCAP)
}

/// Whether this process has the capability to mount and to make namespaces.
#[must_use]
pub fn is_admin() -> bool {
    has(CapabilitySet::SYS_ADMIN)
}

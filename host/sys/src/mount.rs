//! Mounting, by the calls of Linux 5.2 and later (fsopen(2), open_tree(2)): no option string of one page, no path races.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::CWD;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount_change, move_mount, open_tree,
    unmount,
};

/// Stops mounts made from here on from being seen elsewhere, and mounts made elsewhere from being seen here.
///
/// # Errors
/// As mount(2).
pub fn make_private() -> io::Result<()> {
    let flags = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    Ok(mount_change("/", flags)?)
}

/// An overlay of `lowers`, topmost first, that is not attached anywhere yet.
///
/// `user_xattrs` is for a user namespace, where trusted attributes are not to be had: without it the mount succeeds
/// and deleting a lower directory fails with EIO. Redirects and metadata-only copies are switched off, since an upper
/// directory with those cannot be read as a layer. `volatile` leaves out the sync at unmount (overlayfs.rst). Devices
/// in it are nodes and no more.
///
/// # Errors
/// As fsopen(2), fsconfig(2) and fsmount(2).
pub fn overlay(lowers: &[&Path], upper: Option<(&Path, &Path)>, user_xattrs: bool) -> io::Result<OwnedFd> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for lower in lowers {
        fsconfig_set_string(&context, "lowerdir+", *lower)?;
        // Overlayfs goes by the mark of every directory but a layer's root.
        let mark = if user_xattrs { "user.overlay.opaque" } else { "trusted.overlay.opaque" };
        if crate::xattr::get(lower, mark)?.is_some_and(|value| value == b"y") {
            break;
        }
    }
    if let Some((upper, work)) = upper {
        fsconfig_set_string(&context, "upperdir", upper)?;
        fsconfig_set_string(&context, "workdir", work)?;
        fsconfig_set_flag(&context, "volatile")?;
    }
    if user_xattrs {
        fsconfig_set_flag(&context, "userxattr")?;
    } else {
        fsconfig_set_string(&context, "redirect_dir", "off")?;
        fsconfig_set_string(&context, "metacopy", "off")?;
    }
    fsconfig_set_string(&context, "index", "off")?;
    fsconfig_create(&context)?;
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_NODEV)?)
}

/// A new instance of a file system that needs no device: `tmpfs`, `proc`, `sysfs`, `devpts`, `mqueue`.
///
/// # Errors
/// As fsopen(2), fsconfig(2) and fsmount(2).
pub fn fresh(kind: &str, options: &[(&str, &str)], attributes: MountAttrFlags) -> io::Result<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in options {
        if value.is_empty() {
            fsconfig_set_flag(&context, *key)?;
        } else {
            fsconfig_set_string(&context, *key, *value)?;
        }
    }
    fsconfig_create(&context)?;
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// A detached copy of the mount that holds `file`, rooted there; with what is mounted below it if `recursive`.
///
/// # Errors
/// As open_tree(2).
pub fn clone_tree(file: BorrowedFd<'_>, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    Ok(open_tree(file, "", flags)?)
}

/// Attaches a detached mount on top of `target`, a file or directory that is open.
///
/// # Errors
/// As move_mount(2).
pub fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(mount, "", target, "", flags)?)
}

/// Attaches a detached mount at a path that is trusted.
///
/// # Errors
/// As move_mount(2).
pub fn attach_at(mount: BorrowedFd<'_>, target: &Path) -> io::Result<()> {
    Ok(move_mount(mount, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}

/// Makes the mount that holds `file` read-only, and those below it if `recursive` (mount_setattr(2)).
///
/// # Errors
/// As mount_setattr(2).
pub fn set_read_only(file: BorrowedFd<'_>, recursive: bool) -> io::Result<()> {
    set_attributes(file, libc::MOUNT_ATTR_RDONLY, recursive)
}

/// Lets nobody open a device in the mount that holds `file`.
///
/// # Errors
/// As mount_setattr(2).
pub fn set_no_devices(file: BorrowedFd<'_>) -> io::Result<()> {
    set_attributes(file, libc::MOUNT_ATTR_NODEV, false)
}

fn set_attributes(file: BorrowedFd<'_>, set: u64, recursive: bool) -> io::Result<()> {
    let attributes = libc::mount_attr { attr_set: set, attr_clr: 0, propagation: 0, userns_fd: 0 };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a constant C string, the structure lives through the call and its true size is passed.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            std::os::fd::AsRawFd::as_raw_fd(&file.as_fd()),
            c"".as_ptr(),
            flags,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Detaches what is mounted at `path`, and everything below it, now or when it is no longer in use.
///
/// # Errors
/// As umount2(2).
pub fn detach(path: &Path) -> io::Result<()> {
    Ok(unmount(path, UnmountFlags::DETACH)?)
}

//! The system-call filter of a step: what Docker's default profile allows; everything else gives EPERM.
//!
//! Calls that need a capability which a step has not (mount, bpf, ...) are off. clone3 gives ENOSYS, since its flags
//! stand behind a pointer and cannot be filtered: the C library then falls back to clone, whose flags can.

use std::collections::BTreeMap;
use std::io;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

mod calls;
pub mod single;

/// The flags by which clone(2) makes namespaces; a step makes none.
const NAMESPACES: u64 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWCGROUP) as u64;

/// Execution domains that a step may switch to: Linux, its 32-bit look, the old uname, and asking which it is.
const PERSONALITIES: [u64; 5] = [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// A compiled filter.
#[derive(Debug)]
pub struct Filter {
    allow: BpfProgram,
    no_clone3: BpfProgram,
}

/// Why a filter could not be made or loaded.
#[derive(Debug, thiserror::Error)]
#[error("system-call filter: {0}")]
pub struct FilterError(#[from] seccompiler::Error);

impl From<seccompiler::BackendError> for FilterError {
    fn from(error: seccompiler::BackendError) -> Self {
        Self(error.into())
    }
}

impl From<FilterError> for io::Error {
    fn from(error: FilterError) -> Self {
        Self::other(error)
    }
}

impl Filter {
    /// Compiles the default profile for this machine.
    ///
    /// # Errors
    /// On an architecture for which there is none.
    pub fn container() -> Result<Self, FilterError> {
        let arch = TargetArch::try_from(std::env::consts::ARCH)?;
        let mut rules: BTreeMap<i64, Vec<SeccompRule>> = calls::ALLOWED.iter().map(|call| (*call, vec![])).collect();
        let is = |argument, length, operator, value| SeccompCondition::new(argument, length, operator, value);
        rules.insert(
            libc::SYS_clone,
            vec![SeccompRule::new(vec![is(0, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(NAMESPACES), 0)?])?],
        );
        let personality = |value| -> Result<_, FilterError> {
            Ok(SeccompRule::new(vec![is(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)?])?)
        };
        rules.insert(libc::SYS_personality, PERSONALITIES.into_iter().map(personality).collect::<Result<_, _>>()?);
        // No sockets into the hypervisor.
        let vsock = u64::from(libc::AF_VSOCK.unsigned_abs());
        rules.insert(
            libc::SYS_socket,
            vec![SeccompRule::new(vec![is(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, vsock)?])?],
        );
        // Answered by the second filter; of two filters the stricter answer wins, and EPERM here would be that.
        rules.insert(libc::SYS_clone3, vec![]);
        let errno = |number: i32| SeccompAction::Errno(number.unsigned_abs());
        let allow = SeccompFilter::new(rules, errno(libc::EPERM), SeccompAction::Allow, arch)?;
        let clone3 = BTreeMap::from([(libc::SYS_clone3, vec![])]);
        let no_clone3 = SeccompFilter::new(clone3, SeccompAction::Allow, errno(libc::ENOSYS), arch)?;
        Ok(Self { allow: allow.try_into()?, no_clone3: no_clone3.try_into()? })
    }

    /// Puts this process under the filter for good. Needs CAP_SYS_ADMIN or `no_new_privs`.
    ///
    /// # Errors
    /// As seccomp(2).
    pub fn load(&self) -> io::Result<()> {
        for program in [&self.no_clone3, &self.allow] {
            load_with(program, 0)?;
        }
        Ok(())
    }
}

/// Not `seccompiler::apply_filter`: that sets `no_new_privs`, after which sudo and su in a step no longer work.
fn load_with(program: &BpfProgram, flags: libc::c_ulong) -> io::Result<libc::c_long> {
    let header = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(|_| rustix::io::Errno::INVAL)?,
        filter: program.as_ptr().cast::<libc::sock_filter>().cast_mut(),
    };
    // SAFETY: seccompiler's instruction has the layout of sock_filter; the program outlives the call, which copies it.
    let result =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, std::ptr::from_ref(&header)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

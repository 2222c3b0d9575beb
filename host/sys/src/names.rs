//! How a program that carries its C library looks up the names of hosts.

/// Keeps to /etc/hosts and DNS, whatever /etc/nsswitch.conf says: other services are libraries, which would have to be of
/// the very version of the C library that is in the program, and a step in place may bring another machine's file.
///
/// Where the C library is the machine's, it does nothing.
pub fn keep_to_files_and_dns() {
    #[cfg(all(target_env = "gnu", target_feature = "crt-static"))]
    {
        use std::ffi::{c_char, c_int};
        unsafe extern "C" {
            /// nss.h of the GNU C library: what a database's lookups use from now on.
            fn __nss_configure_lookup(database: *const c_char, services: *const c_char) -> c_int;
        }
        // SAFETY: both are strings that end in a zero; the library takes its lock.
        unsafe { __nss_configure_lookup(c"hosts".as_ptr(), c"files dns".as_ptr()) };
    }
}

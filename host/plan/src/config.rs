//! Applying configuration changes to an image's configuration.

use oci::ImageConfig;
use oci::config::Empty;

use crate::op::ConfigChange;

/// The search path of an image that names none.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The shell of an image that names none.
pub const DEFAULT_SHELL: [&str; 2] = ["/bin/sh", "-c"];

/// Applies one change.
pub fn apply(config: &mut ImageConfig, change: &ConfigChange) {
    let run = &mut config.config;
    match change.clone() {
        ConfigChange::SetEnv(name, value) => run.set_env(&name, &value),
        ConfigChange::SetLabel(name, value) => {
            run.labels.insert(name, value);
        }
        ConfigChange::SetUser(user) => run.user = user,
        ConfigChange::SetWorkingDir(path) => run.working_dir = path,
        ConfigChange::SetEntrypoint(argv) => run.entrypoint = argv,
        ConfigChange::SetCmd(argv) => run.cmd = argv,
        ConfigChange::SetArgsEscaped(escaped) => run.args_escaped = escaped,
        ConfigChange::SetShell(argv) => run.shell = argv,
        ConfigChange::SetStopSignal(signal) => run.stop_signal = signal,
        ConfigChange::SetHealthcheck(check) => run.healthcheck = check,
        ConfigChange::AddExposedPort(port) => {
            run.exposed_ports.insert(port, Empty {});
        }
        ConfigChange::AddVolume(path) => {
            run.volumes.insert(path, Empty {});
        }
        ConfigChange::AddOnBuild(trigger) => run.on_build.push(trigger),
        ConfigChange::SetAuthor(author) => config.author = Some(author),
        ConfigChange::UnsetEnv(name) => {
            run.env.retain(|line| line.split_once('=').map_or(line.as_str(), |(known, _)| known) != name);
        }
        ConfigChange::UnsetLabel(name) => {
            run.labels.remove(&name);
        }
        ConfigChange::RemoveExposedPort(port) => {
            run.exposed_ports.remove(&port);
        }
        ConfigChange::RemoveVolume(path) => {
            run.volumes.remove(&path);
        }
    }
}

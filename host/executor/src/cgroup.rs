//! A control group of a step's own: limits of all its processes together (cgroups(7)).
//!
//! Made only where the user asks for it. With version 1 each controller has a tree of its own, with version 2 all share
//! one; a machine, or a container, may let this process write to neither.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::rootfs::During;
use crate::spec::Resources;

/// Groups that are removed when the step is over.
#[derive(Debug)]
pub struct Group {
    folders: Vec<PathBuf>,
    /// What was not there before, outermost first.
    made: Vec<PathBuf>,
}

/// A tree of groups, and where in it this process is.
struct Tree {
    mount: PathBuf,
    own: String,
    /// Empty for version 2.
    controllers: Vec<String>,
}

impl Group {
    /// Makes a group called `name` with these limits; none when nothing is asked for.
    ///
    /// # Errors
    /// In words, when this machine does not allow it.
    pub fn create(resources: &Resources, name: &str) -> Result<Option<Self>, String> {
        if *resources == Resources::default() {
            return Ok(None);
        }
        let trees = trees().during("looking for control groups")?;
        let mut group = Self { folders: Vec::new(), made: Vec::new() };
        let (mut settings, legacy) = (Vec::new(), trees.iter().any(|tree| tree.serves("memory")));
        let wanted = if legacy { version_1(resources) } else { version_2(resources) };
        for (controller, file, value) in wanted {
            settings.push((controller, file, value));
        }
        for tree in &trees {
            let own: Vec<_> = settings.iter().filter(|(controller, _, _)| tree.serves(controller) || !legacy).collect();
            // A group in version 2's tree that has no controllers is of no use.
            if legacy && (tree.controllers.is_empty() || own.is_empty() && resources.parent.is_none()) {
                continue;
            }
            let parent = tree.mount.join(resources.parent.as_ref().unwrap_or(&tree.own).trim_start_matches('/'));
            let folder = parent.join(name);
            let missing: Vec<&Path> = folder.ancestors().take_while(|folder| !folder.exists()).collect();
            for folder in missing.into_iter().rev() {
                fs::create_dir(folder).during(format!("making the control group {}", folder.display()))?;
                group.made.push(folder.to_owned());
                if tree.serves("cpuset") {
                    inherit(folder).during(format!("the processors of {}", folder.display()))?;
                }
            }
            group.folders.push(folder.clone());
            for (controller, file, value) in own {
                if !legacy {
                    // Controllers are handed down by the group above; that they are already is no error.
                    let _ = fs::write(parent.join("cgroup.subtree_control"), format!("+{controller}"));
                }
                fs::write(folder.join(file), value)
                    .during(format!("setting {value} in {}", folder.join(file).display()))?;
            }
        }
        match group.folders.is_empty() {
            true => Err("this machine has no control groups for such limits".into()),
            false => Ok(Some(group)),
        }
    }

    /// Puts a process, and all that it starts from then on, into the group.
    ///
    /// # Errors
    /// In words.
    pub fn enter(&self, process: u32) -> Result<(), String> {
        for folder in &self.folders {
            let file = folder.join("cgroup.procs");
            fs::write(&file, process.to_string()).during(format!("entering {}", file.display()))?;
        }
        Ok(())
    }
}

/// How often, and after how long, a group that is busy is tried again.
const TRIES: u32 = 50;
const PAUSE: Duration = Duration::from_millis(10);

impl Drop for Group {
    fn drop(&mut self) {
        for folder in self.made.iter().rev() {
            // A process that was killed may take a moment to be gone. One that holds longer stays; it limits nobody else.
            for _ in 0..TRIES {
                match fs::remove_dir(folder) {
                    Err(error) if error.kind() == io::ErrorKind::ResourceBusy => std::thread::sleep(PAUSE),
                    _ => break,
                }
            }
        }
    }
}

impl Tree {
    fn serves(&self, controller: &str) -> bool {
        self.controllers.iter().any(|known| known == controller)
    }
}

/// A setting of version 1 that has no value of its own is its parent's; processors have none at first.
fn inherit(folder: &Path) -> io::Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let above = folder.parent().map(|parent| parent.join(file));
        if fs::read_to_string(folder.join(file))?.trim().is_empty()
            && let Some(above) = above
        {
            fs::write(folder.join(file), fs::read_to_string(above)?.trim())?;
        }
    }
    Ok(())
}

type Setting = (&'static str, &'static str, String);

fn version_1(resources: &Resources) -> Vec<Setting> {
    let number = |value: Option<u64>| value.map(|value| value.to_string());
    let all = [
        ("memory", "memory.limit_in_bytes", number(resources.memory)),
        ("memory", "memory.memsw.limit_in_bytes", resources.memory_swap.map(|value| value.to_string())),
        ("cpu", "cpu.shares", number(resources.cpu_shares)),
        ("cpu", "cpu.cfs_period_us", number(resources.cpu_period)),
        ("cpu", "cpu.cfs_quota_us", number(resources.cpu_quota)),
        ("cpuset", "cpuset.cpus", resources.cpus.clone()),
        ("cpuset", "cpuset.mems", resources.memory_nodes.clone()),
    ];
    all.into_iter().filter_map(|(controller, file, value)| Some((controller, file, value?))).collect()
}

fn version_2(resources: &Resources) -> Vec<Setting> {
    // Version 2 counts swap apart from memory, and weighs processors from 1 to 10000 with 100 as usual.
    let swap = resources.memory_swap.map(|total| match u64::try_from(total) {
        Ok(total) => total.saturating_sub(resources.memory.unwrap_or(0)).to_string(),
        Err(_) => "max".to_owned(),
    });
    let weight = resources.cpu_shares.map(|shares| (1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142).to_string());
    let quota = resources.cpu_quota.map_or("max".to_owned(), |quota| quota.to_string());
    let is_timed = resources.cpu_quota.is_some() || resources.cpu_period.is_some();
    let period = resources.cpu_period.unwrap_or(100_000);
    let all = [
        ("memory", "memory.max", resources.memory.map(|value| value.to_string())),
        ("memory", "memory.swap.max", swap),
        ("cpu", "cpu.weight", weight),
        ("cpu", "cpu.max", is_timed.then(|| format!("{quota} {period}"))),
        ("cpuset", "cpuset.cpus", resources.cpus.clone()),
        ("cpuset", "cpuset.mems", resources.memory_nodes.clone()),
    ];
    all.into_iter().filter_map(|(controller, file, value)| Some((controller, file, value?))).collect()
}

/// The trees that are mounted here (/proc/self/cgroup and /proc/self/mountinfo, proc(5)).
fn trees() -> io::Result<Vec<Tree>> {
    let (groups, mounts) = (fs::read_to_string("/proc/self/cgroup")?, fs::read_to_string("/proc/self/mountinfo")?);
    let mut trees = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(own)) = (fields.next(), fields.next()) else { continue };
        let controllers: Vec<String> =
            controllers.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
        let mount = mounts.lines().find_map(|line| {
            let (place, kind) = line.split_once(" - ")?;
            let mut kind = kind.split(' ');
            let (file_system, options) = (kind.next()?, kind.nth(1)?);
            let place = place.split(' ').nth(4)?;
            let fits = match controllers.is_empty() {
                true => file_system == "cgroup2",
                false => {
                    file_system == "cgroup" && controllers.iter().all(|name| options.split(',').any(|o| o == name))
                }
            };
            fits.then(|| PathBuf::from(place))
        });
        if let Some(mount) = mount {
            trees.push(Tree { mount, own: own.to_owned(), controllers });
        }
    }
    Ok(trees)
}

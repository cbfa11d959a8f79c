//! The machine that the program runs on, as far as the system knows: processor and memory.

use std::fs;
use std::path::Path;

/// The machine as a training run needs to know it.
pub(crate) fn this() -> trainer::device::Machine {
    trainer::device::Machine { processor: processor_model(), available_bytes: available_bytes() }
}

/// The processor's name with the numbers of its family and model, because virtual machines give many the same name.
fn processor_model() -> Option<String> {
    model_of(&fs::read_to_string("/proc/cpuinfo").ok()?)
}

fn model_of(info: &str) -> Option<String> {
    let name = field(info, "model name")?;
    Some(match field(info, "cpu family").zip(field(info, "model")) {
        Some((family, model)) => format!("{name}, family {family}, model {model}"),
        None => name.to_owned(),
    })
}

fn field<'a>(info: &'a str, key: &str) -> Option<&'a str> {
    let mut lines = info.lines().filter_map(|line| line.split_once(':'));
    lines.find(|(name, _)| name.trim() == key).map(|(_, value)| value.trim())
}

/// The processor's name.
pub(crate) fn processor() -> Option<String> {
    field(&fs::read_to_string("/proc/cpuinfo").ok()?, "model name").map(str::to_owned)
}

/// Memory that could be taken now: what the system has left, or what a limit on this process's group leaves of it.
pub(crate) fn available_bytes() -> Option<u64> {
    let system = kilobytes("/proc/meminfo", "MemAvailable:")?;
    Some(group_bytes(Path::new("/sys/fs/cgroup")).map_or(system, |group| group.min(system)))
}

/// Memory that this process holds.
pub(crate) fn resident_bytes() -> Option<u64> {
    kilobytes("/proc/self/status", "VmRSS:")
}

fn kilobytes(file: &str, key: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
}

/// What a limit of a control group leaves; `None` without one. Pages of files that nobody has used for a while are given
/// back before the limit bites.
fn group_bytes(folder: &Path) -> Option<u64> {
    let number = |name: &str| fs::read_to_string(folder.join(name)).ok()?.trim().parse::<u64>().ok();
    let (limit, current) = (number("memory.max")?, number("memory.current")?);
    let statistics = fs::read_to_string(folder.join("memory.stat")).ok()?;
    let idle = statistics.lines().find_map(|line| line.strip_prefix("inactive_file ")?.parse::<u64>().ok());
    Some(limit.saturating_sub(current.saturating_sub(idle.unwrap_or(0))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_of_one_name_are_told_apart() {
        let info = "processor\t: 0\ncpu family\t: 6\nmodel\t\t: 207\nmodel name\t: A Processor\n";
        assert_eq!(model_of(info).unwrap(), "A Processor, family 6, model 207");
        assert_eq!(model_of("model name\t: Other\n").unwrap(), "Other");
        assert_eq!(model_of("processor\t: 0\n"), None);
    }

    #[test]
    fn a_limit_leaves_what_is_neither_used_nor_idle() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        assert_eq!(group_bytes(folder.path()), None);
        write("memory.max", "max\n");
        write("memory.current", "700\n");
        write("memory.stat", "anon 500\ninactive_file 150\nactive_file 50\n");
        assert_eq!(group_bytes(folder.path()), None);
        write("memory.max", "1000\n");
        assert_eq!(group_bytes(folder.path()), Some(450));
        write("memory.max", "300\n");
        assert_eq!(group_bytes(folder.path()), Some(0));
    }
}

//! The NUMA node of new memory: near the device where the machine has more than one node.

/// Nodes that a mask of one word can name; larger machines get the kernel's own choice.
const MAX_NODE: u32 = 63;

/// The node to prefer, or `None` where there is nothing to choose.
pub(crate) fn preferred(wanted: Option<u32>) -> Option<u32> {
    if cfg!(miri) {
        return None;
    }
    let online = std::fs::read_to_string("/sys/devices/system/node/online").ok()?;
    wanted.filter(|&node| node <= MAX_NODE && contains(&online, node) && !is_single(&online))
}

fn ranges(list: &str) -> impl Iterator<Item = (u32, u32)> + '_ {
    list.trim().split(',').filter_map(|part| match part.split_once('-') {
        Some((first, last)) => Some((first.parse().ok()?, last.parse().ok()?)),
        None => part.parse().ok().map(|node| (node, node)),
    })
}

fn contains(list: &str, node: u32) -> bool {
    ranges(list).any(|(first, last)| (first..=last).contains(&node))
}

fn is_single(list: &str) -> bool {
    let mut ranges = ranges(list);
    matches!((ranges.next(), ranges.next()), (Some((first, last)), None) if first == last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_as_the_kernel_prints_them() {
        assert!(is_single("0\n") && contains("0\n", 0) && !contains("0\n", 1));
        assert!(!is_single("0-1\n") && contains("0-1\n", 1) && !contains("0-1\n", 2));
        assert!(!is_single("0,2-3\n") && contains("0,2-3\n", 3) && !contains("0,2-3\n", 1));
        assert!(!contains("", 0) && !contains("x-y,,7-", 7));
    }

    #[test]
    fn no_preference_without_a_choice() {
        assert_eq!(preferred(None), None);
        assert_eq!(preferred(Some(64)), None);
    }
}

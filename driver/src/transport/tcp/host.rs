//! Who this host is to a target: its NQN and its identifier, the same in every run.
//!
//! From the address, from /etc/nvme as other hosts of this machine have it, or made of the machine's own identity.

use std::fs;
use std::path::Path;

use doorbell_spec::fabrics::check_nqn;

use crate::address::{TcpOptions, parse_uuid, print_uuid};

/// A host's names. One NQN always goes with the same identifier: targets insist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Host {
    pub(crate) nqn: String,
    pub(crate) id: [u8; 16],
}

const UUID_PREFIX: &str = "nqn.2014-08.org.nvmexpress:uuid:";

impl Host {
    /// What `options` say, and this machine where they do not. An error says what is missing.
    pub(crate) fn of(options: &TcpOptions) -> Result<Self, String> {
        Self::from(options, Path::new("/"))
    }

    /// The identifier of this machine, if it has any.
    pub(crate) fn id_of_machine() -> Option<[u8; 16]> {
        Self::of(&TcpOptions::default()).ok().map(|host| host.id)
    }

    fn from(options: &TcpOptions, root: &Path) -> Result<Self, String> {
        let line = |path: &str| {
            let text = fs::read_to_string(root.join(path)).ok()?;
            text.lines().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned)
        };
        if let Some(nqn) = &options.host_nqn {
            let id = options.host_id.unwrap_or_else(|| id_of(nqn));
            return Ok(Self { nqn: nqn.clone(), id });
        }
        if let Some(nqn) = line("etc/nvme/hostnqn") {
            check_nqn(&nqn).map_err(|error| format!("/etc/nvme/hostnqn says '{nqn}': {error}"))?;
            let id = match (options.host_id, line("etc/nvme/hostid")) {
                (Some(id), _) => id,
                (None, Some(id)) => parse_uuid(&id)
                    .ok_or_else(|| format!("/etc/nvme/hostid says '{id}', which is no UUID"))?,
                (None, None) => id_of(&nqn),
            };
            return Ok(Self { nqn, id });
        }
        let machine = line("etc/machine-id")
            .or_else(|| line("sys/class/dmi/id/product_uuid"))
            .or_else(|| line("proc/sys/kernel/hostname"));
        let Some(machine) = machine else {
            let what =
                "this machine has no identity (/etc/machine-id); give hostnqn= in the address";
            return Err(what.into());
        };
        // Not the machine's identity itself, which is nobody else's business.
        let id = options.host_id.unwrap_or_else(|| uuid("doorbell host ", &machine));
        Ok(Self { nqn: format!("{UUID_PREFIX}{}", print_uuid(id)), id })
    }
}

/// The identifier that goes with `nqn`: the UUID in it, or one made of it.
fn id_of(nqn: &str) -> [u8; 16] {
    nqn.strip_prefix(UUID_PREFIX).and_then(parse_uuid).unwrap_or_else(|| uuid("", nqn))
}

/// A UUID (version 8, RFC 9562) made of a text by FNV-1a.
fn uuid(salt: &str, text: &str) -> [u8; 16] {
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    const BASIS: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    let mut hash = BASIS;
    for byte in salt.bytes().chain(text.bytes()) {
        hash = (hash ^ u128::from(byte)).wrapping_mul(PRIME);
    }
    let version = hash & !(0xf << 76) | 8 << 76;
    (version & !(3 << 62) | 2 << 62).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(files: &[(&str, &str)]) -> std::path::PathBuf {
        use std::sync::atomic::{AtomicU32, Ordering};
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let root =
            std::env::temp_dir().join(format!("doorbell-host-{}-{count}", std::process::id()));
        for (path, text) in files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    #[cfg_attr(miri, ignore = "files")]
    fn a_host_is_who_it_was_before() {
        let options = TcpOptions::default();
        let root = machine(&[("etc/machine-id", "8a6e7dd4f0f54d0aaa1cd1b1c0a4b2f7\n")]);
        let host = Host::from(&options, &root).unwrap();
        assert_eq!(Host::from(&options, &root), Ok(host.clone()));
        assert!(!host.nqn.contains("8a6e7dd4"), "{}", host.nqn);
        assert_eq!(id_of(&host.nqn), host.id);
        check_nqn(&host.nqn).unwrap();
        fs::remove_dir_all(root).unwrap();
        assert!(Host::from(&options, Path::new("/nowhere")).unwrap_err().contains("hostnqn="));
    }

    #[test]
    #[cfg_attr(miri, ignore = "files")]
    fn the_machine_s_own_names_come_first_and_the_address_before_them() {
        let id = "4cb5ee29-4b43-4e42-b1b5-7d1ab1b2a3c4";
        let root =
            machine(&[("etc/nvme/hostnqn", "nqn.2014-08.org.x:h\n"), ("etc/nvme/hostid", id)]);
        let host = Host::from(&TcpOptions::default(), &root).unwrap();
        assert_eq!((host.nqn.as_str(), print_uuid(host.id).as_str()), ("nqn.2014-08.org.x:h", id));
        let named = |nqn: String| TcpOptions { host_nqn: Some(nqn), ..TcpOptions::default() };
        let options = named(format!("{UUID_PREFIX}{id}"));
        assert_eq!(
            Host::from(&options, Path::new("/")).unwrap().id,
            host.id,
            "the UUID in the NQN"
        );
        let options = named("nqn.2014-08.org.x:other".into());
        assert_ne!(Host::from(&options, &root).unwrap().id, host.id, "another host");
        fs::write(root.join("etc/nvme/hostid"), "none").unwrap();
        assert!(Host::from(&TcpOptions::default(), &root).unwrap_err().contains("no UUID"));
        fs::remove_dir_all(root).unwrap();
    }
}

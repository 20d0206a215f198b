//! How a channel goes from one rank to another, as NCCL's log names it after `via` (src/transport/*.cc).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A channel's way. In a record it stands by NCCL's own name (`P2P/CUMEM`, `NET/IB/0/GDRDMA`), which both directions keep whole.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// From GPU to GPU, over NVLink where there is any.
    P2p {
        by: P2p,
        /// By the copy engines rather than by the kernel.
        copied: bool,
    },
    /// Through the host's shared memory; the rest says who copies.
    Shm(String),
    Net {
        /// `IB`, `Socket`, or a plugin's own name, which may have spaces.
        network: String,
        /// The network's number of it.
        device: u32,
        direct: Direct,
    },
    /// Added up by the network's switches.
    CollNet { network: String, device: u32, direct: Direct },
    /// Added up by the NVLink switches.
    Nvls,
    /// Words of a version that is not known.
    Other(String),
}

/// How one GPU reaches the memory of another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum P2p {
    /// Both in one process.
    Pointer,
    Cumem,
    /// As cuMem, into another machine of the NVLink domain.
    Mnnvl,
    Ipc,
    /// Over a GPU between them, as NCCL names it: `3[3]`.
    Indirect(String),
}

/// Whether the adapter reads and writes the GPU's memory by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direct {
    No,
    Yes,
    /// By PCIe, on a machine whose CPU has a faster link to the GPU.
    Pci,
}

/// NCCL's own networks: whatever else carries a channel is a plugin.
pub const SOCKETS: &str = "Socket";
pub const VERBS: &str = "IB";

const LONGEST: usize = 200;

impl Way {
    /// Of what follows `via`. Never fails: what is not known is kept as it is.
    pub fn of(how: &str) -> Way {
        let how: String = how.trim().chars().take(LONGEST).collect();
        // Before 2.15: `P2P/IPC comm 0x7f.. nRanks 08`.
        let how = how.split(" comm 0x").next().unwrap_or(&how).trim_end();
        Way::known(how).unwrap_or_else(|| Way::Other(how.to_owned()))
    }

    fn known(how: &str) -> Option<Way> {
        if how == "NVLS" {
            return Some(Way::Nvls);
        }
        let (kind, rest) = how.split_once('/')?;
        match kind {
            "P2P" => {
                let (rest, copied) = cut(rest, "/CE");
                // Reading or writing is the same way.
                let (rest, _) = cut(rest, "/read");
                let by = match rest {
                    "direct pointer" | "direct" => P2p::Pointer,
                    "CUMEM" => P2p::Cumem,
                    "MNNVL" => P2p::Mnnvl,
                    "IPC" => P2p::Ipc,
                    _ => P2p::Indirect(rest.strip_prefix("indirect/")?.to_owned()),
                };
                Some(Way::P2p { by, copied })
            }
            "SHM" => Some(Way::Shm(rest.to_owned())),
            "NET" | "COLLNET" => {
                let (rest, _) = cut(rest, "/Shared");
                let (rest, pci) = cut(rest, "/GDRDMA(PCI)");
                let (rest, plain) = cut(rest, "/GDRDMA");
                let (network, device) = rest.rsplit_once('/').filter(|(n, _)| !n.is_empty())?;
                // `0`, or `0(3)` where rank 3's process sends it.
                let device = device.split('(').next().unwrap_or(device).parse().ok()?;
                let network = network.to_owned();
                let direct = match (pci, plain) {
                    (true, _) => Direct::Pci,
                    (_, true) => Direct::Yes,
                    _ => Direct::No,
                };
                Some(match kind {
                    "NET" => Way::Net { network, device, direct },
                    _ => Way::CollNet { network, device, direct },
                })
            }
            _ => None,
        }
    }

    /// Through the host's memory where the network could do without: sockets cannot.
    pub fn is_staged(&self) -> bool {
        matches!(self, Way::Net { network, direct: Direct::No, .. } if network != SOCKETS)
    }
}

/// What is left before an ending, and whether it was there.
fn cut<'a>(text: &'a str, ending: &str) -> (&'a str, bool) {
    text.strip_suffix(ending).map_or((text, false), |rest| (rest, true))
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Way::P2p { by, copied } => {
                match by {
                    P2p::Pointer => f.write_str("P2P/direct pointer")?,
                    P2p::Cumem => f.write_str("P2P/CUMEM")?,
                    P2p::Mnnvl => f.write_str("P2P/MNNVL")?,
                    P2p::Ipc => f.write_str("P2P/IPC")?,
                    P2p::Indirect(over) => write!(f, "P2P/indirect/{over}")?,
                }
                f.write_str(if *copied { "/CE" } else { "" })
            }
            Way::Shm(how) => write!(f, "SHM/{how}"),
            Way::Net { network, device, direct } => write!(f, "NET/{network}/{device}{direct}"),
            Way::CollNet { network, device, direct } => write!(f, "COLLNET/{network}/{device}{direct}"),
            Way::Nvls => f.write_str("NVLS"),
            Way::Other(how) => f.write_str(how),
        }
    }
}

impl fmt::Display for Direct {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Direct::No => "",
            Direct::Yes => "/GDRDMA",
            Direct::Pci => "/GDRDMA(PCI)",
        })
    }
}

impl FromStr for Way {
    type Err = std::convert::Infallible;

    fn from_str(how: &str) -> Result<Self, Self::Err> {
        Ok(Way::of(how))
    }
}

impl From<&str> for Way {
    fn from(how: &str) -> Self {
        Way::of(how)
    }
}

impl Serialize for Way {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Way {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Ok(Way::of(&String::deserialize(d)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(network: &str, device: u32, direct: Direct) -> Way {
        Way::Net { network: network.to_owned(), device, direct }
    }

    #[test]
    fn every_wording_of_the_transports_is_known() {
        let p2p = |by| Way::P2p { by, copied: false };
        for (words, way, name) in [
            ("P2P/direct pointer/read", p2p(P2p::Pointer), "P2P/direct pointer"),
            ("P2P/CUMEM/read", p2p(P2p::Cumem), "P2P/CUMEM"),
            ("P2P/CUMEM/CE", Way::P2p { by: P2p::Cumem, copied: true }, "P2P/CUMEM/CE"),
            ("P2P/MNNVL", p2p(P2p::Mnnvl), "P2P/MNNVL"),
            ("P2P/IPC comm 0x55f5f3c0 nRanks 08", p2p(P2p::Ipc), "P2P/IPC"),
            ("P2P/indirect/3[3]", p2p(P2p::Indirect("3[3]".into())), "P2P/indirect/3[3]"),
            ("SHM/direct/direct", Way::Shm("direct/direct".into()), "SHM/direct/direct"),
            ("SHM/direct", Way::Shm("direct".into()), "SHM/direct"),
            ("NET/IB/0/GDRDMA/Shared", net("IB", 0, Direct::Yes), "NET/IB/0/GDRDMA"),
            ("NET/IB/3(5)/GDRDMA(PCI)", net("IB", 3, Direct::Pci), "NET/IB/3/GDRDMA(PCI)"),
            ("NET/IB/1(1)/Shared", net("IB", 1, Direct::No), "NET/IB/1"),
            ("NET/AWS Libfabric/12/GDRDMA", net("AWS Libfabric", 12, Direct::Yes), "NET/AWS Libfabric/12/GDRDMA"),
            ("NET/Socket/0", net("Socket", 0, Direct::No), "NET/Socket/0"),
            (
                "COLLNET/SHARP/0/GDRDMA",
                Way::CollNet { network: "SHARP".into(), device: 0, direct: Direct::Yes },
                "COLLNET/SHARP/0/GDRDMA",
            ),
            ("NVLS", Way::Nvls, "NVLS"),
            ("PIGEON/0", Way::Other("PIGEON/0".into()), "PIGEON/0"),
        ] {
            assert_eq!((Way::of(words), way.to_string().as_str()), (way, name), "{words}");
        }
        let staged = ["NET/IB/1", "NET/AWS Libfabric/0/Shared"];
        assert!(staged.iter().all(|w| Way::of(w).is_staged()));
        assert!(["NET/Socket/0", "NET/IB/1/GDRDMA", "SHM/direct"].iter().all(|w| !Way::of(w).is_staged()));
    }

    proptest::proptest! {
        /// What stands in a record is read again as what was written.
        #[test]
        fn a_record_keeps_every_way(how in "(P2P|NET|SHM|COLLNET|NVLS|/|IB|CUMEM|GDRDMA|\\(PCI\\)|indirect|read|CE|Shared|[0-9]{1,3}| comm 0x|\\PC){0,8}") {
            let way = Way::of(&how);
            proptest::prop_assert_eq!(&Way::of(&way.to_string()), &way);
            let json = serde_json::to_string(&way).unwrap();
            proptest::prop_assert_eq!(serde_json::from_str::<Way>(&json).unwrap(), way);
        }
    }
}

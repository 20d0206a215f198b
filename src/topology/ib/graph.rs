//! Switches, channel adapters, and the cables between their ports.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::id::NodeName;
use crate::topology::Leaf;
use crate::topology::ib::Rate;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Switch,
    Ca,
    Router,
    Other,
}

/// A switch, or a host's adapter.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    pub guid: u64,
    pub kind: Kind,
    pub name: String,
    pub device: Option<u32>,
    /// Of a switch's port 0.
    pub lid: Option<u16>,
    /// Ports with something at their other end.
    pub ports: BTreeMap<u32, Port>,
}

/// What is at the other end of a port.
#[derive(Debug, Clone, PartialEq)]
pub struct Port {
    pub peer: u64,
    pub peer_port: u32,
    pub rate: Rate,
    /// The port's own LID, for an adapter.
    pub lid: Option<u16>,
    /// The port's own GUID, for an adapter.
    pub guid: Option<u64>,
}

/// A port of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct End {
    pub guid: u64,
    pub port: u32,
}

/// A cable, its lower end first.
#[derive(Debug, Clone, PartialEq)]
pub struct Cable {
    pub a: End,
    pub b: End,
    /// The lower one where the ends print different rates.
    pub rate: Rate,
    /// The higher one, where the ends print different rates.
    pub other: Option<Rate>,
}

impl Cable {
    /// Takes in what the second end says. What it does not tell, or tells in words that are not known here, contradicts nothing.
    fn differ(&mut self, second: &Rate) {
        match (self.rate.gbps(), second.gbps()) {
            (Some(first), Some(other)) if other < first => {
                self.other = Some(std::mem::replace(&mut self.rate, second.clone()));
            }
            (Some(first), Some(other)) if other > first => self.other = Some(second.clone()),
            (None, Some(_)) => self.rate = second.clone(),
            _ => {}
        }
    }
}

/// A subnet: every node that discovery reached.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Subnet {
    /// Which capture it is from.
    pub source: String,
    pub nodes: BTreeMap<u64, Node>,
    /// GUIDs that two nodes claim, with both names.
    pub twice: Vec<(u64, String, String)>,
    /// Whether each port of an adapter is a node of its own: a ports report does not tell which of them are of one adapter.
    pub by_port: bool,
    /// Ports that were listed with nothing at their other end.
    pub open: Vec<End>,
}

/// Devid of the SHARP aggregation node inside a switch: an adapter that is no host's.
const AGGREGATION: u32 = 0xcf09;

impl Node {
    /// The host and the device in an adapter's name: `gpu07 mlx5_3`, `gpu07 HCA-4`. A device that nobody named yet has
    /// neither.
    pub fn host(&self) -> Option<(&str, &str)> {
        if self.kind != Kind::Ca || self.is_aggregation() {
            return None;
        }
        let (host, device) = self.name.trim().rsplit_once(' ')?;
        let host = host.trim();
        // Firmware's own text: `MT4129 ConnectX7   Mellanox Technologies`.
        (!host.contains(' ')).then_some((host, device))
    }

    pub fn is_aggregation(&self) -> bool {
        self.device == Some(AGGREGATION) || self.name.contains("Aggregation Node")
    }
}

impl Subnet {
    /// Whether another capture is of the same fabric: a switch is in one only, and so is an adapter's port.
    pub fn is_same_fabric(&self, other: &Subnet) -> bool {
        let shares = |node: &Node| {
            let theirs = other.nodes.get(&node.guid)?;
            // One GUID of two models is that of two devices.
            let is_model = node.device.is_none() || theirs.device.is_none() || node.device == theirs.device;
            if !is_model {
                return None;
            }
            let is_switch = node.kind == Kind::Switch && theirs.kind == Kind::Switch;
            // Both are there without a single cable, too.
            let is_alone = node.ports.is_empty() && theirs.ports.is_empty();
            (is_switch || is_alone || node.ports.keys().any(|p| theirs.ports.contains_key(p))).then_some(())
        };
        self.nodes.values().any(|node| shares(node).is_some())
    }

    /// Takes in another fabric. An adapter may have a port in each.
    pub fn join(&mut self, other: &Subnet) {
        for node in other.nodes.values() {
            let own = self.nodes.entry(node.guid).or_insert_with(|| Node { ports: BTreeMap::new(), ..node.clone() });
            own.ports.extend(node.ports.iter().map(|(number, port)| (*number, port.clone())));
        }
        self.twice.extend(other.twice.iter().cloned());
        self.open.extend(&other.open);
        self.by_port |= other.by_port;
    }

    /// Every cable once, in order. Both ends print it: what only one end says is taken, too.
    pub fn cables(&self) -> Vec<Cable> {
        let mut seen: HashMap<(End, End), usize> = HashMap::new();
        let mut out: Vec<Cable> = Vec::new();
        for node in self.nodes.values() {
            for (number, port) in &node.ports {
                let ends = [End { guid: node.guid, port: *number }, End { guid: port.peer, port: port.peer_port }];
                let (a, b) = if ends[0] <= ends[1] { (ends[0], ends[1]) } else { (ends[1], ends[0]) };
                match seen.get(&(a, b)).and_then(|i| out.get_mut(*i)) {
                    Some(known) => known.differ(&port.rate),
                    None => {
                        seen.insert((a, b), out.len());
                        out.push(Cable { a, b, rate: port.rate.clone(), other: None });
                    }
                }
            }
        }
        out.sort_by_key(|c| (c.a, c.b));
        out
    }

    /// `gpu07 mlx5_3 port 1`, with the GUID where the name is not unique.
    pub fn show(&self, end: End) -> String {
        match self.nodes.get(&end.guid) {
            None => format!("0x{:016x} port {}", end.guid, end.port),
            Some(n) if self.is_ambiguous(&n.name, end.port) => {
                format!("{} (0x{:016x}) port {}", n.name.trim(), end.guid, end.port)
            }
            Some(n) => format!("{} port {}", n.name.trim(), end.port),
        }
    }

    fn is_ambiguous(&self, name: &str, port: u32) -> bool {
        // Where each port is a node, the ports of one adapter have one name and different numbers.
        let is_other_port = |n: &Node| {
            let open = || self.open.contains(&End { guid: n.guid, port });
            self.by_port && n.kind != Kind::Switch && !n.ports.contains_key(&port) && !open()
        };
        self.nodes.values().filter(|n| n.name == name && !is_other_port(n)).take(2).count() > 1
    }

    /// The same with each port of an adapter as a node of its own, so that it can be held against a ports report.
    pub fn split_by_port(&self) -> Subnet {
        if self.by_port {
            return self.clone();
        }
        let mut moved: HashMap<End, u64> = HashMap::new();
        for node in self.nodes.values().filter(|n| n.kind != Kind::Switch) {
            let own = |(number, port): (&u32, &Port)| Some((End { guid: node.guid, port: *number }, port.guid?));
            moved.extend(node.ports.iter().filter_map(own));
        }
        let mut out =
            Subnet { source: self.source.clone(), twice: self.twice.clone(), by_port: true, ..Subnet::default() };
        for node in self.nodes.values() {
            for (number, port) in &node.ports {
                let guid = moved.get(&End { guid: node.guid, port: *number }).copied().unwrap_or(node.guid);
                let to = moved.get(&End { guid: port.peer, port: port.peer_port }).copied().unwrap_or(port.peer);
                let own =
                    out.nodes.entry(guid).or_insert_with(|| Node { guid, ports: BTreeMap::new(), ..node.clone() });
                own.ports.insert(*number, Port { peer: to, ..port.clone() });
            }
            if node.ports.is_empty() {
                out.nodes.entry(node.guid).or_insert_with(|| node.clone());
            }
        }
        out
    }

    /// Leaves: switches with adapters of hosts at them, each with these and its ports to other switches.
    pub fn leaf_switches(&self) -> Vec<LeafSwitch<'_>> {
        let of = |node: &'_ Node| {
            let (mut down, mut up) = (Vec::new(), Vec::new());
            for (number, port) in &node.ports {
                match self.nodes.get(&port.peer) {
                    Some(peer) if peer.kind == Kind::Switch && peer.guid != node.guid => up.push(*number),
                    Some(peer) if peer.kind == Kind::Ca && !peer.is_aggregation() => down.push(*number),
                    _ => {}
                }
            }
            (down, up)
        };
        let switches = self.nodes.values().filter(|n| n.kind == Kind::Switch);
        let with_hosts: Vec<LeafSwitch<'_>> = switches
            .map(|node| {
                let (down, up) = of(node);
                LeafSwitch { node, down, up }
            })
            .filter(|l| !l.down.is_empty())
            .collect();
        // A manager's host at a spine makes no leaf of it: most of its neighbours have more hosts than it has.
        let hosts: HashMap<u64, usize> = with_hosts.iter().map(|l| (l.node.guid, l.down.len())).collect();
        let is_spine = |l: &LeafSwitch<'_>| {
            let peers: BTreeSet<u64> = l.up.iter().filter_map(|p| l.node.ports.get(p)).map(|p| p.peer).collect();
            let above = peers.iter().filter(|guid| hosts.get(guid).is_some_and(|n| *n > l.down.len())).count();
            l.up.len() > l.down.len() && 2 * above > peers.len()
        };
        let spines: BTreeSet<u64> = with_hosts.iter().filter(|l| is_spine(l)).map(|l| l.node.guid).collect();
        with_hosts.into_iter().filter(|l| !spines.contains(&l.node.guid)).collect()
    }

    /// The leaves of a cluster: each host with the switch of its first device. With a rail a switch, that is one switch of
    /// several; hosts that share it share the others.
    pub fn leaves(&self) -> Vec<Leaf> {
        let mut first: BTreeMap<&str, (&str, u64)> = BTreeMap::new();
        for node in self.nodes.values() {
            let (Some((host, device)), Some(port)) = (node.host(), node.ports.values().next()) else { continue };
            let entry = first.entry(host).or_insert((device, port.peer));
            if natural(device) < natural(entry.0) {
                *entry = (device, port.peer);
            }
        }
        let mut by_switch: BTreeMap<u64, Vec<NodeName>> = BTreeMap::new();
        for (host, (_, switch)) in first {
            by_switch.entry(switch).or_default().push(NodeName(host.to_owned()));
        }
        let mut names: HashMap<String, u32> = HashMap::new();
        by_switch
            .into_iter()
            .map(|(guid, nodes)| {
                let name = self.nodes.get(&guid).map_or_else(|| format!("0x{guid:016x}"), |n| n.name.trim().to_owned());
                let times = names.entry(name.clone()).or_default();
                *times += 1;
                Leaf { name: if *times > 1 { format!("{name} 0x{guid:016x}") } else { name }, nodes }
            })
            .collect()
    }
}

/// A switch with hosts at it.
#[derive(Debug, Clone)]
pub struct LeafSwitch<'a> {
    pub node: &'a Node,
    /// Ports with hosts' adapters.
    pub down: Vec<u32>,
    /// Ports with other switches.
    pub up: Vec<u32>,
}

/// `mlx5_10` comes after `mlx5_9`.
fn natural(text: &str) -> (usize, &str) {
    (text.len(), text)
}

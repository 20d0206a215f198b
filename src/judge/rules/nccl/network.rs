//! What NCCL says of its network -> findings.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use crate::id::clean;
use crate::judge::codes::Code;
use crate::judge::rules::nccl::Add;
use crate::judge::severity::Severity;
use crate::topology::{Far, Machine, Nccl, Refusal, SOCKETS, VERBS, Way};

/// Of what there may be many, so many are named.
const SHOWN: usize = 4;
/// Since compute capability 8.0 adapters read GPUs in every case (src/graph/paths.cc, `ncclTopoCheckGdr`).
const READ_SINCE: (i32, i32) = (8, 0);

/// `alone` is how much it weighs on one node, where the network carries nothing yet.
pub(super) fn findings(n: &Nccl, machine: Option<&Machine>, alone: Option<Severity>, add: Add<'_>) {
    let there = machine.and_then(rdma_adapter);
    if let (Some(SOCKETS), Some(adapter)) = (n.network.as_deref(), &there) {
        add(Code::NCL_001, alone, format!("it uses sockets, and {adapter}"));
    }
    without_gpudirect(n, machine, alone, add);
    if let (Some(VERBS), Some(m)) = (n.network.as_deref(), machine) {
        unused(n, m, add);
    }
    shared(n, add);
    plugins(n, machine, there.is_some(), add);
}

/// What sockets should not be used beside.
fn rdma_adapter(m: &Machine) -> Option<String> {
    let plugin = |name: &str| {
        let (_, kind) = m.connectionless().find(|(n, _)| *n == name)?;
        Some(format!(" ({}{})", kind.name(), kind.plugin().map_or(String::new(), |p| format!(", by the plugin {p}"))))
    };
    let active = m.active_rdma().next().map(|d| (d, "has an active port"));
    let (name, what) = active.or_else(|| m.connectionless().next().map(|(n, _)| (n, "is up")))?;
    Some(format!("{}{} {what}", clean(name), plugin(name).unwrap_or_default()))
}

/// Traffic of the network that goes through the host's memory, whatever is to blame: the adapters, or their distance from the GPUs.
fn without_gpudirect(n: &Nccl, machine: Option<&Machine>, alone: Option<Severity>, add: Add<'_>) {
    // Sockets have nothing else.
    if n.network.as_deref() == Some(SOCKETS) {
        return;
    }
    let mut evidence = Vec::new();
    let without: Vec<String> =
        n.devices.iter().filter(|d| d.gdr == Some(false)).map(|d| clean(&d.name).into_owned()).collect();
    if !without.is_empty() {
        evidence.push(format!("GPU Direct RDMA is disabled for {}", without.join(", ")));
    }
    // Older GPUs are not read by adapters where others use PCIe beside them (NCCL_NET_GDR_READ): NCCL means it so.
    let old = |m: &Machine| m.nvidia.iter().flat_map(|n| &n.gpus).any(|g| g.capability.is_some_and(|c| c < READ_SINCE));
    let staged: Vec<(&Way, u32)> =
        n.transports.iter().filter(|(w, c)| w.is_staged() && **c > 0).map(|(w, c)| (w, *c)).collect();
    let over = n.transports.keys().any(|w| matches!(w, Way::Net { network, .. } if network != SOCKETS));
    if !staged.is_empty() && !machine.is_some_and(old) {
        let channels: u32 = staged.iter().fold(0, |sum, (_, c)| sum.saturating_add(*c));
        let ways: Vec<String> = staged.iter().take(SHOWN).map(|(w, _)| clean(&w.to_string()).into_owned()).collect();
        evidence.push(format!("{channels} channels without it, by {}{}", ways.join(", "), more(staged.len())));
    }
    // A GPU may send through the adapter of another: once channels are known, they tell.
    if !n.far.is_empty() && (!over || !staged.is_empty()) {
        let of = |f: &Far| {
            let (gpu, device) = (clean(&f.gpu), clean(&f.device));
            format!("GPU {gpu} and {device} are too far from each other (distance {} > {})", f.distance, f.allowed)
        };
        let shown: Vec<String> = n.far.iter().take(SHOWN).map(of).collect();
        evidence.push(format!("{}{}", shown.join(", "), more(n.far.len())));
    }
    if !evidence.is_empty() {
        add(Code::NCL_002, alone, evidence.join("; "));
    }
}

fn more(all: usize) -> String {
    if all > SHOWN { format!(" and {} more", all - SHOWN) } else { String::new() }
}

/// Network plugins that were asked for or found, where NCCL uses its own networks instead.
fn plugins(n: &Nccl, machine: Option<&Machine>, adapter: bool, add: Add<'_>) {
    if !matches!(n.network.as_deref(), None | Some(SOCKETS | VERBS)) {
        return;
    }
    let variable = |name: &str| {
        let said = n.settings.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str());
        said.or_else(|| machine?.environment.get(name).map(String::as_str))
    };
    let asked = variable("NCCL_NET_PLUGIN").filter(|v| !v.is_empty() && !v.eq_ignore_ascii_case("none"));
    let used = clean(n.network.as_deref().unwrap_or("nothing"));
    // Where there is nothing that a plugin could drive, it is right to give up.
    let needed = asked.is_some() || adapter || n.nodes > 1;
    let mut wrong: Vec<String> = n
        .refused
        .iter()
        .filter(|r| needed || r.how != Refusal::NotInitialised)
        .map(|r| format!("{} was found and does not serve: {}", clean(&r.name), clean(&r.why)))
        .collect();
    if let Some(wanted) = asked {
        let missing: Vec<String> = n.plugins.iter().filter(|(_, l)| !l).map(|(p, _)| clean(p).into_owned()).collect();
        if !missing.is_empty() {
            wrong.insert(0, format!("NCCL_NET_PLUGIN={}, not loaded: {}", clean(wanted), missing.join(", ")));
        }
    }
    // Before 2.28 NCCL does not say why it leaves one that it loaded; NCCL_NET chooses on purpose.
    let loaded = n.plugins.iter().rfind(|(_, l)| *l).map(|(p, _)| p);
    if let (true, Some(name), Some(SOCKETS), None) =
        (wrong.is_empty() && needed, loaded, n.network.as_deref(), variable("NCCL_NET"))
    {
        wrong.push(format!("{} was loaded and is not used", clean(name)));
    }
    if !wrong.is_empty() {
        add(Code::NCL_007, None, format!("{}; it uses {used}", wrong.join("; ")));
    }
}

/// Adapters as fast as those that NCCL uses, and that it leaves alone.
fn unused(n: &Nccl, m: &Machine, add: Add<'_>) {
    let rate = |name: &str| m.infiniband.iter().find(|d| d.name == name)?.ports.iter().find_map(|p| p.rate.as_deref());
    // Merged adapters are called `mlx5_0+mlx5_1`.
    let used: HashSet<&str> = n.devices.iter().flat_map(|d| d.name.split('+')).collect();
    // A slower adapter is another network, which NCCL does well to leave alone.
    let like = |d: &&str| !used.contains(d) && used.iter().any(|u| rate(u).is_some() && rate(u) == rate(d));
    // Its own network needs reliable connections.
    let idle: Vec<&str> = m.connected_rdma().filter(like).collect();
    if !idle.is_empty() {
        let known: Vec<&str> = used.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
        let (idle, known) = (clean(&idle.join(", ")).into_owned(), clean(&known.join(", ")).into_owned());
        add(Code::NCL_003, None, format!("{idle} not used; used are {known}"));
    }
}

/// Ranks of a node that send through one adapter while another has nothing to do.
fn shared(n: &Nccl, add: Add<'_>) {
    let each = n.ranks.checked_div(n.nodes).unwrap_or(0);
    let there = n.devices.len();
    if n.nodes < 2 || each < 2 || there < 2 {
        return;
    }
    // Of the nodes that told: a record may claim any number.
    let mut by_node: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
    for (rank, devices) in n.sends_by.iter().filter(|(rank, _)| **rank < n.ranks) {
        by_node.entry(rank / each).or_default().extend(devices);
    }
    for (node, used) in by_node {
        // A ring leaves a node by as many adapters as channels need: fewer than there are GPUs and adapters is a loss.
        let could = there.min(each as usize);
        if used.len() < could {
            let evidence =
                format!("node {node} of {} sends by {} of {there} adapters, with {each} GPUs", n.nodes, used.len());
            add(Code::NCL_004, None, evidence);
            return;
        }
    }
}

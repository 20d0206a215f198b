//! `gonogo discover`: the machine as gonogo sees it.

use crate::cli::{self, Plain};
use crate::cmd::{Failure, shell};
use crate::exit::Exit;
use crate::id::clean;
use crate::topology::{Machine, SysRoot, discover};

pub(super) fn run(args: cli::Discover) -> Result<Exit, Failure> {
    if let Some(cli::Discovered::Fabric(args)) = args.what {
        return super::fabric::run(args);
    }
    let root = match (&args.record, &args.replay) {
        (Some(dir), _) => SysRoot::record(dir).map_err(Failure::usage)?,
        (_, Some(dir)) => SysRoot::replay(dir).map_err(Failure::usage)?,
        _ => SysRoot::live(),
    };
    let machine = discover(&root);
    root.finish().map_err(Failure::internal)?;
    let text = match args.format {
        Plain::Json => serde_json::to_string_pretty(&machine).map_err(Failure::internal)? + "\n",
        Plain::Terminal => describe(&machine),
    };
    shell::print(&text).map_err(Failure::internal)?;
    Ok(Exit::Go)
}

/// A page for people; everything is in the JSON.
fn describe(m: &Machine) -> String {
    let mut out = String::new();
    let mut line = |label: &str, text: String| out.push_str(&format!("{label:<12}{}\n", clean(&text)));
    host(m, &mut line);
    devices(m, &mut line);
    system(m, &mut line);
    out
}

fn or(v: &Option<String>) -> String {
    v.clone().unwrap_or_else(|| "unknown".to_owned())
}

fn size(v: Option<crate::unit::Bytes>) -> String {
    v.map_or("unknown".to_owned(), |b| b.to_string())
}

fn host(m: &Machine, line: &mut dyn FnMut(&str, String)) {
    line("host", m.hostname.clone());
    let smt = if m.cpu.smt { "SMT on" } else { "no SMT" };
    line(
        "cpu",
        format!(
            "{}, {} socket(s), {} cores, {} threads, {smt}",
            m.cpu.model, m.cpu.sockets, m.cpu.cores, m.cpu.threads
        ),
    );
    if !m.cpu.kinds.is_empty() {
        let clock = |hz: Option<f64>| hz.map_or(String::new(), |hz| format!(" up to {:.2} GHz", hz / 1e9));
        let kinds: Vec<String> = m.cpu.kinds.iter().map(|k| format!("{} cores{}", k.cores, clock(k.max_hz))).collect();
        line("", format!("of {} kinds: {}", kinds.len(), kinds.join(", ")));
    }
    line(
        "",
        format!(
            "{} NUMA node(s), {}, caches {}, governor {}",
            m.cpu.numa.len(),
            m.cpu.simd.as_deref().unwrap_or("no wide vectors"),
            size(m.cpu.last_level_cache),
            or(&m.cpu.governor)
        ),
    );
    line(
        "memory",
        format!(
            "{} ({} available), {} huge pages of {}, THP {}",
            size(m.memory.total),
            size(m.memory.available),
            m.memory.huge_pages,
            size(m.memory.huge_page_size),
            or(&m.memory.transparent_huge_pages)
        ),
    );
}

fn devices(m: &Machine, line: &mut dyn FnMut(&str, String)) {
    for n in &m.nics {
        let speed = n.speed_mbps.map_or("no rate".to_owned(), |s| format!("{} Gb/s", s as f64 / 1000.0));
        line(
            "nic",
            format!(
                "{}: {}, {}, {speed}, MTU {}",
                n.name,
                or(&n.driver),
                or(&n.state),
                n.mtu.map_or("?".to_owned(), |m| m.to_string())
            ),
        );
    }
    for d in &m.infiniband {
        line("infiniband", format!("{}: firmware {}, {} port(s)", d.name, or(&d.firmware), d.ports.len()));
    }
    for g in &m.gpus {
        let told = m.driver().and_then(|n| Some((n, n.gpus.iter().find(|of| of.pci == g.pci)?)));
        line(
            "gpu",
            match told {
                Some((n, of)) => {
                    format!("{}: {}: {}, {}, driver {}", of.index, g.pci, of.name, size(of.memory), or(&n.driver))
                }
                None => format!("{}: {}:{}, driver {}", g.pci, g.vendor, g.device, or(&g.driver)),
            },
        );
    }
    for d in &m.disks {
        let model = d.model.as_ref().map_or(String::new(), |m| format!(" {m}"));
        line("disk", format!("{}: {}{model}", d.name, size(d.size)));
    }
}

/// Its kernel, container, limits, and what gonogo wanted to know and could not.
fn system(m: &Machine, line: &mut dyn FnMut(&str, String)) {
    line("kernel", format!("{} on {}", or(&m.kernel.release), or(&m.kernel.os)));
    if let Some(c) = &m.container {
        line("container", c.clone());
    }
    let limit = |v: Option<String>| {
        v.unwrap_or_else(|| if m.limits.known { "unlimited".to_owned() } else { "unknown".to_owned() })
    };
    line(
        "limits",
        format!(
            "memlock {}, nofile {}, stack {}",
            limit(m.limits.memlock.map(|b| b.to_string())),
            limit(m.limits.nofile.map(|n| n.to_string())),
            limit(m.limits.stack.map(|b| b.to_string()))
        ),
    );
    if let Some(c) = m.cgroup.cpus {
        line("cgroup", format!("{c:.2} CPUs"));
    }
    if let Some(b) = m.cgroup.memory {
        line("cgroup", format!("{b} memory"));
    }
    line("modules", if m.modules.is_empty() { "none of those that matter".to_owned() } else { m.modules.join(", ") });
    for x in &m.missing {
        line("missing", format!("{} ({})", x.path.display(), if x.denied { "permission denied" } else { "absent" }));
    }
}

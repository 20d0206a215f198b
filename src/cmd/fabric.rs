//! `gonogo discover fabric`: an InfiniBand fabric from the tools that read it, live or saved.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow};

use crate::cli::{self, Plain};
use crate::cmd::{Failure, shell};
use crate::exit::Exit;
use crate::files::{self, Readers};
use crate::id::clean;
use crate::judge::{self, Finding, Severity};
use crate::report;
use crate::topology::ib::{
    End, Fabric, Kind, MAX_CAPTURE, Subnet, TOOLS, Tool, ask, parse_netdiscover, parse_queryerrors,
};
use crate::unit::several;

/// A large fabric answers within seconds; one whose nodes are gone takes a second for each.
const PATIENCE: Duration = Duration::from_secs(180);

pub(super) fn run(args: cli::DiscoverFabric) -> Result<Exit, Failure> {
    let mut fabric = Fabric::default();
    let mut remarks: Vec<String> = Vec::new();
    if args.from.is_empty() {
        live(&mut fabric, args.save.as_deref(), &mut remarks)?;
    }
    for path in &args.from {
        for file in files(path)? {
            let text = read(&file)?;
            if !fabric.take(&file.display().to_string(), &text) {
                let why = format!("{}: {}", file.display(), not_read(&text));
                // In a folder other files may lie; a file that was named is meant.
                if path.is_file() {
                    return Err(Failure::usage(anyhow!("{why}")));
                }
                remarks.push(why);
            }
        }
    }
    if let Some(path) = &args.since {
        fabric.before = Some(expect_tool(path, Tool::Queryerrors, |t| parse_queryerrors(t).value)?);
    }
    if let Some(path) = &args.expect {
        let parsed = expect_tool(path, Tool::Netdiscover, parse_netdiscover)?;
        let name = path.display().to_string();
        fabric.skipped.extend(parsed.skipped.into_iter().map(|line| (name.clone(), line)));
        fabric.expected = Some(Subnet { source: name, ..parsed.value });
    }
    for (old, new) in &fabric.outdated {
        remarks.push(format!("{old}: not used, {new} is of the same fabric and was read later"));
    }
    let empty = fabric.subnet.as_ref().is_none_or(|s| s.nodes.is_empty());
    let others = [fabric.links.is_some(), fabric.errors.is_some(), fabric.sms.is_some(), fabric.adapters.is_some()];
    if empty && others == [false; 4] {
        let why = if remarks.is_empty() { "no node is described in it".to_owned() } else { remarks.join("; ") };
        return Err(Failure::usage(anyhow!("nothing of a fabric was read: {why}")));
    }
    let findings = judge::fabric::findings(&fabric);
    let worst = findings.iter().map(|f| f.severity).max();
    let text = match args.format {
        Plain::Json => {
            serde_json::to_string_pretty(&serde_json::json!({
                "summary": summary(&fabric), "findings": findings, "remarks": remarks,
            }))
            .map_err(Failure::internal)?
                + "\n"
        }
        Plain::Terminal => page(&fabric, &findings, &remarks),
    };
    shell::print(&text).map_err(Failure::internal)?;
    Ok(match worst {
        Some(Severity::Fail) => Exit::NoGo,
        Some(Severity::Hold) => Exit::Hold,
        _ => Exit::Go,
    })
}

/// Why a text was not read: tools that say less are named, with the one that says more.
fn not_read(text: &str) -> String {
    const OTHERS: &[(&str, &str, &str)] = &[
        ("Infiniband device '", "ibstatus", "ibstat"),
        ("PortInfo:", "ibportstate", "iblinkinfo"),
        ("# Port info:", "ibportstate", "iblinkinfo"),
        ("part number ", "ibswinfo", "ibnetdiscover or iblinkinfo"),
        ("hca_id:", "ibv_devinfo", "ibstat"),
    ];
    let has = |mark: &str| text.lines().any(|line| line.trim_start().starts_with(mark));
    match OTHERS.iter().find(|(mark, ..)| has(mark)) {
        Some((_, tool, better)) => format!("this is {tool}'s output, which is not read; give that of {better}"),
        None if text.trim().is_empty() => "it is empty".to_owned(),
        None => {
            "no output of ibnetdiscover, iblinkinfo, ibqueryerrors, perfquery, ibstat, sminfo or saquery".to_owned()
        }
    }
}

/// The file itself, or those in a folder in the order of their names.
fn files(path: &Path) -> Result<Vec<PathBuf>, Failure> {
    let what = || format!("cannot read {}", path.display());
    if !fs::metadata(path).with_context(what).map_err(Failure::usage)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let entries = fs::read_dir(path).with_context(what).map_err(Failure::usage)?;
    let mut out: Vec<PathBuf> = entries.flatten().map(|e| e.path()).filter(|p| p.is_file()).collect();
    out.sort();
    Ok(out)
}

/// A capture as text; what is no UTF-8 in it is replaced, for names in it are anybody's bytes.
fn read(path: &Path) -> Result<String, Failure> {
    let read = || -> anyhow::Result<String> {
        let bytes = files::read(files::open(path)?, MAX_CAPTURE)?;
        Ok(String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned()))
    };
    read().with_context(|| format!("cannot read {}", path.display())).map_err(Failure::usage)
}

fn expect_tool<T>(path: &Path, tool: Tool, parse: impl Fn(&str) -> T) -> Result<T, Failure> {
    let text = read(path)?;
    match Tool::of(&text) {
        Some(t) if t == tool => Ok(parse(&text)),
        other => Err(Failure::usage(anyhow!(
            "{} is {}, not {}",
            path.display(),
            other.map_or("of no tool that is known", name),
            name(tool)
        ))),
    }
}

const fn name(tool: Tool) -> &'static str {
    match tool {
        Tool::Netdiscover => "ibnetdiscover's output",
        Tool::Linkinfo => "iblinkinfo's output",
        Tool::Queryerrors => "ibqueryerrors' or perfquery's output",
        Tool::Ibstat => "ibstat's output",
        Tool::Sm => "sminfo's or saquery's output",
    }
}

/// Asks the fabric; keeps what each tool said in `save`.
fn live(fabric: &mut Fabric, save: Option<&Path>, remarks: &mut Vec<String>) -> Result<(), Failure> {
    if let Some(dir) = save {
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display())).map_err(Failure::usage)?;
    }
    for tool in TOOLS {
        match ask(tool, PATIENCE) {
            Ok(text) => {
                if let Some(dir) = save {
                    let path = dir.join(format!("{}.txt", tool[0]));
                    files::replace(&path, Readers::Others, |file| file.write_all(text.as_bytes()))
                        .with_context(|| format!("cannot write {}", path.display()))
                        .map_err(Failure::usage)?;
                }
                if !fabric.take(&tool.join(" "), &text) && !text.trim().is_empty() {
                    let first = text.lines().next().unwrap_or("").to_owned();
                    remarks.push(format!("{}: {}", tool.join(" "), clean(&first)));
                }
            }
            Err(why) => remarks.push(format!("{}: {why}", tool.join(" "))),
        }
    }
    // sminfo answers with an error where there is none: that is an answer, too.
    if fabric.sms.is_none() && fabric.subnet.as_ref().is_some_and(|s| !s.nodes.is_empty()) {
        fabric.sms = Some(Vec::new());
    }
    Ok(())
}

#[derive(serde::Serialize)]
struct Summary {
    switches: usize,
    leaves: usize,
    adapters: usize,
    hosts: usize,
    cables: usize,
    /// Each rate, with how many cables.
    rates: Vec<(String, usize)>,
    ports_down: usize,
    /// Adapters' ports that were listed with nothing at their other end.
    ports_open: usize,
    /// Ports that ibstat told of, by link layer and state, with how many.
    adapter_ports: Vec<(String, usize)>,
    manager: Option<String>,
}

fn summary(fabric: &Fabric) -> Summary {
    let joined = fabric.joined().unwrap_or_default();
    let subnet = joined.as_ref();
    let cables: Vec<_> = fabric.subnets().flat_map(|s| s.cables()).collect();
    let mut rates: std::collections::BTreeMap<String, usize> = Default::default();
    for c in &cables {
        *rates.entry(c.rate.to_string()).or_default() += 1;
    }
    let mut rates: Vec<(String, usize)> = rates.into_iter().collect();
    rates.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
    let of = |kind| subnet.nodes.values().filter(move |n| n.kind == kind);
    let hosts: std::collections::BTreeSet<&str> = of(Kind::Ca).filter_map(|n| n.host()).map(|(h, _)| h).collect();
    let master = fabric.sms.iter().flatten().find(|s| s.master || !s.is_told);
    let mut own: std::collections::BTreeMap<String, usize> = Default::default();
    for p in fabric.adapters.iter().flatten().flat_map(|a| &a.ports) {
        *own.entry(format!("{} {}", p.layer, p.state).trim().to_owned()).or_default() += 1;
    }
    let is_ca = |end: &&End| subnet.nodes.get(&end.guid).is_some_and(|n| n.kind == Kind::Ca && !n.is_aggregation());
    Summary {
        switches: of(Kind::Switch).count(),
        leaves: subnet.leaf_switches().len(),
        adapters: of(Kind::Ca).filter(|n| !n.is_aggregation()).count(),
        hosts: hosts.len(),
        cables: cables.len(),
        rates,
        ports_down: fabric.links.iter().flatten().filter(|l| l.state == "Down").count(),
        ports_open: subnet.open.iter().filter(is_ca).count(),
        adapter_ports: own.into_iter().collect(),
        manager: master.map(|m| format!("0x{:016x}", m.guid)),
    }
}

fn page(fabric: &Fabric, findings: &[Finding], remarks: &[String]) -> String {
    let s = summary(fabric);
    let rates: Vec<String> = s.rates.iter().take(6).map(|(r, n)| format!("{n} x {r}")).collect();
    let mut out = String::new();
    let mut line = |label: &str, text: String| out.push_str(&format!("{label:<10}{}\n", clean(&text)));
    if fabric.subnet.is_some() {
        let apart = if fabric.others.is_empty() {
            String::new()
        } else {
            format!(", in {} fabrics apart from each other", 1 + fabric.others.len())
        };
        line(
            "fabric",
            format!(
                "{} ({} with hosts), {} of {}, {}{apart}",
                if s.switches == 1 { "1 switch".to_owned() } else { format!("{} switches", s.switches) },
                s.leaves,
                several(s.adapters, "adapter"),
                several(s.hosts, "host"),
                several(s.cables, "cable")
            ),
        );
        line("links", rates.join(", "));
    }
    if let Some(links) = &fabric.links {
        line("ports", format!("{} listed, {} down", links.len(), s.ports_down));
    }
    if s.ports_open > 0 {
        line("ports", format!("{} of adapters with nothing at their other end", s.ports_open));
    }
    if let Some(adapters) = &fabric.adapters {
        let ports: Vec<String> = s.adapter_ports.iter().map(|(what, n)| format!("{n} x {what}")).collect();
        line("adapters", format!("{} read by ibstat: ports {}", adapters.len(), ports.join(", ")));
    }
    if let Some(errors) = &fabric.errors {
        line("counters", format!("of {}", several(errors.len(), "port")));
    }
    if fabric.sms.is_some() {
        line("manager", s.manager.clone().unwrap_or_else(|| "none".to_owned()));
    }
    for remark in remarks {
        line("remark", remark.clone());
    }
    out.push('\n');
    out.push_str(&report::findings(findings, shell::style()));
    let count = |severity| findings.iter().filter(|f| f.severity == severity).count();
    let (bad, warned) = (count(Severity::Fail), count(Severity::Warn));
    match findings.first() {
        None => out.push_str("nothing is wrong with what was read\n"),
        Some(_) if fabric.is_empty() && bad == 0 => {
            out.push_str("no port was read: nothing can be said of the fabric\n");
        }
        Some(f) => {
            let counts = [several(bad, "failure"), several(warned, "warning")].join(", ");
            out.push_str(&format!("{counts}\nnext      gonogo explain {}\n", f.code));
        }
    }
    out
}

//! Which network plugin was looked for, found, and refused (src/net.cc; since 2.26 src/plugin/net.cc and plugin_open.cc).
//!
//! Only the network's: CollNet, GIN, RMA, tuner, profiler and environment plugins are no networks, and most machines lack them.

use crate::topology::nccl::log::{Log, MOST, kept};
use crate::topology::nccl::way::{SOCKETS, VERBS};
use crate::topology::nccl::{Refusal, Refused};

/// What is known of the search so far.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Search {
    /// The library that was opened by the name that the user gave.
    opened: Option<String>,
    /// It has no interface of the newest versions; older ones may follow.
    lacking: bool,
}

/// What NCCL opens where nobody names a library.
const DEFAULT: &str = "libnccl-net.so";
const LACKING: &str = "it has no ncclNetPlugin symbol of a version that this NCCL knows";

/// True if the line is of a plugin.
pub fn line(log: &mut Log, message: &str) -> bool {
    if let Some(body) = message.strip_prefix("NET/Plugin") {
        of_search(log, body.trim_start_matches([' ', ':']));
    } else if let Some(name) = message
        .strip_prefix("Successfully loaded external network plugin ")
        .or_else(|| message.strip_prefix("Successfully loaded external plugin "))
    {
        loaded(log, name);
    } else if let Some(rest) = message.strip_prefix("External network plugin ") {
        let Some(name) = rest.strip_suffix(" is unsupported") else { return true };
        refuse(log, Some(name), Refusal::Unsupported, LACKING);
    } else if let Some(name) = message.strip_prefix("Failed to initialize NET plugin ") {
        // Its own networks are tried one after another, too: no verbs, then sockets.
        if name != VERBS && name != SOCKETS {
            refuse(log, Some(name), Refusal::NotInitialised, "its initialisation failed, or it found no device");
        }
    } else if let Some(name) = message.strip_prefix("Plugin name set by env to ") {
        // Up to 2.20, before anything is opened: `libnccl-net-NAME.so`.
        log.plugin.opened = Some(kept(name));
    } else {
        return message.contains("/Plugin: ") || message.contains("/Plugin : ");
    }
    true
}

/// What follows `NET/Plugin: `.
fn of_search(log: &mut Log, body: &str) {
    if let Some(name) = body.strip_prefix("Loaded net plugin ") {
        loaded(log, name);
    } else if let Some(name) = body.strip_prefix("Plugin name set by env to ") {
        log.plugin.opened = Some(kept(name));
    } else if body.starts_with("Failed to find ncclNetPlugin") {
        log.plugin.lacking = true;
    } else if let Some(names) = body.strip_prefix("Could not find:") {
        // `a libnccl-net-a.so. Using internal network plugin.`
        for name in names.split_whitespace() {
            missing(log, name.trim_end_matches('.'));
            if name.ends_with('.') {
                break;
            }
        }
    } else if let Some((before, rest)) = body.split_once("No plugin found (") {
        // 2.19 to 2.21, the former two with the reason before it.
        let Some((name, _)) = rest.split_once(')') else { return };
        opening(log, name, before.trim().strip_prefix("dlerror=").unwrap_or(""));
    } else if let Some(rest) = body.strip_prefix("Plugin load (") {
        // 2.18: `Plugin load (libnccl-net.so) returned 2 : libnccl-net.so: cannot open shared object file: ..`
        let Some((name, why)) = rest.split_once(") returned ") else { return };
        opening(log, name, why.split_once(" : ").map_or("", |(_, w)| w));
    } else if let Some((_, why)) = body.split_once("lugin load returned ") {
        // 2.21: `Plugin load returned 0 : WHY when loading NAME`, `Most recent plugin load returned 0 : WHY. All attempts ..`
        let why = why.split_once(" : ").map_or("", |(_, w)| w);
        let (why, name) = why.split_once(" when loading ").unwrap_or((why, ""));
        let why = why.split(". All attempts").next().unwrap_or(why).trim_end_matches([' ', ':']);
        opening(log, name, why);
    } else if let Some((library, why)) = body.split_once(": ").filter(|(l, _)| is_library(l)) {
        // Since 2.28 `libnccl-net.so: WHY`, where the reason may begin with another library; before that the reason alone.
        let own = why.split_once(": ").is_some_and(|(l, _)| is_library(l)) || library.contains("nccl-net");
        let (name, why) = if own { (Some(library), why) } else { (None, body) };
        refuse(log, name, Refusal::NotOpened, why);
    }
}

fn is_library(word: &str) -> bool {
    !word.contains(' ') && (word.starts_with('/') || word.contains(".so"))
}

/// A library that could not be opened: because it is not there, or because it cannot be used.
fn opening(log: &mut Log, name: &str, why: &str) {
    // As NCCL tells them apart: what is missing may be a library that the plugin needs.
    let absent = why.is_empty() || why.contains("No such file or directory") && (name.is_empty() || why.contains(name));
    if absent {
        missing(log, name);
    } else {
        refuse(log, Some(name), Refusal::NotOpened, why);
    }
}

fn missing(log: &mut Log, name: &str) {
    record(log, name, false);
}

/// `Libfabric (v9)`, `AWS Libfabric (v8)`, `/opt/lib/libnccl-net.so`
fn loaded(log: &mut Log, name: &str) {
    let name = name.rsplit_once(" (v").filter(|(_, v)| v.ends_with(')')).map_or(name, |(n, _)| n);
    log.plugin.lacking = false;
    record(log, name, true);
}

fn record(log: &mut Log, name: &str, loaded: bool) {
    let name = kept(name);
    if name.is_empty() {
        return;
    }
    if let Some(known) = log.plugins.iter_mut().find(|(n, _)| *n == name) {
        known.1 |= loaded;
    } else if log.plugins.len() < MOST {
        log.plugins.push((name, loaded));
    }
}

fn refuse(log: &mut Log, name: Option<&str>, how: Refusal, why: &str) {
    let name = name.map(kept).filter(|n| !n.is_empty()).or_else(|| log.plugin.opened.clone());
    let name = name.unwrap_or_else(|| DEFAULT.to_owned());
    log.plugin.lacking = false;
    let refused = Refused { name, how, why: kept(why) };
    if log.refused.len() < MOST && !log.refused.contains(&refused) {
        log.refused.push(refused);
    }
}

/// Older versions say nothing after the last interface that they looked for in vain.
pub fn finish(log: &mut Log) {
    if log.plugin.lacking {
        refuse(log, None, Refusal::Unsupported, LACKING);
    }
}

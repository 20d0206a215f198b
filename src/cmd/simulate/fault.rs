//! Faults as they are typed.

use crate::cmd::simulate::setting::Setting;
use crate::id;
use crate::schedule::{Fault, Faulty};

/// `node:7`, `sends:7=0.9`, `flapping:7`, `leaf:2`, `pair:3-9`, `scale:7@64`, `gpu:7:3`, `slot:3~0.5`; `?` picks one by the seed.
/// `known` are the faults before it: a node that is picked hangs at no leaf that is slow, and is slow once.
pub fn read(text: &str, s: &Setting, known: &[Fault], rng: &mut fastrand::Rng) -> Result<Fault, String> {
    let bad = || {
        format!(
            "`{}` is not a fault; they look like node:7, sends:7, receives:7, cpu:7, flapping:7, leaf:2, pair:3-9, scale:7@64, gpu:7:3 or slot:3 (with gpus), node:? picks one, and node:7=0.9~0.5 leaves 90 % in half of the tests",
            id::clean(text)
        )
    };
    let share = |t: &str| t.parse::<f64>().ok().filter(|v| (0.0..=1.0).contains(v)).ok_or_else(bad);
    let (rest, duty) = match text.split_once('~') {
        Some((rest, duty)) => (rest, Some(share(duty)?)),
        None => (text, None),
    };
    let (rest, left) = match rest.split_once('=') {
        Some((rest, left)) => (rest, share(left)?),
        None => (rest, s.severity),
    };
    let (kind, who) = rest.split_once(':').ok_or_else(bad)?;
    let per_leaf = s.per_leaf.max(1);
    let free = |n: &u32| {
        !known.iter().any(|f| match f.part {
            Faulty::Leaf(l) => n / per_leaf == l,
            Faulty::Node(x) | Faulty::Sends(x) | Faulty::Receives(x) => x == *n,
            _ => false,
        })
    };
    let mut number = |t: &str, most: u32| match t {
        "?" if most > 0 => Ok(rng.u32(0..most)),
        t => t.parse::<u32>().ok().filter(|n| *n < most).ok_or_else(bad),
    };
    let mut node = |t: &str| match t {
        "?" => (0..64).map(|_| number("?", s.nodes)).find(|n| n.as_ref().is_ok_and(free)).unwrap_or_else(|| Err(bad())),
        t => number(t, s.nodes),
    };
    let part = match kind {
        "node" | "flapping" => Faulty::Node(node(who)?),
        "sends" => Faulty::Sends(node(who)?),
        "receives" => Faulty::Receives(node(who)?),
        "cpu" => Faulty::Computes(node(who)?),
        "leaf" => Faulty::Leaf(number(who, s.nodes.div_ceil(per_leaf))?),
        "pair" if who == "?" => Faulty::MeasuredPair,
        "pair" => {
            let (a, b) = who.split_once('-').ok_or_else(bad)?;
            Faulty::Pair(node(a)?, node(b)?)
        }
        "scale" => {
            let (n, from) = who.split_once('@').ok_or_else(bad)?;
            Faulty::Scale(node(n)?, from.parse().map_err(|_| bad())?)
        }
        "gpu" => {
            let (n, slot) = who.split_once(':').ok_or_else(bad)?;
            Faulty::Gpu(node(n)?, number(slot, s.gpus)?)
        }
        "slot" => Faulty::Slot(number(who, s.gpus)?),
        _ => return Err(bad()),
    };
    let always = if kind == "flapping" { 0.5 } else { 1.0 };
    Ok(Fault { part, left, duty: duty.unwrap_or(always) })
}

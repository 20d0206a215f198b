//! The words of a case, read back. A record keeps the words; this is the one place that takes them apart.
//!
//! What is not exactly what `Display` writes stays what it is, as [`Case::Other`]: nothing is lost, and nothing is taken for
//! something else.

use crate::unit::Bytes;
use crate::work::case::{
    Carrier, Case, CheckpointOp, Collective, CollectiveCase, CopyKind, Dtype, Fact, GpuKernel, HostTest, LinkCase,
    LinkTest, Load, Memory, Name, RdmaOp, Scope, Software, StepPart, StorageOp, Topology, Way, When,
};

impl Case {
    /// The case that these words are of.
    pub fn read(words: &str) -> Case {
        let known = Fact::named(words)
            .map(Case::Fact)
            .or_else(|| StorageOp::named(words).map(Case::Storage))
            .or_else(|| Software::named(words).map(Case::Software))
            .or_else(|| loopback(words))
            .or_else(|| link(words))
            .or_else(|| collective(words))
            .or_else(|| communicator(words))
            .or_else(|| checkpoint(words))
            .or_else(|| rehearsal(words))
            .or_else(|| host(words))
            .or_else(|| of_gpu(words))
            .or_else(|| fabric(words));
        known.unwrap_or_else(|| Case::Other(words.into()))
    }
}

/// A whole number as it is written: no sign, no leading zero.
fn number(word: &str) -> Option<u32> {
    let plain = word.bytes().all(|b| b.is_ascii_digit()) && (word.len() == 1 || !word.starts_with('0'));
    word.parse().ok().filter(|_| plain)
}

/// What follows a word: nothing, or a space and more.
fn after(rest: &str) -> Option<&str> {
    if rest.is_empty() { Some(rest) } else { rest.strip_prefix(' ').filter(|more| !more.is_empty()) }
}

/// `64 KiB` at the front; what follows it.
fn bytes(words: &str) -> Option<(Bytes, &str)> {
    let mut parts = words.splitn(3, ' ');
    let (count, unit) = (parts.next()?, parts.next()?);
    let end = count.len() + 1 + unit.len();
    let bytes: Bytes = words[..end].parse().ok()?;
    // Written back it must be the same: sizes are rounded when they are shown.
    let same = bytes.to_string() == words[..end];
    Some((bytes, after(&words[end..])?)).filter(|_| same)
}

/// `n=8 ` at the front.
fn ranks(words: &str) -> Option<(u32, &str)> {
    let words = words.strip_prefix("n=")?;
    let end = words.find(' ').unwrap_or(words.len());
    Some((number(&words[..end])?, after(&words[end..])?))
}

/// A name at the front of what is left, followed by a space or by the end.
fn named<'w, T: Copy>(words: &'w str, all: &[T], name: fn(T) -> &'static str) -> Option<(T, &'w str)> {
    all.iter().find_map(|v| Some((*v, after(words.strip_prefix(name(*v))?)?)))
}

/// ` gpu3` at the end.
fn gpu(words: &str) -> Option<(&str, u32)> {
    let (rest, gpu) = words.rsplit_once(' ')?;
    Some((rest, number(gpu.strip_prefix("gpu")?)?))
}

/// ` 2 cores` at the end.
fn cores(words: &str) -> Option<(&str, u32)> {
    let (rest, unit) = words.rsplit_once(' ')?;
    let (rest, count) = rest.rsplit_once(' ')?;
    let n = number(count)?;
    (unit == if n == 1 { "core" } else { "cores" }).then_some((rest, n))
}

/// A name of one word.
fn word(text: &str) -> Option<Name> {
    (!text.is_empty() && !text.contains(char::is_whitespace)).then(|| Name::from(text))
}

fn fabric(words: &str) -> Option<Case> {
    let (tool, when) = words.rsplit_once(' ')?;
    Some(Case::Fabric { tool: tool.into(), when: When::named(when)? })
}

/// What cores do.
fn host(words: &str) -> Option<Case> {
    let (test, cores) = cores(words)?;
    Some(Case::Host { test: HostTest::named(test)?, cores })
}

/// What one GPU does.
fn of_gpu(words: &str) -> Option<Case> {
    let (test, gpu) = gpu(words)?;
    if let Some(kernel) = GpuKernel::named(test) {
        return Some(Case::GpuMemory { kernel, gpu });
    }
    if let Some(kind) = CopyKind::named(test) {
        return Some(Case::Copy { kind, gpu });
    }
    let (dtype, rest) = named(test, Dtype::ALL, Dtype::name)?;
    let (m, load) = rest.split_once(' ')?;
    Some(Case::GpuGemm { dtype, m: number(m)?, load: Load::named(load)?, gpu })
}

fn checkpoint(words: &str) -> Option<Case> {
    let (op, rest) = named(words, CheckpointOp::ALL, CheckpointOp::name)?;
    ranks(rest).filter(|(_, rest)| rest.is_empty()).map(|(nodes, _)| Case::Checkpoint { op, nodes })
}

fn rehearsal(words: &str) -> Option<Case> {
    let (part, rest) = named(words, StepPart::ALL, StepPart::name)?;
    let (ranks, rest) = ranks(rest)?;
    matches!(rest, "" | "GPUs").then_some(Case::Rehearsal { part, ranks, gpus: !rest.is_empty() })
}

/// TCP within a node.
fn loopback(words: &str) -> Option<Case> {
    let rest = words.strip_prefix("loopback ")?;
    if let Some(size) = rest.strip_prefix("ping ") {
        return bytes(size).filter(|(_, rest)| rest.is_empty()).map(|(bytes, _)| Case::Ping(bytes));
    }
    let (count, unit) = rest.split_once(' ')?;
    let n = number(count)?;
    (unit == if n == 1 { "stream" } else { "streams" }).then_some(Case::Streams(n))
}

fn link(words: &str) -> Option<Case> {
    let (scope, rest) = named(words, Scope::ALL, Scope::name)?;
    let (memory, rest) = rest.strip_prefix("gpu ").map_or((Memory::Host, rest), |rest| (Memory::Gpu, rest));
    let (test, rest) = if let Some((way, rest)) = named(rest, Way::ALL, Way::name) {
        (LinkTest::Flow { way, memory }, rest)
    } else if let Some((op, rest)) = named(rest, RdmaOp::ALL, RdmaOp::name) {
        verbs(op, memory, rest)?
    } else {
        let rest = rest.strip_prefix("ping").filter(|_| memory == Memory::Host)?;
        (LinkTest::Ping, after(rest)?)
    };
    let over = if rest.is_empty() { None } else { Some(word(rest)?) };
    Some(Case::Link(LinkCase { scope, test, over }))
}

/// `64 KiB 4 QPs`, `latency 2 B`.
fn verbs(op: RdmaOp, memory: Memory, words: &str) -> Option<(LinkTest, &str)> {
    if let Some(size) = words.strip_prefix("latency ") {
        let (bytes, rest) = bytes(size).filter(|_| memory == Memory::Host)?;
        return Some((LinkTest::VerbsLatency { op, bytes }, rest));
    }
    let (bytes, rest) = bytes(words)?;
    let several = rest
        .split_once(' ')
        .and_then(|(n, rest)| Some((number(n).filter(|n| *n > 1)?, after(rest.strip_prefix("QPs")?)?)));
    let (queue_pairs, rest) = several.unwrap_or((1, rest));
    Some((LinkTest::Verbs { op, bytes, queue_pairs, memory }, rest))
}

fn collective(words: &str) -> Option<Case> {
    let (op, rest) = named(words, Collective::ALL, Collective::name)?;
    let (nccl, rest) = rest.strip_prefix("nccl ").map_or((false, rest), |rest| (true, rest));
    let (topology, rest) = named(rest, Topology::ALL, Topology::name)?;
    // `rail eth1 n=8 64 MiB`
    let (interface, rest) = match ranks(rest) {
        Some(_) => (None, rest),
        None => rest.split_once(' ').and_then(|(name, rest)| Some((Some(word(name)?), rest)))?,
    };
    let (ranks, rest) = ranks(rest)?;
    let (bytes, rest) = bytes(rest)?;
    let (in_place, rest) = match rest.strip_prefix("in place") {
        Some(rest) => (true, after(rest)?),
        None => (false, rest),
    };
    let (carrier, gpu) = match (nccl, interface, rest) {
        (true, None, "") => (Carrier::Nccl, None),
        (true, None, rest) => (Carrier::Nccl, Some(number(rest.strip_prefix("gpu")?)?)),
        (false, Some(name), "") => (Carrier::Interface(name), None),
        (false, None, "") => (Carrier::Tcp, None),
        (false, None, device) => (Carrier::Rdma(word(device)?), None),
        _ => return None,
    };
    Some(Case::Collective(CollectiveCase { op, topology, carrier, ranks, bytes, in_place, gpu }))
}

fn communicator(words: &str) -> Option<Case> {
    let of = |what: &str| {
        let rest = words.strip_prefix(what)?.strip_prefix(" nccl ")?;
        let (topology, rest) = named(rest, Topology::ALL, Topology::name)?;
        ranks(rest).filter(|(_, rest)| rest.is_empty()).map(|(ranks, _)| (topology, ranks))
    };
    let start = of("start").map(|(topology, ranks)| Case::Start { topology, ranks });
    start.or_else(|| of("channels").map(|(topology, ranks)| Case::Channels { topology, ranks }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_of<T: Copy + std::fmt::Debug + 'static>(all: &'static [T]) -> impl Strategy<Value = T> {
        proptest::sample::select(all)
    }

    fn name() -> impl Strategy<Value = Name> {
        "[a-z][a-z0-9_.:-]{0,14}".prop_map(Name::from)
    }

    /// Sizes that are shown as they are.
    fn size() -> impl Strategy<Value = Bytes> {
        prop_oneof![(1u64..1024).prop_map(Bytes), (0u32..40).prop_map(|n| Bytes(1 << n))]
    }

    fn link_test() -> impl Strategy<Value = LinkTest> {
        let memory = || any_of(&[Memory::Host, Memory::Gpu]);
        prop_oneof![
            (any_of(Way::ALL), memory()).prop_map(|(way, memory)| LinkTest::Flow { way, memory }),
            Just(LinkTest::Ping),
            (any_of(RdmaOp::ALL), size(), 1u32..9, memory())
                .prop_map(|(op, bytes, queue_pairs, memory)| LinkTest::Verbs { op, bytes, queue_pairs, memory }),
            (any_of(RdmaOp::ALL), size()).prop_map(|(op, bytes)| LinkTest::VerbsLatency { op, bytes }),
        ]
    }

    fn collective_case() -> impl Strategy<Value = Case> {
        let carrier = prop_oneof![
            Just((Carrier::Tcp, None)),
            name().prop_map(|n| (Carrier::Interface(n), None)),
            name().prop_map(|n| (Carrier::Rdma(n), None)),
            proptest::option::of(0u32..16).prop_map(|gpu| (Carrier::Nccl, gpu)),
        ];
        (any_of(Collective::ALL), any_of(Topology::ALL), carrier, 1u32..5000, size(), any::<bool>()).prop_map(
            |(op, topology, (carrier, gpu), ranks, bytes, in_place)| {
                Case::Collective(CollectiveCase { op, topology, carrier, ranks, bytes, in_place, gpu })
            },
        )
    }

    fn case() -> impl Strategy<Value = Case> {
        let gpu = (any_of(Dtype::ALL), 1u32..70_000, any_of(Load::ALL), 0u32..16);
        prop_oneof![
            any_of(Fact::ALL).prop_map(Case::Fact),
            any_of(Software::ALL).prop_map(Case::Software),
            any_of(StorageOp::ALL).prop_map(Case::Storage),
            (any_of(CheckpointOp::ALL), 1u32..5000).prop_map(|(op, nodes)| Case::Checkpoint { op, nodes }),
            (any_of(StepPart::ALL), 1u32..70_000, any::<bool>()).prop_map(|(part, ranks, gpus)| Case::Rehearsal {
                part,
                ranks,
                gpus
            }),
            (name(), any_of(When::ALL)).prop_map(|(tool, when)| Case::Fabric { tool, when }),
            (any_of(HostTest::ALL), 1u32..300).prop_map(|(test, cores)| Case::Host { test, cores }),
            gpu.prop_map(|(dtype, m, load, gpu)| Case::GpuGemm { dtype, m, load, gpu }),
            (any_of(GpuKernel::ALL), 0u32..16).prop_map(|(kernel, gpu)| Case::GpuMemory { kernel, gpu }),
            (any_of(CopyKind::ALL), 0u32..16).prop_map(|(kind, gpu)| Case::Copy { kind, gpu }),
            (1u32..64).prop_map(Case::Streams),
            size().prop_map(Case::Ping),
            (any_of(Scope::ALL), link_test(), proptest::option::of(name()))
                .prop_map(|(scope, test, over)| Case::Link(LinkCase { scope, test, over })),
            collective_case(),
            (any_of(Topology::ALL), 1u32..5000).prop_map(|(topology, ranks)| Case::Start { topology, ranks }),
            (any_of(Topology::ALL), 1u32..5000).prop_map(|(topology, ranks)| Case::Channels { topology, ranks }),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]
        #[test]
        fn a_case_is_read_as_it_was_shown(case in case()) {
            let words = case.words().to_string();
            prop_assert_eq!(Case::read(&words), case);
        }

        /// Whatever the words are, none is lost.
        #[test]
        fn words_are_kept(words in "((all-reduce|pair|loopback|start|channels|nccl|gpu|out|back|both ways|all rails|write|latency|QPs|n=0?8|64 KiB|64.0 KiB|065 B|core|cores|1|02|4|streams|ping|f32|device read|gpu3|gpu03|in place|rail|world|mlx5_0|before|step|compute|GPUs|\\PC{0,3}) ?){0,8}") {
            prop_assert_eq!(Case::read(&words).words().to_string(), words);
        }
    }

    #[test]
    fn words_of_records_are_read() {
        let other = |words: &str| matches!(Case::read(words), Case::Other(_));
        for known in [
            "machine",
            "gpus at the end",
            "ibqueryerrors --data before",
            "f32 1 core",
            "bf16 8192 sustained gpu3",
            "device read gpu0",
            "driver copy gpu7",
            "pattern gpu0",
            "h2d alone gpu1",
            "both ways gpu0",
            "peer gpu2",
            "loopback 4 streams",
            "loopback ping 4 KiB",
            "pair out",
            "pair both ways eth1",
            "pair ping",
            "pair write 64 KiB 4 QPs mlx5_0",
            "pair read latency 2 B mlx5_0",
            "loopback gpu write 64 KiB mlx5_2",
            "pair gpu back mlx5_0",
            "all rails out mlx5_1",
            "all-reduce node n=2 64 MiB",
            "all-reduce world n=8 16 MiB mlx5_0",
            "all-reduce rail eth1 n=8 64 MiB",
            "all-reduce nccl rail n=4 8 B gpu3",
            "all-reduce nccl node n=8 1 GiB in place",
            "start nccl node n=8",
            "channels nccl world n=64",
            "capacity",
            "write",
            "rename",
            "save n=8",
            "providers",
        ] {
            assert!(!other(known), "{known}");
        }
        for unknown in
            ["", "f32 1 cores", "f32 01 core", "bf16 8192 burst", "loopback 1 streams", "pair", "all-reduce n=2 x y"]
        {
            assert!(other(unknown), "{unknown}: {:?}", Case::read(unknown));
        }
        let Case::Link(pair) = Case::read("pair out nccl") else { panic!("no link") };
        assert_eq!(pair, LinkCase::pair(Way::Out, Some("nccl")));
    }
}

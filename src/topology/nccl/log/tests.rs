use super::*;
use crate::topology::{Class, P2p, Refusal};

const TWO_NODES: &str = include_str!("../../../../tests/fixtures/nccl/two-nodes.log");

/// Whole logs of rank 0, by version and machine; tests/fixtures/nccl/README.md says what they follow.
const LOGS: &[(&str, &str)] = &[
    ("2.18-node-nvls", include_str!("../../../../tests/fixtures/nccl/2.18-node-nvls.log")),
    ("2.18-two-nodes-gdr", include_str!("../../../../tests/fixtures/nccl/2.18-two-nodes-gdr.log")),
    ("2.22-node-nvls", include_str!("../../../../tests/fixtures/nccl/2.22-node-nvls.log")),
    ("2.22-two-nodes-far", include_str!("../../../../tests/fixtures/nccl/2.22-two-nodes-far.log")),
    ("2.27-node-nvls", include_str!("../../../../tests/fixtures/nccl/2.27-node-nvls.log")),
    ("2.27-node-nvls-not-bound", include_str!("../../../../tests/fixtures/nccl/2.27-node-nvls-not-bound.log")),
    ("2.27-two-nodes-gdr", include_str!("../../../../tests/fixtures/nccl/2.27-two-nodes-gdr.log")),
    (
        "2.27-two-nodes-plugin-refused",
        include_str!("../../../../tests/fixtures/nccl/2.27-two-nodes-plugin-refused.log"),
    ),
    ("2.30-node-two-communicators", include_str!("../../../../tests/fixtures/nccl/2.30-node-two-communicators.log")),
    ("2.30-two-nodes-efa", include_str!("../../../../tests/fixtures/nccl/2.30-two-nodes-efa.log")),
    ("2.30-two-nodes-sockets", include_str!("../../../../tests/fixtures/nccl/2.30-two-nodes-sockets.log")),
];

fn text(name: &str) -> &'static str {
    LOGS.iter().find(|(n, _)| *n == name).map(|(_, t)| *t).unwrap()
}

fn ways(log: &Log) -> Vec<(String, u32)> {
    log.transports.iter().map(|(w, n)| (w.to_string(), *n)).collect()
}

fn class(log: &Log) -> Class {
    Class::of(log.transports.keys(), log.nvls)
}

/// What stood in the log when the communicator was made, before the first collective.
fn at_init(text: &str) -> &str {
    let end = text.find("Init COMPLETE").unwrap();
    &text[..end]
}

#[test]
fn every_version_is_understood() {
    type Row<'a> = (&'a str, &'a str, Class, Option<bool>, Option<u32>, &'a [(&'a str, u32)]);
    let rows: &[Row<'_>] = &[
        ("2.18-node-nvls", "IB", Class::Nvls, Some(true), Some(24), &[("P2P/IPC", 24), ("NVLS", 16)]),
        (
            "2.18-two-nodes-gdr",
            "IB",
            Class::NetDirect,
            Some(false),
            Some(8),
            &[("P2P/IPC", 14), ("NET/IB/0/GDRDMA", 2)],
        ),
        ("2.22-node-nvls", "IB", Class::Nvls, Some(true), Some(24), &[("P2P/CUMEM", 24), ("NVLS", 16)]),
        ("2.22-two-nodes-far", "IB", Class::Net, None, Some(2), &[("SHM/direct/direct", 2), ("NET/IB/0", 2)]),
        ("2.27-node-nvls", "IB", Class::Nvls, Some(true), Some(24), &[("P2P/CUMEM", 24), ("NVLS", 16)]),
        ("2.27-node-nvls-not-bound", "IB", Class::Peer, Some(false), Some(24), &[("P2P/CUMEM", 24)]),
        (
            "2.27-two-nodes-gdr",
            "IB",
            Class::NetDirect,
            Some(true),
            Some(16),
            &[("P2P/CUMEM", 30), ("NET/IB/0/GDRDMA", 10), ("NET/IB/7/GDRDMA", 2), ("NVLS", 16)],
        ),
        (
            "2.27-two-nodes-plugin-refused",
            "Socket",
            Class::Socket,
            None,
            Some(2),
            &[("P2P/CUMEM", 2), ("NET/Socket/0", 1), ("NET/Socket/1", 1)],
        ),
        (
            "2.30-two-nodes-efa",
            "AWS Libfabric",
            Class::NetDirect,
            Some(true),
            Some(8),
            &[("P2P/CUMEM", 8), ("NET/AWS Libfabric/0/GDRDMA", 4), ("NET/AWS Libfabric/1/GDRDMA", 4)],
        ),
        ("2.30-two-nodes-sockets", "Socket", Class::Socket, None, Some(2), &[("NET/Socket/0", 2)]),
    ];
    for (name, network, of, nvls, channels, expected) in rows {
        let log = parse_log(text(name));
        assert_eq!(log.network.as_deref(), Some(*network), "{name}");
        assert_eq!((class(&log), log.nvls, log.channels), (*of, *nvls, *channels), "{name}");
        let expected: Vec<(String, u32)> = expected.iter().map(|(w, n)| ((*w).to_owned(), *n)).collect();
        assert_eq!(ways(&log), expected, "{name}");
        assert!(log.ring.len() > 1 && log.ring[0] == 0, "{name}: {:?}", log.ring);
        assert!(log.predictions.iter().any(|p| p.operation == "AllReduce" && p.algorithm == "Ring"), "{name}");
        assert_eq!(log.collnet, None, "{name}: channels of collectives are not CollNet");
    }
}

/// Since 2.22 the ways are told at the first collective, and what was told before it stays.
#[test]
fn ways_come_with_the_first_collective_since_2_22() {
    for (name, whole) in LOGS.iter().filter(|(n, _)| !n.contains("two-communicators")) {
        let (before, after) = (parse_log(at_init(whole)), parse_log(whole));
        assert_eq!(before.transports.is_empty(), !name.starts_with("2.18"), "{name}");
        assert!(!after.transports.is_empty(), "{name}");
        assert_eq!(
            (&before.network, &before.ring, &before.devices),
            (&after.network, &after.ring, &after.devices),
            "{name}"
        );
        assert_eq!(before.predictions, after.predictions, "{name}");
    }
}

#[test]
fn a_second_communicator_is_read_on_its_own_and_keeps_what_is_said_once() {
    let whole = text("2.30-node-two-communicators");
    // The second begins where the first was destroyed.
    let began = whole.find("Destroy COMPLETE\n").map(|at| at + "Destroy COMPLETE\n".len()).unwrap();
    let first = parse_log(&whole[..began]);
    let second = first.after(&whole[began..]);
    assert_eq!((first.ring.len(), ways(&first)), (2, vec![("P2P/CUMEM".to_owned(), 24)]));
    assert_eq!(second.ring.len(), 8);
    assert_eq!(ways(&second), [("P2P/CUMEM".to_owned(), 24), ("NVLS".to_owned(), 16)]);
    assert!(first.chosen("AllReduce", 256 << 20).is_some() && second.chosen("AllReduce", 256 << 20).is_none());
    let (choice, seconds) = second.chosen("AllReduce", 1 << 30).unwrap();
    assert_eq!((choice.algorithm.as_str(), choice.protocol.as_str()), ("NVLS", "SIMPLE"));
    assert!(seconds.is_some_and(|s| (s / (24e-6 + f64::from(1 << 30) / 248e9) - 1.0).abs() < 1e-9));
    // Said once, in the first's part only.
    assert_eq!((second.devices.len(), &second.devices), (8, &first.devices));
    assert_eq!(second.plugins, [("libnccl-net.so".to_owned(), false)]);
    assert_eq!(second.network.as_deref(), Some("IB"));
    // And nothing of it has to be logged again at all.
    let silent = first.after("");
    assert_eq!((&silent.network, &silent.devices, &silent.settings), (&first.network, &first.devices, &first.settings));
    assert!(silent.transports.is_empty() && silent.ring.is_empty() && silent.choices.is_empty());
    assert!(silent.predictions.is_empty() && silent.channels.is_none());
    // Reading more of the same communicator is reading its whole text again.
    let part = first.after(at_init(&whole[began..]));
    assert!(part.transports.is_empty() && part.ring == second.ring);
}

#[test]
fn distances_are_told_where_they_matter() {
    let far = |text: &str| -> Vec<String> {
        let of = |f: &Far| format!("{} {} {} > {}", f.gpu, f.device, f.distance, f.allowed);
        parse_log(text).far.iter().map(of).collect()
    };
    assert_eq!(far(text("2.22-two-nodes-far")), ["31000 mlx5_0 6 > 4"]);
    assert!(LOGS.iter().filter(|(n, _)| !n.contains("far")).all(|(_, t)| far(t).is_empty()));
    let log_of = |lines: &[&str]| -> String { lines.iter().map(|l| format!("h:1:1 [0] NCCL INFO {l}\n")).collect() };
    // Each near to its own, and far from the other's: as it should be.
    let pairs = log_of(&[
        "GPU Direct RDMA Enabled for GPU 31000 / HCA 0 (distance 4 <= 4), read 0",
        "GPU Direct RDMA Disabled for GPU 31000 / HCA 1 (distance 7 > 4)",
        "GPU Direct RDMA Disabled for GPU ca000 / HCA 0 (distance 7 > 4)",
        "GPU Direct RDMA Enabled for GPU ca000 / HCA 1 (distance 4 <= 4), read 0",
    ]);
    assert_eq!(far(&pairs), [""; 0]);
    // Unless it sends through the other's.
    let sends = format!("{pairs}{}", log_of(&["Channel 00/0 : 0[0] -> 2[0] [send] via NET/IB/1"]));
    assert_eq!(far(&sends), ["31000 1 7 > 4"]);
    // 2.24 counts GPUs by rank, and devices with their host; 2.29 has words of its own.
    let newer = log_of(&[
        "NET/IB : GPU Direct RDMA Enabled for HCA 2 'mlx5_4'",
        "GPU Direct RDMA Disabled for GPU 3 / HCA 100000000000002 (distance 9 > 5)",
        "GPU Direct RDMA Disabled for GPU/0-827392 (rank 5) - NET/0-2 (distance 8 > 5)",
        "GPU Direct RDMA Enabled for GPU/0-4096 (rank 6) - NET/0-2 ( using PXN via GPU/0-8192, distance 5 <= 5, read 1, mode Default)",
        "GPU Direct RDMA Disabled for GPU 7 / HCA 2 (distance",
    ]);
    assert_eq!(far(&newer), ["3 mlx5_4 9 > 5", "5 mlx5_4 8 > 5"]);
}

#[test]
fn network_plugins_are_told_from_others_and_the_found_from_the_missing() {
    let of = |lines: &[&str]| {
        let text: String = lines.iter().map(|l| format!("h:1:1 [0] NCCL INFO {l}\n")).collect();
        let log = parse_log(&text);
        let refused: Vec<(String, Refusal)> = log.refused.iter().map(|r| (r.name.clone(), r.how)).collect();
        (log.plugins, refused)
    };
    let loaded = |name: &str| (name.to_owned(), true);
    let missing = |name: &str| (name.to_owned(), false);
    let refused = |name: &str, how| vec![(name.to_owned(), how)];
    // Older interfaces are looked for one after another: the last that is found counts.
    let older = [
        "NET/Plugin: Failed to find ncclNetPlugin_v8 symbol.",
        "NET/Plugin: Loaded net plugin NCCL RDMA Plugin v7 (v7)",
    ];
    assert_eq!(of(&older), (vec![loaded("NCCL RDMA Plugin v7")], vec![]));
    let unsupported =
        ["NET/Plugin: Failed to find ncclNetPlugin_v7 symbol.", "NET/Plugin: Failed to find ncclNetPlugin_v6 symbol."];
    assert_eq!(of(&unsupported).1, refused("libnccl-net.so", Refusal::Unsupported));
    let named = ["External network plugin /opt/lib/libnccl-net.so is unsupported"];
    assert_eq!(of(&named).1, refused("/opt/lib/libnccl-net.so", Refusal::Unsupported));
    // Its own networks are no plugins.
    let own = [
        "Failed to initialize NET plugin IB",
        "Failed to initialize NET plugin IBext_v10",
        "Initialized NET plugin Socket",
    ];
    assert_eq!(of(&own).1, refused("IBext_v10", Refusal::NotInitialised));
    // Absent by the words of each version.
    for line in [
        "NET/Plugin : Plugin load (libnccl-net.so) returned 2 : libnccl-net.so: cannot open shared object file: No such file or directory",
        "NET/Plugin : dlerror=libnccl-net.so: cannot open shared object file: No such file or directory No plugin found (libnccl-net.so), using internal implementation",
        "NET/Plugin: No plugin found (libnccl-net.so)",
        "NET/Plugin: Could not find: libnccl-net.so. Using internal network plugin.",
        "NET/Plugin: Could not find: libnccl-net.so. ",
        "NET/Plugin: Could not find: libnccl-net.so",
    ] {
        assert_eq!(of(&[line]), (vec![missing("libnccl-net.so")], vec![]), "{line}");
    }
    let both = ["NET/Plugin: Could not find: ofi libnccl-net-ofi.so. Using internal network plugin."];
    assert_eq!(of(&both).0, [missing("ofi"), missing("libnccl-net-ofi.so")]);
    // There, and of no use: it, or what it needs.
    for (line, name) in [
        (
            "NET/Plugin : Plugin load (libnccl-net.so) returned 2 : libfabric.so.1: cannot open shared object file: No such file or directory",
            "libnccl-net.so",
        ),
        ("NET/Plugin: libfabric.so.1: cannot open shared object file: No such file or directory", "libnccl-net.so"),
        (
            "NET/Plugin: libnccl-net-ofi.so: libfabric.so.1: cannot open shared object file: No such file or directory",
            "libnccl-net-ofi.so",
        ),
        ("NET/Plugin: /opt/p/libnccl-net.so: undefined symbol: fi_freeinfo", "/opt/p/libnccl-net.so"),
        (
            "NET/Plugin: /lib/libc.so.6: version `GLIBC_2.38' not found (required by /opt/p/libnccl-net.so)",
            "libnccl-net.so",
        ),
        (
            "NET/Plugin: Plugin load returned 0 : libucp.so.0: cannot open shared object file: No such file or directory when loading libnccl-net.so",
            "libnccl-net.so",
        ),
    ] {
        assert_eq!(of(&[line]), (vec![], refused(name, Refusal::NotOpened)), "{line}");
    }
    // Whatever is logged of others is no network's.
    for line in [
        "TUNER/Plugin: Could not find: libnccl-tuner.so libnccl-net.so. Using internal tuner plugin.",
        "PROFILER/Plugin: Could not find: libnccl-profiler.so",
        "ENV/Plugin: Could not find: libnccl-env.so",
        "GIN/Plugin: Failed to load external plugin libnccl-gin.so, dlHandle: (nil), ncclGin: (nil)",
        "RMA/Plugin: Could not find: libnccl-rma.so",
        "External tuner plugin libnccl-tuner.so is unsupported",
        "NET/Plugin: Failed to find ncclCollNetPlugin_v8 symbol.",
        "NET/Plugin: Failed to find ncclCollNetPlugin symbol (>= v5). ncclCollNetPlugin symbols v4 and lower are not supported.",
        "NET/Plugin: Loaded collnet plugin SHARP (v8)",
        "NET/Plugin: Using internal network plugin.",
        "Successfully loaded external gin plugin libnccl-net.so",
    ] {
        let (plugins, refused) = of(&[line]);
        assert!(plugins.is_empty() && refused.is_empty(), "{line}: {plugins:?} {refused:?}");
    }
    let log = parse_log(text("2.27-two-nodes-plugin-refused"));
    assert_eq!((log.refused[0].name.as_str(), log.refused[0].how), ("libnccl-net-fabric.so", Refusal::Unsupported));
    let log = parse_log(text("2.30-two-nodes-sockets"));
    assert_eq!((log.refused[0].how, log.refused.len()), (Refusal::NotOpened, 1));
    assert!(log.refused[0].why.starts_with("libfabric.so.1: cannot open"), "{:?}", log.refused);
    assert_eq!(log.warnings, ["socketProgress: Connection closed by remote peer node-a<41522>"]);
    let log = parse_log(text("2.30-two-nodes-efa"));
    assert_eq!(log.plugins[0], ("Libfabric".to_owned(), true));
    assert!(log.refused.is_empty() && log.devices.len() == 4 && log.devices.iter().all(|d| d.gdr == Some(true)));
}

#[test]
fn collnet_is_what_was_connected_not_a_number_of_channels() {
    let of = |line: &str| parse_log(&format!("h:1:1 [0] NCCL INFO {line}\n"));
    let log = of("24 coll channels, 24 collnet channels, 16 nvls channels, 32 p2p channels, 32 p2p channels per peer");
    assert_eq!((log.collnet, log.channels), (None, Some(24)));
    let log = of("CollNet 00/0 : 0 [send] via COLLNET/SHARP/0/GDRDMA");
    assert_eq!((log.collnet, ways(&log)), (Some(true), vec![("COLLNET/SHARP/0/GDRDMA".to_owned(), 1)]));
    assert!(log.sends_by.is_empty());
    for line in ["Connected collnet + chain", "Connected Collnet Chains  0", "rank 3 Connected CollNet"] {
        assert_eq!(of(line).collnet, Some(true), "{line}");
    }
    let chosen = "AllReduce: 8388608 Bytes -> Algo COLLNET_DIRECT proto SIMPLE channel{Lo..Hi}={0..7}";
    assert_eq!(of(chosen).collnet, Some(true));
    let few = "Communicator has 2 nodes which is less than CollNet node threshold 4, disabling CollNet";
    assert_eq!(of(few).collnet, Some(false));
}

#[test]
fn settings_and_networks_are_read_whole() {
    let text = "h:1:1 [0] NCCL INFO NCCL_ALGO set by environment to Ring\nh:1:1 [0] NCCL INFO Comm config netName reset to NCCL_NET=IB\n\
        h:1:1 [0] NCCL INFO NCCL_IB_HCA set to =mlx5_0,mlx5_1\nh:1:1 [0] NCCL INFO NCCL_IB_TIMEOUT set by environment to 22.\n\
        h:1:1 [0] NCCL INFO Using network AWS Libfabric\n";
    let log = parse_log(text);
    let set: Vec<(&str, &str)> = log.settings.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let expected =
        [("NCCL_ALGO", "Ring"), ("NCCL_NET", "IB"), ("NCCL_IB_HCA", "=mlx5_0,mlx5_1"), ("NCCL_IB_TIMEOUT", "22")];
    assert_eq!(set, expected);
    assert_eq!(log.network.as_deref(), Some("AWS Libfabric"));
    // What is logged anew counts.
    let next = log
        .after("h:1:1 [0] NCCL INFO Using network Socket\nh:1:1 [0] NCCL INFO NCCL_ALGO set by environment to Tree\n");
    assert_eq!((next.network.as_deref(), next.settings[0].1.as_str()), (Some("Socket"), "Tree"));
}

#[test]
fn a_log_of_two_nodes_is_understood() {
    let log = parse_log(TWO_NODES);
    assert_eq!(log.network.as_deref(), Some("IB"));
    let gdr: Vec<_> = log.devices.iter().map(|d| (d.name.as_str(), d.gdr)).collect();
    assert_eq!(gdr, [("mlx5_0", Some(true)), ("mlx5_1", Some(false))]);
    assert_eq!((log.nvls, log.collnet, log.channels), (Some(true), None, Some(24)));
    assert_eq!(log.ring, [0, 1, 3, 2]);
    assert_eq!(log.transports[&Way::P2p { by: P2p::Cumem, copied: false }], 2);
    assert_eq!((log.transports[&"NET/IB/0/GDRDMA".into()], log.transports[&"NET/IB/1".into()]), (1, 1));
    assert_eq!(log.sends_by.iter().copied().collect::<Vec<_>>(), [0, 1]);
    assert!(log.settings.contains(&("NCCL_ALGO".to_owned(), "Ring".to_owned())));
    assert_eq!(log.plugins, [("libnccl-net.so".to_owned(), false)]);
    let broken = "NET/IB : Got completion from peer 10.0.0.2 with status=12 opcode=0 len=0 vendor err 129";
    assert_eq!(log.warnings, [broken]);
}

#[test]
fn what_it_chose_and_expects_is_found_by_operation_and_size() {
    let log = parse_log(TWO_NODES);
    let (choice, seconds) = log.chosen("AllReduce", 33_554_432).unwrap();
    assert_eq!((choice.algorithm.as_str(), choice.protocol.as_str()), ("RING", "SIMPLE"));
    // 28.6 us and 93.2 GB/s by the table.
    let expected = 28.6e-6 + 33_554_432.0 / 93.2e9;
    assert!((seconds.unwrap() / expected - 1.0).abs() < 1e-9, "{seconds:?}");
    assert_eq!(log.chosen("AllReduce", 8).map(|(c, _)| c.protocol.as_str()), Some("LL"));
    let (_, tree) = log.chosen("AllReduce", 1 << 30).unwrap();
    assert!((tree.unwrap() / (40e-6 + f64::from(1 << 30) / 105e9) - 1.0).abs() < 1e-9, "{tree:?}");
    assert!(log.chosen("AllGather", 8).is_none());
    let pat = log.predictions.iter().find(|p| p.operation == "AllGather").unwrap();
    assert_eq!((pat.algorithm.as_str(), pat.protocol.as_str()), ("PAT", "Simple"));
}

/// Nothing grows with what is logged, and nothing that is logged breaks a record.
fn bounded(log: &Log) {
    let texts = log.warnings.iter().chain(log.network.iter()).chain(log.devices.iter().map(|d| &d.name));
    let texts =
        texts.chain(log.refused.iter().flat_map(|r| [&r.name, &r.why])).chain(log.plugins.iter().map(|(n, _)| n));
    let texts = texts.chain(log.settings.iter().flat_map(|(k, v)| [k, v])).chain(log.far.iter().map(|f| &f.gpu));
    for text in texts {
        assert!(text.chars().count() <= LONGEST && !text.contains(['\n', '\u{1b}']), "{text:?}");
    }
    assert!(log.warnings.len() <= WARNINGS && log.transports.len() <= MOST + 1 && log.choices.len() <= MOST);
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]

    #[test]
    fn nonsense_is_survived(which in 0..LOGS.len(), lines in proptest::collection::vec("\\PC{0,60}", 0..20), from in 0usize..400, cut in 0usize..120) {
        let mut text = String::new();
        for (i, line) in LOGS[which].1.lines().enumerate() {
            let line: String = if i == from { line.chars().take(cut).collect() } else { line.to_owned() };
            text.push_str(&line);
            if let Some(junk) = lines.get(i) {
                text.push_str(junk);
            }
            text.push('\n');
        }
        bounded(&parse_log(&text));
    }

    /// A log may be read while it grows, and its end be a part of a line: no more than that line is lost.
    #[test]
    fn a_log_cut_anywhere_tells_no_more_than_the_whole(which in 0..LOGS.len(), at in 0usize..60_000) {
        let whole = LOGS[which].1;
        let mut at = at.min(whole.len());
        while !whole.is_char_boundary(at) {
            at -= 1;
        }
        let (part, all) = (parse_log(&whole[..at]), parse_log(whole));
        bounded(&part);
        let channels = |log: &Log| log.transports.iter().filter(|(w, _)| !matches!(w, Way::Nvls | Way::Other(_))).map(|(_, n)| *n).sum::<u32>();
        proptest::prop_assert!(channels(&part) <= channels(&all) + 1);
        proptest::prop_assert!(part.devices.len() <= all.devices.len() + 1);
        proptest::prop_assert!(part.predictions.len() <= all.predictions.len() && part.choices.len() <= all.choices.len() + 1);
        // Read again from the start of the communicator, it is the same as if it had been read once.
        proptest::prop_assert_eq!(part.after(""), parse_log(&whole[..at]).after(""));
    }

    /// Two ranks that write into one file line by line: what belongs to the process is that of both.
    #[test]
    fn interleaved_ranks_are_survived(a in 0..LOGS.len(), b in 0..LOGS.len(), step in 1usize..7) {
        let (mut one, mut two) = (LOGS[a].1.lines(), LOGS[b].1.lines());
        let mut text = String::new();
        loop {
            let mut some = false;
            for line in one.by_ref().take(step).chain(two.by_ref().take(8 - step)) {
                (text, some) = (text + line + "\n", true);
            }
            if !some {
                break;
            }
        }
        let (log, first, second) = (parse_log(&text), parse_log(LOGS[a].1), parse_log(LOGS[b].1));
        bounded(&log);
        for device in first.devices.iter().chain(&second.devices) {
            proptest::prop_assert!(log.devices.iter().any(|d| d.name == device.name));
        }
        let sum = |log: &Log| log.transports.iter().filter(|(w, _)| **w != Way::Nvls).map(|(_, n)| *n).sum::<u32>();
        proptest::prop_assert_eq!(sum(&log), sum(&first) + sum(&second));
    }

    #[test]
    fn lines_without_end_are_survived(start in "(Using network |NET/IB : Using \\[0\\]|GPU Direct RDMA (Enabled|Disabled) for (HCA 0 '|GPU )|Channel 00/0 : 0\\[0\\] -> 1\\[0\\] via NET/|Channel 00/24 : |NET/Plugin: |NCCL_ALGO set by environment to |CollNet 0 via COLLNET/| Algorithm \\| |8 Bytes -> Algo )", unit in "(a|7 |\\|1.0/2.0 |/|:|\\PC)", end in "('|/GDRDMA| \\(distance 7 > 4\\)|: x|)") {
        let text = format!("h:1:1 [0] NCCL INFO {start}{}{end}\nh:1:1 [0] NCCL WARN {}\n", unit.repeat(100_000 / unit.len()), "w".repeat(100_000));
        bounded(&parse_log(&text));
    }
}

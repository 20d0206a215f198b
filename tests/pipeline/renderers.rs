//! Every renderer over a record in which every foreign text is hostile, and over records that are large, empty and of one node.

use std::time::{Duration, Instant};

use crate::common::*;
use gonogo::id::{NodeName, ProbeName};
use gonogo::judge::Judgement;
use gonogo::measure::{Check, Facts, Measured, Outcome, PeerCopy, WaiveKind};
use gonogo::plan::RunPlan;
use gonogo::record::{End, Record, Spent};
use gonogo::topology::{Component, Leaf, LibraryFile, Start};
use gonogo::work::CheckName;
use gonogo::{baseline, judge, report};

/// Markup, quotes, control characters, a right-to-left mark, an escape of a terminal, a formula; then ten thousand letters.
const EVIL: &str = "=<x-evil a=\"1\" b='2'>&|`*_[x](http://e.x)@all\u{1b}[31m\u{0}\u{202e}\u{200f}\r\nz\\";

fn evil(i: usize) -> String {
    format!("{EVIL}{i}{}", "n".repeat(10_000))
}

fn hostile() -> Record {
    let mut record = network(8, 2);
    let names: Vec<NodeName> = (0..8).map(|i| NodeName(evil(i))).collect();
    let old = record.header.nodes.clone();
    record.header.nodes.clone_from(&names);
    record.header.launcher = Some(evil(20));
    record.header.version = evil(21);
    record.header.commit = evil(22);
    record.header.plan.run.name = Some(evil(23));
    let times = [u64::MAX, 5000, u64::MAX];
    let spent = |i: usize| Spent { probe: ProbeName(evil(60 + i).into()), ms: times[i] };
    record.end = Some(End { ended: noon(), interrupted: false, spent: (0..3).map(spent).collect() });
    record.header.leaves =
        vec![Leaf { name: evil(30), nodes: names[..4].to_vec() }, Leaf { name: evil(31), nodes: names[4..].to_vec() }];
    for line in &mut record.outcomes {
        if let Some(i) = old.iter().position(|n| *n == *line.node) {
            line.node = names[i].clone().into();
        }
    }
    record.outcomes.clear();
    record.steps.clear();

    let (round, pairs) = pairs_of(&names);
    add_pairs(&mut record, &evil(40), "tcp", &["pair out", "pair back"], round, &pairs);
    for (i, pair) in pairs.iter().enumerate() {
        for case in ["pair out", "pair back"] {
            let rate = if i == 0 { 1e9 } else { 10e9 };
            add_line(&mut record, &pair[0], &evil(40), "tcp", case, measured(series("tcp", "bandwidth", rate)));
        }
    }
    for (i, node) in names.iter().enumerate() {
        let alone = [vec![node.clone()]];
        add_groups(&mut record, "x", "gemm", &[&evil(50)], serde_json::Value::Null, &alone);
        let mut m = Measured {
            series: vec![series("gemm", "flops", 1e9)],
            notes: vec![evil(51)].into(),
            ..Measured::default()
        };
        m.checks = vec![Check::new(CheckName::Residual, i != 0, evil(54))].into();
        add_line(&mut record, node, "x", "gemm", &evil(50), Outcome::Measured(m));
        let row = vec![PeerCopy { to: 1, rate: 1e9, direct: true, atomics: false }];
        let peers = Measured { facts: Some(Box::new(Facts::Peers(row))), ..Measured::default() };
        add_line(&mut record, node, "x", "copy", "peer gpu0", Outcome::Measured(peers));
        let file = LibraryFile {
            name: evil(70),
            path: format!("/lib/{}", evil(71)).into(),
            version: Some(evil(72)),
            cuda: Some(evil(73)),
            error: Some(evil(74)),
            waits_for: vec![evil(75)],
            ..LibraryFile::default()
        };
        for part in ["nccl", "providers", &evil(76)] {
            let facts = Facts::Software(Box::new(Component { files: vec![file.clone(), file.clone()] }));
            let o = Outcome::facts(facts);
            add_line(&mut record, node, "x", "image", part, o);
        }
        let start = Start {
            environment: [("NCCL_ALGO".to_owned(), evil(77)), ("NVIDIA_REQUIRE_CUDA".to_owned(), evil(78))].into(),
            settings: vec![(evil(79).into(), "NCCL_PROTO".into(), evil(80))],
            ..Start::default()
        };
        let o = Outcome::facts(Facts::Start(Box::new(start)));
        add_line(&mut record, node, "x", "image", "start", o);
        let mut hostile = good_machine();
        hostile.hostname = evil(60);
        hostile.cpu.model = evil(61);
        hostile.environment = [("NCCL_ALGO".to_owned(), evil(62))].into();
        add_line(&mut record, node, "m", "environment", "machine", machine(hostile));
        let waived = Outcome::waived(WaiveKind::Absent, evil(63));
        add_line(&mut record, node, &evil(64), "rdma", &evil(65), waived);
        let failed = Outcome::error(gonogo::measure::FailKind::Error, evil(66));
        add_line(&mut record, node, "x", "memory", &evil(67), failed);
    }
    for line in &mut record.outcomes {
        if line.probe.as_str() == "memory" {
            line.probe = ProbeName(evil(70).into());
        }
    }
    record
}

struct Rendered {
    html: String,
    junit: String,
    markdown: String,
    prometheus: String,
    csv: String,
    terminal: String,
}

fn all(j: &Judgement<'_>, path: &str) -> Rendered {
    fn must<T, E: std::fmt::Display>(r: Result<T, E>) -> T {
        r.unwrap_or_else(|e| panic!("{e}"))
    }
    let mut csv = Vec::new();
    must(report::csv(j, &mut csv));
    let view = report::view(j, path);
    Rendered {
        html: must(report::html(j, path)),
        junit: must(report::junit(j)),
        markdown: report::markdown(&view),
        prometheus: must(report::prometheus(j)),
        csv: must(String::from_utf8(csv)),
        terminal: report::terminal(&view, report::Style { width: 100, colour: false }),
    }
}

fn render(record: &Record) -> Rendered {
    let limits = baseline::builtin();
    all(&judge::judge(record, &record.header.plan.run, &limits), "/tmp/record.jsonl")
}

/// Reads XML or well-formed parts of a page; what text and attributes hold comes back.
fn texts_of_xml(text: &str) -> Result<Vec<String>, String> {
    let mut reader = quick_xml::Reader::from_str(text);
    let mut out = Vec::new();
    loop {
        match reader.read_event().map_err(|e| format!("byte {}: {e}", reader.buffer_position()))? {
            quick_xml::events::Event::Eof => return Ok(out),
            quick_xml::events::Event::Start(e) | quick_xml::events::Event::Empty(e) => {
                out.push(String::from_utf8_lossy(e.name().as_ref()).into_owned());
                for a in e.attributes() {
                    a.map_err(|e| e.to_string())?;
                }
            }
            _ => {}
        }
    }
}

fn unclean(c: char) -> bool {
    (c.is_control() && c != '\n' && c != '\t') || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202e}')
}

/// A line of OpenMetrics: a comment, or `name{label="value",...} number`.
fn is_openmetrics(line: &str) -> bool {
    if let Some(rest) = line.strip_prefix("# ") {
        return rest == "EOF" || ["HELP ", "TYPE ", "UNIT "].iter().any(|k| rest.starts_with(k));
    }
    let name_end = line.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':')).unwrap_or(0);
    let rest = &line[name_end..];
    let Some(mut rest) = rest.strip_prefix('{') else {
        return name_end > 0 && rest.trim().parse::<f64>().is_ok();
    };
    while !rest.starts_with('}') {
        let Some((label, after)) = rest.split_once("=\"") else { return false };
        if label.is_empty() || !label.trim_start_matches(',').bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            return false;
        }
        let mut escaped = false;
        let mut end = None;
        for (i, c) in after.char_indices() {
            match c {
                _ if escaped => {
                    escaped = false;
                    if !matches!(c, '\\' | '"' | 'n') {
                        return false;
                    }
                }
                '\\' => escaped = true,
                '"' => {
                    end = Some(i);
                    break;
                }
                _ => {}
            }
        }
        let Some(end) = end else { return false };
        rest = &after[end + 1..];
    }
    rest[1..].trim().parse::<f64>().is_ok()
}

#[test]
fn nothing_hostile_gets_out_of_its_place() {
    let r = render(&hostile());
    for (name, text) in [
        ("html", &r.html),
        ("junit", &r.junit),
        ("markdown", &r.markdown),
        ("prometheus", &r.prometheus),
        ("csv", &r.csv),
        ("terminal", &r.terminal),
    ] {
        if let Some(i) = text.find(unclean) {
            let from = (0..=i.saturating_sub(200)).rev().find(|f| text.is_char_boundary(*f)).unwrap_or(0);
            panic!("{name} has control characters or marks of direction after {:?}", &text[from..i]);
        }
        assert!(text.contains("x-evil"), "{name} shows nothing of the names");
        assert!(!text.contains(&"n".repeat(1000)), "{name} shows names whole");
    }
    assert!(!r.html.contains("<x-evil"), "markup in the page");
    // Lists of nodes stand in code, where nothing is markup.
    let text =
        r.markdown.lines().filter(|l| !["- exclude", "- run on", "- spare", "Next"].iter().any(|p| l.starts_with(p)));
    let bad: Vec<&str> = text.filter(|l| l.contains("<x-evil") || l.contains("@all")).collect();
    assert_eq!(bad, [""; 0]);
    let elements = texts_of_xml(&r.junit).unwrap();
    assert!(elements.iter().all(|e| e != "x-evil") && elements.contains(&"testcase".to_owned()));
    // The drawings are XML of their own.
    let svgs: Vec<&str> = r.html.match_indices("<svg").map(|(i, _)| &r.html[i..]).collect();
    assert!(svgs.len() > 1, "{} drawings", svgs.len());
    for svg in svgs {
        let end = svg.find("</svg>").unwrap() + 6;
        let elements = texts_of_xml(&svg[..end]).unwrap_or_else(|e| panic!("{e}: {}", &svg[..end.min(300)]));
        assert!(elements.iter().all(|e| e != "x-evil"));
    }
    assert_eq!(r.prometheus.lines().last(), Some("# EOF"));
    assert_eq!(r.prometheus, render(&hostile()).prometheus, "a report of the same record");
    let bad: Vec<&str> = r.prometheus.lines().filter(|l| !is_openmetrics(l)).take(3).collect();
    assert_eq!(bad, [""; 0]);
    let mut rows = csv::Reader::from_reader(r.csv.as_bytes());
    let mut n = 0;
    for row in rows.records() {
        let row = row.unwrap();
        assert!(row.len() == 11 && row.iter().all(|c| !c.starts_with(['=', '+', '@'])), "{row:?}");
        n += 1;
    }
    assert!(n > 50, "{n} samples");
}

/// Every case of a record without outcomes, and values that are no numbers.
#[test]
fn nothing_and_no_numbers_are_rendered() {
    let empty = empty(RunPlan::default());
    let r = render(&empty);
    assert!(r.html.contains("COV-001") && r.junit.contains("COV-001") && r.markdown.contains("COV-001"));
    assert_eq!(r.csv.lines().count(), 1);
    let mut record = healthy(RunPlan::default());
    for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.0, -1.0, f64::MIN_POSITIVE] {
        let mut s = series("gemm", "flops", 1e9);
        s.samples = vec![value; 12].into();
        add(&mut record, "gemm", &format!("value {value}"), measured(s));
    }
    let r = render(&record);
    assert!(texts_of_xml(&r.junit).is_ok());
    assert!(r.prometheus.lines().all(is_openmetrics));
    assert!(r.html.contains("not a number"));
}

/// Sizes are promises; the time is here only to notice what is out of all proportion, benches/ has the figures.
#[test]
fn a_large_cluster_fits_a_page() {
    let record = large();
    let limits = baseline::builtin();
    let judgement = judge::judge(&record, &record.header.plan.run, &limits);
    let begin = Instant::now();
    let r = all(&judgement, "record.jsonl");
    assert!(begin.elapsed().as_secs() < 30, "{:?}", begin.elapsed());
    assert!(r.html.len() < 5_000_000, "{} bytes of HTML", r.html.len());
    assert!(r.markdown.len() < 65_536, "{} bytes of Markdown", r.markdown.len());
    // The node and the rail that are slow stand out.
    assert!(r.html.contains("n0700 gpu3") || r.html.contains("n700 gpu3"), "the slow GPU is not named");
    assert!(r.html.contains("pairs over rdma mlx5_3"));
}

#[test]
fn where_the_time_went_is_told() {
    let mut record = empty(RunPlan::default());
    add(&mut record, "gemm", "f32 1 core", good_gemm());
    let limits = baseline::builtin();
    let shown = |record: &Record, format| {
        let judgement = judge::judge(record, &record.header.plan.run, &limits);
        let mut out = Vec::new();
        report::write(format, &judgement, "r", report::Style { width: 120, colour: false }, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    };
    // Of an older record nothing is known.
    assert!(!shown(&record, report::Format::Terminal).contains("time  "));
    let probe = |name, ms| Spent { probe: ProbeName::new(name), ms };
    let spent = vec![probe("gemm", 3000), probe("tcp", 7100), probe("fabric", 20)];
    record.end = Some(End { ended: noon() + Duration::from_millis(12_300), interrupted: false, spent });
    let said = "12.3 s: tcp 7.1 s, gemm 3.0 s, the rest 2.2 s";
    for (format, label) in [
        (report::Format::Terminal, "time      "),
        (report::Format::Markdown, "- time: "),
        (report::Format::Html, "Time: "),
    ] {
        let text = shown(&record, format);
        assert!(text.contains(&format!("{label}{said}")), "{text}");
    }
    let json: serde_json::Value = serde_json::from_str(&shown(&record, report::Format::Json)).unwrap();
    assert_eq!(json["spent"][1], serde_json::json!({"probe": "tcp", "ms": 7100}));
    // Agents had been waited for before.
    record.header.joining_ms = Some(2460);
    let text = shown(&record, report::Format::Terminal);
    assert!(text.contains("12.3 s after 2.5 s of joining: tcp 7.1 s,"), "{text}");
}

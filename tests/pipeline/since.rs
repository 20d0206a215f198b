//! What befell the node of a watch: each finding by two looks that differ in one thing, and what is none.

use crate::common::*;
use crate::watched;
use gonogo::judge;
use gonogo::measure::{CountersMoved, OwnNode, Since};
use gonogo::record::Record;
use gonogo::topology::{Gpu, IbDevice, IbPort, Machine, Nic, NvLink, Nvidia, Xid};
use jiff::SignedDuration;

fn port(state: &str, rate: &str) -> IbDevice {
    let port = IbPort { port: 1, state: Some(state.into()), rate: Some(rate.into()), ..IbPort::default() };
    IbDevice { name: "mlx5_0".into(), ports: vec![port], ..IbDevice::default() }
}

fn nic(name: &str, carrier: u64, errors: u64) -> Nic {
    let (carrier_changes, errors) = (Some(carrier), Some(errors));
    let pci = (!name.starts_with("veth")).then(|| "0000:01:00.0".to_owned());
    Nic { name: name.into(), state: Some("up".into()), carrier_changes, errors, pci, ..Nic::default() }
}

fn before() -> Machine {
    let link = |link| NvLink { link, active: true, ..NvLink::default() };
    let gpu = Gpu {
        name: "H100".into(),
        uuid: "GPU-1".into(),
        pci: "0000:1b:00.0".into(),
        ecc_uncorrected: Some(2),
        nvlinks: vec![link(0), link(1), link(2)],
        temperature_c: Some(60),
        slowdown_c: Some(87),
        ..Gpu::default()
    };
    Machine {
        boot: Some("one".into()),
        nics: vec![nic("eth0", 2, 5), nic("eth1", 2, 0), nic("veth7", 1, 0)],
        infiniband: vec![port("ACTIVE", "400 Gb/sec (4X NDR)")],
        nvidia: Some(Nvidia { gpus: vec![gpu], xids: Some(Vec::new()), ..Nvidia::default() }),
        ..good_machine()
    }
}

fn of(own: OwnNode) -> Record {
    watched::with_node(own)
}

/// The verdict and the findings of a watch whose node became so.
fn after(edit: &dyn Fn(&mut Machine, &mut Vec<CountersMoved>)) -> Record {
    let (mut now, mut ports) = (before(), Vec::new());
    edit(&mut now, &mut ports);
    let at = noon() + SignedDuration::from_hours(3);
    let since = Since { of_check: true, from: noon(), at, before: before(), after: now, ports };
    of(OwnNode::Looked(Box::new(since)))
}

fn gpu(m: &mut Machine, edit: &dyn Fn(&mut Gpu)) {
    if let Some(n) = &mut m.nvidia {
        n.gpus.iter_mut().for_each(edit);
    }
}

fn moved(list: &[(&str, u64)]) -> CountersMoved {
    let moved = list.iter().map(|(n, by)| ((*n).to_owned(), *by)).collect();
    CountersMoved { node: None, device: "mlx5_0".into(), port: 1, moved }
}

/// The smallest watch that brings a code up.
pub fn provoke(code: &str) -> Option<Record> {
    match code {
        "CLU-012" => Some(after(&|m, _| m.boot = Some("two".into()))),
        "COV-008" => Some(of(OwnNode::Unseen("gonogo discover did not end within 20 s".into()))),
        _ => None,
    }
}

fn told(record: &Record) -> Vec<String> {
    let j = judge::judge(record, &record.header.plan.run, &[]);
    j.findings.iter().map(|f| format!("{} {}: {}", f.code, f.severity.name(), f.evidence)).collect()
}

#[test]
fn a_node_that_is_as_it_was_is_no_finding() {
    assert_eq!(told(&after(&|_, _| {})), [""; 0]);
    // Congestion, what containers do, a counter that was set back, and more room in a log are none either.
    let usual = after(&|m, ports| {
        ports.push(moved(&[("port_xmit_wait", 9), ("np_cnp_sent", 4), ("out_of_buffer", 3)]));
        m.nics.retain(|n| n.name != "veth7");
        m.nics[0].errors = Some(0);
        gpu(m, &|g| g.ecc_uncorrected = Some(0));
    });
    assert_eq!(told(&usual), [""; 0]);
}

#[test]
fn each_change_is_told_once_with_its_weight() {
    type Edit = fn(&mut Machine, &mut Vec<CountersMoved>);
    let cases: [(&str, Edit); 12] = [
        ("CLU-012 fail: its boot id", |m, _| m.boot = Some("two".into())),
        ("GPU-003 fail: GPU 0 (0000:1b:00.0, H100): 3 uncorrected ECC errors since the check", |m, _| {
            gpu(m, &|g| g.ecc_uncorrected = Some(5))
        }),
        ("GPU-009 fail: GPU 0 (0000:1b:00.0, H100): went down since the check: NVLink 1, 2", |m, _| {
            gpu(m, &|g| g.nvlinks.iter_mut().skip(1).for_each(|l| l.active = false))
        }),
        ("GPU-007 fail: GPU 0 (0000:1b:00.0, H100): hardware thermal slowdown at this moment", |m, _| {
            gpu(m, &|g| g.throttled = vec!["hardware thermal slowdown".into()])
        }),
        ("GPU-002 fail: GPU 0 (0000:1b:00.0, H100): there at the check, gone now", |m, _| {
            m.nvidia.iter_mut().for_each(|n| n.gpus.clear())
        }),
        ("GPU-001 fail: the driver was there at the check, and is not now", |m, _| m.nvidia = None),
        ("GPU-006 fail: ", |m, _| {
            let xid = Xid { code: 79, pci: "0000:1b:00.0".into(), ..Xid::default() };
            m.nvidia.iter_mut().for_each(|n| n.xids = Some(vec![xid.clone()]))
        }),
        ("NET-035 hold: the carrier of eth1 came or went 2 times since the check", |m, _| {
            m.nics[1].carrier_changes = Some(4)
        }),
        ("NET-035 fail: eth0 was up at the check, and now it is down", |m, _| m.nics[0].state = Some("down".into())),
        ("NET-037 warn: eth0 counted 7 packets with errors since the check", |m, _| m.nics[0].errors = Some(12)),
        ("RDM-001 fail: mlx5_0 port 1, since the watch began: link_downed +1", |_, ports| {
            ports.push(moved(&[("link_downed", 1), ("np_cnp_sent", 4)]))
        }),
        (
            "RDM-002 fail: mlx5_0 port 1 was ACTIVE at the check, and now it is at 100 Gb/sec (1X NDR), not at 400 Gb/sec (4X NDR)",
            |m, _| m.infiniband = vec![port("ACTIVE", "100 Gb/sec (1X NDR)")],
        ),
    ];
    for (expected, edit) in cases {
        let found = told(&after(&edit));
        assert!(found.len() == 1 && found[0].starts_with(expected), "{expected}: {found:?}");
    }
}

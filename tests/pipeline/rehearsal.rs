//! A rehearsed step: who computes slowly, what is not hidden, what varies, what it says of the run.

use crate::common::*;
use gonogo::id::NodeName;
use gonogo::judge::{self, Severity};
use gonogo::measure::{Facts, Measured, Outcome, RankSteps, Rehearsal};
use gonogo::plan::Training;
use gonogo::record::Record;
use gonogo::topology::Machine;

const PLAN: &str =
    "[model]\npreset = \"llama-3-8b\"\ntokens = 1e12\n[parallel]\nglobal_batch = 64\n[nodes]\nneeded = 8\n";

/// Seconds of a rank in a round: computing alone, beside messages, messages, gradients among them, all together.
type Round = [f64; 5];

/// Eight nodes, a rank each, by what `times` says of a rank in a round.
fn rehearsed(plan: &str, narrow: u64, times: &dyn Fn(usize, usize) -> Round) -> Record {
    let run = run_plan(plan);
    let Some(Ok(training)) = Training::of(&run, 8) else { panic!("{plan}") };
    let mut record = network(8, 1);
    record.header.plan.run = run;
    let nodes = record.header.nodes.clone();
    let rank = |i: usize| {
        let of = |what: usize| {
            (0..24).map(|round| times(i, round)[what] * (1.0 + 0.002 * ((round * 7 + i * 3) % 5) as f64)).collect()
        };
        RankSteps {
            node: Some(nodes[i].clone()),
            alone: of(0),
            beside: of(1),
            communication: of(2),
            gradients: of(3),
            whole: of(4),
            ..RankSteps::default()
        }
    };
    let ranks = (0..8).map(rank).collect();
    let rehearsal = Rehearsal { training, layers: 2, narrow, own_core: true, device: None, ranks };
    let outcome = Outcome::Measured(Measured {
        series: vec![series("rehearsal", "step", 0.1)],
        facts: Some(Box::new(Facts::Rehearsal(Box::new(rehearsal)))),
        ..Measured::default()
    });
    let group = vec![nodes.clone()];
    add_groups(&mut record, "rehearsal", "rehearsal", &["step n=8"], serde_json::Value::Null, &group);
    add_line(&mut record, &nodes[0], "rehearsal", "rehearsal", "step n=8", outcome);
    record
}

/// Computing 60 ms, gradients 20, of which half goes beside it.
fn well(_: usize, _: usize) -> Round {
    [0.06, 0.06, 0.02, 0.02, 0.07]
}

pub fn provoke(code: &str) -> Option<Record> {
    Some(match code {
        "REH-001" => rehearsed(PLAN, 1, &|rank, round| {
            if rank == 3 { [0.08, 0.08, 0.02, 0.02, 0.09] } else { well(rank, round) }
        }),
        "REH-002" => rehearsed(PLAN, 1, &|_, _| [0.06, 0.07, 0.04, 0.04, 0.10]),
        "REH-003" => rehearsed(PLAN, 1, &|rank, round| {
            let late = (rank * 5 + round * 3) % 7 == 0;
            if late { [0.075, 0.06, 0.02, 0.02, 0.07] } else { well(rank, round) }
        }),
        "REH-004" => rehearsed(&format!("{PLAN}[checkpoint]\nstep_time = \"5s\"\n"), 1, &well),
        "REH-005" => {
            let mut r = network(7, 1);
            r.header.plan.run = run_plan(&PLAN.replace("[parallel]", "[parallel]\ntp = 2"));
            r.header.plan.probes.push(gonogo::id::ProbeName::new("rehearsal"));
            r
        }
        _ => return None,
    })
}

fn told(record: &Record) -> Vec<String> {
    let run = record.header.plan.run.clone();
    let j = judge::judge(record, &run, &[]);
    let of = j.findings.iter().filter(|f| f.code.doc().code.starts_with("REH") && f.severity > Severity::Info);
    of.map(|f| format!("{} {} {}: {}", f.code.doc().code, f.severity.name(), f.subject, f.evidence)).collect()
}

#[test]
fn a_rank_that_computes_slowly_is_named_with_its_price() {
    let Some(record) = provoke("REH-001") else { panic!("no record") };
    let all = told(&record);
    assert_eq!(all.len(), 1, "{all:#?}");
    assert!(all[0].starts_with("REH-001 fail node n3: rank 3: its own products take 80"), "{all:#?}");
    assert!(all[0].contains("24.9 % slower") && all[0].contains("doing without it 14.3 %"), "{all:#?}");
    let j = judge::judge(&record, &record.header.plan.run, &[]);
    assert_eq!(j.placement.exclude, [NodeName("n3".into())]);
    let finding = j.findings.iter().find(|f| f.code.doc().code == "REH-001");
    let speaks = finding.map(|f| f.proof.iter().filter(|p| p.speaks).map(|p| p.node.to_string()).collect::<Vec<_>>());
    assert_eq!(speaks, Some(vec!["n3".to_owned()]));
}

#[test]
fn a_rank_that_is_slow_only_while_messages_go_is_named_as_that() {
    let record =
        rehearsed(PLAN, 1, &|rank, round| if rank == 5 { [0.06, 0.09, 0.02, 0.02, 0.10] } else { well(rank, round) });
    let all = told(&record);
    assert!(
        all[0].starts_with("REH-001 fail node n5: rank 5: only while messages go, its own products take 90"),
        "{all:#?}"
    );
}

#[test]
fn nobody_is_named_where_all_is_well_or_nodes_share_a_machine() {
    assert_eq!(told(&rehearsed(PLAN, 1, &well)), Vec::<String>::new());
    let mut shared =
        rehearsed(PLAN, 1, &|rank, round| if rank == 3 { [0.07, 0.07, 0.02, 0.02, 0.14] } else { well(rank, round) });
    let nodes = shared.header.nodes.clone();
    for node in &nodes {
        add_on(
            &mut shared,
            &node.0,
            "environment",
            "machine",
            machine(Machine { boot: Some("one".into()), ..good_machine() }),
        );
    }
    assert_eq!(told(&shared), Vec::<String>::new());
}

/// Half of the nodes have slower processors: nobody is slow among his likes, and one that is among the slower is named.
#[test]
fn unlike_machines_are_not_held_against_each_other() {
    let mut mixed = rehearsed(PLAN, 1, &|rank, round| match rank {
        5 => [0.12, 0.12, 0.02, 0.02, 0.13],
        r if r % 2 == 1 => [0.09, 0.09, 0.02, 0.02, 0.10],
        _ => well(rank, round),
    });
    for (i, node) in mixed.header.nodes.clone().iter().enumerate() {
        let mut m = Machine { boot: Some(format!("b{i}")), ..good_machine() };
        m.cpu.model = if i % 2 == 1 { "made, slow".into() } else { "made, fast".into() };
        add_on(&mut mixed, &node.0, "environment", "machine", machine(m));
    }
    let all = told(&mixed);
    let slow: Vec<&String> = all.iter().filter(|f| f.starts_with("REH-001")).collect();
    assert!(slow.len() == 1 && slow[0].starts_with("REH-001 fail node n5: rank 5"), "{all:#?}");
}

#[test]
fn what_could_be_hidden_and_is_not_is_told_as_a_share() {
    let Some(record) = provoke("REH-002") else { panic!("no record") };
    let all = told(&record);
    assert!(all.len() == 1 && all[0].contains("both together should take 80.6 ms"), "{all:#?}");
    assert!(all[0].ends_with("take 101 ms: 100 % of what could be hidden is not"), "{all:#?}");
    // A plan that sends after it has computed hides nothing, and nothing is held against it.
    let serial = PLAN.replace("[parallel]", "[parallel]\noverlap = false");
    assert_eq!(told(&rehearsed(&serial, 1, &|_, _| [0.06, 0.07, 0.04, 0.04, 0.10])), Vec::<String>::new());
}

/// Known answer: 32 layers of 30 ms, 8 microbatches; what was not rehearsed takes its share.
#[test]
fn the_step_is_held_against_the_plans_where_it_is_the_runs_own() {
    let Some(record) = provoke("REH-004") else { panic!("no record") };
    let all = told(&record);
    assert!(
        all.len() == 1
            && all[0].starts_with("REH-004 hold this run: 2 of 32 layers, rehearsed by 8 ranks, make a step of 10.7 s"),
        "{all:#?}"
    );
    // A narrower likeness says nothing of how long the step takes.
    assert_eq!(told(&rehearsed(&format!("{PLAN}[checkpoint]\nstep_time = \"5s\"\n"), 8, &well)), Vec::<String>::new());
    assert_eq!(told(&rehearsed(&format!("{PLAN}[checkpoint]\nstep_time = \"20s\"\n"), 1, &well)), Vec::<String>::new());
}

#[test]
fn nodes_that_do_not_divide_the_model_are_told_how_many_would() {
    let Some(record) = provoke("REH-005") else { panic!("no record") };
    let all = told(&record);
    assert_eq!(
        all,
        ["REH-005 warn this run: 7 ranks are no multiple of tp x cp x pp = 2 x 1 x 1 = 2; 6 or 8 would be"]
    );
}

/// Times that no clock gave change nothing but what is not said.
#[test]
fn nonsense_in_a_record_accuses_nobody() {
    for bad in [f64::NAN, f64::INFINITY, -1.0, 0.0] {
        let record = rehearsed(PLAN, 1, &|rank, round| if rank == 2 { [bad; 5] } else { well(rank, round) });
        let all = told(&record);
        assert!(all.iter().all(|f| !f.starts_with("REH-001")), "{bad}: {all:#?}");
    }
    let mut empty = rehearsed(PLAN, 1, &well);
    for line in &mut empty.outcomes {
        if let Outcome::Measured(m) = &mut line.outcome
            && let Some(Facts::Rehearsal(r)) = m.facts.as_deref_mut()
        {
            (r.layers, r.training.microbatches, r.training.world.pp) = (0, 0, 0);
            r.ranks.clear();
        }
    }
    assert_eq!(told(&empty), Vec::<String>::new());
}

//! What people paste: the Kubernetes manifests against the real schemas, the shell scripts through a shell's eyes.

mod skip;
mod tool;

use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;

use tool::tool;

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn validate(file: &PathBuf) -> std::io::Result<Output> {
    let program = tool("bin/kubernetes-validate", "kubernetes-validate");
    Command::new(program).args(["-k", "1.30", "--strict"]).arg(file).output()
}

#[test]
fn the_kubernetes_manifests_fit_the_schema() -> Result {
    for (file, resources, spoil) in [
        ("job.yaml", 2, ["completionMode", "completionMood"]),
        ("watch.yaml", 2, ["volumeMounts", "volumeMount"]),
        ("init.yaml", 1, ["initContainers", "initContainer"]),
    ] {
        let manifest = PathBuf::from(ROOT).join("containers/kubernetes").join(file);
        let Ok(out) = validate(&manifest) else {
            skip::skip(true, "no kubernetes-validate here: python3 -m pip install kubernetes-validate");
            return Ok(());
        };
        let said = [out.stdout, out.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        // It warns of a kind that it does not know, and passes.
        let passed = said.matches("passed for resource").count();
        assert!(out.status.success() && passed == resources && !said.contains("Couldn't find schema"), "{said}");
        // A check that cannot fail is none.
        let wrong = tempfile::Builder::new().suffix(".yaml").tempfile()?;
        std::fs::write(&wrong, std::fs::read_to_string(&manifest)?.replace(spoil[0], spoil[1]))?;
        assert!(!validate(&wrong.path().to_owned())?.status.success(), "{file}");
    }
    Ok(())
}

#[test]
fn the_nodes_of_the_job_are_one_number() -> Result {
    let text = std::fs::read_to_string(PathBuf::from(ROOT).join("containers/kubernetes/job.yaml"))?;
    let after = |key: &str| text.split(key).nth(1).and_then(|t| t.split_whitespace().next()).unwrap_or("?").to_owned();
    let nodes = after("GONOGO_NODES\n              value:").replace('"', "");
    assert_eq!([after(" completions:"), after(" parallelism:")], [nodes.clone(), nodes]);
    Ok(())
}

/// A manifest for an operator: what is in it, what the operator gives the fourth pod, and where that finds the first.
struct Operator {
    file: &'static str,
    /// Documents; pod templates within custom resources; how often the number of nodes stands in it.
    counts: [usize; 3],
    /// Variables that the operator or its launcher sets, and labels that it puts on the pod.
    given: &'static [(&'static str, &'static str)],
    host: &'static str,
    first: &'static str,
    /// Each must be refused: a field that is not known, a value that is not one of them, a type, a field that is missing, a pod's own.
    spoils: &'static [(&'static str, &'static str)],
}

const OPERATORS: &[Operator] = &[
    Operator {
        file: "jobset.yaml",
        counts: [1, 2, 6],
        given: &[("JOB_COMPLETION_INDEX", "3")],
        host: "run-gonogo-0-3",
        first: "run-gonogo-0-0.run:17917",
        spoils: &[
            ("dependsOn:", "dependOn:"),
            ("status: Complete", "status: Completed"),
            ("completions: 8", "completions: eight"),
            ("- name: gonogo\n          status", "- status"),
            ("secretKeyRef", "secretRef"),
        ],
    },
    Operator {
        file: "kueue.yaml",
        counts: [5, 0, 5],
        given: &[("JOB_COMPLETION_INDEX", "3")],
        host: "run-3",
        first: "run-0.run:17917",
        spoils: &[
            ("namespaceSelector", "namespaceSelectors"),
            ("nominalQuota: 64", "nominalQuota: many"),
            ("clusterQueue: training", "clusterQueue: A b"),
            ("- name: gpu-nodes\n          resources", "- resources"),
            ("labels:", "label:"),
            ("initContainers", "initContainer"),
        ],
    },
    Operator {
        file: "mpijob.yaml",
        counts: [1, 2, 2],
        given: &[
            ("OMPI_COMM_WORLD_RANK", "3"),
            ("OMPI_COMM_WORLD_SIZE", "8"),
            ("OMPI_COMM_WORLD_LOCAL_RANK", "0"),
            ("OMPI_COMM_WORLD_LOCAL_SIZE", "1"),
        ],
        host: "run-worker-3",
        first: "run-worker-0.run:17917",
        spoils: &[
            ("runPolicy", "runPolicies"),
            ("mpiImplementation: OpenMPI", "mpiImplementation: LAM"),
            ("slotsPerWorker: 8", "slotsPerWorker: eight"),
            ("  mpiReplicaSpecs:", "  mpiReplicas:"),
            ("emptyDir", "emptyDirectory"),
        ],
    },
    Operator {
        file: "trainjob.yaml",
        counts: [2, 1, 3],
        given: &[("JOB_COMPLETION_INDEX", "3"), ("metadata.labels['jobset.sigs.k8s.io/jobset-name']", "run")],
        host: "run-node-0-3",
        first: "run-node-0-0.run:17917",
        spoils: &[
            ("mlPolicy", "mlPolicies"),
            ("torch: {}", "torch: {nodes: 8}"),
            ("numNodes: 8\n    command", "numNodes: '8'\n    command"),
            ("    name: torch-behind-gonogo\n  trainer", "  trainer"),
            ("fieldPath", "path"),
        ],
    },
    Operator {
        file: "volcano.yaml",
        counts: [1, 1, 4],
        given: &[("VC_TASK_INDEX", "3")],
        host: "run-node-3",
        first: "run-node-0.run:17917",
        spoils: &[
            ("policies", "policy"),
            ("PodFailed", "PodHasFailed"),
            ("minAvailable: 8", "minAvailable: -1"),
            ("env: []", "env: ''"),
            ("- name: node\n", "- name: Node\n"),
            ("restartPolicy: Never", "restartPolicy: [Never]"),
        ],
    },
];

/// What tests/fixtures/kubernetes/validate.py says of each file; `None` where its libraries are not.
fn look(files: &[PathBuf]) -> Result<Option<Vec<Value>>> {
    let program = tool("bin/python", "python3");
    let script = format!("{ROOT}/tests/fixtures/kubernetes/validate.py");
    let Ok(out) = Command::new(program).arg(script).args(files).output() else { return Ok(None) };
    let said = String::from_utf8_lossy(&out.stderr);
    if said.contains("No module named") {
        return Ok(None);
    }
    assert!(out.status.success(), "{said}");
    Ok(Some(serde_json::from_slice(&out.stdout)?))
}

/// The place of the fourth pod, by the check's command line and variables and by what the operator adds.
fn place(check: &Value, operator: &Operator) -> Result<gonogo::cluster::World> {
    use clap::Parser;
    let given = |name: &str| operator.given.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
    // As the kubelet fills in $(NAME).
    let word = |w: &Value| {
        let w = w.as_str().unwrap_or_default();
        let name = w.strip_prefix("$(").and_then(|rest| rest.strip_suffix(')'));
        name.and_then(given).unwrap_or_else(|| w.to_owned())
    };
    let words: Vec<String> = check["words"].as_array().into_iter().flatten().map(word).collect();
    let gonogo::cli::Command::Check(args) = gonogo::cli::Cli::try_parse_from(&words)?.command else {
        return Err(format!("{words:?} is no check").into());
    };
    let written =
        |name: &str| check["env"][name].as_str().map(|value| given(value).unwrap_or_else(|| value.to_owned()));
    let variable = |name: &str| written(name).or_else(|| given(name));
    let asked = gonogo::cluster::Asked {
        rank: args.rank,
        size: args.nodes,
        rendezvous: args.rendezvous.clone(),
        alone: args.alone,
    };
    let world = gonogo::cluster::World::read(&asked, &variable, operator.host)?;
    world.ok_or_else(|| format!("{words:?} is of one node").into())
}

/// Held against the operators' own schemas; no operator runs here, so that what its webhooks and controllers do is not tried.
#[test]
fn the_operators_manifests_fit_their_schemas_and_make_a_world() -> Result {
    for o in OPERATORS {
        let good = PathBuf::from(ROOT).join("containers/kubernetes").join(o.file);
        let text = std::fs::read_to_string(&good)?;
        let dir = tempfile::tempdir()?;
        let mut files = vec![good];
        for (i, (from, to)) in o.spoils.iter().enumerate() {
            assert!(text.contains(from), "{}: {from}", o.file);
            files.push(dir.path().join(format!("{i}.yaml")));
            std::fs::write(&files[i + 1], text.replacen(from, to, 1))?;
        }
        let Some(seen) = look(&files)? else {
            skip::skip(true, "no kubernetes-validate here: python3 -m pip install kubernetes-validate");
            return Ok(());
        };
        assert_eq!(seen.len(), files.len(), "{}", o.file);
        let errors = |seen: &Value| seen["errors"].as_array().map_or(0, Vec::len);
        assert_eq!(errors(&seen[0]), 0, "{}: {}", o.file, seen[0]["errors"]);
        // A check that cannot fail is none.
        for (spoil, seen) in o.spoils.iter().zip(&seen[1..]) {
            assert!(errors(seen) > 0, "{}: {spoil:?} is not refused", o.file);
        }
        let nodes = seen[0]["nodes"].as_array().ok_or("no nodes")?;
        assert!(nodes.iter().all(|n| n.as_f64() == Some(8.0)), "{}: {nodes:?}", o.file);
        let counts = ["documents", "templates"].map(|name| seen[0][name].as_u64().unwrap_or(0) as usize);
        assert_eq!([counts[0], counts[1], nodes.len()], o.counts, "{}", o.file);
        let checks = seen[0]["checks"].as_array().ok_or("no checks")?;
        assert_eq!(checks.len(), 1, "{}: {checks:?}", o.file);
        let token = checks[0]["env"]["GONOGO_TOKEN"].as_str().unwrap_or_default();
        assert!(token.contains("secretKeyRef"), "{}: {token}", o.file);
        let world = place(&checks[0], o)?;
        let found = (world.rank, world.nodes(), world.is_agent(), world.meeting.to_string());
        assert_eq!(found, (3, 8, true, o.first.to_owned()), "{}", o.file);
    }
    Ok(())
}

#[test]
fn the_scripts_are_shell() -> Result {
    for (shell, file) in [
        ("bash", "slurm/check-and-launch.sbatch"),
        ("sh", "slurm/health.sh"),
        ("sh", "health/node-check.sh"),
        ("sh", "health/node-check-npd.sh"),
        ("sh", "health/restart-loop.sh"),
        ("bash", "health/gonogo.nhc"),
        ("bash", "ci/judge-image"),
    ] {
        let out = Command::new(shell).arg("-n").arg(format!("{ROOT}/containers/{file}")).output()?;
        assert!(out.status.success(), "{file}: {}", String::from_utf8_lossy(&out.stderr));
    }
    Ok(())
}

/// A gonogo that ends as a test wants it, and says what it was asked.
struct Fake {
    dir: tempfile::TempDir,
}

impl Fake {
    fn new(body: &str) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let program = dir.path().join("gonogo");
        std::fs::write(&program, format!("#!/bin/sh\necho \"$*\" >>\"{}/asked\"\n{body}\n", dir.path().display()))?;
        std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        Ok(Fake { dir })
    }

    fn run(&self, shell: &str, script: &str, args: &[&str]) -> std::io::Result<(i32, String)> {
        let health = format!("{ROOT}/containers/health");
        let mut c = Command::new(shell);
        c.args([&format!("{health}/{script}")]).args(args);
        c.env("GONOGO", self.dir.path().join("gonogo")).env("GONOGO_HEALTH_LOG", self.dir.path().join("log"));
        c.env("GONOGO_HEALTH_SECONDS", "2").env("GONOGO_NODE_CHECK", format!("{health}/node-check.sh"));
        let out = c.output()?;
        let said = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned();
        Ok((out.status.code().unwrap_or(-1), said))
    }
}

/// Only GO lets anybody start; what is not proven is not well, whatever the reason.
#[test]
fn health_checks_fail_closed() -> Result {
    for (body, code) in [
        ("echo GO; exit 0", 0),
        ("echo 'NO-GO  node n1 not ready'; exit 1", 1),
        ("echo HOLD; exit 2", 2),
        ("exit 3", 2),
        ("exit 4", 2),
        ("kill -9 $$", 2),
        ("sleep 60", 2),
    ] {
        let fake = Fake::new(body)?;
        let (got, said) = fake.run("sh", "node-check.sh", &["--path", "/ckpt"])?;
        assert_eq!(got, code, "{body}: {said}");
        let asked = std::fs::read_to_string(fake.dir.path().join("asked"))?;
        assert!(asked.starts_with("check --tier node --quiet --out ") && asked.ends_with("--path /ckpt\n"), "{asked}");
        assert_eq!(said.is_empty(), code == 0, "{body}: {said}");
        // node-problem-detector knows well, and a problem.
        let (npd, said) = fake.run("sh", "node-check-npd.sh", &[])?;
        assert!(npd == i32::from(code != 0) && said.lines().count() == 1, "{npd} {said}");
        // NHC's own `die` ends its run; its contract is a name, a number and a line.
        let call = "die() { echo \"died $1 $2\"; }; . \"$1\"; check_gonogo";
        let nhc = Command::new("bash")
            .args(["-c", call, "nhc", &format!("{ROOT}/containers/health/gonogo.nhc")])
            .env("GONOGO_NODE_CHECK", format!("{ROOT}/containers/health/node-check.sh"))
            .env("GONOGO", fake.dir.path().join("gonogo"))
            .env("GONOGO_HEALTH_LOG", fake.dir.path().join("log"))
            .env("GONOGO_HEALTH_SECONDS", "2")
            .output()?;
        let said = String::from_utf8_lossy(&nhc.stdout).into_owned();
        assert_eq!(nhc.status.success(), code == 0, "{said}");
        assert_eq!(said.starts_with("died 1 check_gonogo: "), code != 0, "{said}");
    }
    let none = Fake::new("exit 0")?;
    std::fs::remove_file(none.dir.path().join("gonogo"))?;
    let (code, said) = none.run("sh", "node-check.sh", &[])?;
    assert!(code == 2 && said.contains("this node is not proven"), "{code} {said}");
    Ok(())
}

#[test]
fn a_restart_waits_for_the_node() -> Result {
    // Well at first, bad when the launcher has failed twice.
    let fake = Fake::new("[ $(wc -l <\"$(dirname \"$0\")/asked\") -le 2 ] || exit 1")?;
    let started = fake.dir.path().join("started");
    let launch = format!("echo x >>{}; exit 7", started.display());
    let (code, said) = fake.run("sh", "restart-loop.sh", &["sh", "-c", &launch])?;
    assert_eq!((code, std::fs::read_to_string(&started)?.lines().count()), (1, 2), "{said}");
    assert!(said.contains("this node is left out"), "{said}");
    // No restart is left: the launcher's own code.
    let fake = Fake::new("exit 0")?;
    assert_eq!(fake.run("sh", "restart-loop.sh", &["sh", "-c", "exit 7"])?.0, 7);
    assert_eq!(fake.run("sh", "restart-loop.sh", &["true"])?.0, 0);
    Ok(())
}

/// Who asks as ft_launcher does, over gRPC at the socket; ends with 0 where the answer is that the node is well.
const ASKS: &str = r#"
import grpc, os, sys
ask = grpc.insecure_channel("unix://" + os.path.abspath(sys.argv[1])).unary_unary("/nvhcd.HealthCheckService/RunHealthCheck")
said = ask(b"\x0a\x05rm -r", timeout=float(sys.argv[2]))
assert said[0] == 8 and said[2] == 16, said
assert (b'"fail_count": 0' in said) == bool(said[1]) == (said[3] == 0), said
print(said)
sys.exit(0 if said[1] else 40 + said[3])
"#;

/// The health service of ft_launcher: what it asks is answered in time, whatever the check does; a launcher that would not ask, or whose
/// service is gone, does not run.
#[test]
fn ft_launcher_asks_and_is_answered() -> Result {
    let python = tool("bin/python", "python3");
    if !Command::new(&python).args(["-c", "import grpc"]).output().is_ok_and(|o| o.status.success()) {
        skip::skip(true, "no gRPC for Python here: python3 -m pip install grpcio");
        return Ok(());
    }
    let service = |fake: &Fake, args: &[&str]| {
        let mut c = Command::new(&python);
        c.arg(format!("{ROOT}/containers/health/nvrx-check.py")).args(args).current_dir(fake.dir.path());
        c.env("GONOGO", fake.dir.path().join("gonogo")).env("GONOGO_HEALTH_LOG", fake.dir.path().join("log"));
        c
    };
    let run = |fake: &Fake, args: &[&str]| -> Result<(i32, String)> {
        let out = service(fake, args).output()?;
        let said = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned();
        Ok((out.status.code().unwrap_or(-1), said))
    };
    let program = python.to_string_lossy().into_owned();
    for (body, patience, code, says) in [
        ("echo GO; exit 0", "60", 0, "fail_count"),
        ("echo 'NO-GO  node n1 not ready'; exit 1", "60", 41, "gonogo: NO-GO  node n1 not ready"),
        ("echo HOLD; exit 2", "60", 42, "gonogo: HOLD"),
        ("sleep 300", "13", 42, "gonogo did not end within"),
        ("exit 0", "5", 42, "give it 60"),
    ] {
        let fake = Fake::new(body)?;
        let (got, said) = run(&fake, &["s", &program, "-c", ASKS, "s", patience])?;
        assert!(got == code && said.contains(says), "{body}: {got} {said}");
        assert!(!fake.dir.path().join("s").exists());
        // What the caller wants done is not.
        let asked = std::fs::read_to_string(fake.dir.path().join("asked")).unwrap_or_default();
        assert!(!asked.contains("rm -r"), "{asked}");
    }
    let fake = Fake::new("exit 0")?;
    // A setting with nonsense in it is no reason to break off.
    let asks = ["s", &program, "-c", ASKS, "s", "60"];
    let odd = service(&fake, &asks).env("GONOGO_HEALTH_SECONDS", "soon").output()?;
    assert_eq!(odd.status.code(), Some(42), "{}", String::from_utf8_lossy(&odd.stderr));
    let (code, said) = run(&fake, &["s", "true"])?;
    assert!(code == 2 && said.contains("--ft-node-health-check-endpoint"), "{code} {said}");
    std::fs::write(fake.dir.path().join("file"), "mine")?;
    let (code, said) = run(&fake, &["file", "true", "file"])?;
    assert!(code == 2 && said.contains("is no socket"), "{code} {said}");
    let (code, said) = run(&fake, &["no/such/place", "true", "no/such/place"])?;
    assert!(code == 2 && said.contains("nothing can listen"), "{code} {said}");
    assert_eq!(run(&fake, &["s", "sh", "-c", "exit 7 # s"])?.0, 7);
    // Killed, it takes the launcher along, and its socket is no obstacle to the next.
    let mut killed = service(&fake, &["s", "sh", "-c", "echo $$ >pid; exec sleep 60 # s"]).spawn()?;
    let pid = || std::fs::read_to_string(fake.dir.path().join("pid")).unwrap_or_default().trim().parse::<u32>();
    let wait = |what: &dyn Fn() -> bool| {
        (0..1000).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(20));
            what()
        })
    };
    assert!(wait(&|| pid().is_ok()));
    killed.kill()?;
    killed.wait()?;
    let there = PathBuf::from(format!("/proc/{}/stat", pid()?));
    let gone = || !std::fs::read_to_string(&there).is_ok_and(|s| s.contains("(sleep)") && !s.contains(") Z "));
    assert!(wait(&gone), "the launcher runs on without its service");
    assert_eq!(run(&fake, &asks)?.0, 0);
    Ok(())
}

#[test]
fn the_problem_detector_s_plugin_is_what_it_reads() -> Result {
    let text = std::fs::read_to_string(PathBuf::from(ROOT).join("containers/health/node-problem-detector.json"))?;
    let plugin: serde_json::Value = serde_json::from_str(&text)?;
    let condition = &plugin["conditions"][0]["type"];
    assert!(plugin["plugin"] == "custom" && plugin["rules"][0]["condition"] == *condition && condition.is_string());
    Ok(())
}

/// The real binary: a node by itself, whatever a launcher says, and a gate that does not take it for more.
#[test]
fn a_node_is_looked_at_by_itself() -> Result {
    let dir = tempfile::tempdir()?;
    std::fs::write(dir.path().join("run.toml"), "[nodes]\nneeded = 64\n[require]\nmin_busbw = \"40 GB/s\"\n")?;
    let gonogo = env!("CARGO_BIN_EXE_gonogo");
    let started = std::time::Instant::now();
    let out = Command::new("sh")
        .arg(format!("{ROOT}/containers/health/node-check.sh"))
        .args(["--plan", "run.toml", "--only", "environment,gemm,storage", "--path", "."])
        .env("GONOGO", gonogo)
        .env("GONOGO_HEALTH_LOG", dir.path().join("log"))
        // As torchrun has it on the third of eight nodes.
        .envs([
            ("RANK", "3"),
            ("WORLD_SIZE", "8"),
            ("LOCAL_RANK", "0"),
            ("MASTER_ADDR", "10.0.0.1"),
            ("MASTER_PORT", "29500"),
        ])
        .current_dir(dir.path())
        .output()?;
    assert!(started.elapsed().as_secs() < 30 && out.status.code().is_some_and(|c| c <= 2), "{out:?}");
    let kept = std::fs::read_dir(dir.path().join("log"))?.flatten().next().map(|e| e.path()).ok_or("no record")?;
    let report = std::fs::read_to_string(kept.join("report.txt"))?;
    assert!(report.contains("node tier, ") && !report.contains("min_busbw"), "{report}");
    let gate = Command::new(gonogo).arg("gate").arg(kept.join("record")).args(["--", "true"]).output()?;
    let said = String::from_utf8_lossy(&gate.stderr).into_owned();
    assert!(gate.status.code() == Some(2) && said.contains("of one node by itself"), "{said}");
    // The other tasks of a node leave it alone.
    let other = Command::new(gonogo)
        .args(["check", "--tier", "node", "--out", "other"])
        .envs([
            ("RANK", "25"),
            ("WORLD_SIZE", "64"),
            ("LOCAL_RANK", "1"),
            ("MASTER_ADDR", "10.0.0.1"),
            ("MASTER_PORT", "29500"),
        ])
        .env("LOCAL_WORLD_SIZE", "8")
        .current_dir(dir.path())
        .output()?;
    assert!(other.status.success() && !dir.path().join("other").exists(), "{other:?}");
    Ok(())
}

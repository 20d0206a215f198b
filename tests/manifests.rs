//! What people paste: the Kubernetes manifest against the real schema, the shell scripts through a shell's eyes.

mod skip;

use std::path::PathBuf;
use std::process::{Command, Output};

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn validate(file: &PathBuf) -> std::io::Result<Output> {
    // `.ci/run` installs it beside the build; elsewhere it may be on the PATH.
    let own = PathBuf::from(ROOT).join("target/tools/bin/kubernetes-validate");
    let program = if own.exists() { own } else { "kubernetes-validate".into() };
    Command::new(program).args(["-k", "1.30", "--strict"]).arg(file).output()
}

#[test]
fn the_kubernetes_manifests_fit_the_schema() -> Result {
    for (file, spoil) in
        [("job.yaml", ["completionMode", "completionMood"]), ("watch.yaml", ["volumeMounts", "volumeMount"])]
    {
        let manifest = PathBuf::from(ROOT).join("containers/kubernetes").join(file);
        let Ok(out) = validate(&manifest) else {
            skip::skip(true, "no kubernetes-validate here: python3 -m pip install kubernetes-validate");
            return Ok(());
        };
        let said = [out.stdout, out.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        // It warns of a kind that it does not know, and passes.
        let passed = said.matches("passed for resource").count();
        assert!(out.status.success() && passed == 2 && !said.contains("Couldn't find schema"), "{said}");
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

#[test]
fn the_slurm_scripts_are_shell() -> Result {
    for (shell, file) in [("bash", "check-and-launch.sbatch"), ("sh", "health.sh")] {
        let out = Command::new(shell).arg("-n").arg(format!("{ROOT}/containers/slurm/{file}")).output()?;
        assert!(out.status.success(), "{file}: {}", String::from_utf8_lossy(&out.stderr));
    }
    Ok(())
}

/// A YAML file as JSON; `None` where no reader is.
fn yaml(file: &str) -> Result<Option<serde_json::Value>> {
    let own = PathBuf::from(ROOT).join("target/tools/bin/python");
    let program = if own.exists() { own } else { "python3".into() };
    let code = "import json, sys, yaml; print(json.dumps(yaml.safe_load(open(sys.argv[1])), default=str))";
    let out = Command::new(program).args(["-c", code, file]).output()?;
    if String::from_utf8_lossy(&out.stderr).contains("No module named") {
        return Ok(None);
    }
    assert!(out.status.success(), "{file}: {}", String::from_utf8_lossy(&out.stderr));
    Ok(Some(serde_json::from_slice(&out.stdout)?))
}

/// The command line of the check in a script; the shell's variables are what the files set them to.
fn flags(script: &str) -> Vec<String> {
    let line = script.lines().find(|l| l.contains("check --tier image")).unwrap_or_default();
    let after = line.split("check --tier image").nth(1).unwrap_or_default();
    let set =
        |w: &str| w.replace("$DRIVER", "550.54.14").replace("$GPU", "H100").replace("$NEEDS", "nccl,ibverbs,mlx5");
    let words = after.split_whitespace().map(|w| set(&w.replace('"', "")));
    ["gonogo", "check", "--tier", "image"].map(str::to_owned).into_iter().chain(words).collect()
}

#[test]
fn the_pipelines_are_yaml_and_their_commands_are_gonogos() -> Result {
    use clap::Parser;
    for (file, script, variables) in
        [("gitlab.yml", "/gonogo/script/0", "/variables"), ("github.yml", "/jobs/gonogo/steps/2/run", "/env")]
    {
        let Some(pipeline) = yaml(&format!("{ROOT}/containers/ci/{file}"))? else {
            skip::skip(true, "no PyYAML here: python3 -m pip install pyyaml");
            return Ok(());
        };
        let at = |path: &str| pipeline.pointer(path).cloned().unwrap_or_default();
        let flags = flags(at(script).as_str().unwrap_or_default());
        assert!(flags.len() > 10, "{file}: {flags:?}");
        let parsed = gonogo::cli::Cli::try_parse_from(&flags);
        assert!(parsed.is_ok(), "{file}: {:?}", parsed.err().map(|e| e.to_string()));
        for name in ["DRIVER", "GPU", "NEEDS"] {
            assert!(at(&format!("{variables}/{name}")).is_string(), "{file}: {name}");
        }
        for report in ["junit.xml", "page.html"] {
            assert!(flags.iter().any(|f| f == report), "{file}: {report}");
        }
    }
    Ok(())
}

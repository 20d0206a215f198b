//! What people paste: the Kubernetes manifest against the real schema, the shell scripts through a shell's eyes.

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
fn the_kubernetes_job_fits_the_schema() -> Result {
    let manifest = PathBuf::from(ROOT).join("containers/kubernetes/job.yaml");
    let Ok(out) = validate(&manifest) else {
        eprintln!("skipped: no kubernetes-validate here: python3 -m pip install kubernetes-validate");
        return Ok(());
    };
    let said = [out.stdout, out.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    // It warns of a kind that it does not know, and passes.
    let passed = said.matches("passed for resource").count();
    assert!(out.status.success() && passed == 2 && !said.contains("Couldn't find schema"), "{said}");
    // A check that cannot fail is none.
    let wrong = tempfile::Builder::new().suffix(".yaml").tempfile()?;
    std::fs::write(&wrong, std::fs::read_to_string(&manifest)?.replace("completionMode", "completionMood"))?;
    assert!(!validate(&wrong.path().to_owned())?.status.success());
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

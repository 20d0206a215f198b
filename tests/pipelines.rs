//! What stands in somebody's CI: the GitHub action and the GitLab job against their schemas, and their commands as a runner starts them.

mod skip;
mod tool;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Parser;
use tool::tool;

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

const CI: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/containers/ci");

/// Whether `text` fits a schema of check-jsonschema's; `None` where that is not here.
fn fits(schema: &str, text: &str) -> Result<Option<bool>> {
    let file = tempfile::Builder::new().suffix(".yml").tempfile()?;
    std::fs::write(&file, text)?;
    let Ok(out) = Command::new(tool("bin/check-jsonschema", "check-jsonschema"))
        .args(["--builtin-schema", schema])
        .arg(file.path())
        .output()
    else {
        return Ok(None);
    };
    Ok(Some(out.status.success()))
}

/// The documents of a YAML file as JSON; `None` where no reader is.
fn yaml(file: &Path) -> Result<Option<Vec<serde_json::Value>>> {
    let code = "import json, sys, yaml; print(json.dumps(list(yaml.safe_load_all(open(sys.argv[1]))), default=str))";
    let out = Command::new(tool("bin/python", "python3")).args(["-c", code]).arg(file).output()?;
    if String::from_utf8_lossy(&out.stderr).contains("No module named") {
        return Ok(None);
    }
    assert!(out.status.success(), "{}: {}", file.display(), String::from_utf8_lossy(&out.stderr));
    Ok(Some(serde_json::from_slice(&out.stdout)?))
}

fn no_reader() {
    skip::skip(true, "no PyYAML or check-jsonschema here: python3 -m pip install check-jsonschema");
}

#[test]
fn action_workflow_and_job_fit_their_schemas() -> Result {
    for (schema, file, spoil) in [
        ("vendor.github-actions", "action.yml", ["using: composite", "using: composed"]),
        ("vendor.github-workflows", "github.yml", ["runs-on:", "run-on:"]),
        ("vendor.gitlab-ci", "gitlab.yml", ["when: always", "when: ever"]),
    ] {
        let text = std::fs::read_to_string(format!("{CI}/{file}"))?;
        // GitLab's header of inputs is a document of its own, which its schema does not know.
        let body = text.split("\n---\n").last().unwrap_or_default();
        let Some(good) = fits(schema, body)? else {
            no_reader();
            return Ok(());
        };
        assert!(good && body.contains(spoil[0]), "{file}");
        assert_eq!(fits(schema, &body.replace(spoil[0], spoil[1]))?, Some(false), "{file}");
    }
    Ok(())
}

/// Whoever can move a tag can run in somebody's CI.
#[test]
fn what_a_pipeline_takes_from_others_is_pinned() -> Result {
    let text = std::fs::read_to_string(format!("{CI}/github.yml"))?;
    let uses: Vec<&str> =
        text.lines().filter_map(|l| l.trim().trim_start_matches("- ").strip_prefix("uses: ")).collect();
    assert_eq!(uses.len(), 3);
    for used in uses {
        let at = used.split_once('@').map(|(_, at)| at.split_whitespace().next().unwrap_or_default());
        let commit = |at: &str| at == "COMMIT" || (at.len() == 40 && at.bytes().all(|b| b.is_ascii_hexdigit()));
        assert!(at.is_some_and(commit), "{used}");
    }
    assert!(text.contains("gonogo: ghcr.io/OWNER/gonogo@sha256:"));
    Ok(())
}

#[test]
fn the_job_s_command_is_gonogo_s() -> Result {
    let Some(documents) = yaml(&PathBuf::from(format!("{CI}/gitlab.yml")))? else {
        no_reader();
        return Ok(());
    };
    let [header, body] = &documents[..] else { return Err("two documents".into()) };
    let job = &body["$[[ inputs.job ]]"];
    let mut script = job["script"][0].as_str().ok_or("no script")?.replace('"', "");
    for (variable, value) in job["variables"].as_object().ok_or("no variables")? {
        let input = value.as_str().unwrap_or_default().replace("$[[ inputs.", "").replace(" ]]", "");
        assert!(header["spec"]["inputs"][&input].is_object(), "{variable}: {input}");
        let said = match variable.as_str() {
            "DRIVER" => "550.54.14",
            "GPU" => "H100",
            _ => "nccl,ibverbs,mlx5",
        };
        script = script.replace(&format!("${variable}"), said);
    }
    let parsed = gonogo::cli::Cli::try_parse_from(script.split_whitespace());
    assert!(parsed.is_ok(), "{script}: {:?}", parsed.err().map(|e| e.to_string()));
    for report in ["junit.xml", "page.html"] {
        assert!(script.contains(report) && job["artifacts"].to_string().contains(report), "{report}");
    }
    Ok(())
}

/// A docker that does what a test wants, and notes what it was asked.
fn docker(dir: &Path, body: &str) -> Result {
    let script = format!(
        "#!/bin/sh\nprintf '%s\\n' \"$*\" >>{0}/asked\ncase $1 in create) echo box; exit ;; cp) : >\"$3\"; exit ;; rm) exit ;; esac\n{body}\n",
        dir.display()
    );
    let file = dir.join("docker");
    std::fs::write(&file, script)?;
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// The action's step as a runner starts it: its verdict is an output, its reason is in the summary, and only GO is green.
#[test]
fn the_action_is_green_on_go_alone() -> Result {
    let Some(documents) = yaml(&PathBuf::from(format!("{CI}/action.yml")))? else {
        no_reader();
        return Ok(());
    };
    let step = &documents[0]["runs"]["steps"][0];
    let script = step["run"].as_str().ok_or("no script")?;
    assert!(!script.contains("${{"), "an input must not become a part of the script");
    for (body, code, verdict) in
        [("exit 0", 0, "go"), ("exit 1", 1, "no-go"), ("exit 2", 2, "unproven"), ("kill -9 $$", 137, "unproven")]
    {
        let dir = tempfile::tempdir()?;
        let at = |name: &str| dir.path().join(name);
        docker(dir.path(), &format!("echo '# because' >{}/gonogo-image/summary.md\n{body}", dir.path().display()))?;
        let ran = Command::new("bash")
            .args(["--noprofile", "--norc", "-eo", "pipefail", "-c", script])
            .env("PATH", format!("{}:{}", dir.path().display(), std::env::var("PATH")?))
            .envs([
                ("IMAGE", "candidate"),
                ("DRIVER", "550.54.14"),
                ("GPU", "H100"),
                ("KERNEL", ""),
                ("NEEDS", "nccl; id"),
            ])
            .env("GONOGO", format!("gonogo@sha256:{}", "0".repeat(64)))
            .env("JUDGE", format!("{CI}/judge-image"))
            .env("RUNNER_TEMP", dir.path())
            .env("GITHUB_OUTPUT", at("output"))
            .env("GITHUB_STEP_SUMMARY", at("summary"))
            .output()?;
        assert_eq!(ran.status.code(), Some(code), "{}", String::from_utf8_lossy(&ran.stderr));
        assert!(std::fs::read_to_string(at("output"))?.starts_with(&format!("verdict={verdict}\n")), "{body}");
        assert_eq!(std::fs::read_to_string(at("summary"))?, "# because\n");
        let asked = std::fs::read_to_string(at("asked"))?;
        let run = asked.lines().last().ok_or("docker was not asked")?;
        let (_, check) = run.split_once(" candidate check ").ok_or("no check")?;
        assert!(run.starts_with("run --rm ") && check.ends_with("--needs nccl; id"), "{run}");
        let words = ["gonogo", "check"].into_iter().chain(check.trim_end_matches("; id").split_whitespace());
        assert!(gonogo::cli::Cli::try_parse_from(words).is_ok(), "{check}");
    }
    Ok(())
}

#[test]
fn an_image_of_gonogo_without_a_digest_is_refused() -> Result {
    let dir = tempfile::tempdir()?;
    docker(dir.path(), "exit 0")?;
    let judge = |gonogo: &str| {
        Command::new(format!("{CI}/judge-image"))
            .arg("candidate")
            .env("ENGINE", dir.path().join("docker"))
            .env("GONOGO", gonogo)
            .env("OUT", dir.path().join("out"))
            .output()
    };
    let refused = judge("ghcr.io/somebody/gonogo:latest")?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(3) && said.contains("with its digest"), "{said}");
    assert!(!dir.path().join("asked").exists());
    Ok(())
}

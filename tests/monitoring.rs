//! The alert rules and the dashboard (containers/monitoring) against what gonogo really exports, and in Prometheus' own tool.

mod skip;
mod tool;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output};

use tool::tool;

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const GONOGO: &str = env!("CARGO_BIN_EXE_gonogo");

fn text(file: &str) -> std::io::Result<String> {
    std::fs::read_to_string(format!("{ROOT}/containers/monitoring/{file}"))
}

/// Names of metrics in a text.
fn metrics(text: &str) -> BTreeSet<String> {
    let word = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
    text.split(word).filter(|w| w.starts_with("gonogo_")).map(str::to_owned).collect()
}

/// What is exported for a check that failed, one that passed, and a watch with four saves behind it.
fn exported() -> Result<BTreeSet<String>> {
    let mut all = String::new();
    for record in ["go", "no-go-storage"] {
        let file = format!("{ROOT}/tests/fixtures/records/{record}.jsonl");
        let out = Command::new(GONOGO).args(["report", &file, "--format", "prometheus"]).output()?;
        all += &String::from_utf8(out.stdout)?;
    }
    let dir = tempfile::tempdir()?;
    let saves = dir.path().join("checkpoints");
    for step in 1..=4u64 {
        let save = saves.join(format!("global_step{step}00"));
        std::fs::create_dir_all(&save)?;
        let file = std::fs::File::create(save.join("model.pt"))?;
        file.set_len(1 << 20)?;
        file.set_modified(std::time::SystemTime::now() - std::time::Duration::from_secs(3600 * (5 - step)))?;
    }
    std::fs::write(saves.join("latest"), "global_step400")?;
    let report = dir.path().join("watch.prom");
    let out = Command::new(GONOGO).arg("watch").arg(&saves).args(["--once", "--report"]).arg(&report).output()?;
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    all += &std::fs::read_to_string(report)?;
    let of = all.lines().filter(|l| !l.starts_with('#')).filter_map(|l| l.split(['{', ' ']).next());
    Ok(of.map(str::to_owned).collect())
}

#[test]
fn what_the_rules_and_the_dashboard_ask_for_is_exported() -> Result {
    let exported = exported()?;
    for file in ["alerts.yml", "grafana.json"] {
        let asked = metrics(&text(file)?);
        let unknown: Vec<&String> = asked.iter().filter(|m| !exported.contains(*m)).collect();
        assert!(asked.len() > 5 && unknown.is_empty(), "{file}: {unknown:?} are not among {exported:?}");
    }
    Ok(())
}

/// Prometheus' own tool in `dir`; `None` where there is none.
fn promtool(dir: &Path, args: &[&str]) -> Result<Option<Output>> {
    match Command::new(tool("promtool", "promtool")).args(args).current_dir(dir).output() {
        Ok(out) => Ok(Some(out)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            skip::skip(false, "no promtool here: apt-get install prometheus");
            Ok(None)
        }
        Err(e) => Err(e.into()),
    }
}

fn said(out: &Output) -> String {
    String::from_utf8_lossy(&[&out.stdout[..], &out.stderr].concat()).into_owned()
}

#[test]
fn the_alerts_fire_when_they_should() -> Result {
    let dir = tempfile::tempdir()?;
    let rules = text("alerts.yml")?;
    std::fs::write(dir.path().join("alerts.yml"), &rules)?;
    std::fs::copy(format!("{ROOT}/tests/fixtures/monitoring/alerts.yml"), dir.path().join("tests.yml"))?;
    let Some(out) = promtool(dir.path(), &["check", "rules", "alerts.yml"])? else { return Ok(()) };
    assert!(out.status.success(), "{}", said(&out));
    let Some(out) = promtool(dir.path(), &["test", "rules", "tests.yml"])? else { return Ok(()) };
    assert!(out.status.success(), "{}", said(&out));
    // Every rule is tried, and one that was turned round is found.
    let tried = std::fs::read_to_string(dir.path().join("tests.yml"))?;
    for name in rules.lines().filter_map(|l| l.trim().strip_prefix("- alert: ")) {
        assert!(tried.contains(&format!("alertname: {name}\n")), "{name} is not tried");
    }
    std::fs::write(dir.path().join("alerts.yml"), rules.replace("gonogo_go == 0", "gonogo_go == 1"))?;
    let Some(out) = promtool(dir.path(), &["test", "rules", "tests.yml"])? else { return Ok(()) };
    assert!(!out.status.success(), "{}", said(&out));
    Ok(())
}

#[test]
fn the_dashboard_is_whole_and_its_queries_are_promql() -> Result {
    let dashboard: serde_json::Value = serde_json::from_str(&text("grafana.json")?)?;
    let panels = dashboard["panels"].as_array().cloned().unwrap_or_default();
    assert!(panels.len() > 8 && dashboard["schemaVersion"].is_u64(), "{} panels", panels.len());
    let mut rules = Vec::new();
    let mut ids = BTreeSet::new();
    for p in &panels {
        assert!(ids.insert(p["id"].as_u64()), "{}: an id twice", p["title"]);
        // Grafana's grid is 24 wide.
        let at = |k: &str| p["gridPos"][k].as_u64().unwrap_or(99);
        assert!(at("x") + at("w") <= 24, "{} leaves the grid", p["title"]);
        for t in p["targets"].as_array().ok_or("a panel without a query")? {
            assert_eq!(t["datasource"]["uid"], "${datasource}", "{}", p["title"]);
            let expr = t["expr"].as_str().unwrap_or_default().replace("$instance", ".*").replace("$node", ".*");
            assert!(!expr.contains('$'), "{expr}");
            rules.push(serde_json::json!({ "record": format!("r{}", rules.len()), "expr": expr }));
        }
    }
    let variables: Vec<&str> =
        dashboard["templating"]["list"].as_array().into_iter().flatten().filter_map(|v| v["name"].as_str()).collect();
    assert_eq!(variables, ["datasource", "instance", "node"]);
    let dir = tempfile::tempdir()?;
    // JSON is YAML.
    let file = serde_json::json!({ "groups": [{ "name": "panels", "rules": rules }] });
    std::fs::write(dir.path().join("panels.yml"), file.to_string())?;
    let Some(out) = promtool(dir.path(), &["check", "rules", "panels.yml"])? else { return Ok(()) };
    assert!(out.status.success(), "{}", said(&out));
    Ok(())
}

//! What we write, read by the programs that others read it with: Prometheus' own parser, a reader of JUnit.

mod skip;
mod tool;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tool::tool;

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const GONOGO: &str = env!("CARGO_BIN_EXE_gonogo");

/// Runs Python with the packages that `.ci/packages` installs; `None` where they are not.
fn python(code: &str, file: &Path) -> Result<Option<String>> {
    let program = tool("bin/python", "python3");
    let out = Command::new(program).args(["-c", code]).arg(file).output()?;
    let err = String::from_utf8_lossy(&out.stderr).into_owned();
    if err.contains("No module named") {
        skip::skip(true, format_args!("{}", err.lines().last().unwrap_or_default()));
        return Ok(None);
    }
    assert!(out.status.success(), "{}: {err}", file.display());
    Ok(Some(String::from_utf8(out.stdout)?))
}

/// The fixtures' records, and a simulated cluster's.
fn records(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut out: Vec<PathBuf> = std::fs::read_dir(Path::new(ROOT).join("tests/fixtures/records"))?
        .filter_map(|e| Some(e.ok()?.path()))
        .filter(|p| p.extension().is_some_and(|e| e == "jsonl"))
        .collect();
    let cluster = dir.join("cluster.jsonl");
    let flags = ["simulate", "--nodes", "24", "--per-leaf", "8", "--fault", "node:5", "--alone", "--record"];
    let ran = Command::new(GONOGO).args(flags).arg(&cluster).output()?;
    assert!(cluster.exists(), "{}", String::from_utf8_lossy(&ran.stderr));
    out.push(cluster);
    assert!(out.len() >= 6, "{out:?}");
    Ok(out)
}

fn report(record: &Path, file: &Path) -> Result<Output> {
    Ok(Command::new(GONOGO).args(["report", "--exit-code"]).arg(record).arg("--report").arg(file).output()?)
}

#[test]
fn prometheus_reads_the_metrics() -> Result {
    let code = "
import sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read
families = list(read(open(sys.argv[1], newline='').read()))
print(len(families), sum(len(f.samples) for f in families), any(f.name == 'gonogo_decision' or f.name.startswith('gonogo_') for f in families))
";
    let dir = tempfile::tempdir()?;
    for (i, record) in records(dir.path())?.iter().enumerate() {
        let file = dir.path().join(format!("{i}.prom"));
        report(record, &file)?;
        let Some(said) = python(code, &file)? else { return Ok(()) };
        let words: Vec<&str> = said.split_whitespace().collect();
        assert!(words[1].parse::<usize>()? > 2 && words[2] == "True", "{}: {said}", record.display());
        // A check that cannot fail is none.
        let broken = dir.path().join("broken.prom");
        std::fs::write(&broken, std::fs::read_to_string(&file)?.replace("# EOF", ""))?;
        assert!(
            python(&format!("try:\n{}\nexcept ValueError: print('refused')", indent(code)), &broken)?
                .is_some_and(|s| s.contains("refused"))
        );
    }
    Ok(())
}

fn indent(code: &str) -> String {
    code.lines().map(|l| format!("  {l}")).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_reader_of_junit_counts_what_failed() -> Result {
    let code = "
import sys
from junitparser import JUnitXml, Failure
xml = JUnitXml.fromfile(sys.argv[1])
cases = [c for s in xml for c in s]
failed = [r for c in cases for r in c.result if isinstance(r, Failure)]
assert xml.tests == len(cases) and xml.failures == len(failed), (xml.tests, len(cases), xml.failures, len(failed))
print(len(cases), len(failed), *sorted({r.type for r in failed if r.text}))
";
    let dir = tempfile::tempdir()?;
    for (i, record) in records(dir.path())?.iter().enumerate() {
        let file = dir.path().join(format!("{i}.xml"));
        let code_of = report(record, &file)?.status.code();
        let Some(said) = python(code, &file)? else { return Ok(()) };
        let words: Vec<&str> = said.split_whitespace().collect();
        // Red exactly where the gate is not open.
        assert_eq!(words[1] == "0", code_of == Some(0), "{}: {said}", record.display());
        if record.ends_with("image-broken.jsonl") {
            assert!(words.contains(&"IMG-003") && words.contains(&"IMG-006"), "{said}");
        }
    }
    Ok(())
}

//! What NCCL's own diagnostics say (2.31 and later): whether each pair of GPUs reads and writes the other's memory, and what differs between
//! ranks. Lines as its documentation has them (user guide, troubleshooting: Diagnostics; RAS): `[HOST:PID ]NCCL DIAG [OK]   CHECK: TEXT`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A check of NCCL's, or one line of what it found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Diagnosis {
    /// `[OK]`; else `[INFO]`: a failed verification, values that differ, or a check that could not be completed.
    pub ok: bool,
    /// `p2p`, `GPU inventory`, `NCCL environment`.
    pub check: String,
    pub text: String,
}

impl Diagnosis {
    /// Whether it is of data that went, or should have gone, between GPUs.
    pub fn is_of_paths(&self) -> bool {
        self.check == "p2p"
    }
}

const MARK: &str = "NCCL DIAG ";
/// Texts are cut here, and so many lines are kept.
const LONGEST: usize = 300;
const MOST: usize = 64;

/// The lines of all reports in what a process wrote, without repetition. Never fails: what is none of them is skipped.
pub fn parse_diagnoses(said: &str) -> Vec<Diagnosis> {
    let mut out: Vec<Diagnosis> = Vec::new();
    for line in said.lines() {
        let Some((_, report)) = line.split_once(MARK) else { continue };
        let (ok, rest) = match (report.strip_prefix("[OK]"), report.strip_prefix("[INFO]")) {
            (Some(rest), _) => (true, rest),
            (_, Some(rest)) => (false, rest),
            // Headers, and how long it took.
            (None, None) => continue,
        };
        let (check, text) = rest.trim().split_once(": ").unwrap_or(("", rest.trim()));
        let short = |text: &str| text.chars().take(LONGEST).collect::<String>();
        let found = Diagnosis { ok, check: short(check), text: short(text) };
        if out.len() < MOST && !out.contains(&found) {
            out.push(found);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the documentation of 2.31 shows them.
    const SAID: &str = "\
NCCL version 2.31.2+cuda13.0
node042:12345 NCCL DIAG === NCCL Diagnostics ===
node042:12345 NCCL DIAG [OK]   p2p: verified P2P access in both directions between every GPU pair (56 peer accesses)
node042:12345 NCCL DIAG NCCL diagnostics completed in 245.3 ms across 8 ranks
node042:12345 NCCL DIAG [OK]   GPU inventory: 8x NVIDIA H100 per node consistent across 8 ranks in comm 0x1234
NCCL DIAG [INFO] p2p: only 52/56 GPU-to-GPU peer accesses passed verification
node042:12345 NCCL DIAG [INFO] NCCL environment: NCCL_DEBUG=INFO on rank(s) {0,1,2,3}
node042:12345 NCCL DIAG [INFO] NCCL environment: NCCL_DEBUG=INFO on rank(s) {0,1,2,3}
NCCL DIAG [INFO] transport detect returned 3
";

    #[test]
    fn reports_are_read_line_by_line() {
        let all = parse_diagnoses(SAID);
        let shown: Vec<String> = all.iter().map(|d| format!("{} {}: {}", d.ok, d.check, d.text)).collect();
        assert_eq!(
            shown,
            [
                "true p2p: verified P2P access in both directions between every GPU pair (56 peer accesses)",
                "true GPU inventory: 8x NVIDIA H100 per node consistent across 8 ranks in comm 0x1234",
                "false p2p: only 52/56 GPU-to-GPU peer accesses passed verification",
                "false NCCL environment: NCCL_DEBUG=INFO on rank(s) {0,1,2,3}",
                "false : transport detect returned 3",
            ]
        );
        assert!(all[0].is_of_paths() && !all[1].is_of_paths());
    }

    proptest::proptest! {
        #[test]
        fn nothing_that_is_written_makes_it_panic_or_grow(said in "((NCCL DIAG |\\[OK\\]|\\[INFO\\]|p2p: |\\n|\\PC{0,40})){0,300}") {
            let all = parse_diagnoses(&said);
            proptest::prop_assert!(all.len() <= MOST && all.iter().all(|d| d.text.chars().count() <= LONGEST));
        }
    }
}

//! The HTML report in a real browser: it opens without an error, nothing is wider than the window on a phone and on a screen, in the
//! light and in the dark, and its tables sort.

mod skip;

use std::path::Path;
use std::process::{Command, Stdio};

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

/// What the page says of itself, added to a copy of it.
const PROBE: &str = r#"<script>
addEventListener("load", () => {
  const wide = [...document.querySelectorAll("body *")].filter(e => !e.closest(".scroll") && !e.closest("svg") && e.getBoundingClientRect().right > innerWidth + 1);
  const tables = [...document.querySelectorAll("table.sortable")].filter(t => t.tHead.textContent.includes("measured"));
  const table = tables.reduce((a, b) => (b.rows.length > a.rows.length ? b : a));
  const button = [...table.tHead.rows[0].cells].find(c => c.textContent.startsWith("measured")).querySelector("button");
  const values = () => [...table.tBodies[0].rows].map(r => Number(r.cells[2].dataset.v));
  const sorted = v => v.every((x, i) => i === 0 || v[i - 1] <= x);
  button.click();
  const up = sorted(values());
  button.click();
  const down = sorted(values().reverse());
  parent.postMessage(JSON.stringify({ width: innerWidth, scroll: document.documentElement.scrollWidth, wide: wide.slice(0, 3).map(e => e.outerHTML.slice(0, 120)),
    up, down, rows: values().length, svgs: document.querySelectorAll("svg[role=img]").length,
    named: [...document.querySelectorAll("svg")].every(s => s.getAttribute("aria-label")), headings: document.querySelectorAll("h1").length,
    dark: getComputedStyle(document.body).backgroundColor, bad: document.querySelectorAll(".node.bad").length }), "*");
});
</script>"#;

fn browser() -> Option<&'static str> {
    ["chromium", "chromium-browser", "google-chrome"].into_iter().find(|b| {
        let found = Command::new(b).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        found.is_ok_and(|s| s.success())
    })
}

/// Opens the page in a frame of a width and returns what it says of itself; fails on a message in the console.
fn open(browser: &str, dir: &Path, page: &str, width: u32, dark: bool) -> Result<serde_json::Value> {
    std::fs::write(dir.join("page.html"), page.replace("</body>", &format!("{PROBE}</body>")))?;
    let frame = format!(
        r#"<!doctype html><iframe src="page.html" width="{width}" height="3000" style="border:0"></iframe>
        <script>addEventListener("message", e => {{ document.body.dataset.said = e.data; }});</script>"#
    );
    std::fs::write(dir.join("frame.html"), frame)?;
    let scheme = if dark { "0" } else { "1" };
    let run = Command::new("timeout")
        .args([
            "60",
            browser,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--enable-logging=stderr",
            "--v=0",
        ])
        .args(["--virtual-time-budget=5000", "--window-size=1600,3200", "--dump-dom"])
        .arg(format!("--blink-settings=preferredColorScheme={scheme}"))
        .arg(format!("--user-data-dir={}", dir.join("profile").display()))
        .arg(format!("file://{}", dir.join("frame.html").display()))
        .stdin(Stdio::null())
        .output()?;
    let console = String::from_utf8_lossy(&run.stderr).into_owned();
    let said: Vec<&str> = console.lines().filter(|l| l.contains("CONSOLE")).collect();
    assert_eq!(said, [""; 0], "the console of the page");
    let dom = String::from_utf8_lossy(&run.stdout).into_owned();
    let start = dom.find("data-said=\"").ok_or_else(|| format!("the page said nothing: {console}"))? + 11;
    let end = dom[start..].find('"').ok_or("cut")? + start;
    Ok(serde_json::from_str(&dom[start..end].replace("&quot;", "\"").replace("&lt;", "<").replace("&amp;", "&"))?)
}

#[test]
fn the_page_opens_fits_and_sorts() -> Result {
    let Some(browser) = browser() else {
        skip::skip(false, "no chromium");
        return Ok(());
    };
    let dir = tempfile::tempdir()?;
    let gonogo = |args: &[&str]| -> Result<String> {
        let out = Command::new(env!("CARGO_BIN_EXE_gonogo")).args(args).current_dir(dir.path()).output()?;
        Ok(String::from_utf8(out.stdout)?)
    };
    gonogo(&[
        "simulate",
        "--nodes",
        "48",
        "--per-leaf",
        "16",
        "--fault",
        "node:9",
        "--alone",
        "--record",
        "cluster.jsonl",
    ])?;
    let cluster = gonogo(&["report", "cluster.jsonl", "--format", "html"])?;
    for (width, dark) in [(390, false), (390, true), (1440, false), (1440, true)] {
        let said = open(browser, dir.path(), &cluster, width, dark)?;
        assert_eq!((said["width"].as_u64(), &said["wide"]), (Some(width.into()), &serde_json::json!([])), "{said}");
        assert!(said["scroll"].as_u64().is_some_and(|s| s <= width.into()), "{said}");
        assert!(said["up"] == true && said["down"] == true && said["rows"].as_u64() > Some(3), "{said}");
        assert!(said["svgs"].as_u64() > Some(4) && said["named"] == true && said["headings"] == 1, "{said}");
        // One in the legend, one on the map.
        assert_eq!(said["bad"], 2, "{said}");
        let light = said["dark"] == "rgb(255, 255, 255)";
        assert_ne!(light, dark, "{said}");
    }
    Ok(())
}

#!/usr/bin/env python3
"""How long a browser takes to open the HTML report of 1024 nodes: from navigation to the load event, with everything laid out.

    python3 benches/page.py [RECORD]

Without a record, one of 1024 simulated nodes is made. Needs chromium and target/release/gonogo. Five openings, the median.
"""
import os, re, statistics, subprocess, sys, tempfile

root = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
gonogo = os.path.join(root, "target/release/gonogo")
# Parsing, scripts, style and layout of the whole page are done then; painting is not in it.
SCRIPT = """<script>addEventListener("load", () => { document.body.getBoundingClientRect(); document.documentElement.dataset.ms = performance.now().toFixed(1); });</script>"""

with tempfile.TemporaryDirectory() as folder:
    record = sys.argv[1] if len(sys.argv) > 1 else os.path.join(folder, "record.jsonl")
    if len(sys.argv) < 2:
        subprocess.run([gonogo, "simulate", "--nodes", "1024", "--per-leaf", "32", "--alone", "--fault", "node:?", "--fault", "leaf:?", "--record", record],
                       stdout=subprocess.DEVNULL, check=False)
    page = os.path.join(folder, "page.html")
    subprocess.run([gonogo, "report", record, "--report", page], stdout=subprocess.DEVNULL, check=False)
    size = os.path.getsize(page)
    text = open(page).read()
    # The page's own policy forbids foreign scripts; inline ones pass.
    open(page, "w").write(text.replace("</body>", SCRIPT + "</body>"))
    times = []
    for _ in range(5):
        out = subprocess.run(["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1440,1000", "--user-data-dir=" + folder + "/profile", "--dump-dom", "file://" + page],
                             capture_output=True, text=True, timeout=60).stdout
        found = re.search(r'data-ms="([0-9.]+)"', out)
        if found:
            times.append(float(found.group(1)))
    if not times:
        sys.exit("the page said nothing: does chromium start here?")
    print(f"record {os.path.getsize(record) / 1e6:.1f} MB, page {size / 1e6:.2f} MB, opened and laid out in {statistics.median(times):.0f} ms (median of {len(times)}, {min(times):.0f} to {max(times):.0f})")

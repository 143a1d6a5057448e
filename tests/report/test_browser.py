"""The page in a browser, where there is one: it draws, complains of nothing, and fits."""

import json
import re
import shutil
import subprocess

import pytest

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)

#: Put before all else, and after it: what went wrong, and what was drawn.
BEFORE = """<script>
const wrong = [];
addEventListener("error", (e) => wrong.push(e.message));
addEventListener("securitypolicyviolation", (e) => wrong.push(e.blockedURI));
console.error = console.warn = (...what) => wrong.push(what.join(" "));
</script>"""
AFTER = """<script>
document.querySelectorAll("details").forEach((d) => { d.open = true; });
document.querySelectorAll("tr[data-structure]")[1]?.click();
setTimeout(() => {
  const canvas = document.querySelector("#view canvas");
  const small = document.createElement("canvas");
  small.width = small.height = 100;
  const pen = small.getContext("2d");
  pen.drawImage(canvas, 0, 0, 100, 100);
  const colours = new Set(new Uint32Array(pen.getImageData(0, 0, 100, 100).data.buffer));
  const root = document.documentElement;
  root.dataset.found = JSON.stringify({
    wrong, colours: colours.size, overflow: root.scrollWidth - root.clientWidth,
    chosen: document.querySelector("tr.chosen").dataset.structure,
  });
}, 300);
</script></body>"""


@pytest.mark.slow
@pytest.mark.skipif(not BROWSER, reason="no Chromium on this machine")
@pytest.mark.parametrize("width", [500, 1280])
def test_it_draws_the_structures_and_fits_the_window(reported, tmp_path, width):
    page = reported.page.replace("<style>", BEFORE + "<style>", 1)
    page = AFTER.join(page.rsplit("</body>", 1))
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    flags = "--headless --no-sandbox --use-angle=swiftshader --enable-unsafe-swiftshader --dump-dom"
    done = subprocess.run(
        [BROWSER, *flags.split(), "--virtual-time-budget=3000", f"--user-data-dir={tmp_path / 'u'}",
         f"--window-size={width},900", f"file://{tmp_path}/page.html"],
        capture_output=True, text=True, timeout=100, check=True,
    )  # fmt: skip
    told = re.search(r'data-found="(.*?)"', done.stdout)[1].replace("&quot;", '"')
    found = json.loads(told)
    assert found["wrong"] == []
    assert found["overflow"] == 0
    assert found["chosen"] == "1"
    assert found["colours"] > 20  # a ground alone has one

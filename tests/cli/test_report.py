"""anipot report: the page written again, and what is said where that cannot be."""


def test_it_is_written_again_and_elsewhere(anipot, trained, tmp_path):
    before = (trained / "report.html").read_text(encoding="utf-8")
    out = tmp_path / "new folder" / "page.html"
    result = anipot("report", trained, "-o", out)
    assert result.code == 0
    assert result.out == f"report written to {out}\n"
    assert out.read_text(encoding="utf-8") == before
    assert anipot("report", trained, "-o", out).out == f"report written to {out} (replaced)\n"


def test_a_folder_that_is_no_run(anipot, tmp_path):
    result = anipot("report", tmp_path)
    assert result.code == 2
    assert f"{tmp_path} holds no results of a run (run.json is missing)" in result.err


def test_a_page_is_html(anipot, trained, tmp_path):
    result = anipot("report", trained, "-o", tmp_path / "page.pdf")
    assert result.code == 2
    assert "a name that ends in .html" in result.err
    assert not (tmp_path / "page.pdf").exists()

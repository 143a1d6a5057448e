"""The folder of a study: never overwritten, gone on with, the same at the second reading."""

import json

import numpy as np
import pytest

from anipot.errors import SettingsError
from anipot.evaluation.history import History
from anipot.studies.common import Study, finished


def test_a_report_holds_what_was_said_and_a_finished_folder_is_left_alone(tmp_path, capsys):
    folder = tmp_path / "one"
    with Study("tiny", folder, {"seeds": (0, 1)}) as study:
        study.say("Some text.")
        study.table(["name", "error"], [["long name", "1.0"], ["b", "10.25"]], "A title")
        study.finish({"error": np.float32(0.5)}, [f"The error is {0.5}."])
    report = (folder / "report.md").read_text()
    assert "Some text." in report
    assert "A title" in report
    assert "The error is 0.5." in report
    rows = [line for line in report.splitlines() if line.startswith("|")]
    assert len(rows) == 4
    assert len({len(row) for row in rows}) == 1
    assert rows[3].endswith("| 10.25 |")
    assert "The error is 0.5." in capsys.readouterr().out
    result = json.loads((folder / "result.json").read_text())
    assert result["error"] == 0.5
    assert result["options"] == {"seeds": [0, 1]}
    with pytest.raises(SettingsError, match="finished study"):
        Study("tiny", folder, {"seeds": (0, 1)})


def test_an_interrupted_study_goes_on_from_its_finished_parts(tmp_path, capsys):
    made = []

    def run():
        with Study("tiny", tmp_path / "two", {"n": 3}) as study:
            values = []
            for k in range(3):

                def make(k=k):
                    if k == 2 and len(made) == 2:
                        made.append("interrupted")
                        raise KeyboardInterrupt
                    made.append(k)
                    return {"value": np.full(2, k / 3)}

                values.append(study.once(f"part-{k}", make)["value"])
            study.finish({"values": values}, [])
            return values

    with pytest.raises(KeyboardInterrupt):
        run()
    assert "--out" in capsys.readouterr().err
    assert run() == [[k / 3] * 2 for k in range(3)]
    assert made == [0, 1, "interrupted", 2]


def test_other_options_another_study_and_strange_folders_are_refused(tmp_path):
    Study("tiny", tmp_path / "three", {"n": 3, "m": 1})
    with pytest.raises(SettingsError, match="begun with n=3;"):
        Study("tiny", tmp_path / "three", {"n": 4, "m": 1})
    with pytest.raises(SettingsError, match="of the study tiny, not other"):
        Study("other", tmp_path / "three", {"n": 3, "m": 1})
    (tmp_path / "four").mkdir()
    (tmp_path / "four" / "notes.txt").write_text("mine")
    with pytest.raises(SettingsError, match="no study's folder"):
        Study("tiny", tmp_path / "four")
    assert (tmp_path / "four" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("text", ['{"study": "tiny"', "[1]", '{"study": "tiny"}', "\udcff"])
def test_damaged_files_are_named(tmp_path, text):
    path = tmp_path / "study.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(SettingsError, match=r"study\.json is"):
        Study("tiny", tmp_path)


def test_an_interrupted_training_is_no_result():
    history = History()
    history.stopped = "interrupted"
    with pytest.raises(KeyboardInterrupt):
        finished(history)
    history.stopped = "finished"
    assert finished(history) is history

"""Both commands on models that have no row: find takes what is proved, train what has a role for each matrix."""

import json

import pytest

import odd

pytestmark = pytest.mark.usefixtures("no_figures")


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_find_on_a_mixture_with_shared_experts(tmp_path):
    model = odd.model(tmp_path / "m", "deepseek_v3")
    said = odd.find(model, "--out", "r.json", "--ablate", "1,2,100,4", "--ablate", "0,2,3")
    assert said.code == 0, said
    rows = json.loads((tmp_path / "r.json").read_text())
    assert {"m"} == {rows["model"].rpartition("/")[2]}
    odd.refused(odd.find(model, "--out", "s.json", "--ablate", "1,2,100,3"), "has no weight (1, 2, 100, expert 3)")


@pytest.mark.parametrize("kind", ["olmo", "gpt_bigcode", "mpt", "qwen3_moe"])
def test_train_takes_a_proved_model_whose_matrices_have_roles(kind, tmp_path):
    said = odd.train(odd.model(tmp_path / "m", kind), "--super-weights", "discover")
    assert said.code == 0, said


def test_train_refuses_what_it_has_no_roles_for(tmp_path):
    shared = odd.model(tmp_path / "m", "qwen2_moe")
    odd.refused(odd.train(shared), "experts that every token enters", "find takes it")
    hybrid = odd.model(tmp_path / "h", "jamba")
    odd.refused(odd.train(hybrid), "no row in swlottery/models/table.py", "mamba", "find takes the model")
    assert odd.find(hybrid, "--out", "r.json").code == 0


def test_a_block_that_does_something_else_is_refused_in_one_line(tmp_path):
    odd.refused(odd.find(odd.model(tmp_path / "m", "doge")), "'doge' has no row", "not proved", "there is a scale")
    assert not (tmp_path / "super_weights").exists()

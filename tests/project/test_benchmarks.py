"""The benchmarks: competitors compute the same, the floor is what DESIGN says, and a loss is called one."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import benchmarks.__main__ as program
import funattr as fa
from benchmarks import coalitions, growth, parts, plot, report
from benchmarks.cases import Case, cases
from benchmarks.cost import cost
from benchmarks.floor import Passes, bare, batches, cut
from benchmarks.measure import settled, steps_at_once
from benchmarks.methods import DRAWS, TABLE
from benchmarks.models import ResNet18
from benchmarks.settings import Setting, settings
from benchmarks.summary import BARS, summary

from ..breadth import breadth
from ..close import close

WITHOUT = {"grad-cam": "", "zennit": "", "tangermeme": ""}
SETTINGS = list(settings(quick=True, dtype=torch.float64))
ALL = [case for setting in SETTINGS for case in cases(setting)]


def small(case: Case) -> bool:
    return case.setting.name.startswith("two-layer")


def named(name: str) -> Case:
    (found,) = (case for case in ALL if case.name == name)
    return found


def tensor(result: Any) -> Tensor:
    while isinstance(result, (tuple, list)):
        (result,) = result
    assert isinstance(result, Tensor)
    return result.detach()


def test_the_twelve_methods_are_measured_wherever_they_can_be() -> None:
    twelve = {method.name for method in TABLE if method.asked}
    assert len(twelve) == 12
    guided = {"guided_backprop", "guided_grad_cam"}  # there is no ReLU in the others
    for model, absent in (("ResNet-18", set()), ("ViT-tiny", guided), ("BERT-small", guided)):
        assert {case.method.name for case in ALL if case.setting.name == model and case.method.asked} == twelve - absent
    assert {case.method.name for case in ALL if case.setting.name.startswith("two-layer") and case.method.asked} == twelve


@pytest.mark.parametrize("case", breadth(ALL, small), ids=lambda case: case.name)
def test_competitors_compute_the_same(case: Case) -> None:
    """And those that are said to differ do."""
    method, own = case.method, tensor(case.own()())
    with settled():
        others = {name: call() for name, call in case.eager(None, WITHOUT).items() if name in ("Captum", "by hand")}
    for name, found in others.items():
        reason = method.differs.get({"Captum": "captum", "by hand": "hand"}[name])
        if method.on_tokens and case.setting.name not in ("ViT-tiny", "BERT-small"):
            reason = None
        if name == "Captum" and case.setting.name == "sequence CNN" and method.name == "deep_lift_shap":
            reason = "behind max pooling theirs misses more than half of the difference of the scores; ours is complete"
        result = tensor(found)
        if reason is None:
            torch.testing.assert_close(result.reshape(own.shape), own, rtol=1e-6, atol=1e-9)
        elif reason != DRAWS:
            assert result.shape != own.shape or not torch.allclose(result, own, rtol=1e-6, atol=1e-9), reason


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_the_floor_runs_the_model_itself(setting: Setting) -> None:
    batch = len(setting.x)
    for site in (*setting.sites, None):
        prefix, suffix = cut(setting, site)
        x = setting.x if site else setting.floats
        torch.testing.assert_close(suffix(prefix(x)), setting.bound(x))
        (found,) = bare(setting, [(site, Passes(batch, batch, batch))])()
        torch.testing.assert_close(found, tensor(fa.gradient(setting.bound, x, layer=site, target=1)))


@pytest.mark.parametrize("case", breadth(ALL, small), ids=lambda case: case.name)
def test_the_floor_is_the_formula(case: Case) -> None:
    """Examples through each part, in whatever batches, times what one takes."""
    expected = 0.0
    for site, passes in case.parts():
        prefix, suffix, back = growth.per_example(case.setting, site)
        expected += passes.prefix * prefix + passes.suffix * suffix + passes.backward * back
    for at_once in (None, 3):
        assert cost(bare(case.setting, case.parts(), at_once)).flops == expected


#: Above 1.05x of the floor, how far, and why.
ABOVE = {
    "two-layer MLP: deep_lift_shap, 1": (1.3, "all baselines in one batch, which costs less than vmap does"),
}


@pytest.mark.parametrize("case", [case for case in ALL if case.setting.name != "ResNet-18"], ids=lambda case: case.name)
def test_ours_is_at_the_floor(case: Case) -> None:
    ratio = cost(case.own()).flops / cost(bare(case.setting, case.parts())).flops
    assert 0.9 < ratio <= ABOVE.get(case.name, (1.05, ""))[0]  # a floor that is undercut was not one


#: DESIGN's table for two examples, 4 steps, 3 samples, 2 baselines, 4 groups and 3 targets: prefix and suffix forward, back.
DESIGN = {
    "activation": (2, 2, 0),
    "input_x_gradient": (2, 2, 2),
    "grad_cam": (2, 2, 2),
    "integrated_gradients": (2 + 1, 4 * 2, 4 * 2),
    "internal_influence": (4 * 2, 4 * 2, 4 * 2),
    # (n + 2) B there; but a baseline that is the same for all is one row.
    "conductance": ((4 + 1) * 2 + 1, 4 * 2, 4 * 2),
    # The path runs in the input, whose points take the prefix too; one row more shows that rows stand alone.
    "gradient_shap": (2 + 1 + 2 + 3 * 2, 3 * 2, 3 * 2),
    "deep_lift": (2 + 1, 2 + 1, 2),
    "deep_lift_shap": (2 + 2, 2 + 2, 2 * 2),
    "feature_ablation": (2, (4 + 1) * 2, 0),
    "each_target(grad_cam)": (2, 2, 3 * 2),
}


@pytest.mark.parametrize("name", DESIGN)
def test_the_floor_is_designs(name: str) -> None:
    ((site, passes),) = named(f"ResNet-18: {name}, layer4").parts()
    assert site == "layer4"
    assert (passes.prefix, passes.suffix, passes.backward) == DESIGN[name]


def test_batches() -> None:
    assert batches(7, 3) == [3, 3, 1]
    assert batches(7, None) == [7]
    assert batches(0, 3) == batches(0, None) == []


def test_steps_at_once() -> None:
    own = named("two-layer MLP: integrated_gradients, 1").own()
    assert steps_at_once(own) == 4
    own.keywords["chunk_size"] = 3
    assert steps_at_once(own) == 2  # chunks of about the same size
    assert steps_at_once(named("two-layer MLP: input_x_gradient, 1").own()) is None


# What is said about the figures


def entry(**columns: dict[str, Any]) -> dict[str, Any]:
    """A case in which every bar is met."""
    good: dict[str, dict[str, Any]] = {
        "funattr": {"seconds": 1.0, "low": 0.9, "high": 1.1, "flops": 100, "bytes": 100},
        "Captum": {"seconds": 2.0, "low": 1.9, "high": 2.1, "flops": 200, "bytes": 300},
        "floor": {"seconds": 0.95, "low": 0.9, "high": 1.1, "flops": 99, "bytes": 90},
        "compiled": {"seconds": 0.5, "low": 0.4, "high": 0.6, "first": 10.0},
        "compiled floor": {"seconds": 0.45, "low": 0.4, "high": 0.6, "first": 9.0},
    }
    return {
        "case": "ResNet-18: grad_cam, layer4",
        "method": "grad_cam",
        "model": "ResNet-18",
        "site": "layer4",
        "input": [1, 3, 8, 8],
        "asked": True,
        "columns": {name: good[name] | columns.get(name, {}) for name in good},
    }


def found(**columns: dict[str, Any]) -> dict[str, Any]:
    cases = [entry(), entry(**columns) | {"case": "ResNet-18: doctored, layer4"}]
    return {
        "cases": cases,
        "forward": {"ResNet-18": {"eager": 2.0, "compiled": 1.0}},
        "options": {"device": "cpu"},
        "machine": {
            "date": "2020-01-01",
            "processor": "P",
            "cores": 2,
            "threads": 1,
            "torch": "2",
            "python": "3",
            "dtype": "f",
        },
    }


def test_all_is_met() -> None:
    lines = summary(found())
    assert lines
    assert all(line.startswith("Met: ") for line in lines)


LOSSES: list[tuple[str, dict[str, Any]]] = [
    ("FLOPs are within 1.05x of the floor", {"funattr": {"flops": 105}}),
    ("peak live memory is not above Captum's", {"funattr": {"bytes": 301}}),
    ("no slower than 0.95x Captum in eager", {"Captum": {"seconds": 0.94, "flops": 100}}),
    ("the eager speed-up is at least 0.7 of the FLOP ratio", {"Captum": {"flops": 300}}),
    ("eager time within 1.1x of the bare passes", {"floor": {"seconds": 0.9}}),
    ("compiled within 1.15x of the compiled bare passes", {"compiled floor": {"seconds": 0.43}}),
    (
        "compiled is faster than eager where the bare forward pass is",
        {"compiled": {"seconds": 1.1}, "compiled floor": {"seconds": 1}},
    ),
    ("one graph with fullgraph=True", {"compiled": {"fails": "Unsupported"}}),
]


@pytest.mark.parametrize(("bar", "columns"), LOSSES, ids=[bar for bar, _ in LOSSES])
def test_a_loss_is_called_one(bar: str, columns: dict[str, Any]) -> None:
    results = found(**columns)
    if "fails" in columns.get("compiled", {}):
        results["cases"][1]["columns"]["compiled"] = columns["compiled"]
    lost = [line for line in summary(results) if not line.startswith("Met: ")]
    assert len(lost) == 1
    assert lost[0].startswith(f"Not met: {bar}, in 1 of 2 cases: ResNet-18: doctored, layer4")


def test_small_models_are_held_to_more() -> None:
    results = found()
    for case in results["cases"]:
        case["model"] = "two-layer MLP"
    (bar,) = (bar for bar in BARS if "Python" in bar.text)
    assert f"Met: {bar.text}, in all 2 cases (least 2.00x)." in summary(results)
    results["cases"][1]["columns"]["Captum"]["seconds"] = 0.99
    assert f"Not met: {bar.text}, in 1 of 2 cases: ResNet-18: doctored, layer4 0.99x." in summary(results)


def test_on_a_gpu() -> None:
    results = found()
    results["options"]["device"] = "cuda"
    assert "Met: on the GPU, compiled at least 2x eager Captum in the geometric mean (4.00x)." in summary(results)
    results["cases"][1]["columns"]["Captum"]["seconds"] = 0.1
    assert any(line.startswith("Not met: on the GPU") for line in summary(results))


# The program


def test_a_run_is_written_and_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, picture, drawn = tmp_path / "a.json", tmp_path / "a.png", tmp_path / "b.png"
    options = ["--quick", "--compile", "none", "--filter", "MLP INPUT_X", "--json", str(file), "--plot", str(picture)]
    program.main(options)
    printed = capsys.readouterr().out
    results = json.loads(file.read_text())
    (one,) = results["cases"]
    assert one["case"] == "two-layer MLP: input_x_gradient, 1"
    assert list(one["columns"]) == ["funattr", "Captum", "by hand", "floor"]
    assert one["columns"]["funattr"]["flops"] == one["columns"]["floor"]["flops"] == 2 * (10 * 20 + 20 * 5 + 5 * 20)
    assert all(column["low"] <= column["seconds"] <= column["high"] for column in one["columns"].values())
    for line in summary(results):
        assert line in printed
    program.main(["report", str(file), "--plot", str(drawn)])
    assert report.tables(results) in capsys.readouterr().out
    assert picture.read_bytes() == drawn.read_bytes()


def test_the_page_has_a_place_for_every_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, files = tmp_path / "performance.md", [tmp_path / "cases.json", tmp_path / "growth.json"]
    page.write_text((Path(fa.__file__).parents[1] / "docs" / "performance.md").read_text())
    files[0].write_text(json.dumps(found()))
    files[1].write_text(json.dumps({"growth": [curve()]}))
    program.main(["report", *map(str, files), "--write", str(page)])
    assert "machine, summary, tables, compiled, growth" in capsys.readouterr().out
    text = page.read_text()
    assert "- Met: peak live memory is not above Captum's, in all 2 cases (most 0.33x)." in text
    assert "| `grad_cam` | `layer4` | 1 s | 10% | 2.00x | 1.05x | 2.00x | 1.01x | 3.00x |" in text
    program.main(["report", *map(str, files), "--write", str(page)])
    assert page.read_text() == text
    page.write_text(text.replace("<!-- end of tables -->", ""))
    with pytest.raises(ValueError, match="benchmarks: tables"):
        program.main(["report", *map(str, files), "--write", str(page)])


def part(path: Path, names: list[str], **more: Any) -> str:
    whole = found() | {"versions": {"Captum": "0.9.0"}, "code": "c"}
    path.write_text(json.dumps(whole | {"cases": [entry() | {"case": name} for name in names]} | more))
    return str(path)


def test_a_report_joins_the_parts_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    late = found()["machine"] | {"date": "2020-01-02"}
    a = part(
        tmp_path / "a.json",
        ["one", "two"],
        options={"device": "cpu", "filter": "o"},
        forward={"A": {"eager": 2, "compiled": 1}},
    )
    b = part(tmp_path / "b.json", ["two", "three"], machine=late, forward={"B": {"eager": 4, "compiled": 3}})
    program.main(["report", a, b])
    printed = capsys.readouterr()
    assert "in all 3 cases" in printed.out
    assert "A 2 s and 1 s; B 4 s and 3 s" in printed.out
    assert printed.err == f"{b}: two was in a file before it, whose figures are kept\n"
    joined, _ = parts.join([Path(a), Path(b)])
    assert [case["case"] for case in joined["cases"]] == ["one", "two", "three"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"machine": found()["machine"] | {"processor": "Q"}}, "machine: processor 'P' and 'Q'"),
        ({"versions": {"Captum": "0.8.0"}}, "versions: Captum '0.9.0' and '0.8.0'"),
        ({"options": {"device": "cuda"}}, "options: device 'cpu' and 'cuda'"),
        ({"missing": {"zennit": "is not installed"}}, "missing: zennit not said and 'is not installed'"),
        ({"code": "d"}, "code 'c' and 'd'"),
    ],
)
def test_parts_of_other_runs_are_refused(more: dict[str, Any], said: str, tmp_path: Path) -> None:
    a, b = part(tmp_path / "a.json", ["one"]), part(tmp_path / "b.json", ["two"], **more)
    with pytest.raises(SystemExit, match=rf"differ in {said}\. Measure"):
        program.main(["report", a, b])


def test_a_run_goes_on_where_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that fails in its third case keeps two, which another run does not measure again."""
    file, measured = tmp_path / "a.json", list[str]()

    def measure(case: Case, *rest: Any) -> dict[str, Any]:
        measured.append(case.name)
        if len(measured) == 3:
            raise KeyboardInterrupt
        return entry() | {"case": case.name, "number": len(measured)}

    monkeypatch.setattr(program, "settings", lambda *_: [s for s in SETTINGS if s.name == "two-layer MLP"])
    monkeypatch.setattr(program, "measure", measure)
    options = ["--quick", "--compile", "none", "--json", str(file)]
    with pytest.raises(KeyboardInterrupt):
        program.main([*options, "--filter", "MLP"])
    before = json.loads(file.read_text())["cases"]
    assert len(before) == 2
    program.main(options)
    assert f"has 2 cases, which are kept: {len(measured) - 3} of {len(measured) - 1} are left" in capsys.readouterr().out
    after = json.loads(file.read_text())["cases"]
    assert after[:2] == before
    assert measured[3:] == [case["case"] for case in after[2:]]
    assert [case["case"] for case in after] == [case.name for case in ALL if case.setting.name == "two-layer MLP"]

    whole = json.loads(file.read_text())
    for text, more, said in (
        (json.dumps(whole), ["--seconds", "5"], r"options: seconds 4\.0 and 5\.0\. Name another file"),
        (json.dumps(whole | {"code": "other"}), [], "code 'other' and "),
        (json.dumps({"growth": []}), [], "what is measured: growth and cases; "),
        ("{", [], "expected a file that --json wrote, got JSONDecodeError"),
    ):
        file.write_text(text)
        with pytest.raises(SystemExit, match=said):
            program.main([*options, *more])
        assert file.read_text() == text


def test_options() -> None:
    with pytest.raises(SystemExit, match="no case has all of: nothing of the kind"):
        program.main(["--quick", "--filter", "nothing of the kind"])
    with pytest.raises(SystemExit, match="name the files"):
        program.main(["report"])
    if not torch.cuda.is_available():
        with pytest.raises(SystemExit, match=r"--device cuda: torch .* finds no GPU here"):
            program.main(["--device", "cuda"])
    threads = torch.get_num_threads()
    try:
        program.main(["--quick", "--compile", "none", "--filter", "MLP activation", "--threads", "2"])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def test_filter_takes_words_in_any_order() -> None:
    assert [case.name for case in ALL if case in cases(case.setting, "layer4 Guided resnet")] == [
        "ResNet-18: guided_grad_cam, layer4"
    ]


# Growth


def curve() -> dict[str, Any]:
    values, passes = [1, 4, 16], {"bytes": 60, "seconds": 1.0}
    own = [{"flops": 7 * n, "bytes": 64, "seconds": n**0.5} for n in values]
    points = [{"model flops": 7.0 * n, "own": one, "floor": passes} for n, one in zip(values, own)]
    named = {"method": "m", "site": "s", "field": "steps", "values": values}
    return named | {"points": points, "slopes": growth.slopes(values, points)}


def test_slopes_and_the_models_check() -> None:
    one = curve()
    assert one["slopes"] == pytest.approx({"model": 1, "flops": 1, "seconds": 0.5, "bytes": 0, "the passes' bytes": 0})
    assert growth.verdict([one]).startswith("Met: ")
    wrong = copy.deepcopy(one)
    wrong["points"][2]["own"]["flops"] *= 1.06
    assert growth.verdict([one, wrong]).startswith("Not met: ")


@pytest.mark.parametrize(
    "index", range(len(growth.CURVES)), ids=lambda i: f"{growth.CURVES[i].method}-{growth.CURVES[i].field}"
)
def test_operations_grow_as_the_model_says(index: int) -> None:
    chosen = growth.CURVES[index]
    (method,) = (m for m in TABLE if m.name == chosen.method and not m.at_input)
    for value in chosen.values[:2]:
        s = growth.setting(chosen, value, quick=True)
        assert cost(method.own(s, chosen.site)).flops == pytest.approx(
            growth.modelled(method, s, chosen.site), rel=growth.WITHIN
        )


def test_growth_is_drawn(tmp_path: Path) -> None:
    one = curve()
    growth.draw([one, one], tmp_path / "growth.png")
    plot.draw(found(), tmp_path / "cases.png")
    assert (tmp_path / "growth.png").stat().st_size > 10_000
    assert (tmp_path / "cases.png").stat().st_size > 5_000


@pytest.mark.full
@pytest.mark.filterwarnings("ignore:You are providing multiple inputs for Lime")  # Captum's, of a batch
def test_coalitions_beside_captum(capsys: pytest.CaptureFixture[str]) -> None:
    coalitions.main(["--rounds", "1", "--size", "32"])
    printed = capsys.readouterr().out.splitlines()
    titles = [line for line in printed if line and not line.startswith(" ")]
    assert titles == ["layer4 of a ResNet-18", "the input, 16 examples"]
    rows = [line.split() for line in printed if line.startswith(" ")]
    assert [row[-1] for row in rows if "leverage" in row] == ["1.0x", "1.0x"]
    assert sum("Captum's" in row for row in rows) == 2


@pytest.mark.full
def test_what_captum_is_asked_at_a_layer_is_the_same_game() -> None:
    model, x = ResNet18().double().eval(), torch.rand(1, 3, 32, 32, dtype=torch.float64)
    mask = (torch.arange(512) * coalitions.PLAYERS // 512)[:, None, None]
    kept = torch.rand(4, coalitions.PLAYERS) < 0.5
    game = fa.game(model, x, layer="layer4", target=coalitions.TARGET, feature_mask=mask)
    with torch.no_grad():
        asked = coalitions.At(model, "layer4", x)(kept.double())[:, coalitions.TARGET]
    close(game.value(kept)[:, 0], asked)
